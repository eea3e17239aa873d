"""Checkpoints: round trips, what is kept, what does not fit, and what a broken disk leaves."""

import json
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.train.checkpoints import CheckpointError, Checkpoints, load_run
from moejax.train.stored_leaves import fill

TREE = {
    "params": {"body": {"kernel": jnp.arange(6.0).reshape(2, 3)}, "half": jnp.full((3,), 1.5, jnp.bfloat16)},
    "big": jax.random.normal(jax.random.key(0), (64, 64)),
    "step": jnp.int32(4),
    "key": jax.random.key(3),
}
REST = {"progress": {"data": {"step": 4}}, "config": {"seed": 1}}


def value(number):
    return TREE | {"step": jnp.int32(number)}


def test_round_trip(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(4, TREE, **REST, wait=True)
    with Checkpoints(tmp_path / "c") as checkpoints:
        restored = checkpoints.restore(jax.eval_shape(lambda: TREE))
    assert restored.step == 4
    assert restored.meta["progress"] == {"data": {"step": 4}} and restored.meta["config"] == {"seed": 1}
    tree = fill(TREE, restored.leaves)
    np.testing.assert_array_equal(tree["params"]["body"]["kernel"], TREE["params"]["body"]["kernel"])
    assert tree["params"]["half"].dtype == jnp.bfloat16
    assert jax.random.uniform(tree["key"]) == jax.random.uniform(TREE["key"])


def test_saved_values_are_those_of_the_moment(tmp_path):
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    tree = {"x": jnp.zeros((512, 512))}
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, tree, **REST)
        step(tree)  # reuses the buffer while the write may still be on its way
        assert not checkpoints.restore().leaves["x"].any()


def test_nothing_to_restore(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.restore(TREE) is None and checkpoints.best_step() is None


def test_keep_last_and_best(tmp_path):
    scores = {1: 0.2, 2: 0.9, 3: 0.4, 4: None, 5: 0.9, 6: 0.1}
    with Checkpoints(tmp_path / "c", keep_last=2, keep_best=1) as checkpoints:
        for step, score in scores.items():
            checkpoints.save(step, value(step), **REST, score=score, wait=True)
        assert checkpoints.steps() == [2, 5, 6]  # 2 is the earliest of the best two, 5 and 6 are the last
        assert checkpoints.restore(which="best").step == 2
    with Checkpoints(tmp_path / "c", best_mode="min") as checkpoints:  # scores are read back
        assert checkpoints.best_step() == 6


def test_a_checkpoint_of_another_model(tmp_path):
    other = TREE | {"params": {"body": {"kernel": jnp.zeros((2, 4))}, "head": jnp.zeros(2)}}
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(4, TREE, **REST, wait=True)
        with pytest.raises(SpecError) as error:
            checkpoints.restore(other)
    message = str(error.value)
    assert "differs: params/body/kernel expected float32[2,4], found float32[2,3]" in message
    assert "missing: params/head float32[2]" in message and "unexpected: params/half bfloat16[3]" in message
    assert "another --workdir" in message


@pytest.mark.parametrize("damage", ["truncated arrays", "flipped bytes", "no arrays", "broken json"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, damage):
    with Checkpoints(tmp_path / "c", keep_last=3) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, value(step), **REST, wait=True)
    folder = tmp_path / "c" / "2"
    arrays = [file for file in (folder / "state").rglob("*") if file.is_file() and file.parent.name == "d"]
    if damage == "truncated arrays":
        for file in arrays:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif damage == "flipped bytes":
        for file in arrays:
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 0xFF
            file.write_bytes(bytes(data))
    elif damage == "no arrays":
        shutil.rmtree(folder / "state")
    else:
        (folder / "meta" / "metadata").write_text('{"leaves": ')
    with Checkpoints(tmp_path / "c", keep_last=3) as checkpoints:
        restored = checkpoints.restore(TREE)
        assert restored.step == 1 and int(restored.leaves["step"]) == 1
        checkpoints.save(2, value(2), **REST, wait=True)  # the damaged one is out of the way
        assert checkpoints.restore(TREE).step == 2
    assert list((tmp_path / "damaged_checkpoints").iterdir())


def test_a_checkpoint_of_an_older_version_is_left_where_it_is(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(4, TREE, **REST, wait=True)
    path = tmp_path / "c" / "4" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    meta["leaves"]["step"][1] = 12345
    del meta["scores"]
    path.write_text(json.dumps(meta))
    (tmp_path / "c" / "4" / "files.json").unlink()
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(SpecError, match="written by an older moejax"):
        checkpoints.restore()
    assert path.exists()


def test_all_damaged(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, TREE, **REST, wait=True)
    shutil.rmtree(tmp_path / "c" / "1" / "state")
    with (
        Checkpoints(tmp_path / "c") as checkpoints,
        pytest.raises(CheckpointError, match="no checkpoint in .* can be read"),
    ):
        checkpoints.restore(TREE)


def test_a_half_written_checkpoint_is_no_checkpoint(tmp_path):
    with Checkpoints(tmp_path / "c", keep_last=2) as checkpoints:
        checkpoints.save(1, TREE, **REST, wait=True)
    shutil.copytree(tmp_path / "c" / "1", tmp_path / "c" / "2.orbax-checkpoint-tmp")
    with Checkpoints(tmp_path / "c", keep_last=2) as checkpoints:
        assert checkpoints.steps() == [1]
        assert checkpoints.restore(TREE).step == 1


def test_a_full_disk_loses_nothing(tmp_path):
    big = {"x": jax.random.normal(jax.random.key(0), (512, 512))}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path / "c", keep_last=1) as checkpoints:
        checkpoints.save(1, big, **REST, wait=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # no file may grow beyond: writes really fail
        try:
            with pytest.raises(CheckpointError, match="step 2 .*could not be written.*Complete checkpoints: 1;"):
                checkpoints.save(2, big, **REST, wait=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with Checkpoints(tmp_path / "c", keep_last=1) as checkpoints:
        np.testing.assert_array_equal(checkpoints.restore(big).leaves["x"], big["x"])
        checkpoints.save(2, big, **REST, wait=True)
        assert checkpoints.steps() == [2]


def test_bad_fields(tmp_path):
    with pytest.raises(SpecError, match="keep_last=0"):
        Checkpoints(tmp_path, keep_last=0)
    with pytest.raises(SpecError, match="best_mode='most'"):
        Checkpoints(tmp_path, best_mode="most")
    with pytest.raises(SpecError, match="which='first'"):
        load_run(tmp_path, "first")
    with pytest.raises(CheckpointError, match="holds no checkpoints"):
        load_run(tmp_path / "nowhere")
