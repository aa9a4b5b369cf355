"""How long folding takes, and how fast the folded model runs, beside what others make of it.

Ratios measured side by side in one process: each quantity is taken once per round, all in turn,
and the medians are compared. Statistics are fitted to the network and perturbed, a third of the
gammas negative; fresh BN would be folded as fast but prove nothing.

    python benchmarks/fold.py                       # all of it, about a quarter of an hour
    python benchmarks/fold.py MobileNetV2 --size 96 --rounds 7
    python benchmarks/fold.py --only folding        # time and memory of folding ResNet152

In each application's table, "without BN" is the architecture with no BN and a bias in every
convolution: the limit. ONNX Runtime and LiteRT get the exported model before and after folding;
what they leave of BN in the former are the multiplications and BN nodes that the latter lacks.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
from fitted import application, batch_norms, pictures
from runtimes import litert, onnx_runtime

APPLICATIONS = ("MobileNetV2", "ResNet50", "EfficientNetB0", "NASNetMobile")
Run = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("applications", nargs="*", default=APPLICATIONS)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--folding", default="ResNet152", help="whose folding is timed")
    parser.add_argument("--only", choices=["inference", "folding"])
    parser.add_argument("--memory-of", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(memory_of_folding(options.memory_of))
        return
    if options.only != "inference":
        time_folding(options.folding, options.size, max(3, options.rounds // 10))
    if options.only != "folding":
        for name in options.applications:
            time_inference(name, options.size, options.rounds)


def time_folding(name: str, size: int, rounds: int) -> None:
    """Loading the file, building the model again and all of folding, each once per round."""
    import keras

    import bnscope
    from bnscope.rewriting.apply import apply_edits

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        original = application(name, size)
        original.save(path)
        weights = sum(variable.numpy().nbytes for variable in original.variables)
        del original
        command = [sys.executable, __file__, "--memory-of", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peak = int(done.stdout.split()[-1])
        seconds: dict[str, list[float]] = {"load": [], "build": [], "copy": [], "fold": []}
        for _ in range(rounds):
            took, model = timed(partial(keras.models.load_model, path, compile=False))
            seconds["load"].append(took)
            seconds["build"].append(timed(partial(keras.models.clone_model, model))[0])
            seconds["copy"].append(timed(partial(apply_edits, model, ()))[0])
            took, result = timed(partial(bnscope.fold, model))
            seconds["fold"].append(took)
    print(f"{name}, {size} x {size}: {len(result.plan.folded)} BN folded")
    for what, found in seconds.items():
        print(f"  {what:<24} {statistics.median(found):6.2f} s   {quartiles(found, 's')}")
    for what in ("build", "copy"):
        beyond = [f - c for f, c in zip(seconds["fold"], seconds[what], strict=True)]
        title = f"fold beyond the {what}"
        print(
            f"  {title:<24} {statistics.median(beyond):6.2f} s   {quartiles(beyond, 's')}"
        )
    print(f"  verified {result.max_error:.1e}, {result.tolerance:.1e} allowed")
    print(f"  memory on top of the loaded model {peak / weights:.2f} x the weights")


def memory_of_folding(path: str) -> int:
    """Bytes that folding a file's model takes on top of the loaded model, in a new process."""
    import keras

    import bnscope

    model = keras.models.load_model(path, compile=False)
    before = reset_peak()
    bnscope.fold(model)
    return peak_memory() - before


def reset_peak() -> int:
    """Lets the peak start again where memory is now: resident bytes (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def peak_memory() -> int:
    """The largest number of resident bytes since `reset_peak`."""
    return _status("VmHWM")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def time_inference(name: str, size: int, rounds: int) -> None:
    """One image through all of them in turn."""
    import bnscope

    original = application(name, size)
    image = pictures(original, 1, seed=1)
    result = bnscope.fold(original, verify_data=pictures(original, 4, seed=1))
    models = {
        "original": original,
        "folded": result.model,
        "without BN": without_batch_norms(original),
    }
    runs = {f"TensorFlow, {key}": graph(model, image) for key, model in models.items()}
    left: dict[str, str] = {
        f"TensorFlow, {k}": str(len(batch_norms(m))) for k, m in models.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        for key in ("original", "folded"):
            own = Path(folder) / key  # what is loaded may stay mapped to its file
            own.mkdir()
            for title, make in (("ONNX Runtime", onnx_runtime), ("LiteRT", litert)):
                line = f"{title}, {key}"
                runs[line], left[line] = make(models[key], image, own)
        print(f"\n{name}, {size} x {size}, {len(batch_norms(original))} BN")
        report(interleaved(runs, rounds), left)


def report(times: Mapping[str, list[float]], left: Mapping[str, str]) -> None:
    medians = {key: statistics.median(found) for key, found in times.items()}
    for key, median in medians.items():
        ratio = medians[f"{key.partition(',')[0]}, original"] / median
        print(
            f"  {key:<24} {median * 1e3:7.2f} ms  {ratio:5.2f} x  left: {left[key]}  "
            f"({quartiles([1e3 * s for s in times[key]], 'ms')})"
        )
    pairs = zip(times["TensorFlow, folded"], times["TensorFlow, without BN"], strict=True)
    ratios = [folded / limit for folded, limit in pairs]
    print(
        f"  folded / without BN       {statistics.median(ratios):.3f}  ({quartiles(ratios, '')})"
    )


def without_batch_norms(model: Any) -> Any:
    """The architecture with nothing in the place of BN, and a bias in every layer."""
    import keras

    def make(layer: Any) -> Any:
        config = layer.get_config()
        if "use_bias" in config:
            config["use_bias"] = True
        return type(layer).from_config(config)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, keras.layers.BatchNormalization):
            return args[0]
        return layer(*args, **kwargs)

    return keras.models.clone_model(model, clone_function=make, call_function=call)


def graph(model: Any, image: Any) -> Run:
    """A model as a TensorFlow graph."""
    import tensorflow as tf

    call, tensor = tf.function(partial(model, training=False)), tf.constant(image)
    return lambda: call(tensor).numpy()  # the result is waited for


def interleaved(runs: Mapping[str, Run], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run in each round, all in turn, behind two rounds to get warm.

    Each round goes the other way round, so that none always runs behind the same one.
    """
    times: dict[str, list[float]] = {key: [] for key in runs}
    for index in range(rounds + 2):
        for key in list(runs)[:: 1 if index % 2 else -1]:
            seconds = timed(runs[key])[0]
            if index >= 2:
                times[key].append(seconds)
    return times


def timed(function: Run) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def quartiles(values: list[float], unit: str) -> str:
    low, high = np.percentile(values, [25, 75])
    return f"quartiles {low:.3f} to {high:.3f} {unit}".rstrip()


if __name__ == "__main__":
    main()
