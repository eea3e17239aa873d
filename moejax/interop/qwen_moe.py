"""Qwen1.5-MoE and Qwen2-MoE (model_type qwen2_moe) and Qwen3-MoE (qwen3_moe): config.json <-> Decoder, and names of tensors.

Source: the Qwen team 2024, "Qwen1.5-MoE"; Yang et al. 2024, "Qwen2 Technical Report", section 2.2; Yang et al. 2025, "Qwen3
    Technical Report", section 2; Hugging Face Transformers, `Qwen2MoeForCausalLM` and `Qwen3MoeForCausalLM`.
Deviations: `use_sliding_window` must be false, as it is in the released models: which layers have the window has changed
    between versions of Transformers.
"""

from collections.abc import Mapping
from typing import Any

from moejax.core.errors import SpecError
from moejax.core.spec import build_spec
from moejax.interop.config_fields import Fields
from moejax.interop.language_config import MixtureSizes, decoder_fields, mixture_fields, sizes_of, written_fields
from moejax.interop.language_tensors import Names
from moejax.models.decoder import Decoder

MODEL_TYPES = ("qwen2_moe", "qwen3_moe")
NAMES = Names(shared="shared_expert")


def decoder(config: Mapping[str, Any]) -> Decoder:
    """The model that a config.json of Qwen's mixtures means. Raises SpecError naming the fields that are not supported."""
    third = config.get("model_type") == "qwen3_moe"
    fields = Fields(config, what="Qwen3-MoE" if third else "Qwen2-MoE")
    fields.only("use_sliding_window", False)
    fields.drop("sliding_window", "max_window_layers")  # without meaning when it is not used
    spec = decoder_fields(fields, rope_base=1e4, epsilon=1e-6)
    kinds = fields.list_of("layer_types", str)
    if set(kinds) - {"full_attention"}:
        raise SpecError(f"config.json: layer_types={kinds} is not supported, only full attention in every layer.")
    if third:
        bias = "all" if fields.flag("attention_bias", default=False) else "none"
        spec |= {"qk_norm": "head", "head_dim": fields.integer("head_dim", None), "attention_bias": bias}
    else:
        spec |= {"attention_bias": "qkv" if fields.flag("qkv_bias", default=True) else "none"}
    sizes = MixtureSizes(
        num_experts=fields.integer("num_experts", or_else="num_local_experts"),
        num_selected_experts=fields.integer("num_experts_per_tok"),
        expert_dim=fields.integer("moe_intermediate_size"),
        shared_dim=0 if third else fields.integer("shared_expert_intermediate_size"),
        renormalize=fields.flag("norm_topk_prob", default=False),
    )
    spec |= {
        "mlp_dim": fields.integer("intermediate_size"),
        "moe": mixture_fields(sizes, shared_gate=True),
        "moe_layers": _moe_layers(fields, spec["depth"]),
    }
    fields.finish()
    return build_spec(Decoder, spec, path="config.json")


def _moe_layers(fields: Fields, depth: int) -> tuple[int, ...]:
    step, dense = fields.integer("decoder_sparse_step", 1, least=1), fields.list_of("mlp_only_layers", int)
    return tuple(i for i in range(depth) if i not in dense and (i + 1) % step == 0)


def config_of(model: Decoder) -> dict[str, Any]:
    """The config.json of a model, as far as Qwen's can say it (`language_models.save` checks that it says all).

    With norms of each head it is Qwen3-MoE's, else Qwen2-MoE's.
    """
    sizes, third = sizes_of(model), model.qk_norm == "head"
    kind = ("qwen3_moe", "Qwen3MoeForCausalLM") if third else ("qwen2_moe", "Qwen2MoeForCausalLM")
    own: dict[str, Any] = {
        "shared_expert_intermediate_size": sizes.shared_dim,
        "qkv_bias": model.attention_bias != "none",
    }
    if third:
        own = {"head_dim": model.attention.head_dim, "attention_bias": model.attention_bias != "none"}
    return written_fields(model, *kind) | {
        **own,
        "use_sliding_window": False,
        "intermediate_size": model.mlp_dim,
        "moe_intermediate_size": sizes.expert_dim,
        "num_experts": sizes.num_experts,
        "num_experts_per_tok": sizes.num_selected_experts,
        "norm_topk_prob": sizes.renormalize,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [i for i in range(model.depth) if i not in model.moe_indices],
    }
