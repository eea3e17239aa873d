"""DeepSeekMoE 16B (model_type deepseek): config.json <-> Decoder, and the names of its tensors.

Source: Dai et al. 2024, "DeepSeekMoE", sections 3 and 4.1, and the code beside the released weights, `DeepseekForCausalLM`
    (n shared experts are one of n times the width; the first layers are dense).
Deviations: DeepSeek-V2 and V3 have another attention (multi-head latent attention), which is not here.
"""

from collections.abc import Mapping
from typing import Any

from moejax.core.errors import SpecError
from moejax.core.spec import build_spec
from moejax.interop.config_fields import Fields
from moejax.interop.language_config import MixtureSizes, decoder_fields, mixture_fields, sizes_of, written_fields
from moejax.interop.language_tensors import Names
from moejax.models.decoder import Decoder

MODEL_TYPES = ("deepseek",)
NAMES = Names(shared="shared_experts")


def decoder(config: Mapping[str, Any]) -> Decoder:
    """The model that a config.json of DeepSeekMoE means. Raises SpecError naming the fields that are not supported."""
    fields = Fields(config, what="DeepSeekMoE")
    fields.only("scoring_func", "softmax")
    fields.only("pretraining_tp", 1)
    fields.drop("aux_loss_alpha", "seq_aux", "ep_size")  # losses in training, devices
    spec = decoder_fields(fields, rope_base=1e4, epsilon=1e-6)
    width = fields.integer("moe_intermediate_size")
    sizes = MixtureSizes(
        num_experts=fields.integer("n_routed_experts"),
        num_selected_experts=fields.integer("num_experts_per_tok"),
        expert_dim=width,
        shared_dim=width * (fields.integer("n_shared_experts", None) or 0),
        renormalize=fields.flag("norm_topk_prob", default=False),
    )
    first, step = fields.integer("first_k_dense_replace", 0), fields.integer("moe_layer_freq", 1, least=1)
    spec |= {
        "attention_bias": "all" if fields.flag("attention_bias", default=False) else "none",
        "mlp_dim": fields.integer("intermediate_size"),
        "moe": mixture_fields(sizes),
        "moe_layers": tuple(i for i in range(spec["depth"]) if i >= first and i % step == 0),
    }
    fields.finish()
    return build_spec(Decoder, spec, path="config.json")


def config_of(model: Decoder) -> dict[str, Any]:
    """The config.json of a model, as far as DeepSeekMoE's can say it (`language_models.save` checks that it says all).

    Raises SpecError for a shared expert that is not as wide as some of the routed ones together.
    """
    sizes = sizes_of(model)
    if sizes.shared_dim % sizes.expert_dim:
        raise SpecError(
            f"moe.shared.expert_dim={sizes.shared_dim} is no multiple of moe.experts.expert_dim={sizes.expert_dim}; DeepSeekMoE's shared "
            "experts are as wide as the routed ones."
        )
    return written_fields(model, "deepseek", "DeepseekForCausalLM") | {
        "attention_bias": model.attention_bias != "none",
        "intermediate_size": model.mlp_dim,
        "moe_intermediate_size": sizes.expert_dim,
        "n_routed_experts": sizes.num_experts,
        "n_shared_experts": sizes.shared_dim // sizes.expert_dim or None,
        "num_experts_per_tok": sizes.num_selected_experts,
        "norm_topk_prob": sizes.renormalize,
        "scoring_func": "softmax",
        "first_k_dense_replace": model.moe_indices[0],
        "moe_layer_freq": 1,
    }
