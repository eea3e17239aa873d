"""Mixtral: config.json <-> Decoder, and the names of its tensors.

Source: Jiang et al. 2024, "Mixtral of Experts", section 2.1; Hugging Face Transformers, `MixtralForCausalLM`.
Deviations: the softmax over the logits of the chosen experts is written as the one over all experts, renormalised, which is
    the same. `router_jitter_noise`, which acts in training, must be 0.
"""

from collections.abc import Mapping
from typing import Any

from moejax.core.spec import build_spec
from moejax.interop.config_fields import Fields
from moejax.interop.language_config import MixtureSizes, decoder_fields, mixture_fields, sizes_of, written_fields
from moejax.interop.language_tensors import Names
from moejax.models.decoder import Decoder

MODEL_TYPES = ("mixtral",)
NAMES = Names(moe="block_sparse_moe", gate="w1", up="w3", down="w2")


def decoder(config: Mapping[str, Any]) -> Decoder:
    """The model that a config.json of Mixtral means. Raises SpecError naming the fields that are not supported."""
    fields = Fields(config, what="Mixtral")
    fields.only("router_jitter_noise", 0.0, way_out="It acts in training alone: set it to 0.")
    width = fields.integer("intermediate_size")
    sizes = MixtureSizes(
        num_experts=fields.integer("num_local_experts", or_else="num_experts"),
        num_selected_experts=fields.integer("num_experts_per_tok"),
        expert_dim=width,
        shared_dim=0,
        renormalize=True,
    )
    spec = decoder_fields(fields, rope_base=1e6, epsilon=1e-5) | {
        "head_dim": fields.integer("head_dim", None),
        "sliding_window": fields.integer("sliding_window", None),
        "mlp_dim": width,
        "moe": mixture_fields(sizes),
        "moe_layers": "all",
    }
    fields.finish()
    return build_spec(Decoder, spec, path="config.json")


def config_of(model: Decoder) -> dict[str, Any]:
    """The config.json of a model, as far as Mixtral's can say it (`language_models.save` checks that it says all)."""
    sizes = sizes_of(model)
    return written_fields(model, "mixtral", "MixtralForCausalLM") | {
        "head_dim": model.head_dim,
        "sliding_window": model.sliding_window,
        "intermediate_size": sizes.expert_dim,
        "num_local_experts": sizes.num_experts,
        "num_experts_per_tok": sizes.num_selected_experts,
        "router_jitter_noise": 0.0,
    }
