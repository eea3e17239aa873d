"""Grouped products and their gradients by loops over rows, in float64: what every implementation is held against."""

import numpy as np
import scipy.special


def group_of_rows(sizes, rows):
    """The group of each row; -1 for rows after the last group."""
    return [g for g, size in enumerate(sizes) for _ in range(size)] + [-1] * (rows - sum(sizes))


def activation_and_slope(name, z):
    """f(z) and f'(z) for float64 z."""
    if name is None:
        return z, np.ones_like(z)
    if name == "relu":
        return np.maximum(z, 0), (z > 0).astype(float)
    if name == "silu":
        s = scipy.special.expit(z)
        return z * s, s * (1 + z * (1 - s))
    if name == "gelu_exact":
        cdf = scipy.special.ndtr(z)
        return z * cdf, cdf + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    t = np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))
    slope = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * z**2)
    return 0.5 * z * (1 + t), 0.5 * (1 + t) + 0.5 * z * (1 - t**2) * slope


def product(x, w, bias, sizes, dy, *, transposed=False, activation=None):
    """y, dx, dw, db of activation(x w[e] + bias[e])."""
    x, w, dy = (np.asarray(a, np.float64) for a in (x, w, dy))
    y, dx, dw = np.zeros_like(dy), np.zeros_like(x), np.zeros_like(w)
    db = np.zeros((len(w), dy.shape[1]))
    for m, e in enumerate(group_of_rows(sizes, len(x))):
        if e < 0:
            continue
        kernel = w[e].T if transposed else w[e]
        y[m], slope = activation_and_slope(activation, x[m] @ kernel + (0 if bias is None else np.float64(bias[e])))
        dz = dy[m] * slope
        dx[m] = kernel @ dz
        outer = np.outer(x[m], dz)
        dw[e] += outer.T if transposed else outer
        db[e] += dz
    return (y, dx, dw) if bias is None else (y, dx, dw, db)


def gated(x, gate, up, sizes, dy, *, activation="silu"):
    """y, dx, dgate, dup of activation(x gate[e]) * (x up[e])."""
    x, gate, up, dy = (np.asarray(a, np.float64) for a in (x, gate, up, dy))
    y, dx, dgate, dup = np.zeros_like(dy), np.zeros_like(x), np.zeros_like(gate), np.zeros_like(up)
    for m, e in enumerate(group_of_rows(sizes, len(x))):
        if e < 0:
            continue
        value = x[m] @ up[e]
        active, slope = activation_and_slope(activation, x[m] @ gate[e])
        y[m] = active * value
        dg, dv = dy[m] * value * slope, dy[m] * active
        dx[m] = gate[e] @ dg + up[e] @ dv
        dgate[e] += np.outer(x[m], dg)
        dup[e] += np.outer(x[m], dv)
    return y, dx, dgate, dup


def outer(x, y, sizes):
    """[E D F]: the sum of x[m] y[m] over the rows of each group."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    total = np.zeros((len(sizes), x.shape[1], y.shape[1]))
    for m, e in enumerate(group_of_rows(sizes, len(x))):
        if e >= 0:
            total[e] += np.outer(x[m], y[m])
    return total
