"""Estimators: pure functions on tensors, in nats."""
