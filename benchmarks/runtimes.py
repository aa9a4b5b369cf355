"""Keras models in other runtimes, which fold what they can themselves when they load a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from bnscope.exporting.constants import written_out

Run = Callable[[], Any]
THREADS = 2
# BN is written as one of these where it is not folded; a network has some of its own.
_ONNX = ("BatchNormalization", "Mul", "Add", "Sub")
_LITERT = ("MUL", "ADD", "SUB")


def onnx_runtime(model: Any, image: Any, folder: Path) -> tuple[Run, str]:
    """A model in ONNX Runtime with all its optimizations.

    Args:
        model: a Keras model with one input.
        image: what it is run on.
        folder: where files may be written.

    Returns:
        What runs it, and the BN-like nodes of the optimized graph.
    """
    onnx, onnxruntime = import_module("onnx"), import_module("onnxruntime")
    path, optimized = folder / "model.onnx", folder / "optimized.onnx"
    with written_out(model):
        model.export(path, format="onnx", verbose=False)
    options = onnxruntime.SessionOptions()
    # Threads that wait for work by spinning take the time of what runs next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    options.intra_op_num_threads = THREADS
    options.optimized_model_filepath = str(optimized)
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    given = {session.get_inputs()[0].name: image}
    counts = Counter(node.op_type for node in onnx.load(optimized).graph.node)
    _check(model, image, session.run(None, given)[0])
    return lambda: session.run(None, given), _counted(counts, _ONNX)


def litert(model: Any, image: Any, folder: Path) -> tuple[Run, str]:
    """A model in LiteRT: see `onnx_runtime`."""
    make = import_module("ai_edge_litert.interpreter").Interpreter
    path = folder / "model.tflite"
    model.export(path, format="litert", verbose=False)
    plain = make(model_path=str(path), num_threads=THREADS)
    counts = Counter(entry["op_name"] for entry in plain._get_ops_details())  # noqa: SLF001
    interpreter = make(model_path=str(path), num_threads=THREADS)
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, image.shape)
    interpreter.allocate_tensors()
    result = interpreter.get_output_details()[0]["index"]

    def run() -> Any:
        interpreter.set_tensor(index, image)
        interpreter.invoke()
        return interpreter.get_tensor(result)

    _check(model, image, run())
    return run, _counted(counts, _LITERT)


def _check(model: Any, image: Any, found: Any) -> None:
    """What is measured computes the same; else its speed says nothing."""
    expected = np.asarray(model(image, training=False))
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    if not error < 1e-3:
        raise SystemExit(f"An exported model differs by {error:.1e} of the scale.")


def _counted(counts: Counter[str], kinds: tuple[str, ...]) -> str:
    return ", ".join(f"{counts[kind]} {kind}" for kind in kinds if counts[kind]) or "0"
