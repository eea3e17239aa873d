"""Imports go one way, by the table of the design. The table is data; a new room or a new edge is a line here."""

import sys

import pytest

# Room -> rooms of the project that it may import. Every room may import itself and the standard library.
ROOMS = {
    "moejax": set(),
    "core": set(),
    "moejax_kernels": set(),
    "linear": {"core", "moejax_kernels"},
    "experts": {"core", "linear"},
    "routing": {"core"},
    "sharding": {"core"},
    "dispatch": {"core", "linear", "sharding", "moejax_kernels"},
    "placement": {"core", "linear"},
    "exchange": {"core", "linear", "sharding", "dispatch", "placement"},
    "layers": {"core", "linear", "sharding", "routing", "dispatch", "exchange", "experts"},
    "models": {"core", "layers", "sharding"},
    "diffusion": {"core"},
    "data": {"core"},
    "tasks": {"core", "models", "diffusion", "data"},
    # linear: the structure of compressed parameters, which a run's config carries; models: rules by which leaves of one model
    # become another's; interop: foreign checkpoints that a run starts from
    "train": {"core", "linear", "models", "tasks", "sharding", "interop"},
    # layers: what a model is counted in; dispatch: who really computed what, after capacity; linear, compress: the
    # comparison of compressed models; diffusion, tasks: the denoiser that samples and whose experts are watched; theory: studies
    "evals": {"core", "linear", "models", "data", "layers", "dispatch", "compress", "diffusion", "tasks", "theory"},
    # moejax_kernels: sums over the rows of each expert
    "compress": {"core", "linear", "experts", "moejax_kernels"},
    "planning": {"core", "sharding", "train", "evals"},
    "theory": {"core", "routing"},
    "flax": {"core", "layers", "compress"},
    # moejax: its version and folder; of core errors alone: lists, help and completion are there before jax could be
    "command_line": {"core", "moejax"},
    "interop": {"core", "linear", "models"},  # linear: the leaves that foreign weights become
}
PACKAGES = {name for name in ROOMS if name not in ("moejax", "moejax_kernels")}

# Third-party packages that the pure part of the library may know.
PURE = {"jax", "jaxtyping", "flax", "numpy", "einops", "ml_collections"}
PURE_ROOMS = {
    "core",
    "moejax_kernels",
    "linear",
    "experts",
    "routing",
    "dispatch",
    "exchange",
    "sharding",
    "layers",
    "models",
}

# ConfigDict lives in configs/ and experiments/; in the library only where arguments are parsed and specs are built.
CONFIG_DICT_MODULES = {"moejax.core.arguments", "moejax.core.spec"}

# Config files hold data: the argument parser, its error, and published sizes are all that they may use.
CONFIG_IMPORTS = ("ml_collections", "moejax.core.arguments", "moejax.core.errors", "moejax.models.sizes")


@pytest.fixture
def stdlib():
    return set(sys.stdlib_module_names)


def room_of(name: str) -> str | None:
    parts = name.split(".")
    if parts[0] == "moejax":
        return parts[1] if len(parts) > 1 and parts[1] in PACKAGES else "moejax"
    return parts[0] if parts[0] == "moejax_kernels" else None


def offences(module, allowed):
    for line, name in module.imports():
        room = room_of(name)
        if room is not None and room != module.room and room not in allowed:
            yield f"{module.path}:{line}: {module.room} may not import {name} (allowed: {sorted(allowed) or 'nothing'})"


def test_every_room_is_in_the_table(library):
    assert {module.room for module in library} <= set(ROOMS)


def test_imports_follow_the_table(library):
    assert [line for module in library for line in offences(module, ROOMS[module.room])] == []


def test_the_table_has_no_cycle():
    done = set()
    while len(done) < len(ROOMS):
        free = {room for room, needs in ROOMS.items() if room not in done and needs <= done}
        assert free, f"a cycle among {sorted(set(ROOMS) - done)}"
        done |= free


def test_modules_have_no_cycle(library):
    names = {module.name for module in library}

    def needed(full):
        return full if full in names else full.rpartition(".")[0]  # a submodule, or a name inside a module

    needs = {m.name: {needed(full) for _, full in m.imports()} & names - {m.name} for m in library}
    done = set()
    while len(done) < len(needs):
        free = {name for name, wanted in needs.items() if name not in done and wanted <= done}
        assert free, f"a cycle among {sorted(set(needs) - done)}"
        done |= free


def test_the_check_itself_finds_an_offence():
    class Fake:
        path, room = "moejax/routing/x.py", "routing"

        def imports(self):
            return [(3, "moejax.core.plans"), (4, "moejax.dispatch.gather.gather"), (5, "jax")]

    (only,) = offences(Fake(), ROOMS["routing"])
    assert "moejax/routing/x.py:4" in only


def test_kernels_know_nothing_of_moejax(modules):
    kernels = [m for m in modules if m.path.parts[0] == "kernels"]
    assert kernels
    found = [(m.path, name) for m in kernels for _, name in m.imports() if name.split(".")[0] == "moejax"]
    clock = ("moejax.evals.timing.", "moejax.train.memory.")  # all that the benchmarks beside the package may use
    wrong = [f"{path}: {name}" for path, name in found if path.parts[1] != "bench" or not name.startswith(clock)]
    assert wrong == []


def test_the_pure_rooms_know_few_packages(library, stdlib):
    found = [
        f"{m.path}:{line}: {name}"
        for m in library
        if m.room in PURE_ROOMS
        for line, name in m.imports()
        if room_of(name) is None and name.split(".")[0] not in PURE | stdlib
    ]
    assert found == []


def test_config_dicts_stay_outside(library):
    users = {m.name for m in library for _, name in m.imports() if name.split(".")[0] == "ml_collections"}
    assert users <= CONFIG_DICT_MODULES


def test_configs_are_data(modules, stdlib):
    configs = [m for m in modules if m.path.parts[0] == "configs"]
    assert configs
    found = [
        f"{m.path}:{line}: {name}"
        for m in configs
        for line, name in m.imports()
        if not name.startswith(CONFIG_IMPORTS) and name.split(".")[0] not in stdlib
    ]
    assert found == []


def test_library_knows_no_experiment(library):
    outside = ("experiments", "configs", "notebooks", "tests")
    assert [f"{m.path}: {n}" for m in library for _, n in m.imports() if n.split(".")[0] in outside] == []
