"""Products with matrices that are held as two factors, U [D R] and V [R F], without the rank-wide or full-width middle."""

from moejax_kernels.lowrank_matmul.api import (
    IMPLEMENTATIONS,
    batched_lowrank_ffn,
    grouped_lowrank_ffn,
    grouped_lowrank_matmul,
    lowrank_attention,
    lowrank_ffn,
    lowrank_matmul,
)

__all__ = [
    "IMPLEMENTATIONS",
    "batched_lowrank_ffn",
    "grouped_lowrank_ffn",
    "grouped_lowrank_matmul",
    "lowrank_attention",
    "lowrank_ffn",
    "lowrank_matmul",
]
