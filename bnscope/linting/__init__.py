"""Linting: rules over a graph, and what comes of it."""

from bnscope.linting.engine import lint, lint_graph
from bnscope.linting.findings import Finding, Report
from bnscope.linting.settings import LayerIgnore, Settings

__all__ = ["Finding", "LayerIgnore", "Report", "Settings", "lint", "lint_graph"]
