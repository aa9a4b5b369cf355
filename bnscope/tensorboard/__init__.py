"""The tab "BN Scope" of TensorBoard: routes that return figures, and one small ES module."""
