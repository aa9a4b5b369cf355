"""Diagnosis: why a model is worse at inference than in training, and what BN has to do with it."""

from __future__ import annotations

from bnscope.diagnosis.engine import diagnose
from bnscope.diagnosis.result import Diagnosis, LayerDiagnosis, Verdict

__all__ = ["Diagnosis", "LayerDiagnosis", "Verdict", "diagnose"]
