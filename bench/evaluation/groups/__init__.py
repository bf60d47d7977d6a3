"""Metric groups, one file each. A file's presence is its registration; see ``bench.evaluation.registry``."""
