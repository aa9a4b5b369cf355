"""What a model is: a graph of calls, read from files and from live models."""
