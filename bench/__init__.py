"""A benchmark harness that compares methods against posterior collapse in VAEs.

Importing this package costs nothing: torch and ray are imported by the modules that use them.
"""

__version__ = "0.1.0"
