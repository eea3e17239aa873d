"""What the benchmarks run: shapes of real models, and how uneven the groups are.

Source: shapes as published: V-MoE-B/16 (Riquelme et al. 2021), DiT-MoE-XL (Fei et al. 2024), Mixtral 8x7B (Jiang et al. 2024),
    DeepSeekMoE 16B (Dai et al. 2024); rows are chosen so that a dense product takes a fraction of a second on two cores.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One product: `rows` M, `inputs` D, `outputs` F, `experts` E."""

    name: str
    rows: int
    inputs: int
    outputs: int
    experts: int

    @property
    def flops(self) -> int:
        """2 M D F: of the grouped product, and of the dense one beside it."""
        return 2 * self.rows * self.inputs * self.outputs


CASES = (
    *(Case(name=f"medium, E={e}", rows=4096, inputs=512, outputs=2048, experts=e) for e in (1, 8, 32, 128)),
    Case(name="small experts, E=64", rows=16384, inputs=256, outputs=512, experts=64),
    Case(name="V-MoE-B/16", rows=4096, inputs=768, outputs=3072, experts=32),
    Case(name="DiT-MoE-XL", rows=2048, inputs=1152, outputs=4608, experts=8),
    Case(name="Mixtral-like", rows=512, inputs=4096, outputs=14336, experts=8),
    Case(name="DeepSeek-like", rows=4096, inputs=2048, outputs=1408, experts=64),
)

DISTRIBUTIONS = ("even", "uneven", "skewed", "one", "mostly empty")


def group_sizes(distribution: str, rows: int, experts: int, *, seed: int = 0) -> np.ndarray:
    """Rows of each group [E], int32, `rows` in all.

    even: as equal as whole numbers allow. uneven: drawn with probabilities exp(0.6 z), z normal (the largest of 32 groups has
    about 2.6 times the mean). skewed: probabilities 1/rank. one: the first has all. mostly empty: one group in eight has rows.
    Raises ValueError for an unknown name.
    """
    draw = np.random.default_rng(seed)
    if distribution == "even":
        weight = np.ones(experts)
        sizes = np.full(experts, rows // experts)
        sizes[: rows - sizes.sum()] += 1
        return sizes.astype(np.int32)
    if distribution == "uneven":
        weight = np.exp(0.6 * draw.normal(size=experts))
    elif distribution == "skewed":
        weight = draw.permutation(1 / np.arange(1, experts + 1))
    elif distribution == "one":
        weight = (np.arange(experts) == 0).astype(float)
    elif distribution == "mostly empty":
        weight = np.zeros(experts)
        weight[draw.choice(experts, size=max(1, experts // 8), replace=False)] = 1
    else:
        raise ValueError(f"distribution={distribution!r} is not one of {', '.join(DISTRIBUTIONS)}.")
    return draw.multinomial(rows, weight / weight.sum()).astype(np.int32)
