"""Kernels of moejax: one folder per operation, the same file names in each. Imports jax and numpy only."""
