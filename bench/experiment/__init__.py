"""Cells: planning, execution, storage."""
