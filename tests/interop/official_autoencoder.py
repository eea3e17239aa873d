"""The published autoencoder by its state dict: random tensors, and both ways in NumPy, float64, [channels, rows, columns].

Names and order of the parts as diffusers gives them; shares no code with the library.
"""

import math

import numpy as np

WIDTHS, BLOCKS, GROUPS, LATENTS, SCALE = (4, 8), 1, 2, 2, 0.18215


def state_dict(seed=0, *, old_names=False):
    """Random weights; kernels [outputs, inputs, k, k]."""
    draw = np.random.default_rng(seed)
    found = {}

    def array(name, *shape):
        found[name] = (draw.normal(size=shape) / math.sqrt(math.prod(shape[1:]))).astype(np.float32)

    def convolution(name, outputs, inputs, size=3):
        array(f"{name}.weight", outputs, inputs, size, size)
        array(f"{name}.bias", outputs)

    def norm(name, width):
        array(f"{name}.weight", width)
        array(f"{name}.bias", width)

    def block(name, inputs, outputs):
        norm(f"{name}.norm1", inputs)
        convolution(f"{name}.conv1", outputs, inputs)
        norm(f"{name}.norm2", outputs)
        convolution(f"{name}.conv2", outputs, outputs)
        if inputs != outputs:
            convolution(f"{name}.conv_shortcut", outputs, inputs, 1)

    def middle(coder):
        for j in (0, 1):
            block(f"{coder}.mid_block.resnets.{j}", WIDTHS[-1], WIDTHS[-1])
        attention = f"{coder}.mid_block.attentions.0"
        norm(f"{attention}.group_norm", WIDTHS[-1])
        for name in ("query", "key", "value", "proj_attn") if old_names else ("to_q", "to_k", "to_v", "to_out.0"):
            array(f"{attention}.{name}.weight", WIDTHS[-1], WIDTHS[-1])
            array(f"{attention}.{name}.bias", WIDTHS[-1])

    convolution("encoder.conv_in", WIDTHS[0], 3)
    block("encoder.down_blocks.0.resnets.0", 4, 4)
    convolution("encoder.down_blocks.0.downsamplers.0.conv", 4, 4)
    block("encoder.down_blocks.1.resnets.0", 4, 8)
    middle("encoder")
    norm("encoder.conv_norm_out", 8)
    convolution("encoder.conv_out", 2 * LATENTS, 8)
    convolution("quant_conv", 2 * LATENTS, 2 * LATENTS, 1)
    convolution("post_quant_conv", LATENTS, LATENTS, 1)
    convolution("decoder.conv_in", 8, LATENTS)
    middle("decoder")
    for j in (0, 1):
        block(f"decoder.up_blocks.0.resnets.{j}", 8, 8)
    convolution("decoder.up_blocks.0.upsamplers.0.conv", 8, 8)
    block("decoder.up_blocks.1.resnets.0", 8, 4)
    block("decoder.up_blocks.1.resnets.1", 4, 4)
    norm("decoder.conv_norm_out", 4)
    convolution("decoder.conv_out", 3, 4)
    return found


def convolve(w, name, x, *, stride=1, pad=(1, 1)):
    kernel, bias = w[f"{name}.weight"], w[f"{name}.bias"]
    size = kernel.shape[-1]
    x = np.pad(x, ((0, 0), pad, pad)) if size > 1 else x
    rows, columns = ((n - size) // stride + 1 for n in x.shape[1:])
    out = np.zeros((len(kernel), rows, columns))
    for r, c in np.ndindex(rows, columns):
        window = x[:, r * stride : r * stride + size, c * stride : c * stride + size]
        out[:, r, c] = np.tensordot(kernel, window, 3) + bias
    return out


def group_norm(w, name, x):
    out = np.empty_like(x)
    size = len(x) // GROUPS
    for g in range(GROUPS):
        own = x[g * size : (g + 1) * size]
        out[g * size : (g + 1) * size] = (own - own.mean()) / math.sqrt(own.var() + 1e-6)
    return out * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]


def silu(x):
    return x / (1 + np.exp(-x))


def block(w, name, x):
    y = convolve(w, f"{name}.conv1", silu(group_norm(w, f"{name}.norm1", x)))
    y = convolve(w, f"{name}.conv2", silu(group_norm(w, f"{name}.norm2", y)))
    short = convolve(w, f"{name}.conv_shortcut", x) if f"{name}.conv_shortcut.weight" in w else x
    return short + y


def middle(w, coder, x):
    x = block(w, f"{coder}.mid_block.resnets.0", x)
    name = f"{coder}.mid_block.attentions.0"
    tokens = group_norm(w, f"{name}.group_norm", x).reshape(len(x), -1).T
    query, key, value = (tokens @ w[f"{name}.{n}.weight"].T + w[f"{name}.{n}.bias"] for n in ("to_q", "to_k", "to_v"))
    scores = np.exp(query @ key.T / math.sqrt(len(x)))
    mixed = scores / scores.sum(1, keepdims=True) @ value
    out = mixed @ w[f"{name}.to_out.0.weight"].T + w[f"{name}.to_out.0.bias"]
    return block(w, f"{coder}.mid_block.resnets.1", x + out.T.reshape(x.shape))


def encode(weights, x):
    """x [3, rows, columns] -> mean and standard deviation, not scaled."""
    w = {name: np.asarray(tensor, np.float64) for name, tensor in weights.items()}
    x = convolve(w, "encoder.conv_in", x.astype(np.float64))
    x = block(w, "encoder.down_blocks.0.resnets.0", x)
    x = convolve(w, "encoder.down_blocks.0.downsamplers.0.conv", x, stride=2, pad=(0, 1))
    x = middle(w, "encoder", block(w, "encoder.down_blocks.1.resnets.0", x))
    x = convolve(w, "encoder.conv_out", silu(group_norm(w, "encoder.conv_norm_out", x)))
    moments = convolve(w, "quant_conv", x)
    return moments[:LATENTS], np.exp(moments[LATENTS:] / 2)


def decode(weights, z):
    """z [latents, rows, columns], not scaled -> picture."""
    w = {name: np.asarray(tensor, np.float64) for name, tensor in weights.items()}
    x = convolve(w, "decoder.conv_in", convolve(w, "post_quant_conv", z.astype(np.float64)))
    x = middle(w, "decoder", x)
    for j in (0, 1):
        x = block(w, f"decoder.up_blocks.0.resnets.{j}", x)
    x = convolve(w, "decoder.up_blocks.0.upsamplers.0.conv", x.repeat(2, axis=1).repeat(2, axis=2))
    for j in (0, 1):
        x = block(w, f"decoder.up_blocks.1.resnets.{j}", x)
    return convolve(w, "decoder.conv_out", silu(group_norm(w, "decoder.conv_norm_out", x)))
