"""Curves of exchanges over devices: numbers of the cost model, their table and their picture."""

import pytest

from moejax.planning.exchange_costs import STRATEGIES, Layer, phases, seconds
from moejax.planning.exchange_curves import curves, draw, table
from moejax.planning.links import links_of
from moejax.planning.load_skew import skew
from tests.planning.test_load_skew import TRACE


def layer(devices):
    return Layer(tokens=100, choices=2, experts=devices, slots=256, width=64, latent=16)


def test_numbers_table_picture(tmp_path):
    found = {name: curves(name, layer, (4, 16, 64), TRACE, expert_flops=9.89e9) for name in ("h100", "v5e")}
    one = found["h100"]
    assert set(one["strategies"]) == set(STRATEGIES) and one["experts"] == [4, 16, 64]
    assert one["skew"] == [skew(TRACE, 4), skew(TRACE, 16, 16), skew(TRACE, 64, 64)]
    wanted = seconds(phases("dropless", layer(16), 16, 8), links_of("h100"), 16, skew=one["skew"][1])
    assert one["strategies"]["dropless"]["seconds"][1] == wanted
    assert one["compute_seconds"] == pytest.approx(1e-5)
    text = table("h100", one)
    assert (
        "NVLink" in text and "| two_level |" in text and text.splitlines()[-1].startswith("| skew of the load | 1.50 |")
    )
    draw(found, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
