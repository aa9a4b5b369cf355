"""Loading a model to rewrite, and saving what came of it: checked, then moved into place."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bnscope.errors import (
    BnscopeError,
    OutputExistsError,
    UnsupportedModelError,
    VerificationError,
    first_line,
)
from bnscope.graph import archive
from bnscope.graph.model import Graph
from bnscope.rewriting.copying import all_layers, is_users_function, to_numpy
from bnscope.rewriting.structure import custom_classes
from bnscope.rewriting.verify import Verifier

SUFFIXES = (".keras", ".h5", ".hdf5")
# What Keras warns of when it leaves an optimizer's state in the file.
_NO_STATE = re.compile("variable loading for optimizer|saved optimizer state")
_MISSING_CLASS = re.compile(
    r"(?:Could not locate (?:class|function)|Unknown \w+:) '?\"?(?:[\w.]+>)?(\w+)"
)


def load(
    path: str | os.PathLike[str], custom_objects: Mapping[str, Any] | None = None
) -> Any:
    """Loads a saved model, not compiled. No code in the file is run.

    Args:
        path: a `.keras` file or a legacy `.h5` file with a whole model.
        custom_objects: the user's classes and functions by name.

    Returns:
        The Keras model.

    Raises:
        UnreadableModelError: if the file is missing, damaged or no Keras model.
        UnsupportedModelError: if it holds no weights, Python code, or an unknown class.
    """
    import keras

    path = Path(path)
    graph = archive.read(path)
    _check_loadable(graph, path)
    try:
        with keras.saving.custom_object_scope(dict(custom_objects or {})):
            return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        # Keras raises all sorts here; the file was read before, so the model is the cause.
        raise _not_loaded(path, graph, error, dict(custom_objects or {})) from error


def load_compiled(
    path: str | os.PathLike[str], custom_objects: Mapping[str, Any] | None = None
) -> tuple[Any, tuple[str, ...]]:
    """Loads a saved model with its optimizer where that is possible. No code in it is run.

    Args:
        path: as for `load`.
        custom_objects: as for `load`.

    Returns:
        The Keras model, compiled if the file says how, and what was lost, in sentences.

    Raises:
        UnreadableModelError: as `load`.
        UnsupportedModelError: as `load`.
    """
    path = Path(path)
    graph = archive.read(path)
    if graph.training.compiled is False:
        return load(path, custom_objects), ()
    _check_loadable(graph, path)
    try:
        model, complaint = _load_optimizer(path, custom_objects)
        if complaint and _is_mixed(graph):
            # Keras wraps the optimizer for mixed precision by the global policy of the moment.
            with _global_policy("mixed_float16"):
                model, complaint = _load_optimizer(path, custom_objects)
    except Exception as error:  # noqa: BLE001  Keras raises all sorts here
        model = load(path, custom_objects)
        note = (
            f"Keras cannot load the training configuration of {path}, so the new model is "
            f"not compiled: {first_line(error)}."
        )
        return model, (note,)
    if not complaint or graph.training.optimizer_steps == 0:
        return model, ()  # an optimizer without a step has nothing to lose
    return model, (f"{path}: {complaint}.",)


def save(model: Any, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Saves a model: written beside, loaded again and compared, then moved into place.

    Args:
        model: a Keras model.
        path: where to; `.keras`, or `.h5` for the legacy format.
        overwrite: whether an existing file may be replaced.

    Returns:
        The path.

    Raises:
        OutputExistsError: if the file exists and `overwrite` is false.
        UnsupportedModelError: if the model holds Python code that no file should hold.
        VerificationError: if the saved model, or the state of its optimizer, is not the one
            that was to be saved.
        BnscopeError: if the file cannot be written.
    """
    target = check_output(path, overwrite=overwrite)
    _check_savable(model)
    try:
        with tempfile.TemporaryDirectory(prefix=".bnscope-", dir=target.parent) as folder:
            beside = Path(folder) / target.name
            model.save(beside)
            _check_saved(model, beside)
            check_output(target, overwrite=overwrite)
            beside.replace(target)
    except BnscopeError:
        raise
    except Exception as error:
        # A full disk shows in h5py as a RuntimeError, in other places as an OSError.
        raise BnscopeError(
            f"{target} cannot be written: {getattr(error, 'strerror', '') or first_line(error)}.",
            "Nothing was left behind. Choose another place or format.",
        ) from error
    return target


