"""Training on meshes: the same losses and parameters as on one device, whatever is split."""

import pathlib

import pytest

from moejax.core.errors import SpecError
from moejax.sharding.mesh import MeshSpec
from moejax.train.optimizers import Optimizer
from moejax.train.program import Program
from moejax.train.spec import Train
from tests.child_programs import lines_of

MIXED = "data=1,fsdp=2,expert=2,model=2"


def rows_of(script, *arguments):
    return lines_of(pathlib.Path(__file__).with_name(script), *arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("router", "exchange", "meshes"),
    [
        ("top_k", "all_to_all", ("data=2,expert=4", MIXED, "data=1,fsdp=8:optimizer", "data=4,model=2")),
        ("dropless", "all_to_all", ("data=1,expert=4,model=2",)),
        ("expert_choice", "ring", (MIXED,)),
        ("soft", "constraints", (MIXED,)),
        ("language", "all_to_all", ("data=2,expert=2,model=2", MIXED)),
    ],
)
def test_twenty_steps_equal_those_of_one_device(router, exchange, meshes):
    rows = rows_of("on_eight_devices.py", router, exchange, *meshes)
    assert [row[0] for row in rows] == list(meshes)
    assert [row for row in rows if max(row[1:]) > 1e-5] == []


@pytest.mark.slow
def test_a_run_saved_on_eight_devices_goes_on_with_fewer(tmp_path):
    rows = rows_of("save_and_load.py", str(tmp_path))
    assert [row[0] for row in rows] == [1, 2, 4]
    assert [row for row in rows if row[1] or row[2] > 1e-5] == []


def test_a_batch_that_does_not_divide(linear_task):
    spec = Train(steps=1, mesh=MeshSpec(data=1), accumulate_steps=3)
    with pytest.raises(SpecError, match="a batch of 8 cannot be split over 3 devices times train.accumulate_steps"):
        Program(linear_task(), Optimizer(name="sgd", schedule="constant"), spec, seed=0, batch_size=8)
