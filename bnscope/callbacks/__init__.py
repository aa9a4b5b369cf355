"""Callbacks for `model.fit`. Importing this imports Keras."""

from bnscope.callbacks.monitor import BatchNormMonitor
from bnscope.watching.alerts import Alert

__all__ = ["Alert", "BatchNormMonitor"]
