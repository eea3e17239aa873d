"""Compiling for an H100 on a machine without a GPU: machine code, memory and registers, never a time.

Needs a CUDA plugin of jax and nothing else (no driver, no NVIDIA packages): `pip install 'jax[cuda12-local]'` for jax 0.10,
`'jax[cuda13-local]'` for jax 0.12, and JAX_PLATFORMS=cpu in the environment.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

KIND = "NVIDIA H100 80GB HBM3"
_TARGET = f"""
gpu_device_info {{ threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448 threads_per_core_limit: 2048
  core_count: 132 fpus_per_core: 128 registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 cuda_compute_capability {{ major: 9 minor: 0 }} }}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 9 patch: 0 }}
device_description_str: "{KIND}"
"""


def h100_mesh() -> Mesh:
    """A mesh of one H100 that is not there. Raises RuntimeError where jax has no CUDA plugin.

    Source: figures as published for the H100 SXM in openxla/xla issue 25919.
    """
    found = topologies.get_topology_desc(platform="cuda", topology_name="", target_config=_TARGET, topology="1x1x1")
    return Mesh(np.array(found.devices[:1]), ("device",))


def compile_for_h100(function: Callable[..., Any], *operands: tuple[tuple[int, ...], Any]) -> Any:
    """The compiled function for operands given as (shape, dtype), whole on one H100."""
    mesh = h100_mesh()
    sharding = NamedSharding(mesh, PartitionSpec())
    structs = [jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for shape, dtype in operands]
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return jax.jit(function).lower(*structs).compile()
