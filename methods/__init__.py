"""Methods, one file each. The file's name is the method's name on the command line."""
