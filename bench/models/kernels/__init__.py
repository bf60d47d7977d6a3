"""Hand-written layers, faster than PyTorch's."""
