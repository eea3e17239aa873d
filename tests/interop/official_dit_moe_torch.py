"""The published DiT-MoE's forward pass in PyTorch, batched, float32, from a state dict of tensors [B C H W] in and out."""

import math

import torch
import torch.nn.functional as F


def _linear(w, name, x):
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def _swiglu(w, name, x):
    return _linear(
        w, f"{name}.down_proj", F.silu(_linear(w, f"{name}.gate_proj", x)) * _linear(w, f"{name}.up_proj", x)
    )


def _mixture(w, name, x, selected):
    scores = _linear(w, f"{name}.gate", x).softmax(-1)
    weight, expert = scores.topk(selected, dim=-1)
    out = _swiglu(w, f"{name}.shared_experts", x)
    for e in range(scores.shape[-1]):
        share = torch.where(expert == e, weight, torch.zeros_like(weight)).sum(-1, keepdim=True)
        out = out + share * _swiglu(w, f"{name}.experts.{e}", x)
    return out


def _attention(w, name, x, heads):
    batch, length, dim = x.shape
    query, key, value = _linear(w, f"{name}.qkv", x).view(batch, length, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
    out = F.scaled_dot_product_attention(query, key, value)
    return _linear(w, f"{name}.proj", out.transpose(1, 2).reshape(batch, length, dim))


def _modulated(x, shift, scale):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


def forward(w, x, time, label, *, depth, heads, selected):
    """x [B C H W] -> [B 2C H W]."""
    rates = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
    angle = time[:, None] * rates[None]
    c = _linear(w, "t_embedder.mlp.0", torch.cat([angle.cos(), angle.sin()], -1))
    c = F.silu(_linear(w, "t_embedder.mlp.2", F.silu(c)) + w["y_embedder.embedding_table.weight"][label])
    kernel = w["x_embedder.proj.weight"]
    size = kernel.shape[-1]
    tokens = F.conv2d(x, kernel, w["x_embedder.proj.bias"], stride=size).flatten(2).transpose(1, 2) + w["pos_embed"]
    for i in range(depth):
        block = f"blocks.{i}"
        shift, scale, gate, shift2, scale2, gate2 = _linear(w, f"{block}.adaLN_modulation.1", c).chunk(6, 1)
        tokens = tokens + gate[:, None] * _attention(w, f"{block}.attn", _modulated(tokens, shift, scale), heads)
        hidden = _modulated(tokens, shift2, scale2)
        tokens = tokens + gate2[:, None] * _mixture(w, f"{block}.moe", hidden, selected)
    shift, scale = _linear(w, "final_layer.adaLN_modulation.1", c).chunk(2, 1)
    out = _linear(w, "final_layer.linear", _modulated(tokens, shift, scale))
    side = x.shape[-1] // size
    grid = out.view(len(x), side, side, size, size, -1).permute(0, 5, 1, 3, 2, 4)
    return grid.reshape(len(x), -1, x.shape[-2], x.shape[-1])
