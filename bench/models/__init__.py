"""The models that every method trains: distributions, the VAE and its seams, image networks."""
