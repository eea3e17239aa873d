"""Weights made smaller after training. One file per method; `compress` runs any of them over a tree, `statistics` says on what data."""
