"""DiT-MoE's forward pass as a PyTorch module under the released names, for `benchmark_dit.py` only.

Written for speed on one device: fused queries, keys and values, PyTorch's own attention, and each expert computes the
tokens that chose it in one product, gathered by a sort.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Gated(nn.Module):
    """A SwiGLU expert."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, width, bias=False)
        self.up_proj = nn.Linear(dim, width, bias=False)
        self.down_proj = nn.Linear(width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Mixture(nn.Module):
    """Top-K of E experts by softmax gates, and a shared one."""

    def __init__(self, dim: int, moe: Any) -> None:
        super().__init__()
        self.selected = moe.router.num_selected_experts
        self.gate = nn.Linear(dim, moe.router.num_experts, bias=False)
        self.experts = nn.ModuleList(Gated(dim, moe.experts.expert_dim) for _ in range(moe.router.num_experts))
        self.shared_experts = Gated(dim, moe.shared.expert_dim)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        weight, expert = self.gate(flat).softmax(-1).topk(self.selected, dim=-1)
        order = expert.flatten().argsort()
        rows, counts = order // self.selected, expert.flatten().bincount(minlength=len(self.experts)).tolist()
        tokens = flat[rows].split(counts)
        out = torch.cat([net(own) for net, own in zip(self.experts, tokens, strict=True)])
        out = out * weight.flatten()[order, None]
        return self.shared_experts(x) + torch.zeros_like(flat).index_add_(0, rows, out).view_as(x)


class Attention(nn.Module):
    """Self-attention of `heads` heads."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(x) (1 + scale) + shift."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    """Attention and mixture, each shifted, scaled and gated by the condition."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.attn = Attention(model.dim, model.num_heads)
        self.moe = Mixture(model.dim, model.moe)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(model.dim, 6 * model.dim))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.adaLN_modulation(condition).chunk(6, 1)
        x = x + gate[:, None] * self.attn(modulated(x, shift, scale))
        return x + gate2[:, None] * self.moe(modulated(x, shift2, scale2))


class TorchDiT(nn.Module):
    """x [B channels height width], time [B], label [B] -> [B out_channels height width], for a DiffusionTransformer spec."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        dim, size = model.dim, model.patch_size
        self.size, self.out = size, model.out_channels
        self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(model.channels, dim, size, stride=size)})
        self.pos_embed = nn.Parameter(torch.zeros(1, model.num_tokens, dim), requires_grad=False)
        self.t_embedder = nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))})
        self.y_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(model.labels.num_labels, dim)})
        self.blocks = nn.ModuleList(Block(model) for _ in range(model.depth))
        self.final_layer = nn.ModuleDict(
            {
                "linear": nn.Linear(dim, size * size * model.out_channels),
                "adaLN_modulation": nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim)),
            }
        )

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        angle = time[:, None] * torch.exp(-math.log(10_000) * torch.arange(128) / 128)
        condition = self.t_embedder["mlp"](torch.cat([angle.cos(), angle.sin()], -1))
        condition = condition + self.y_embedder["embedding_table"](label)
        tokens = self.x_embedder["proj"](x).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens, condition)
        shift, scale = self.final_layer["adaLN_modulation"](condition).chunk(2, 1)
        out = self.final_layer["linear"](modulated(tokens, shift, scale))
        side = x.shape[-1] // self.size
        grid = out.view(len(x), side, side, self.size, self.size, self.out).permute(0, 5, 1, 3, 2, 4)
        return grid.reshape(len(x), self.out, *x.shape[-2:])
