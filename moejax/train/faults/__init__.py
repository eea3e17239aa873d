"""Faults on purpose: processes killed at random moments, checkpoints damaged on the disk, commands that cannot be run."""
