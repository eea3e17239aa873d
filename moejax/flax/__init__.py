"""Linen and NNX modules over the functional core."""
