"""The axis alphabet. Einsum letters, shape comments and type annotations all use it, and nothing else.

Fields of pytree types are annotated `Annotated[Any, Float[Array, "..."]]`: the shape is told, not enforced, because a
tree of specs, names, shapes or gradients has the same structure with other things in the place of arrays.

Source: ours (the habit of one alphabet in one docstring is google-research/vmoe's, `moe.py`).
"""

AXES = {
    "B": "batch",
    "T": "tokens of a sequence",
    "G": "groups, routed independently of each other",
    "S": "tokens per group",
    "D": "model width",
    "E": "experts",
    "C": "slots of an expert (its capacity)",
    "K": "selected experts of a token",
    "F": "expert hidden width, or the output width of a product",
    "R": "rank",
    "M": "rows of a ragged batch",
    "L": "layers",
    "H": "attention heads",
    "N": "classes",
}

# One name per thing, spelled so in every spec field and config key.
FIELD_NAMES = (
    "num_experts",
    "num_selected_experts",
    "num_slots",
    "capacity_factor",
    "group_size",
    "expert_dim",
    "rank",
)
