"""Names of topologies."""

import pytest

from moejax.core.errors import SpecError
from moejax.planning.chips import CHIPS, check_compiler, num_chips, parse


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


PINS = ["jaxlib<=0.10.2", 'libtpu==0.0.42.*; extra == "tpu"']


def test_the_compiler_is_of_the_versions_that_jax_names():
    check_compiler("v5p:2x2x2", requirements=PINS, installed="0.0.42.1")
    check_compiler("v5p:2x2x2", requirements=[], installed="0.0.52")  # a jax without a pin
    check_compiler("h100:1x8", requirements=PINS, installed="0.0.52")  # another compiler
    with pytest.raises(SpecError, match=r"libtpu 0.0.52 is installed, but jax .* for libtpu 0.0.42.\*.*\[tpu-aot\]"):
        check_compiler("v5p:2x2x2", requirements=PINS, installed="0.0.52")
    with pytest.raises(SpecError, match="0.0.420"):
        check_compiler("v5p:2x2x2", requirements=PINS, installed="0.0.420.1")
