"""Configuration, seeds, files, locks and errors: shared by all packages; no torch."""

__version__ = "0.3.0"
