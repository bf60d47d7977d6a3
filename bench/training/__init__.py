"""The training loop and what it is made from: registry, method expressions, trainer, checkpoints."""
