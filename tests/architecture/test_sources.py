"""What no file of the project may contain, and how long a main may be."""

import re

MAX_MAIN_LINES = 150

# Pattern -> why. Searched in moejax, kernels, experiments, configs and notebooks.
FORBIDDEN = {
    r"\bimport pickle\b|\bfrom pickle\b|\bpickle\.loads?\b|\bcloudpickle\b|\bimport dill\b": "a pickle runs code when read",
    r"allow_pickle\s*=\s*True": "a pickle runs code when read",
    r"yaml\.load\(|(?<![.\w])(eval|exec)\(": "runs what it reads",
    r"jax\.experimental\.(pjit|shard_map|maps|host_callback)|from jax\.experimental import .*\b(pjit|shard_map|maps)\b": (
        "use jax.jit with NamedSharding, and jax.shard_map"
    ),
    r"\bjax\.tree_(map|leaves|flatten|unflatten|structure|reduce|all|transpose)\b": "use jax.tree.*",
    r"\bjax\.tree_util\.tree_(map|leaves|flatten|unflatten|structure)\(": "use jax.tree.*",
    r"\bjax\.random\.PRNGKey\(": "use jax.random.key",
    r"\bjax\.(abstract_arrays|xla|ad|linear_util)\b|\bjax\.interpreters\.xla\b|\bjax\.lib\.xla_": "removed from JAX",
    r"\bjnp\.(DeviceArray|trapz|in1d|row_stack|round_)\b|\bjax\.DeviceArray\b": "removed from JAX",
    r"\bflax\.(optim|nn)\b|\bflax\.deprecated\b": "removed from Flax",
    r"\bnp\.(bool8|float_|complex_|product|cumproduct|in1d|trapz|row_stack)\b": "removed from NumPy 2",
}


def searched(modules):
    return [m for m in modules if m.path.parts[0] != "tests"]


def test_nothing_forbidden(modules):
    found = []
    for module in searched(modules):
        for number, line in enumerate(module.text.splitlines(), 1):
            for pattern, why in FORBIDDEN.items():
                if re.search(pattern, line.split("  # ")[0]):
                    found.append(f"{module.path}:{number}: {line.strip()} ({why})")
    assert found == []


def test_the_patterns_find_what_they_are_for():
    samples = [
        "import pickle", "np.load(f, allow_pickle=True)", "from jax.experimental import shard_map", "jax.tree_map(f, x)",
        "from jax.experimental.pjit import pjit", "key = jax.random.PRNGKey(0)", "eval(text)", "np.trapz(y)",
    ]  # fmt: skip
    for sample in samples:
        assert any(re.search(pattern, sample) for pattern in FORBIDDEN), sample
    for sample in ("jax.tree.map(f, x)", "jax.eval_shape(f, x)", "jax.tree_util.tree_map_with_path(f, x)"):
        assert not any(re.search(pattern, sample) for pattern in FORBIDDEN), sample


def test_mains_are_short(modules):
    mains = [m for m in modules if m.path.parts[0] == "experiments"]
    assert {m.path.stem for m in mains} >= {"train", "evaluate", "summary", "benchmark", "demo"}
    lengths = {str(m.path): len(m.text.splitlines()) for m in mains}
    assert {path: n for path, n in lengths.items() if n > MAX_MAIN_LINES} == {}


def test_folders_that_are_no_packages(modules):
    bare = ("experiments", "configs", "notebooks", "tests")
    assert [str(m.path) for m in modules if m.path.name == "__init__.py" and m.path.parts[0] in bare] == []
    assert not any(str(m.path) == "kernels/__init__.py" for m in modules)
