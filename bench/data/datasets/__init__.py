"""Data sets, one file each. A file's presence is its registration."""
