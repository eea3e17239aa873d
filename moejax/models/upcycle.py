"""From the parameters of a dense model to those of one with experts: rules over named leaves, layer by layer.

`copy_experts` makes every expert a copy of the layer's MLP; `split_experts` divides its neurons, the most important ones
into the shared expert and the others among the routed ones. All leaves beside the MLPs are taken over as they are. Both
serve any model of blocks with 'feed_forward' in its dense layers and 'moe' in the others.
Source: Komatsuzaki et al. 2023, "Sparse Upcycling", section 3, and the released DiT-MoE (copies; routers from N(0, 0.02));
    Zheng et al. 2025, "Dense2MoE" (Taylor scores choose the shared expert); the score: Molchanov et al. 2019, "Importance
    Estimation for Neural Network Pruning", equation 8, for the gate on a neuron.
Deviations: Dense2MoE's way of dividing the less important neurons is not known in detail; they are dealt in turns by their
    score, so that experts start equally important. A shared expert beside copies starts with no output: it has nothing
    to copy.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.rng import named
from moejax.core.segments import segments, split_segments, stack
from moejax.core.tree import differences, map_with_names
from moejax.layers.moe import MoE

ROUTER_STD = 0.02
MakeMoE = Callable[[str, MoE, Any, Any], Any]
"""(layer '03', its MoE, the dense MLP's parameters, fresh parameters of the MoE) -> parameters of the MoE."""


def copy_experts(
    params: Any, target: Any, key: PRNGKeyArray, *, router_std: float = ROUTER_STD, keep_scale: bool = False
) -> tuple[Any, Any]:
    """Parameters and state of `target` whose experts all are the dense MLP; routers are drawn from N(0, router_std).

    params: of the dense model. With gates that sum to one (renormalised, or K = E) the output is the dense model's.
    keep_scale: where gates do not sum to one, multiplies the experts' outputs so that they would with an indifferent router.
    Raises SpecError when the models differ in more than their MLPs, or the experts are no MLPs of that width.
    """

    def make(layer: str, moe: MoE, mlp: Any, fresh: Any) -> Any:
        number, chosen = moe.router.num_experts, getattr(moe.router, "num_selected_experts", moe.router.num_experts)
        factor = 1.0 / (chosen * indifferent_gate(moe.router)) if keep_scale else 1.0
        copies = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (number, *leaf.shape)), mlp)
        found = {"router": _router(fresh["router"], named(key, f"router_{layer}"), router_std)}
        found["experts"] = _scale_output(copies, factor)
        return found | ({"shared": _scale_output(fresh["shared"], 0.0)} if "shared" in fresh else {})

    return _upcycle(params, target, key, make)


def split_experts(
    params: Any,
    target: Any,
    scores: Mapping[str, Float[Array, "F"]],
    key: PRNGKeyArray,
    *,
    router_std: float = ROUTER_STD,
) -> tuple[Any, Any]:
    """Parameters and state of `target` whose shared and routed experts divide the neurons of the dense MLP.

    scores: importance of each neuron by layer ('03' -> [F]), as `neuron_scores` gives it. The shared expert gets the most
    important ones, and the MLP's output bias. Routed outputs are divided by the gate of an indifferent router, so that an
    expert that is chosen counts as it did in the MLP: with all experts active and router_std = 0 the dense model's output.
    Raises SpecError when the widths of shared and routed experts do not add up to the MLP's, there is no shared expert, or
    scores are missing.
    """

    def make(layer: str, moe: MoE, mlp: Any, fresh: Any) -> Any:
        if "shared" not in fresh:
            raise SpecError("neurons are split into shared and routed experts: set moe.shared to a bank of some width.")
        number, width = moe.router.num_experts, _width(mlp)
        shared, routed = _width(fresh["shared"]), _width(fresh["experts"])
        if shared + number * routed != width:
            raise SpecError(
                f"layer {layer}: a shared expert of {shared} and {number} experts of {routed} neurons hold "
                f"{shared + number * routed}, and the dense MLP has {width}; their widths must add up to that."
            )
        first, others = _division(scores, layer, width, shared, number)
        experts = [_neurons(mlp, index) for index in others]
        bank = _scale_output(_without_output_bias(stack(experts)), 1.0 / indifferent_gate(moe.router))
        router = _router(fresh["router"], named(key, f"router_{layer}"), router_std)
        return {"router": router, "experts": bank, "shared": _neurons(mlp, first)}

    return _upcycle(params, target, key, make)


