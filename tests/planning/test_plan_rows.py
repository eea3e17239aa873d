"""Rows of plans: the file, the table, the picture."""

import pytest

from moejax.core.errors import SpecError
from moejax.planning.chips import Chip
from moejax.planning.collectives import Collective
from moejax.planning.estimate import estimate
from moejax.planning.plan_rows import draw, markdown, read, write
from moejax.planning.products import Products
from moejax.planning.step import Step

CHIP = Chip(memory=2**30, flops=1e12, bandwidth=1e11, link=1e10, axes=2)
COSTS = {"padding_flops": 0.0, "again_flops": 0.0, "activated_flops": 2e9, "activation_bytes": 0.0}


def row(model, chips, **fields):
    step = {
        "held": {"parameters": 2**28}, "temporaries": 2**28, "peak": 2**29, "products": Products(2.2e9, 0.0, 2e8, 0),
        "collectives": (Collective("all-to-all", 2**22, 2, 1), Collective("all-gather", 1000, 2, 1)),
    }  # fmt: skip
    one = estimate("data=1, fsdp=2, expert=4, model=1", Step(**step | fields), CHIP, **COSTS)
    case = {"model": model, "chips": chips, "batch_size": 1024, "topology": "v5p:2x2x2", "config": "x.py"}
    return case | {"host_seconds": 50.4, "host_cpu_seconds": 41.0, "host_bytes": 3 * 2**29} | one.to_dict()


def test_table_by_hand():
    lines = markdown([row("b", 64), row("a", 8, peak=3 * 2**29)]).splitlines()
    assert lines[2].startswith("| a | 8 | 1,024 | fsdp=2, expert=4 | no, short by 0.5 GiB | 0.2 + 1.2 |")
    # 2.2e9 FLOPs: 2.2 ms; 4 * 2**28 bytes at 1e11: 10.7 ms; 2**21 + 500 at 1e10: 0.2 ms.
    assert lines[3] == (
        "| b | 64 | 1,024 | fsdp=2, expert=4 | yes | 0.2 + 0.2 | all-to-all 2 | 1.000 | 0.10 | 11 - 13 | memory | 50 (41), 1.5 |"
    )


def test_what_the_compiler_refused():
    line = markdown([row("a", 8, peak=None, temporaries=None, products=None, out_of_memory="no room")]).splitlines()[2]
    assert line.count("?") == 6 and "| no |" in line


def test_file(tmp_path):
    path = tmp_path / "plan.json"
    assert read(path) == []
    write(path, [row("b", 64), row("a", 8)])
    assert [(one["model"], one["chips"]) for one in read(path)] == [("a", 8), ("b", 64)]
    path.write_text("[1")
    with pytest.raises(SpecError, match="is no JSON"):
        read(path)
    path.write_text('[{"model": "a"}]')
    with pytest.raises(SpecError, match="no list of plans"):
        read(path)


def test_picture(tmp_path):
    draw([row("a", 8), row("a", 64), row("b", 8)], tmp_path / "plan.png")
    assert (tmp_path / "plan.png").stat().st_size > 5000
