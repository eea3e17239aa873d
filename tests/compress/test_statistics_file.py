"""Statistics on disk: the same back, and files that are not those."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from moejax.compress.statistics import LeafStatistics
from moejax.compress.statistics_file import check_fits, load, save
from moejax.core.errors import SpecError
from moejax.linear.dense import Dense


def statistics():
    rng = np.random.default_rng(0)
    bank = LeafStatistics(
        count=np.array([3.0, 0.0]),
        second_moment=rng.normal(size=(2, 3, 3)),
        rows=np.float32(rng.normal(size=(2, 5, 3))),
    )
    return {
        "moe/experts/up": bank,
        "moe/router": LeafStatistics(count=np.array(7.0)),
        "head": LeafStatistics(fisher=np.ones((4, 2))),
    }


def params():
    return {
        "moe": {"experts": {"up": Dense(jnp.ones((2, 3, 4)))}, "router": {"kernel": jnp.ones((3, 2))}},
        "head": jnp.ones((4, 2)),
    }


def test_what_is_saved_is_loaded(tmp_path):
    save(tmp_path / "folder" / "s.safetensors", statistics(), report={"seconds": 1.5})
    found, report = load(tmp_path / "folder" / "s.safetensors", params())
    assert report == {"seconds": 1.5} and found.keys() == statistics().keys()
    for name, own in statistics().items():
        for field in dataclasses.fields(own):
            before, after = getattr(own, field.name), getattr(found[name], field.name)
            assert (before is None) == (after is None)
            if before is not None:
                assert after.dtype == before.dtype and after.shape == before.shape
                np.testing.assert_array_equal(before, after)


def test_merging_equals_one_collection_and_rows_are_put_behind_each_other():
    one = statistics()["moe/experts/up"]
    both = one.merge(one)
    np.testing.assert_allclose(both.second_moment, 2 * one.second_moment)
    assert both.rows.shape == (2, 10, 3) and one.expert(1).rows.shape == (5, 3)
    with pytest.raises(ValueError, match="rows is in one of the two"):
        one.merge(dataclasses.replace(one, rows=None))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"moe/experts/down": LeafStatistics(count=np.zeros(2))},
            "'moe/experts/down' belong to no weight.*Did you mean 'moe/experts/up'",
        ),
        (
            {"head": LeafStatistics(fisher=np.ones((2, 4)))},
            r"head: the statistics hold fisher \(2, 4\).*needs \(4, 2\)",
        ),
        (
            {"moe/experts/up": LeafStatistics(second_moment=np.ones((3, 3, 3)))},
            r"moe/experts/up: .*second_moment \(3, 3, 3\)",
        ),
    ],
)
def test_statistics_of_other_parameters_name_the_weight(change, message):
    check_fits(statistics(), params())
    with pytest.raises(SpecError, match=message):
        check_fits(statistics() | change, params())


def test_files_that_are_none(tmp_path):
    with pytest.raises(SpecError, match="cannot be read as statistics"):
        load(tmp_path / "missing.safetensors")
    (tmp_path / "text").write_text("no arrays here, and long enough")
    with pytest.raises(SpecError, match="cannot be read as statistics"):
        load(tmp_path / "text")
    save_file({"w": np.ones(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(SpecError, match="holds None, not 'moejax compression statistics"):
        load(tmp_path / "weights.safetensors")


def test_an_array_that_is_not_as_described_is_named(tmp_path):
    metadata = {
        "format": "moejax compression statistics, version 1",
        "moejax": json.dumps({"shapes": {"w/count": [2]}, "report": {}}),
    }
    save_file({"w/count": np.ones(3)}, tmp_path / "s.safetensors", metadata=metadata)
    with pytest.raises(SpecError, match="damaged: w/count is not as described"):
        load(tmp_path / "s.safetensors")
