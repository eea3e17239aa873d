"""The page, arrays and pictures of expert usage, from usage that was made up."""

import json

import numpy as np

from moejax.evals.expert_usage import Usage
from moejax.evals.npz_files import read_arrays
from moejax.evals.usage_report import write_usage_report


def made_up(layers=2, experts=4, seed=0):
    rng = np.random.default_rng(seed)
    mass = rng.random((layers, 12, 3, 4, experts)).astype(np.float32)
    blocks = tuple(f"block_{2 * i + 1:02d}" for i in range(layers))
    times = np.array([0.1, 0.5, 1.0], np.float32)
    return Usage(blocks, times, np.arange(12, dtype=np.int32) % 2, 3, (2, 2), mass.sum(3), mass.sum(2))


def test_everything_is_written(tmp_path):
    usages = {"noised pictures": made_up(), "noised pictures, untrained": made_up(seed=1)}
    names = ("shirt", "boot", "none of it")
    page = write_usage_report(
        tmp_path / "usage", usages, model="dit", class_names=names, draws=20, facts={"checkpoint": "last, step 7"}
    )
    text = page.read_text()
    assert text.startswith("# Expert usage of dit\n\n- checkpoint: last, step 7")
    assert text.count("| **") == 6 and "| 01 | " in text and "| 03 | " in text
    for line in text.splitlines():
        if line.startswith("!["):
            picture = page.parent / line[line.index("(") + 1 : -1]
            assert picture.read_bytes().startswith(b"\x89PNG"), picture
    found = json.loads((page.parent / "observations.json").read_text())
    assert found["observations"]["noised pictures, untrained"]["preference"]["verdict"] in (
        "found",
        "not found",
        "unclear",
    )
    arrays = read_arrays(page.parent / "usage-noised_pictures_untrained.npz", ("by_time",), what="usage", remedy="")
    assert {k: arrays[k].shape for k in ("by_time", "by_position", "by_class")} == {
        "by_time": (2, 3, 4), "by_position": (2, 4, 4), "by_class": (2, 3, 4)
    }  # fmt: skip
    np.testing.assert_array_equal(arrays["by_class"][:, 2], 0)  # no picture of the third class
    assert arrays["blocks"].tolist() == ["block_01", "block_03"]
