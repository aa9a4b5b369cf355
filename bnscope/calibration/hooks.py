"""What stands before the `call` of BN layers inside a step that is run in part."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


class Enough(BaseException):
    """Ends a run of a step in which everything wanted was seen."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a BN layer.

    Args:
        norm: the layer.
        inputs: the tensor it normalizes.
        mask: the mask that reaches it, or None.
        finish: does what the layer does at inference.
    """

    norm: Any
    inputs: Any
    mask: Any
    finish: Callable[[], Any]


@contextmanager
def hooked(norms: Iterable[Any], answer: Callable[[Call], Any]) -> Iterator[None]:
    """Lets a function answer every call of BN layers, wherever they stand in a model."""
    layers = list({id(norm): norm for norm in norms}.values())
    earlier = [vars(norm).get("call") for norm in layers]  # another hook, around this one
    for norm in layers:
        # Past Keras's __setattr__, which tracks what is set.
        vars(norm)["call"] = _hook(norm, norm.call, answer)
    try:
        yield
    finally:
        for norm, call in zip(layers, earlier, strict=True):
            del vars(norm)["call"]
            if call is not None:
                vars(norm)["call"] = call


def _hook(
    norm: Any, original: Callable[..., Any], answer: Callable[[Call], Any]
) -> Callable[..., Any]:
    signature = inspect.signature(original)

    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        if "training" in signature.parameters:
            bound.arguments["training"] = False
        inputs = next(iter(bound.arguments.values()))
        mask = bound.arguments.get("mask")
        return answer(
            Call(norm, inputs, mask, lambda: original(*bound.args, **bound.kwargs))
        )

    return call
