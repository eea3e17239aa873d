"""Rows sorted by group, each group times its own kernel; its transposes, its gated pair, and its gradients."""

from moejax_kernels.grouped_matmul.api import IMPLEMENTATIONS, grouped_gated_matmul, grouped_matmul, grouped_outer

__all__ = ["IMPLEMENTATIONS", "grouped_gated_matmul", "grouped_matmul", "grouped_outer"]
