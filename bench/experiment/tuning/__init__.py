"""Tuning: trials of every method, their selection, and what is stored about them."""
