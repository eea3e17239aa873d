"""The examples of every leaf type, as arrays, and what their products must equal."""

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core.layouts import Buffers, Ragged
from moejax.linear.epilogue import activate
from moejax.linear.registry import examples

NAMES = tuple(examples())


def drawn(name, num_experts=4, seed=0):
    rng = np.random.default_rng(seed)
    return examples()[name](lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32), num_experts)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def kernels_of(leaf, num_experts):
    """[E D F], also of a leaf whose experts are all the same."""
    kernel = leaf.materialise()
    return kernel if kernel.ndim == 3 else jnp.broadcast_to(kernel, (num_experts, *kernel.shape))


def by_einsum(leaf, x, bias=None, activation=None):
    """What `grouped_matmul` must give; rows after the last group give zeros."""
    experts = x.tokens.shape[0] if isinstance(x, Buffers) else x.group_sizes.shape[0]
    kernel = kernels_of(leaf, experts)
    if isinstance(x, Buffers):
        y = jnp.einsum("ECD,EDF->ECF", x.tokens, kernel)
        return activate(y if bias is None else y + bias[:, None], activation)
    owner = np.repeat(np.arange(experts), np.asarray(x.group_sizes))
    tail = x.tokens.shape[0] - len(owner)
    y = jnp.einsum("MD,MDF->MF", x.tokens[: len(owner)], kernel[owner])
    y = activate(y if bias is None else y + bias[owner], activation)
    return jnp.concatenate([y, jnp.zeros((tail, y.shape[1]), y.dtype)])


def layouts(depth, num_experts=4, seed=1):
    """Buffers; and ragged rows with an empty group, and two rows of zeros after the last group."""
    rows = normal(seed, 9, depth).at[7:].set(0)
    sizes = [3, 0, 4] + [0] * (num_experts - 3)
    return {
        "buffers": Buffers(normal(seed, num_experts, 3, depth)),
        "rows": Ragged(rows, jnp.array(sizes, jnp.int32)),
    }


def close(found, wanted, tolerance=1e-5):
    """To a relative `tolerance` of the largest entry of each array."""

    def compare(a, b):
        scale = max(float(np.max(np.abs(b), initial=0)), 1e-3)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)

    jax.tree.map(compare, found, wanted)
