"""Positions of patches: tables that are added to the tokens."""

import numpy as np

from moejax.core.errors import SpecError


def sincos_2d(
    rows: int, columns: int, dim: int, *, temperature: float = 10_000.0, reach_end: bool = True
) -> np.ndarray:
    """Fixed table [rows*columns, D], row by row: sin and cos of the column, then of the row, a quarter of D each.

    reach_end: the frequencies fall from 1 to 1/temperature; False: the last of them is one step above that.
    Raises SpecError when D is no multiple of 4.
    Source: Chen et al. 2021, "An Empirical Study of Training Self-Supervised Vision Transformers" (MoCo v3), section 5;
        frequencies as in Vaswani et al. 2017, section 3.5; both spreads are in use: to the end in big_vision, short of
        it in Vaswani et al., MAE and DiT.
    """
    if dim % 4:
        raise SpecError(f"dim={dim} must be a multiple of 4 for positions='sincos'; use 'learned' or another width.")
    steps = max(dim // 4 - 1, 1) if reach_end else dim // 4
    frequency = temperature ** -(np.arange(dim // 4) / steps)
    row, column = np.mgrid[:rows, :columns]
    angle_x, angle_y = (np.outer(axis.ravel(), frequency) for axis in (column, row))
    table = np.concatenate([np.sin(angle_x), np.cos(angle_x), np.sin(angle_y), np.cos(angle_y)], axis=1)
    return table.astype(np.float32)
