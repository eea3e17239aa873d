"""Getting data onto the disk: downloads, archives, idx files, and the writing of record files."""
