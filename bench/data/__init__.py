"""Data sets: readers, cache, tensors."""
