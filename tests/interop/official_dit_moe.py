"""The published DiT-MoE by its state dict: random tensors of every shape, and the forward pass in NumPy, float64.

Written with loops over examples, heads, tokens and experts; shares no code with the library.
"""

import math

import numpy as np

SIZES = {"image_size": 8, "patch_size": 2, "channels": 4, "dim": 16, "depth": 3, "num_heads": 4, "num_classes": 5}
EXPERTS, SELECTED = 4, 2


def positions(rows, dim):
    """[1, T, D]: sines and cosines of the column in the first half, of the row in the second, 1/10000^(4i/D) apart."""
    table = np.zeros((rows, rows, dim))
    quarter = dim // 4
    for row in range(rows):
        for column in range(rows):
            for i in range(quarter):
                rate = 1.0 / 10000.0 ** (i / quarter)
                table[row, column, i] = math.sin(column * rate)
                table[row, column, quarter + i] = math.cos(column * rate)
                table[row, column, 2 * quarter + i] = math.sin(row * rate)
                table[row, column, 3 * quarter + i] = math.cos(row * rate)
    return table.reshape(1, rows * rows, dim)


def state_dict(seed=0, *, qk_norm=False, flash_names=False, depth=SIZES["depth"]):
    """Random weights under the official names; kernels [outputs, inputs]."""
    draw = np.random.default_rng(seed)
    dim, patch, channels = SIZES["dim"], SIZES["patch_size"], SIZES["channels"]
    found = {"pos_embed": positions(SIZES["image_size"] // patch, dim).astype(np.float32)}

    def add(name, *shape, spread=1.0):
        inputs = math.prod(shape[1:])  # 1 for vectors
        found[name] = (spread * draw.normal(size=shape) / math.sqrt(inputs)).astype(np.float32)

    def linear(name, outputs, inputs):
        add(f"{name}.weight", outputs, inputs)
        add(f"{name}.bias", outputs)

    add("x_embedder.proj.weight", dim, channels, patch, patch)
    add("x_embedder.proj.bias", dim)
    linear("t_embedder.mlp.0", dim, 256)
    linear("t_embedder.mlp.2", dim, dim)
    add("y_embedder.embedding_table.weight", SIZES["num_classes"] + 1, dim)
    fused, out = ("Wqkv", "out_proj") if flash_names else ("qkv", "proj")
    for i in range(depth):
        block = f"blocks.{i}"
        linear(f"{block}.attn.{fused}", 3 * dim, dim)
        linear(f"{block}.attn.{out}", dim, dim)
        if qk_norm:
            for name in ("q_norm", "k_norm"):
                add(f"{block}.attn.{name}.weight", dim // SIZES["num_heads"])
                add(f"{block}.attn.{name}.bias", dim // SIZES["num_heads"])
        add(f"{block}.moe.gate.weight", EXPERTS, dim, spread=4.0)
        for name, width in [(f"experts.{e}", 4 * dim) for e in range(EXPERTS)] + [("shared_experts", 2 * dim)]:
            add(f"{block}.moe.{name}.gate_proj.weight", width, dim)
            add(f"{block}.moe.{name}.up_proj.weight", width, dim)
            add(f"{block}.moe.{name}.down_proj.weight", dim, width)
        linear(f"{block}.adaLN_modulation.1", 6 * dim, dim)
    linear("final_layer.linear", patch * patch * 2 * channels, dim)
    linear("final_layer.adaLN_modulation.1", 2 * dim, dim)
    return found


def silu(x):
    return x / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def norm(x):
    centred = x - x.mean()
    return centred / math.sqrt((centred**2).mean() + 1e-6)


def linear(w, name, x):
    return w[f"{name}.weight"] @ x + w[f"{name}.bias"]


def swiglu(w, name, x):
    hidden = silu(w[f"{name}.gate_proj.weight"] @ x) * (w[f"{name}.up_proj.weight"] @ x)
    return w[f"{name}.down_proj.weight"] @ hidden


def mixture(w, name, x):
    scores = softmax(w[f"{name}.gate.weight"] @ x)
    chosen = sorted(range(len(scores)), key=lambda e: -scores[e])[:SELECTED]
    return sum(scores[e] * swiglu(w, f"{name}.experts.{e}", x) for e in chosen) + swiglu(w, f"{name}.shared_experts", x)


def attention(w, name, tokens):
    fused, out = ("Wqkv", "out_proj") if f"{name}.Wqkv.weight" in w else ("qkv", "proj")
    heads, width = SIZES["num_heads"], SIZES["dim"] // SIZES["num_heads"]
    parts = np.array([linear(w, f"{name}.{fused}", x) for x in tokens]).reshape(len(tokens), 3, heads, width)
    if f"{name}.q_norm.weight" in w:
        for which, short in ((0, "q_norm"), (1, "k_norm")):
            for t in range(len(tokens)):
                for h in range(heads):
                    scale, bias = w[f"{name}.{short}.weight"], w[f"{name}.{short}.bias"]
                    parts[t, which, h] = norm(parts[t, which, h]) * scale + bias
    outputs = []
    for t in range(len(tokens)):
        mixed = []
        for h in range(heads):
            weight = softmax(np.array([parts[t, 0, h] @ parts[s, 1, h] for s in range(len(tokens))]) / math.sqrt(width))
            mixed.append(weight @ parts[:, 2, h])
        outputs.append(linear(w, f"{name}.{out}", np.concatenate(mixed)))
    return outputs


def condition(w, time, label):
    angle = [time * math.exp(-math.log(10000.0) * i / 128) for i in range(128)]
    features = np.array([math.cos(a) for a in angle] + [math.sin(a) for a in angle])
    embedded = linear(w, "t_embedder.mlp.2", silu(linear(w, "t_embedder.mlp.0", features)))
    return embedded + w["y_embedder.embedding_table.weight"][label]


def forward_one(w, x, time, label, depth):
    """x [height, width, channels] -> [height, width, 2 channels]."""
    side, channels, patch = SIZES["image_size"], SIZES["channels"], SIZES["patch_size"]
    c = silu(condition(w, time, label))
    tokens = []
    for t, place in enumerate(np.ndindex(side // patch, side // patch)):
        row, column = place[0] * patch, place[1] * patch
        window = x[row : row + patch, column : column + patch].transpose(2, 0, 1)  # channel, row, column
        embedded = np.tensordot(w["x_embedder.proj.weight"], window, 3) + w["x_embedder.proj.bias"]
        tokens.append(embedded + w["pos_embed"][0, t])
    for i in range(depth):
        block = f"blocks.{i}"
        shift, scale, gate, shift2, scale2, gate2 = np.split(linear(w, f"{block}.adaLN_modulation.1", c), 6)
        branch = attention(w, f"{block}.attn", [norm(v) * (1 + scale) + shift for v in tokens])
        tokens = [v + gate * b for v, b in zip(tokens, branch, strict=True)]
        tokens = [v + gate2 * mixture(w, f"{block}.moe", norm(v) * (1 + scale2) + shift2) for v in tokens]
    shift, scale = np.split(linear(w, "final_layer.adaLN_modulation.1", c), 2)
    picture = np.zeros((side, side, 2 * channels))
    for v, (row, column) in zip(tokens, np.ndindex(side // patch, side // patch), strict=True):
        values = linear(w, "final_layer.linear", norm(v) * (1 + scale) + shift).reshape(patch, patch, 2 * channels)
        picture[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] = values
    return picture


def forward(weights, x, time, label, *, depth=SIZES["depth"]):
    """[B, height, width, 2 channels] in float64: what is predicted, then the variance."""
    w = {name: np.asarray(tensor, np.float64) for name, tensor in weights.items()}
    return np.array([forward_one(w, *one, depth) for one in zip(x.astype(np.float64), time, label, strict=True)])
