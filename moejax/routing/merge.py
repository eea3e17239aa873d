"""Merging: the experts' parameters are averaged for each group, and all its tokens pass the one merged expert.

Source: Muqeeth et al. 2023, "Soft Merging of Experts with Adaptive Routing" (SMEAR), section 3.
Deviations: the router is linear, without a normalisation of its own (the block's norm precedes it), and no expert is
dropped out; average='probabilities' is ours.
"""

import dataclasses
from typing import Any, ClassVar, Literal

import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from moejax.core.plans import Merge, Routed
from moejax.routing.limits import check_not_negative, check_num_experts
from moejax.routing.logits import add_noise, init_kernel, linear_logits
from moejax.routing.statistics import router_metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeRouter:
    """One distribution over experts per group.

    average: 'tokens' routes the mean token of the group: softmax(mean(x) W), SMEAR's form; 'probabilities' is the mean
        of the tokens' own distributions: mean(softmax(x W)).
    noise_std: Gaussian noise of standard deviation noise_std / E on the logits, in training only (0 in SMEAR).

    Raises SpecError when num_experts < 1 or noise_std < 0.
    """

    plan_type: ClassVar[type] = Merge

    num_experts: int
    average: Literal["tokens", "probabilities"] = "tokens"
    noise_std: float = 0.0

    def __post_init__(self) -> None:
        check_num_experts(self.num_experts)
        check_not_negative(noise_std=self.noise_std)

    @property
    def causal(self) -> bool:
        """Never: all tokens of the group choose together."""
        return False

    def init(self, key: PRNGKeyArray, dim: int) -> tuple[Any, Any]:
        """{'kernel': [D E]} and no state."""
        return {"kernel": init_kernel(key, dim, self.num_experts)}, {}

    def route(
        self,
        params: Any,
        state: Any,
        x: Float[Array, "G S D"],
        *,
        key: PRNGKeyArray | None = None,
        token_ids: Int[Array, "G S"] | None = None,
    ) -> Routed:
        """A Merge whose rows sum to one. `token_ids` are not used."""
        logits = linear_logits(x, params["kernel"])
        if self.average == "tokens":
            logits = logits.mean(axis=1, keepdims=True)  # the map is linear: the mean token's logits
        probs = jax.nn.softmax(add_noise(key, logits, self.noise_std / self.num_experts))
        weight = probs.mean(axis=1)
        return Routed(Merge(weight), {}, router_metrics(weight, weight.mean(axis=0)), state)


EXAMPLES = (
    MergeRouter(num_experts=3),
    MergeRouter(num_experts=4, average="probabilities", noise_std=1.0),
)
