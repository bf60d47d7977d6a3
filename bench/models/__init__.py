"""Distributions, networks and the VAE that every method trains."""
