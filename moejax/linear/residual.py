"""The residual leaf: a core that all experts share, plus what is each expert's own.

Source: Wu et al. 2022, "Residual Mixture of Experts" (S059), the decomposition W_e = W_core + R_e.
"""

import dataclasses
from typing import Annotated, Any

import flax.struct
from jaxtyping import Array, Float

from moejax.core.layouts import Layout
from moejax.linear.dense import Dense
from moejax.linear.epilogue import finish
from moejax.linear.shared import Shared


@flax.struct.dataclass
class Residual:
    """core.kernel + residual_e, and core.bias where there is one. residual: a leaf of E kernels, Dense [E D F] or LowRank.

    Names in trees: '.../core/kernel', '.../core/bias', '.../residual/...': the pattern '/core/' freezes all cores.
    """

    core: Annotated[Any, Shared]
    residual: Annotated[Any, "Dense | LowRank"]

    def matmul(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """X core + x residual, of one kernel each."""
        return self.core.matmul(x) + self.residual.matmul(x)

    def grouped_matmul(
        self, x: Layout, *, bias: Float[Array, "E F"] | None = None, activation: str | None = None
    ) -> Layout:
        """Each row times core + its own expert's residual. FLOPs: 2 D F per row, and those of a residual that is no Dense.

        A dense residual is added to the core first: one product, and the sums are no products.
        """
        if isinstance(self.residual, Dense):
            out = Dense(self.core.kernel[None] + self.residual.kernel).grouped_matmul(x)
            out = dataclasses.replace(
                out, tokens=out.tokens + self.core.replace(bias=None).grouped_matmul(x).tokens * 0
            )
        else:
            out = self.residual.grouped_matmul(x)
        return finish(out, bias, activation)
