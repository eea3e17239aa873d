"""What the config.json of all families of language models says alike, read and written.

Source: Hugging Face Transformers, `LlamaConfig` and those of the mixtures that follow it.
Deviations: losses of routers in training (`router_aux_loss_coef`) are not read; they are no part of the forward pass.
"""

import dataclasses
from typing import Any

from moejax.core.errors import SpecError
from moejax.interop.config_fields import Fields
from moejax.models.decoder import Decoder

MOST_LAYERS = 10_000  # a spec lists its layers; a broken number must not fill the memory


@dataclasses.dataclass(frozen=True)
class MixtureSizes:
    """Experts, those that a token chooses, their hidden width, and that of the shared expert (0: there is none)."""

    num_experts: int
    num_selected_experts: int
    expert_dim: int
    shared_dim: int
    renormalize: bool


def decoder_fields(fields: Fields, *, rope_base: float, epsilon: float) -> dict[str, Any]:
    """Fields of a Decoder that all families spell alike; rope_base, epsilon: where the config says nothing.

    Raises SpecError for another activation than SiLU, and for fields that are missing or of another type.
    """
    fields.only("hidden_act", "silu", "swish")
    heads = fields.integer("num_attention_heads")
    shared = fields.integer("num_key_value_heads", None)
    return {
        "vocab_size": fields.integer("vocab_size"),
        "dim": fields.integer("hidden_size"),
        "depth": fields.integer("num_hidden_layers", most=MOST_LAYERS),
        "num_heads": heads,
        "num_kv_heads": heads if shared is None else shared,
        "max_length": fields.integer("max_position_embeddings"),
        "norm_epsilon": fields.number("rms_norm_eps", epsilon),
        "rope_base": fields.rope_base(rope_base),
        "tie_embeddings": fields.flag("tie_word_embeddings", default=False),
        "attention_dropout_rate": fields.number("attention_dropout", 0.0),
    }


def mixture_fields(sizes: MixtureSizes, *, shared_gate: bool = False) -> dict[str, Any]:
    """The field `moe` of a Decoder with dropless top-k routing and SwiGLU experts."""
    router = {
        "name": "top_k",
        "num_experts": sizes.num_experts,
        "num_selected_experts": sizes.num_selected_experts,
        "noise_std": 0.0,
        "renormalize": sizes.renormalize,
    }
    moe: dict[str, Any] = {"router": router, "experts": {"name": "swiglu", "expert_dim": sizes.expert_dim}}
    if sizes.shared_dim:
        moe |= {"shared": {"name": "swiglu", "expert_dim": sizes.shared_dim}, "shared_gate": shared_gate}
    return moe


def written_fields(model: Decoder, model_type: str, architecture: str) -> dict[str, Any]:
    """Fields of config.json that all families spell alike, of a model; tokens that begin and end texts are not known."""
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "torch_dtype": model.dtype,
        "hidden_act": "silu",
        "vocab_size": model.vocab_size,
        "hidden_size": model.dim,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.attention.num_kv_heads,
        "max_position_embeddings": model.max_length,
        "rms_norm_eps": model.norm_epsilon,
        "rope_theta": model.rope_base,
        "tie_word_embeddings": model.tie_embeddings,
        "attention_dropout": model.attention_dropout_rate,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def sizes_of(model: Decoder) -> MixtureSizes:
    """The sizes of a model's mixture. Raises SpecError for none, or for one without a top-k router and experts of a width."""
    moe = model.moe
    if moe is None:
        raise SpecError("the model has no mixture of experts, and these formats hold one.")
    missing = [
        f"{what} ({type(part).__name__}) has no {name}"
        for what, part, name in (
            ("router", moe.router, "num_selected_experts"),
            ("router", moe.router, "renormalize"),
            ("experts", moe.experts, "expert_dim"),
            *((("shared", moe.shared, "expert_dim"),) if moe.shared is not None else ()),
        )
        if not hasattr(part, name)
    ]
    if missing:
        raise SpecError(f"these formats hold a 'top_k' router and 'swiglu' experts: {', '.join(missing)}.")
    router, experts, shared = (vars(part) if part is not None else {} for part in (moe.router, moe.experts, moe.shared))
    return MixtureSizes(
        num_experts=router["num_experts"],
        num_selected_experts=router["num_selected_experts"],
        expert_dim=experts["expert_dim"],
        shared_dim=shared.get("expert_dim", 0),
        renormalize=router["renormalize"] or router["order"] == "top_k_then_softmax",
    )
