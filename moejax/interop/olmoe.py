"""OLMoE: config.json <-> Decoder, and the names of its tensors.

Source: Muennighoff et al. 2024, "OLMoE: Open Mixture-of-Experts Language Models", section 2; Hugging Face Transformers,
    `OlmoeForCausalLM` (queries and keys are normed over all heads together).
Deviations: `clip_qkv` must be null, as it is in the released models.
"""

from collections.abc import Mapping
from typing import Any

from moejax.core.spec import build_spec
from moejax.interop.config_fields import Fields
from moejax.interop.language_config import MixtureSizes, decoder_fields, mixture_fields, sizes_of, written_fields
from moejax.interop.language_tensors import Names
from moejax.models.decoder import Decoder

MODEL_TYPES = ("olmoe",)
NAMES = Names()


def decoder(config: Mapping[str, Any]) -> Decoder:
    """The model that a config.json of OLMoE means. Raises SpecError naming the fields that are not supported."""
    fields = Fields(config, what="OLMoE")
    fields.only("clip_qkv", None)
    width = fields.integer("intermediate_size")
    sizes = MixtureSizes(
        num_experts=fields.integer("num_experts", or_else="num_local_experts"),
        num_selected_experts=fields.integer("num_experts_per_tok"),
        expert_dim=width,
        shared_dim=0,
        renormalize=fields.flag("norm_topk_prob", default=False),
    )
    spec = decoder_fields(fields, rope_base=1e4, epsilon=1e-5) | {
        "attention_bias": "all" if fields.flag("attention_bias", default=False) else "none",
        "qk_norm": "width",
        "mlp_dim": width,
        "moe": mixture_fields(sizes),
        "moe_layers": "all",
    }
    fields.finish()
    return build_spec(Decoder, spec, path="config.json")


def config_of(model: Decoder) -> dict[str, Any]:
    """The config.json of a model, as far as OLMoE's can say it (`language_models.save` checks that it says all)."""
    sizes = sizes_of(model)
    return written_fields(model, "olmoe", "OlmoeForCausalLM") | {
        "attention_bias": model.attention_bias != "none",
        "clip_qkv": None,
        "intermediate_size": sizes.expert_dim,
        "num_experts": sizes.num_experts,
        "num_experts_per_tok": sizes.num_selected_experts,
        "norm_topk_prob": sizes.renormalize,
    }
