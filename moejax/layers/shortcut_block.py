"""A block whose routed experts read what the block before had before its mixer, so that their exchange waits for nothing here.

Source: Cai et al. 2024, "Shortcut-connected Expert Parallelism for Accelerating Mixture-of-Experts" (ScMoE): routed experts on the
    preceding layer's tokens between attention and MLP, shared expert and attention on the current ones.
Deviations: the routed branch has a norm of its own. The order of computations is left to the compiler: that of TPUs runs the
    attention while tokens travel where its option xla_tpu_enable_async_all_to_all is on; no schedule is written by hand.
"""

import dataclasses
from typing import Any, ClassVar

from jaxtyping import Array, Float, Int, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.outputs import LayerOutput
from moejax.core.rng import maybe_named
from moejax.layers.block import Block
from moejax.layers.mixer import apply_mixer
from moejax.layers.moe import MoE
from moejax.layers.norms import LayerNorm

_NORM = LayerNorm()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShortcutBlock(Block):
    """h = x + attention(norm(x)), then h + shared(norm(h)) + routed(norm(shortcut)).

    mixer: an MoE with a shared expert. Raises SpecError for another mixer.
    """

    reads_shortcut: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.mixer, MoE) or self.mixer.shared is None:
            raise SpecError(
                "a shortcut-connected block needs an MoE with a shared expert, which computes on the current tokens; give "
                "moe.shared a bank."
            )

    def init(self, key: PRNGKeyArray, dim: int) -> tuple[dict[str, Any], Any]:
        """Those of `Block`, and 'norm_routed'."""
        params, state = super().init(key, dim)
        return params | {"norm_routed": _NORM.init(dim)}, state

    def apply(
        self,
        params: dict[str, Any],
        state: Any,
        x: Float[Array, "B T D"],
        *,
        shortcut: Float[Array, "B T D"] | None = None,
        key: PRNGKeyArray | None = None,
        token_ids: Int[Array, "B T"] | None = None,
        drop_path_rate: Float[Array, ""] | float | None = None,
    ) -> LayerOutput:
        """As `Block`. shortcut: the previous block's tokens between its attention and its mixer; SpecError without."""
        assert isinstance(self.mixer, MoE) and self.mixer.shared is not None
        if shortcut is None:
            raise SpecError("a shortcut-connected block reads the block before it; it cannot be the first.")
        routed_alone = dataclasses.replace(self.mixer, shared=None, shared_gate=False)
        hidden = _NORM.apply(params["norm_routed"], shortcut)
        routed = apply_mixer(routed_alone, params, state, hidden, key=key, token_ids=token_ids)
        normed = _NORM.apply(params["norm_1"], x)
        branch = self.attention.apply(params["attention"], normed, key=maybe_named(key, "attention"))
        x = x + self._regularise(branch, "attention", key, drop_path_rate)
        hidden = _NORM.apply(params["norm_2"], x)
        shared = self.mixer.apply_shared(params["moe"], hidden, key=maybe_named(key, "shared"))
        tokens = x + self._regularise(shared + routed.tokens, "mixer", key, drop_path_rate)
        return dataclasses.replace(routed, tokens=tokens, shortcut=x)