def neuron_scores(params: Any, gradients: Any) -> dict[str, Float[Array, "F"]]:
    """How much the loss would change, to first order, without each neuron of each dense MLP: layer '03' -> [F].

    gradients: of the loss with respect to `params`. Removing a neuron is removing its row of the output kernel, so the
    change is |sum(row * gradient of row)|. Average the scores of several batches.
    """
    products = jax.tree.map(lambda leaf, gradient: leaf * gradient, params, gradients)
    blocks = split_segments(products["blocks"])
    return {
        layer: jnp.abs(jnp.sum(_kernel(block["feed_forward"]["down"]), axis=-1))
        for layer, block in blocks.items()
        if "feed_forward" in block
    }


def indifferent_gate(router: Any) -> float:
    """The weight of a chosen expert when all scores are equal: 1/E, 1/K where gates are renormalised, 1/2 for sigmoids."""
    normalised = getattr(router, "renormalize", False) or getattr(router, "order", None) == "top_k_then_softmax"
    if normalised:
        return 1.0 / router.num_selected_experts
    return 0.5 if getattr(router, "scores", "softmax") == "sigmoid" else 1.0 / router.num_experts


def _upcycle(params: Any, target: Any, key: PRNGKeyArray, make: MakeMoE) -> tuple[Any, Any]:
    fresh, state = target.init(named(key, "fresh"))
    dense, template = split_segments(params), split_segments(fresh)
    if dense["blocks"].keys() != template["blocks"].keys():
        raise SpecError(f"the dense model has {len(dense['blocks'])} layers, the one with experts {target.depth}.")
    blocks = {}
    for layer, spec in zip(sorted(dense["blocks"]), target.blocks, strict=True):
        block = dict(dense["blocks"][layer])
        if isinstance(spec.mixer, MoE) and "feed_forward" in block:
            mlp = block.pop("feed_forward")
            block["moe"] = make(layer, spec.mixer, mlp, template["blocks"][layer]["moe"])
        blocks[layer] = block
    stacked = {}
    for segment in segments(target.blocks):
        layers = [blocks[f"{i:02d}"] for i in segment.layers]
        stacked[segment.name] = layers[0] if len(layers) == 1 else stack(layers)
    found = {**params, "blocks": stacked}
    if lines := differences(fresh, found):
        raise SpecError("the dense model's parameters do not make this model:\n  " + "\n  ".join(lines))
    return found, state


def _router(fresh: Any, key: PRNGKeyArray, std: float) -> Any:
    return map_with_names(lambda name, leaf: std * jax.random.normal(named(key, name), leaf.shape, leaf.dtype), fresh)


def _division(
    scores: Mapping[str, Any], layer: str, width: int, shared: int, number: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Neurons of the shared expert, and of each routed one, in their old order."""
    if layer not in scores or np.shape(scores[layer]) != (width,):
        raise SpecError(f"layer {layer} needs scores of {width} neurons, found {np.shape(scores.get(layer, ()))}.")
    order = np.argsort(-np.asarray(scores[layer], np.float64), kind="stable")
    return np.sort(order[:shared]), [np.sort(order[shared + i :: number]) for i in range(number)]


def _neurons(mlp: Any, index: np.ndarray) -> Any:
    """The MLP of the neurons at `index`: columns of what leads to them, rows of what leaves them; the output bias whole."""

    def take(name: str, leaf: Any) -> Any:
        if name == "down_bias":
            return leaf
        return jnp.take(leaf, index, axis=0 if name.startswith("down") else -1)

    return map_with_names(take, mlp)


def _scale_output(bank: Any, factor: float) -> Any:
    return map_with_names(lambda name, leaf: leaf * factor if name.startswith("down") else leaf, bank)


def _without_output_bias(bank: Any) -> Any:
    return map_with_names(lambda name, leaf: jnp.zeros_like(leaf) if name == "down_bias" else leaf, bank)


def _width(mlp: Any) -> int:
    """Hidden width of an MLP or a bank."""
    return _kernel(mlp["down"]).shape[-2]


def _kernel(leaf: Any) -> Any:
    if not hasattr(leaf, "kernel"):
        raise SpecError(
            f"only dense kernels can be made into experts, found {type(leaf).__name__}; upcycle before compressing."
        )
    return leaf.kernel
