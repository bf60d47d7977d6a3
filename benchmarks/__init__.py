"""Benchmarks for developers, run by hand."""
