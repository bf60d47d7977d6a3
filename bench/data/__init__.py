"""Data sets: preparation, cache, and tensors for training and evaluation."""
