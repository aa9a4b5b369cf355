"""Callbacks for `model.fit`. Importing this imports Keras."""

from bnscope.callbacks.alerts import Alert
from bnscope.callbacks.monitor import BatchNormMonitor

__all__ = ["Alert", "BatchNormMonitor"]
