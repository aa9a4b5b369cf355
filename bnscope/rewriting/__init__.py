"""Rewriting a model: edits (pure), apply and verify (Keras)."""
