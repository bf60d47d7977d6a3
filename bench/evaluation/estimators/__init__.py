"""Estimators: pure functions on tensors. All information and likelihoods are in nats."""
