"""The one adapter to the backends: reading many variables at once, and a quiet start."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.errors import BnscopeError

FlatRead = Callable[[], npt.NDArray[np.floating[Any]]]


def flat_reader(variables: Sequence[Any]) -> FlatRead:
    """A function that reads all variables into one flat array.

    Args:
        variables: Keras variables, built; floating, each a vector, as BN's are.

    Returns:
        A function of no arguments; each call gives a new float32 array (float64 if a variable
        is that wide), the values in the order of the variables.
    """
    import keras

    if not variables:
        return lambda: np.zeros(0, np.float32)
    if keras.backend.backend() == "tensorflow":
        return _tensorflow_reader(variables)
    return _numpy_reader(variables)


def _tensorflow_reader(variables: Sequence[Any]) -> FlatRead:
    """One compiled concatenation and one transfer.

    On a ResNet50 (212 variables) four times faster than reading one variable after another.
    """
    import tensorflow as tf

    dtype = tf.float64 if any(v.dtype == "float64" for v in variables) else tf.float32

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def concatenate() -> Any:
        return tf.concat([tf.cast(variable.value, dtype) for variable in variables], 0)

    # Traced once; calling the concrete function saves TensorFlow's look for the right one.
    read = concatenate.get_concrete_function()
    return lambda: np.array(read())  # a copy: TensorFlow's own memory may be reused


def _numpy_reader(variables: Sequence[Any]) -> FlatRead:
    import keras

    dtype = np.float64 if any(v.dtype == "float64" for v in variables) else np.float32

    def read() -> npt.NDArray[np.floating[Any]]:
        parts = [np.asarray(keras.ops.convert_to_numpy(v), dtype) for v in variables]
        return np.concatenate(parts)  # copies, since torch's arrays alias the variables

    return read


def import_keras_quietly() -> None:
    """Imports Keras without the notes that TensorFlow prints on stderr as it starts.

    Raises:
        BnscopeError: if Keras, or the backend it is set to, is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with _stderr_held_back():
            import keras  # noqa: F401
    except ModuleNotFoundError as error:
        raise BnscopeError(
            f"This needs Keras and a backend, and {error.name} is not installed.",
            'Run: pip install "bnscope[tensorflow]"',
        ) from error


@contextmanager
def _stderr_held_back() -> Iterator[None]:
    """Holds back what is written to the file descriptor; shows it if there is an error."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        saved = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(saved, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