def check_output(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Checks, before any work is done, whether a model may be saved at a path.

    Args:
        path: where to.
        overwrite: whether an existing file may be replaced.

    Returns:
        The path.

    Raises:
        OutputExistsError: if the file exists and `overwrite` is false.
        BnscopeError: if nothing can be saved there.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise BnscopeError(
            f"{path} does not say in which format to save.",
            f"Let the name end in one of {', '.join(SUFFIXES)}.",
        )
    if path.is_dir():
        raise BnscopeError(f"{path} is a directory.", "Give the name of a file.")
    if path.exists() and not overwrite:
        raise OutputExistsError(
            f"{path} exists already.",
            "Choose another name, or pass overwrite (--overwrite).",
        )
    if not path.parent.is_dir():
        raise BnscopeError(
            f"The directory {path.parent} does not exist.", "Create it first."
        )
    return path


def holds_code(config: Any) -> bool:
    """Whether a configuration holds the bytecode of a Python function."""
    if isinstance(config, Mapping):
        if config.get("class_name") == "__lambda__":
            return True
        legacy = any(
            key.endswith("function_type") and value in {"lambda", "raw"}
            for key, value in config.items()
            if isinstance(key, str)
        )
        return legacy or any(holds_code(value) for value in config.values())
    return isinstance(config, (list, tuple)) and any(holds_code(item) for item in config)


def _check_loadable(graph: Graph, path: Path) -> None:
    for layer in graph.layers:
        if holds_code(layer.config):
            raise UnsupportedModelError(
                f'Layer "{layer.path}" in {path} holds the bytecode of a Python function, '
                "which is never run.",
                "Use a registered function or a layer class instead, and save the model "
                "again.",
            )
    if not graph.has_weights:
        raise UnsupportedModelError(
            f"{path} holds the configuration of a model without its weights.",
            "Save the whole model with model.save.",
        )
    if not graph.calls and any(part.layer == "" for part in graph.not_analysed):
        reason = next(part.reason for part in graph.not_analysed if part.layer == "")
        if "only weights" in reason:
            raise UnsupportedModelError(
                f"{path} holds the weights of a model without its configuration.",
                "Save the whole model with model.save.",
            )


def _not_loaded(
    path: Path, graph: Graph, error: Exception, custom_objects: Mapping[str, Any]
) -> UnsupportedModelError:
    found = _MISSING_CLASS.search(str(error))
    own = sorted(
        {layer.kind.removeprefix("custom.") for layer in graph.layers if layer.is_custom}
    )
    missing = [name for name in own if name not in custom_objects]
    name = found.group(1) if found else (missing[0] if missing else None)
    if name is not None and name not in custom_objects:
        return UnsupportedModelError(
            f'{path} uses the class or function "{name}", which Keras does not know.',
            "Pass it in custom_objects, or import the module that registers it (--import).",
        )
    return UnsupportedModelError(
        f"Keras cannot load {path}: {first_line(error)}.",
        "Load it with keras.models.load_model, and pass the model instead of the path.",
    )


def _check_savable(model: Any) -> None:
    for layer in all_layers(model):
        values = vars(layer).values()
        if any(is_users_function(v) and v.__name__ == "<lambda>" for v in values):
            raise UnsupportedModelError(
                f'Layer "{layer.name}" holds a Python function without a name, which could be '
                "saved only as bytecode; a file with bytecode cannot be checked safely.",
                "Use a registered function instead, or call save() of the model itself.",
            )


def _check_saved(model: Any, path: Path) -> None:
    """Raises VerificationError unless the file holds the very same model."""
    import keras

    with custom_classes(all_layers(model)):
        loaded = keras.models.load_model(path, compile=False, safe_mode=True)
        if path.suffix == ".keras":  # of `.h5` files Keras never loads the slots
            _check_saved_optimizer(model, path)
    if not (_same_weights(model, loaded) and _same_outputs(model, loaded)):
        raise VerificationError(
            "The model that was saved is not the same when it is loaded again.",
            "Nothing was written. Save it as .keras.",
        )


def _same_weights(model: Any, loaded: Any) -> bool:
    return _same_variables(model.weights, loaded.weights)


def _same_variables(expected: Sequence[Any], actual: Sequence[Any]) -> bool:
    return len(actual) == len(expected) and all(
        np.array_equal(to_numpy(one), to_numpy(other), equal_nan=True)
        for one, other in zip(actual, expected, strict=True)
    )


def _same_outputs(model: Any, loaded: Any) -> bool:
    try:
        verifier = Verifier(model)
    except BnscopeError:
        return True  # it runs only on real samples; weights and configuration agree
    return verifier.compare(loaded).passed


def _load_optimizer(
    path: Path, custom_objects: Mapping[str, Any] | None
) -> tuple[Any, str]:
    """The compiled model, and what Keras says if it leaves the optimizer's state out."""
    import keras

    with (
        warnings.catch_warnings(record=True) as caught,
        keras.saving.custom_object_scope(dict(custom_objects or {})),
    ):
        warnings.simplefilter("always")
        model = keras.models.load_model(path, compile=True, safe_mode=True)
    texts = [" ".join(str(warning.message).split()) for warning in caught]
    return model, next((text.rstrip(". ") for text in texts if _NO_STATE.search(text)), "")


def _is_mixed(graph: Graph) -> bool:
    return any("mixed_float16" in str(layer.config.get("dtype")) for layer in graph.layers)


@contextmanager
def _global_policy(name: str) -> Iterator[None]:
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _check_saved_optimizer(model: Any, path: Path) -> None:
    """Raises VerificationError if Keras loads another optimizer state than was saved."""
    optimizer = getattr(model, "optimizer", None)
    if not getattr(model, "compiled", False) or optimizer is None or not optimizer.built:
        return
    try:
        loaded, complaint = _load_optimizer(path, None)
    except Exception:  # noqa: BLE001  a loss that is not registered, or one that Keras saves so
        return  # that it cannot read it again: the same holds for the original
    if complaint or not _same_variables(optimizer.variables, loaded.optimizer.variables):
        raise VerificationError(
            "Keras does not load the optimizer's state from what was saved.",
            "Nothing was written. Save it as .keras.",
        )
