"""Expert banks. One file each; the file's name is the bank's name in a config."""
