"""Recalibration: population statistics over a data set in the place of moving averages."""

from __future__ import annotations

from bnscope.calibration.engine import recalibrate, recalibration
from bnscope.calibration.result import LayerStatistics, Recalibration

__all__ = ["LayerStatistics", "Recalibration", "recalibrate", "recalibration"]
