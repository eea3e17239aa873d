"""Processes, one file each: how data becomes noise."""
