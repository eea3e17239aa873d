"""Published sizes as data, the fields of models that they mean, and sizes that follow from others."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

from moejax.core.errors import SpecError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Size:
    """Width, depth, heads and the MLP's hidden width."""

    dim: int
    depth: int
    num_heads: int
    mlp_dim: int


VMOE: Mapping[str, Size] = types.MappingProxyType(
    {
        "S": Size(512, 8, 8, 2048),
        "B": Size(768, 12, 12, 3072),
        "L": Size(1024, 24, 16, 4096),
        "H": Size(1280, 32, 16, 5120),
        "15B": Size(1408, 48, 16, 6400),
    }
)
"""V-MoE's family. Its S (8 layers, 512 wide) is neither ViT-S nor Soft MoE's S (12 layers, 384 wide).

Source: Riquelme et al. 2021, table of architectures (appendix B)."""

SOFT_MOE: Mapping[str, Size] = types.MappingProxyType(
    {
        "Ti": Size(192, 12, 3, 768),
        "S": Size(384, 12, 6, 1536),
        "B": Size(768, 12, 12, 3072),
        "L": Size(1024, 24, 16, 4096),
        "H": Size(1280, 32, 16, 5120),
    }
)
"""Soft MoE's family, the ViT sizes of Dosovitskiy et al. 2021 and Touvron et al. 2021.

Source: Puigcerver et al. 2024, section 3.2 and appendix."""

SOFT_MOE_LAYERS: Mapping[str, str] = types.MappingProxyType(
    {"Ti": "final6", "S": "final6", "B": "final6", "L": "final12", "H": "final16"}
)
"""Where Soft MoE's MoE layers stand: the second half of the blocks."""

DIT_MOE: Mapping[str, Size] = types.MappingProxyType(
    {
        "S": Size(384, 12, 6, 1536),
        "B": Size(768, 12, 12, 3072),
        "L": Size(1024, 24, 16, 4096),
        "XL": Size(1152, 28, 16, 4608),
        "G": Size(1408, 40, 16, 5632),
    }
)
"""DiT's family, and DiT-MoE's, which adds G; patches of 2, 4 or 8. Routed experts are as wide as the MLP that they replace.

Source: Peebles & Xie 2023, table 1; Fei et al. 2024, "Scaling Diffusion Transformers to 16 Billion Parameters", table 1."""

DIT_MOE_QK_NORM = frozenset({"XL", "G"})
"""The sizes of DiT-MoE that norm queries and keys."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageSize:
    """A language model with experts: the sizes of its decoder, its mixture, and what it does otherwise than the others.

    mlp_dim: of dense layers, those before first_moe_layer. shared_dim: of the shared expert, 0 for none, with a gate or without.
    """

    vocab_size: int
    dim: int
    depth: int
    num_heads: int
    num_kv_heads: int
    mlp_dim: int
    max_length: int
    rope_base: float
    norm_epsilon: float
    num_experts: int
    num_selected_experts: int
    expert_dim: int
    renormalize: bool = False
    shared_dim: int = 0
    shared_gate: bool = False
    first_moe_layer: int = 0
    attention_bias: str = "none"
    qk_norm: str = "none"

    @property
    def fields(self) -> dict[str, Any]:
        """Decoder fields, the mixture dropless as released."""
        mixture = ("num_experts", "num_selected_experts", "expert_dim", "renormalize", "shared_dim", "shared_gate")
        own = {name: value for name, value in vars(self).items() if name not in (*mixture, "first_moe_layer")}
        router = {name: getattr(self, name) for name in ("num_experts", "num_selected_experts", "renormalize")}
        moe: dict[str, Any] = {
            "router": {"name": "top_k", "noise_std": 0.0, **router},
            "experts": {"name": "swiglu", "expert_dim": self.expert_dim},
        }
        if self.shared_dim:
            moe |= {"shared": {"name": "swiglu", "expert_dim": self.shared_dim}, "shared_gate": self.shared_gate}
        return own | {"moe": moe, "moe_layers": tuple(range(self.first_moe_layer, self.depth))}


LANGUAGE: Mapping[str, LanguageSize] = types.MappingProxyType(
    {
        "Mixtral-8x7B": LanguageSize(
            vocab_size=32_000,
            dim=4096,
            depth=32,
            num_heads=32,
            num_kv_heads=8,
            mlp_dim=14_336,
            max_length=32_768,
            rope_base=1e6,
            norm_epsilon=1e-5,
            num_experts=8,
            num_selected_experts=2,
            expert_dim=14_336,
            renormalize=True,
        ),
        "Qwen1.5-MoE-A2.7B": LanguageSize(
            vocab_size=151_936,
            dim=2048,
            depth=24,
            num_heads=16,
            num_kv_heads=16,
            mlp_dim=5632,
            max_length=8192,
            rope_base=1e6,
            norm_epsilon=1e-6,
            num_experts=60,
            num_selected_experts=4,
            expert_dim=1408,
            shared_dim=5632,
            shared_gate=True,
            attention_bias="qkv",
        ),
        "OLMoE-1B-7B": LanguageSize(
            vocab_size=50_304,
            dim=2048,
            depth=16,
            num_heads=16,
            num_kv_heads=16,
            mlp_dim=1024,
            max_length=4096,
            rope_base=1e4,
            norm_epsilon=1e-5,
            num_experts=64,
            num_selected_experts=8,
            expert_dim=1024,
            qk_norm="width",
        ),
        "DeepSeekMoE-16B": LanguageSize(
            vocab_size=102_400,
            dim=2048,
            depth=28,
            num_heads=16,
            num_kv_heads=16,
            mlp_dim=10_944,
            max_length=4096,
            rope_base=1e4,
            norm_epsilon=1e-6,
            num_experts=64,
            num_selected_experts=6,
            expert_dim=1408,
            shared_dim=2816,
            first_moe_layer=1,
        ),
    }
)
"""Released language models with experts.

