"""Shared by all: settings, presets, seeds, files, errors. Imports no torch."""
