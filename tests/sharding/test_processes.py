"""How a run learns of its processes: from the config, from the environment, or not at all."""

import pathlib
import subprocess

import jax
import numpy as np
import pytest
import yaml

from moejax.core.errors import SpecError
from moejax.sharding.processes import Processes, agreed, is_writer, summed, together

CLUSTERS = pathlib.Path(__file__).resolve().parents[2] / "docs/clusters"

ENVIRONMENT = {"JAX_COORDINATOR_ADDRESS": "node0:8476", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "2"}


def test_the_environment_fills_what_the_config_leaves_open():
    assert Processes().found({}) == Processes()
    assert Processes().found(ENVIRONMENT) == Processes(coordinator="node0:8476", count=4, index=2)
    assert Processes(index=0, count=3).found(ENVIRONMENT) == Processes(coordinator="node0:8476", count=3, index=0)
    assert Processes().found({"JOB_COMPLETION_INDEX": "5"}).index == 5
    with pytest.raises(SpecError, match="JAX_NUM_PROCESSES='four' in the environment must be a whole number"):
        Processes().found({"JAX_NUM_PROCESSES": "four"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"coordinator": "node0:8476"}, "count, index unknown, but coordinator given; give all three"),
        ({"coordinator": "node0", "count": 2, "index": 0}, "coordinator='node0' must be host:port"),
        ({"coordinator": "node0:http", "count": 2, "index": 0}, "must be host:port"),
        ({"coordinator": "node0:8476", "count": 2, "index": 2}, r"index=2 must lie in \[0, count=2\)"),
    ],
)
def test_what_is_missing_or_wrong_is_named_before_anything_starts(monkeypatch, fields, message):
    for name in (*ENVIRONMENT, "JOB_COMPLETION_INDEX"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SpecError, match=message):
        Processes(**fields).join()


def test_bad_times_are_refused():
    with pytest.raises(SpecError, match=r"train.processes.heartbeat=0 must be at least 1 second"):
        Processes(heartbeat=0)


def test_one_process_needs_nobody(monkeypatch):
    for name in (*ENVIRONMENT, "JOB_COMPLETION_INDEX"):
        monkeypatch.delenv(name, raising=False)
    Processes().join()
    Processes(coordinator="node0:8476", count=1, index=0).join()
    assert not jax.distributed.is_initialized()
    assert is_writer() and agreed(True) and not agreed(False)
    assert summed(np.array([2**63, 3], np.uint64)).tolist() == [2**63, 3]
    together("nothing to wait for")


def test_the_manifests_say_what_the_run_reads():
    job = yaml.safe_load((CLUSTERS / "jobset.yaml").read_text())["spec"]["replicatedJobs"][0]["template"]["spec"]
    container = job["template"]["spec"]["containers"][0]
    given = {entry["name"]: entry.get("value", "3") for entry in container["env"]}
    assert Processes().found(given) == Processes(coordinator="moejax-train-0-0.moejax:8476", count=4, index=3)
    assert job["parallelism"] == job["completions"] == 4 and container["ports"][0]["containerPort"] == 8476
    assert container["args"][0].startswith("exec python experiments/train.py --config configs/vit/vmoe_paper.py")
    subprocess.run(["bash", "-n", CLUSTERS / "slurm.sh"], check=True)
