"""Configuration, seeds, files, locks and errors: shared by all packages; no torch."""
