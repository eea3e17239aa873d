"""Named random streams: the same key and name always give the same stream, whatever else is drawn."""

import zlib

import jax
from jaxtyping import PRNGKeyArray


def named(key: PRNGKeyArray, name: str) -> PRNGKeyArray:
    """The stream `name` of `key`. Source: ours (CRC-32 of the name, folded in)."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def maybe_named(key: PRNGKeyArray | None, name: str) -> PRNGKeyArray | None:
    """`named`, or None when there is no key (evaluation)."""
    return None if key is None else named(key, name)
