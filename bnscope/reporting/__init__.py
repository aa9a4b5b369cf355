"""What Batch Normalization did, as one file for people that needs nothing else."""

from bnscope.reporting.engine import check, write

__all__ = ["check", "write"]
