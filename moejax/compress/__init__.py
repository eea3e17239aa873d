"""Weights made smaller after training. One file per method; `compress` runs any of them over a tree, `statistics` says on what data."""

from moejax.compress.compress import Compressed, compress

__all__ = ["Compressed", "compress"]
