"""What is computed of the BN layers at one step: pure numpy, no Keras."""