Source: Jiang et al. 2024, "Mixtral of Experts", table 1; the Qwen team 2024, "Qwen1.5-MoE"; Muennighoff et al. 2024, "OLMoE",
table 1; Dai et al. 2024, "DeepSeekMoE", section 5.1; and the config.json beside the released weights of each."""


def fine_grained(
    num_experts: int, num_selected_experts: int, expert_dim: int, *, split: int = 1, num_shared: int = 0
) -> dict[str, dict[str, int]]:
    """The sizes of router, experts and shared expert when each of N experts is split in m and K_s of the parts are shared.

    {'router': {'num_experts': m N - K_s, 'num_selected_experts': m K - K_s}, 'experts': {'expert_dim': F / m}}, and with
    shared parts 'shared': {'expert_dim': K_s F / m}, one expert as wide as all of them. Parameters and activated FLOPs of
    the experts' kernels are those of N experts of width F of which a token meets K; split=1 and num_shared=0 is that layer.
    Raises SpecError when the width cannot be split so, or when nothing would be left to choose.
    Source: Dai et al. 2024, "DeepSeekMoE", sections 3.1 and 3.2.
    """
    if split < 1 or expert_dim % split:
        raise SpecError(f"split={split} must divide expert_dim={expert_dim}.")
    if not 0 <= num_shared < split * num_selected_experts:
        raise SpecError(
            f"num_shared={num_shared} must be at least 0 and below split * num_selected_experts = "
            f"{split * num_selected_experts}, so that the router is left with a choice."
        )
    width = expert_dim // split
    sizes = {
        "router": {
            "num_experts": split * num_experts - num_shared,
            "num_selected_experts": split * num_selected_experts - num_shared,
        },
        "experts": {"expert_dim": width},
    }
    return sizes | ({"shared": {"expert_dim": num_shared * width}} if num_shared else {})


def fields(family: Mapping[str, Size], size: str, *, image_size: int = 224) -> dict[str, Any]:
    """VisionTransformer or DiffusionTransformer fields of a size written 'B/16' (name / patch size).

    Raises SpecError when the name is not in the family or the patch size is missing.
    """
    name, slash, patch = size.partition("/")
    if name not in family:
        raise SpecError(f"size={size!r}: {name!r} is no published size of this family.{did_you_mean(name, family)}")
    if not slash or not patch.isdigit() or patch == "0":
        raise SpecError(f"size={size!r} must name the patch size too, such as '{name}/16'.")
    return dataclasses.asdict(family[name]) | {"patch_size": int(patch), "image_size": image_size}
