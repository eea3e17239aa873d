import jax
import jax.numpy as jnp
import numpy as np

from moejax.layers.convolution import convolve, init_convolution


def slow(x, kernel, bias, stride, before, after):
    """Sums over every window of x [height, width, inputs], zeros `before` and `after` each side."""
    x = np.pad(x, ((before, after), (before, after), (0, 0)))
    size = kernel.shape[0]
    rows, columns = ((n - size) // stride + 1 for n in x.shape[:2])
    out = np.zeros((rows, columns, kernel.shape[-1]))
    for r, c in np.ndindex(rows, columns):
        window = x[r * stride : r * stride + size, c * stride : c * stride + size]
        out[r, c] = np.einsum("ijc,ijco->o", window, kernel) + bias
    return out


def test_equals_sums_over_windows():
    params = init_convolution(jax.random.key(0), "edge", 3, 2, 5)
    params["edge_bias"] = jnp.arange(5.0)
    assert params["edge_kernel"].shape == (3, 3, 2, 5)
    x = np.random.default_rng(0).normal(size=(6, 4, 2)).astype(np.float32)
    kernel, bias = np.asarray(params["edge_kernel"]), np.asarray(params["edge_bias"])
    same = convolve(params, "edge", jnp.asarray(x)[None])[0]
    np.testing.assert_allclose(same, slow(x, kernel, bias, 1, 1, 1), atol=1e-5)
    halved = convolve(params, "edge", jnp.asarray(x)[None], stride=2, padding=((0, 1), (0, 1)))[0]
    assert halved.shape == (3, 2, 5)
    np.testing.assert_allclose(halved, slow(x, kernel, bias, 2, 0, 1), atol=1e-5)
