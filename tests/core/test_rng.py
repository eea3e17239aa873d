"""Named random streams."""

import jax
import numpy as np

from moejax.core.rng import maybe_named, named


def test_streams_depend_on_the_name_and_the_key_alone() -> None:
    key = jax.random.key(0)

    def draw(k):
        return np.asarray(jax.random.normal(k, (3,)))

    np.testing.assert_array_equal(draw(named(key, "router")), draw(named(key, "router")))
    assert not np.allclose(draw(named(key, "router")), draw(named(key, "experts")))
    assert not np.allclose(draw(named(key, "router")), draw(named(jax.random.key(1), "router")))
    assert maybe_named(None, "router") is None
