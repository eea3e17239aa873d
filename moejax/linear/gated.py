"""The gated pair of two leaves: activation(x gate) * (x up).

Source: Shazeer 2020, "GLU Variants Improve Transformer", equation 5.
"""

import dataclasses
from typing import Any

from moejax_kernels.grouped_matmul import grouped_gated_matmul

from moejax.core.layouts import Layout, Ragged
from moejax.linear.dense import Dense


def gated(gate: Any, up: Any, x: Layout, *, activation: str | None = "silu") -> Layout:
    """Each row through its own expert's pair; dense leaves over ragged rows in one product that reads x once."""
    if isinstance(x, Ragged) and isinstance(gate, Dense) and isinstance(up, Dense):
        own, other = (leaf.kernel.astype(x.tokens.dtype) for leaf in (gate, up))
        return Ragged(grouped_gated_matmul(x.tokens, own, other, x.group_sizes, activation=activation), x.group_sizes)
    active, value = gate.grouped_matmul(x, activation=activation), up.grouped_matmul(x)
    return dataclasses.replace(value, tokens=active.tokens * value.tokens)
