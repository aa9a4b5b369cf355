"""Folding: Batch Normalization is taken up by the layers around it, and proved right."""

from __future__ import annotations

from bnscope.folding.plan import Fold, Plan, Verdict, make_plan
from bnscope.folding.reasons import Reason
from bnscope.folding.result import FoldResult, fold

__all__ = ["Fold", "FoldResult", "Plan", "Reason", "Verdict", "fold", "make_plan"]
