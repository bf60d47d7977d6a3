"""Likelihoods: one file each, found by presence. ``bench.models.registry`` says what a file defines."""
