"""Modules are named for what they do, shapes use the one alphabet, and every field has one spelling."""

import ast
import re
import sys

from moejax.core.axes import AXES, FIELD_NAMES

VAGUE = {
    "utils",
    "util",
    "misc",
    "helpers",
    "helper",
    "common",
    "tools",
    "stuff",
    "base",
    "lib",
    "functions",
    "core_utils",
}

# Wrong spelling -> the one that is used.
SPELLINGS = {
    "num_experts": ("n_experts", "num_expert", "nexperts", "expert_count", "nb_experts", "experts_num", "n_expert"),
    "num_selected_experts": ("num_selected", "n_selected", "num_experts_per_tok", "num_chosen"),
    "num_slots": ("n_slots", "slots_per_expert_count", "slot_count", "num_slot"),
    "capacity_factor": ("cap_factor", "capacity_ratio", "expert_capacity_factor", "capacityfactor"),
    "group_size": ("groupsize", "group_length", "tokens_per_group_count", "num_tokens_per_group"),
    "expert_dim": ("hidden_dim", "hidden_size", "expert_hidden", "ffn_dim", "d_ff", "dim_ff", "expert_width"),
    "rank": ("lora_rank", "low_rank_dim", "rank_dim"),
    "num_heads": ("n_heads", "heads_num", "nheads", "num_head"),
    "num_classes": ("n_classes", "nclasses", "num_class", "classes_num"),
    "num_layers": ("n_layers", "nlayers", "num_layer"),
    "learning_rate": ("lr", "base_lr", "peak_lr"),
    "dropout_rate": ("dropout_prob", "drop_rate", "dropout_p"),
}
WRONG = {wrong: right for right, wrongs in SPELLINGS.items() for wrong in wrongs}

SHAPED = {
    "Float",
    "Int",
    "Bool",
    "UInt",
    "UInt8",
    "Shaped",
    "Num",
    "Inexact",
    "Real",
    "Integer",
    "Key",
    "Float32",
    "Int32",
}


def test_modules_say_what_they_do(modules):
    vague = [str(m.path) for m in modules if VAGUE & set(re.split(r"[/.]", str(m.path.with_suffix(""))))]
    assert vague == []


def test_mains_shadow_no_standard_module(modules):
    mains = [
        m
        for m in modules
        if m.path.parts[0] in ("experiments", "notebooks") or m.path.parts[:2] == ("kernels", "bench")
    ]
    assert mains
    assert [str(m.path) for m in mains if m.path.stem in sys.stdlib_module_names] == []


def shape_strings(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.value, (ast.Name, ast.Attribute)):
            name = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            if name in SHAPED and isinstance(node.slice, ast.Tuple) and len(node.slice.elts) == 2:
                shape = node.slice.elts[1]
                if isinstance(shape, ast.Constant) and isinstance(shape.value, str):
                    yield node.lineno, shape.value


def wrong_letters(shape):
    """Names that are no axis, no axis with a number (T2: a second one of its kind) and not in lower case."""
    names = re.findall(r"[A-Za-z_]\w*", shape)
    names = [name for name in names if name.strip("_")]  # "_" is any size
    return [name for name in names if name.rstrip("0123456789") not in AXES and not name.islower()]


def test_wrong_letters_finds_them():
    assert wrong_letters("... G S T2 D 3 height 2*C E=8 *lead") == []
    assert wrong_letters("G Q dmodel Batch") == ["Q", "Batch"]


def test_annotations_use_the_alphabet(library):
    shapes = [(m, line, shape) for m in library for line, shape in shape_strings(m.tree)]
    assert len(shapes) > 50
    assert [f"{m.path}:{line}: {shape!r}" for m, line, shape in shapes if wrong_letters(shape)] == []


def test_einsums_use_the_alphabet(library):
    strings = [
        (m, node.lineno, node.args[0].value)
        for m in library
        for node in ast.walk(m.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "einsum"
        and node.args
        and isinstance(node.args[0], ast.Constant)
    ]
    assert strings
    letters = set(AXES)
    assert [f"{m.path}:{n}: {s!r}" for m, n, s in strings if {c for c in s if c.isupper()} - letters] == []


def declared_names(tree):
    """Fields of classes, arguments of functions, keys that configs set."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for child in node.body:
                if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
                    yield child.lineno, child.target.id
        elif isinstance(node, ast.FunctionDef):
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            yield from ((node.lineno, arg.arg) for arg in every)
        elif isinstance(node, ast.Dict):
            for key in node.keys:
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    yield key.lineno, key.value
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def test_fields_have_one_spelling(modules):
    assert set(FIELD_NAMES) <= set(SPELLINGS)
    mine = [m for m in modules if m.path.parts[0] in ("moejax", "kernels", "experiments", "configs")]
    # Readers of foreign checkpoints spell foreign names.
    found = [
        f"{m.path}:{line}: {name} is spelled {WRONG[name]}"
        for m in mine
        if m.room != "interop"
        for line, name in declared_names(m.tree)
        if name in WRONG
    ]
    assert found == []
