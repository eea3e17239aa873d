"""README.md and CONTRIBUTING.md tell the truth: their code runs, their table is the code's, their links lead somewhere."""

import importlib
import os
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import moejax.routing
from moejax.core.spec import build_spec, methods
from moejax.dispatch.strategies import strategies_for
from moejax.layers.moe import MoE


def blocks(path, language="python"):
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text("utf-8"), flags=re.S | re.M)


@pytest.mark.lenient
def test_the_example_of_the_readme_runs(root, capsys):
    example, *_ = blocks(root / "README.md")
    assert len([line for line in example.splitlines() if line.strip()]) <= 18
    scope = {}
    exec(compile(example, "README.md", "exec"), scope)
    assert scope["y"].shape == (2, 16, 64)
    assert float(scope["total_loss"](scope["sown"]["losses"])) > 0
    np.testing.assert_allclose(scope["sown"]["metrics"]["MoE_0"]["load"].sum(), 1.0, rtol=1e-6)
    assert "(2, 16, 64)" in capsys.readouterr().out


@pytest.mark.lenient
def test_the_example_of_compression_runs(root, capsys):
    _, example, _ = blocks(root / "README.md")
    assert len([line for line in example.splitlines() if line.strip()]) <= 18
    scope = {}
    exec(compile(example, "README.md", "exec"), scope)
    told = capsys.readouterr().out
    assert "Dense_1/kernel [64, 256]: rank 25, 16384 -> 8000 parameters" in told
    assert scope["y"].shape == (500, 64)
    dense = scope["model"].apply(scope["variables"], scope["x"])
    error = np.linalg.norm(scope["y"] - dense) / np.linalg.norm(dense)
    assert 0.01 < error < 1


def test_the_compression_methods_of_the_table_exist(root):
    text = (root / "README.md").read_text("utf-8")
    table = text[text.index("## Compress a model") : text.index("## Kernels")]
    named = {name for row in re.findall(r"^\| (`.+?) \|", table, flags=re.M) for name in re.findall(r"`(\w+)`", row)}
    assert named and named <= set(methods("compress"))


@pytest.mark.lenient
def test_the_example_of_the_kernels_runs(root):
    _, _, example = blocks(root / "README.md")
    scope = {}
    exec(compile(example, "README.md", "exec"), scope)
    # Rows of ones by kernels of ones: gelu(4) in the nine rows of groups, the last row is of none.
    np.testing.assert_allclose(scope["y"][:9], np.asarray(jax.nn.gelu(np.float32(4))), rtol=1e-6)
    assert not np.any(scope["y"][9])


def test_the_table_is_the_code(root):
    rows = re.findall(
        r"^\| `(\w+)` \| (\w+) \| ([^|]+) \| (yes|no) \|", (root / "README.md").read_text("utf-8"), flags=re.M
    )
    routers = methods("routing")
    assert {name for name, *_ in rows} == set(routers)
    for name, plan, dispatch, causal in rows:
        examples = importlib.import_module(f"moejax.routing.{name}").EXAMPLES
        assert plan == routers[name].plan_type.__name__
        assert set(re.findall(r"\w+(?! *\))", re.sub(r"\(.*?\)", "", dispatch))) == set(
            strategies_for(routers[name].plan_type)
        )
        assert (causal == "yes") == any(example.causal for example in examples), name
    for bank in methods("experts"):
        assert f"`{bank}`" in (root / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_and_named_files_exist(root, name):
    text = (root / name).read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    commands = re.findall(r"\b((?:experiments|configs)/[\w/]+\.py)\b", text)
    missing = [path for path in {*links, *commands} if not (root / path).exists()]
    assert missing == []


@pytest.fixture
def frozen(root, tmp_path, monkeypatch):
    """The router of CONTRIBUTING.md, as if its file lay in moejax/routing."""
    method, test, *_ = blocks(root / "CONTRIBUTING.md")
    (tmp_path / "frozen.py").write_text(method, "utf-8")
    monkeypatch.setattr(moejax.routing, "__path__", [*moejax.routing.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    yield test
    sys.modules.pop("moejax.routing.frozen", None)
    vars(moejax.routing).pop("frozen", None)


@pytest.mark.slow
def test_the_router_of_contributing_works(frozen):
    scope = {}
    exec(compile(frozen, "CONTRIBUTING.md", "exec"), scope)
    tests = [function for name, function in scope.items() if name.startswith("test_")]
    assert tests
    for function in tests:
        function()
    x = jax.random.normal(jax.random.key(0), (2, 5, 8))
    fields = {
        "router": {"name": "frozen", "num_experts": 3, "capacity_factor": 1.0},
        "experts": {"name": "mlp", "expert_dim": 4},
    }
    layers = {name: build_spec(MoE, fields | {"dispatch": name}) for name in ("auto", "reference", "einsum", "ragged")}
    params, state = layers["auto"].init(jax.random.key(1), 8)
    found = {name: layer.apply(params, state, x).tokens for name, layer in layers.items() if name != "reference"}
    expected = layers["reference"].apply(params, state, x).tokens
    assert float(jnp.abs(expected).max()) > 0
    for name, tokens in found.items():
        np.testing.assert_allclose(tokens, expected, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_the_router_of_contributing_passes_the_conformance_tests(root, tmp_path):
    for folder in ("moejax", "kernels", "tests/routing", "tests/dispatch"):
        shutil.copytree(root / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "packaged"))
    for file in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(root / file, tmp_path / file)
    method, test, *_ = blocks(root / "CONTRIBUTING.md")
    (tmp_path / "moejax/routing/frozen.py").write_text(method, "utf-8")
    (tmp_path / "tests/routing/test_frozen.py").write_text(test, "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "frozen", "tests/routing"]
    path = os.pathsep.join([str(tmp_path), str(tmp_path / "kernels")])
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    passed = int(re.search(r"(\d+) passed", done.stdout).group(1))
    assert passed > 5, "the conformance tests did not find it"


def test_the_gates_of_the_table_are_those_there_are(root):
    table = (root / "README.md").read_text().split("| gate | scores | source |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, flags=re.M)) == methods("routing.gates").keys()


def test_the_exchanges_of_the_table_are_those_there_are(root):
    text = (root / "README.md").read_text("utf-8")
    section = text[text.index("## Many devices") :]
    table = section[: section.index("\n## ")] if "\n## " in section else section
    assert set(re.findall(r"^\| `(\w+)` \|", table, flags=re.M)) == set(methods("exchange"))
