"""V-MoE, Soft MoE and ViT written out slowly from their papers, over weights by the public names.

Riquelme et al. 2021 (sections 2.1 and 2.4, appendix C for batch priority), Puigcerver et al. 2024 (section 2.1), Dosovitskiy
et al. 2021 (equations 1 to 4). GELU is the tanh form, the default of Flax. Loops over pictures, tokens and heads in float64; no
code of ours or theirs.
"""

import math

import numpy as np

SIZES = {"image_size": 8, "patch_size": 4, "dim": 8, "depth": 3, "num_heads": 2, "mlp_dim": 12, "num_classes": 5}
EXPERTS, SELECTED, WIDTH, SLOTS, CHANNELS = 4, 2, 10, 2, 3
NAMES = {
    "vmoe": ("Encoder", "LayerNorm_0", "SelfAttention", "LayerNorm_1", "Mlp"),
    "vision_transformer": (
        "Transformer", "LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3",
    ),
    "big_vision": ("Transformer", "LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0"),
}  # fmt: skip
POSITIONS = {"vmoe": "Encoder/posembed_input/pos_embedding", "big_vision": "pos_embedding"}
POSITIONS["vision_transformer"] = "Transformer/posembed_input/pos_embedding"


def weights(kind="vmoe", *, router=None, moe_layers=(), pool="cls", pre_logits=None, qk_norm=False, seed=0):
    """Random float32 tensors by the names of `kind`. router: 'dense' or 'soft'."""
    draw = np.random.default_rng(seed)
    found = {}
    dim, heads, patch = SIZES["dim"], SIZES["num_heads"], SIZES["patch_size"]

    def add(name, *shape, inputs=1, spread=1.0):
        found[name] = (spread * draw.normal(size=shape) / math.sqrt(inputs)).astype(np.float32)

    def linear(name, inputs, outputs, *lead):
        add(f"{name}/kernel", *lead, inputs, outputs, inputs=inputs)
        add(f"{name}/bias", *lead, outputs, spread=0.3)

    def norm(name):
        add(f"{name}/scale", dim)
        add(f"{name}/bias", dim, spread=0.3)

    def attention(name):
        for part in ("query", "key", "value"):
            add(f"{name}/{part}/kernel", dim, heads, dim // heads, inputs=dim)
            add(f"{name}/{part}/bias", heads, dim // heads)
        add(f"{name}/out/kernel", heads, dim // heads, dim, inputs=dim)
        add(f"{name}/out/bias", dim)

    def mlp(name, width, *lead):
        linear(f"{name}/Dense_0", dim, width, *lead)
        linear(f"{name}/Dense_1", width, dim, *lead)

    add("embedding/kernel", patch, patch, CHANNELS, dim, inputs=patch * patch * CHANNELS)
    add("embedding/bias", dim)
    tokens = (SIZES["image_size"] // patch) ** 2
    if pool == "cls":
        add("cls", 1, 1, dim)
    add(POSITIONS[kind], 1, tokens + (pool == "cls" and kind != "big_vision"), dim)
    encoder, norm_1, att, norm_2, dense = NAMES[kind]
    for i in range(SIZES["depth"]):
        block = f"{encoder}/encoderblock_{i}"
        norm(f"{block}/{norm_1}")
        attention(f"{block}/{att}")
        if qk_norm:
            add(f"{block}/{att}/query_ln/scale", dim // heads)
            add(f"{block}/{att}/key_ln/scale", dim // heads)
        norm(f"{block}/{norm_2}")
        if i in moe_layers:
            mlp(f"{block}/Moe/Mlp", WIDTH, EXPERTS)
            if router == "soft":
                add(f"{block}/Moe/Router/mu", dim, EXPERTS, SLOTS)
                add(f"{block}/Moe/Router/scale", spread=3.0)
            else:
                add(f"{block}/Moe/Router/dense/kernel", dim, EXPERTS)
        else:
            mlp(f"{block}/{dense}", SIZES["mlp_dim"])
    norm(f"{encoder}/encoder_norm")
    if pool == "map":
        add("MAPHead_0/probe", 1, 1, dim)
        attention("MAPHead_0/MultiHeadDotProductAttention_0")
        norm("MAPHead_0/LayerNorm_0")
        mlp("MAPHead_0/MlpBlock_0", SIZES["mlp_dim"])
    if pre_logits:
        linear("pre_logits", dim, pre_logits)
    linear("head", pre_logits or dim, SIZES["num_classes"])
    return found


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def norm(w, name, x):
    centred = x - x.mean()
    y = centred / math.sqrt((centred**2).mean() + 1e-6) * w[f"{name}/scale"]
    return y + w[f"{name}/bias"] if f"{name}/bias" in w else y


def mlp(w, name, x, expert=None):
    part = (lambda a: a) if expert is None else (lambda a: a[expert])
    hidden = gelu(x @ part(w[f"{name}/Dense_0/kernel"]) + part(w[f"{name}/Dense_0/bias"]))
    return hidden @ part(w[f"{name}/Dense_1/kernel"]) + part(w[f"{name}/Dense_1/bias"])


def attention(w, name, queries, tokens):
    def head(part, x, h):
        y = x @ w[f"{name}/{part}/kernel"][:, h] + w[f"{name}/{part}/bias"][h]
        return norm(w, f"{name}/{part}_ln", y) if f"{name}/{part}_ln/scale" in w else y

    outputs = []
    for q in queries:
        out = w[f"{name}/out/bias"].copy()
        for h in range(SIZES["num_heads"]):
            query = head("query", q, h)
            weight = softmax(np.array([query @ head("key", t, h) for t in tokens]) / math.sqrt(len(query)))
            mixed = sum(a * head("value", t, h) for a, t in zip(weight, tokens, strict=True))
            out = out + mixed @ w[f"{name}/out/kernel"][h]
        outputs.append(out)
    return outputs


def sparse(w, name, tokens, *, capacity, priority):
    """capacity: choices that an expert serves, None for all. First choices before second ones; in each, by position or gate."""
    gates = [softmax(x @ w[f"{name}/Router/dense/kernel"]) for x in tokens]
    order = sorted(range(len(tokens)), key=lambda t: -gates[t].max()) if priority else range(len(tokens))
    room = dict.fromkeys(range(EXPERTS), math.inf if capacity is None else capacity)
    outputs = [np.zeros_like(x) for x in tokens]
    served = 0
    for rank in range(SELECTED):
        for t in order:
            expert = int(np.argsort(-gates[t], kind="stable")[rank])
            if room[expert] > 0:
                room[expert] -= 1
                served += 1
                outputs[t] = outputs[t] + gates[t][expert] * mlp(w, f"{name}/Mlp", tokens[t], expert)
    return outputs, served


def soft(w, name, tokens):
    def unit(x):
        return x / math.sqrt((x**2).sum() + 1e-6)

    mu, scale = w[f"{name}/Router/mu"], w[f"{name}/Router/scale"]
    slots = [(e, s) for e in range(EXPERTS) for s in range(SLOTS)]
    logits = np.array([[scale * unit(x) @ unit(mu[:, e, s]) for e, s in slots] for x in tokens])
    results = []
    for j, (e, _) in enumerate(slots):
        weight = softmax(logits[:, j])
        results.append(mlp(w, f"{name}/Mlp", sum(a * x for a, x in zip(weight, tokens, strict=True)), e))
    return [sum(a * r for a, r in zip(softmax(row), results, strict=True)) for row in logits]


def forward_one(w, kind, x, capacity, priority):
    patch, side = SIZES["patch_size"], SIZES["image_size"] // SIZES["patch_size"]
    tokens = []
    for row, column in np.ndindex(side, side):
        window = x[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
        tokens.append(np.tensordot(window, w["embedding/kernel"], 3) + w["embedding/bias"])
    table = w[POSITIONS[kind]][0]
    if kind == "big_vision":
        tokens = [t + p for t, p in zip(tokens, table, strict=True)]
    if "cls" in w:
        tokens = [w["cls"][0, 0], *tokens]
    if kind != "big_vision":
        tokens = [t + p for t, p in zip(tokens, table, strict=True)]
    encoder, norm_1, att, norm_2, dense = NAMES[kind]
    for i in range(SIZES["depth"]):
        block = f"{encoder}/encoderblock_{i}"
        normed = [norm(w, f"{block}/{norm_1}", t) for t in tokens]
        tokens = [t + a for t, a in zip(tokens, attention(w, f"{block}/{att}", normed, normed), strict=True)]
        normed = [norm(w, f"{block}/{norm_2}", t) for t in tokens]
        if f"{block}/Moe/Router/mu" in w:
            mixed = soft(w, f"{block}/Moe", normed)
        elif f"{block}/Moe/Router/dense/kernel" in w:
            mixed, served = sparse(w, f"{block}/Moe", normed, capacity=capacity, priority=priority)
            assert capacity is None or served < SELECTED * len(tokens)  # something is dropped
        else:
            mixed = [mlp(w, f"{block}/{dense}", t) for t in normed]
        tokens = [t + m for t, m in zip(tokens, mixed, strict=True)]
    tokens = [norm(w, f"{encoder}/encoder_norm", t) for t in tokens]
    if "MAPHead_0/probe" in w:
        (y,) = attention(w, "MAPHead_0/MultiHeadDotProductAttention_0", [w["MAPHead_0/probe"][0, 0]], tokens)
        features = y + mlp(w, "MAPHead_0/MlpBlock_0", norm(w, "MAPHead_0/LayerNorm_0", y))
    else:
        features = tokens[0] if "cls" in w else sum(tokens) / len(tokens)
    if "pre_logits/kernel" in w:
        features = np.tanh(features @ w["pre_logits/kernel"] + w["pre_logits/bias"])
    return features @ w["head/kernel"] + w["head/bias"]


def forward(tensors, x, *, kind="vmoe", capacity=None, priority=False):
    """Logits [B N] of pictures [B height width channels]; each picture is a group."""
    w = {name: np.asarray(tensor, np.float64) for name, tensor in tensors.items()}
    return np.array([forward_one(w, kind, one, capacity, priority) for one in x.astype(np.float64)])
