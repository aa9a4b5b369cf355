"""bnscope: see, lint and fold Batch Normalization in Keras models."""
