"""A method is one file: its source named, its examples last, its own test beside the conformance tests."""

import ast
import dataclasses
import importlib

import pytest

from moejax.core.spec import build_method, methods

METHOD_ROOMS = (
    "theory.studies",
    "routing",
    "routing.gates",
    "exchange",
    "experts",
    "tasks",
    "compress",
    "diffusion.processes",
    "diffusion.samplers",
)
ROUTERS = {"top_k", "expert_choice", "soft", "merge", "hash", "uniform"}
EXPERTS = {
    "mlp",
    "swiglu",
    "low_rank",
    "latent",
    "basis",
    "multilinear",
    "mpo",
    "residual",
    "modulated",
    "product_keys",
}


def method_modules(library):
    for module in library:
        names = [
            t.id
            for node in module.tree.body
            if isinstance(node, ast.Assign)
            for t in node.targets
            if isinstance(t, ast.Name)
        ]
        if "EXAMPLES" in names:
            yield module


def docstrings(tree):
    """The docstrings of a file and of its classes."""
    nodes = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    return "\n".join(ast.get_docstring(node) or "" for node in nodes)


def test_the_methods_that_the_readme_names_exist():
    assert methods("routing").keys() >= ROUTERS
    assert methods("experts").keys() >= EXPERTS


def test_every_module_says_what_it_is(library):
    assert [str(m.path) for m in library if not (ast.get_docstring(m.tree) or "").strip()] == []


def test_methods_name_their_source(library):
    found = list(method_modules(library))
    assert len(found) >= len(ROUTERS | EXPERTS)
    assert [str(m.path) for m in found if "Source:" not in docstrings(m.tree)] == []


def test_methods_end_with_their_examples(library):
    last = {str(m.path): m.tree.body[-1] for m in method_modules(library)}
    wrong = [
        path
        for path, node in last.items()
        if not (isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "EXAMPLES")
    ]
    assert wrong == []


def test_methods_have_a_test_of_their_own(library, root):
    def mirrors(module):
        """tests/routing/test_soft.py for moejax/routing/soft.py; small methods of one kind may share a file:
        tests/data/test_augment.py for moejax/data/augment/*.py."""
        *folders, stem = module.path.with_suffix("").parts[1:]
        yield "/".join(["tests", *folders, f"test_{stem}.py"])
        if len(folders) > 1:
            yield "/".join(["tests", *folders[:-1], f"test_{folders[-1]}.py"])

    missing = [
        f"{module.path} needs {next(mirrors(module))}"
        for module in method_modules(library)
        if not any((root / path).is_file() for path in mirrors(module))
    ]
    assert missing == []


@pytest.mark.parametrize("room", METHOD_ROOMS)
def test_examples_are_frozen_specs_of_one_class(room):
    assert methods(room)
    for name, cls in methods(room).items():
        examples = importlib.import_module(f"moejax.{room}.{name}").EXAMPLES
        assert isinstance(examples, tuple) and examples, name
        assert {type(example) for example in examples} == {cls}, name
        assert dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen, name
        assert len({hash(example) for example in examples}) == len(examples), f"{name}: examples repeat"


@pytest.mark.parametrize("room", ["routing", "experts", "compress"])
def test_examples_can_be_said_in_a_config(room):
    for name in methods(room):
        for example in importlib.import_module(f"moejax.{room}.{name}").EXAMPLES:
            fields = {f.name: getattr(example, f.name) for f in dataclasses.fields(example) if f.init}
            assert build_method(room, {"name": name, **fields}) == example
