"""Building blocks of the kernels for NVIDIA Hopper: row tiles of groups, stores of part of a tile, limits of a block."""
