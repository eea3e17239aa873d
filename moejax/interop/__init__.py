"""Foreign checkpoints, read and written: a file is a format (contract.py), the others are what formats share."""
