"""Monitoring after the fact: the events of a run out of its saved checkpoints. No Keras."""

from bnscope.tracking.engine import track
from bnscope.tracking.result import Checkpoint, TrackResult, Trouble

__all__ = ["Checkpoint", "TrackResult", "Trouble", "track"]
