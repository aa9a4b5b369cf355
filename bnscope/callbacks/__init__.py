"""Callbacks for `model.fit`. Importing this imports Keras."""

from bnscope.callbacks.freezing import BatchNormFreeze
from bnscope.callbacks.guard import BatchNormGuard
from bnscope.callbacks.monitor import BatchNormMonitor
from bnscope.callbacks.recalibration import BatchNormRecalibrate
from bnscope.watching.alerts import Alert

__all__ = [
    "Alert",
    "BatchNormFreeze",
    "BatchNormGuard",
    "BatchNormMonitor",
    "BatchNormRecalibrate",
]
