"""Shared by all: settings, seeds, files, errors. Imports no torch."""
