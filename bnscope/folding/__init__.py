"""Folding: BN into the layer before it, planned on the graph, proved through inference."""

from bnscope.folding.fold import FoldResult, fold
from bnscope.folding.plan import Plan, Verdict, make_plan

__all__ = ["FoldResult", "Plan", "Verdict", "fold", "make_plan"]
