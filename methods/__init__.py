"""The methods, one file each. A file's presence here is its registration (see CONTRIBUTING.md)."""
