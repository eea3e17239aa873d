"""The command line of plan: arithmetic where no compiler is, real compilation where one is, and what cannot be."""

import importlib.util
import json

import pytest

from tests.command_lines import typed

CONFIG = "configs/vit/patchwork.py:model=vmoe"


def run(root, *arguments, config=CONFIG):
    return typed(root, "plan.py", f"--config={root / config}", *arguments)


@pytest.mark.slow
def test_json(root):
    done = run(root, "--topology=v5e:2x4", "--mesh=data=2,expert=4", "--mesh=fsdp=8", "--json", "--fast",
               "--config.model.moe.group_size=128")  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    compiled = importlib.util.find_spec("libtpu") is not None
    assert found["compiled"] == compiled and found["best"] in [mesh["mesh"] for mesh in found["meshes"]]
    experts, full = found["meshes"]
    assert experts["fits"] and full["fits"]
    assert full["held"]["optimiser"] < experts["held"]["optimiser"]  # everything is split over eight chips
    assert 1 <= experts["flops"] / experts["activated_flops"] <= 1.3
    if compiled:
        assert experts["sent"]["all-to-all"] > 0 and "all-to-all" not in full["sent"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology=v5e:2x4", "--mesh=data=3"], "does not fit 8 devices"),
        (["--topology=v5x:2x4"], "is no chip"),
        (["--topology=v5e:2x4", "--mesh=experts=8"], "Did you mean 'expert'"),
        (["--topology=v5e:2x4", "--mesh=expert"], "must look like data=2,expert=8"),
    ],
)
def test_what_cannot_be(root, arguments, message):
    done = run(root, *arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
