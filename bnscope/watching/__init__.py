"""What is made of readings of BN layers, in training or from checkpoints. No Keras."""
