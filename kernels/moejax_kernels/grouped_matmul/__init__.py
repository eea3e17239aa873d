"""Rows sorted by group, each group times its own kernel."""

from moejax_kernels.grouped_matmul.api import IMPLEMENTATIONS, grouped_matmul

__all__ = ["IMPLEMENTATIONS", "grouped_matmul"]
