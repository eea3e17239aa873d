"""Names of topologies."""

import pytest

from moejax.core.errors import SpecError
from moejax.planning.chips import CHIPS, num_chips, parse


def test_sizes():
    assert parse("v5p:4x4x8") == (CHIPS["v5p"], (4, 4, 8))
    assert num_chips("v5e:16x16") == 256
    assert num_chips("h100:8x8") == 64


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5q:2x2", "'v5q' is no chip. Did you mean 'v5"),
        ("v5p:4x4", "needs 3 sizes, such as v4:2x2x1"),
        ("v5e", "needs 2 sizes"),
        ("v5e:2x", "needs 2 sizes"),
        ("v5e:0x4", "needs 2 sizes"),
        ("h100:8x8x8", "needs 2 sizes"),
    ],
)
def test_names_that_do_not_exist(name, message):
    with pytest.raises(SpecError, match=message):
        parse(name)
