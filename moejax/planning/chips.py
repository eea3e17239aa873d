"""Accelerators by name: what one has, and a machine of them to compile for without one at hand.

Source: the vendors' public tables. TPU v5e and v5p: cloud.google.com/tpu/docs (16 GB, 819 GB/s, 197 TFLOP/s, 400 GB/s
    both ways; 95 GiB, 2765 GB/s, 459 TFLOP/s, 1200 GB/s both ways). v4 and v6e: the same pages, from memory. H100 SXM: the device
    description that XLA's own tests carry, 989 TFLOP/s without sparsity, NVLink 900 GB/s both ways.
"""

import dataclasses
import fnmatch
import importlib.metadata
import importlib.util
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from moejax.core.errors import SpecError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Chip:
    """memory: bytes of HBM. flops: bfloat16 products per second, in FLOP/s. bandwidth: of HBM, link: of all links one way, in bytes/s.

    options: for the compiler's topology. axes: sizes in a topology's name.
    """

    memory: int
    flops: float
    bandwidth: float
    link: float
    axes: int
    options: tuple[tuple[str, Any], ...] = ()


CHIPS = {
    "v4": Chip(32 * 2**30, 275e12, 1228e9, 300e9, 3, (("chip_config_name", "megacore"),)),
    "v5e": Chip(16 * 10**9, 197e12, 819e9, 200e9, 2),
    "v5p": Chip(95 * 2**30, 459e12, 2765e9, 600e9, 3),
    "v6e": Chip(32 * 10**9, 918e12, 1640e9, 400e9, 2),
    "h100": Chip(84929347584, 989e12, 3352e9, 450e9, 2),
}
EXAMPLES_OF_NAMES = "v4:2x2x1, v5e:2x4, v5e:16x16, v5p:4x4x4, v6e:8x8, h100:8x8 (hosts x GPUs)"
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 cuda_compute_capability { major: 9 minor: 0 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 12 minor: 9 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def parse(topology: str) -> tuple[Chip, tuple[int, ...]]:
    """The chip and the sizes of 'v5p:4x4x4'. Raises SpecError for a name that does not exist, with some that do."""
    name, _, sizes = topology.partition(":")
    if name not in CHIPS:
        raise SpecError(
            f"topology {topology!r}: {name!r} is no chip.{did_you_mean(name, CHIPS)} Such as {EXAMPLES_OF_NAMES}."
        )
    chip = CHIPS[name]
    if not re.fullmatch(r"\d+(x\d+)*", sizes) or sizes.count("x") + 1 != chip.axes or "0" in sizes.split("x"):
        raise SpecError(f"topology {topology!r} needs {chip.axes} sizes, such as {EXAMPLES_OF_NAMES}.")
    return chip, tuple(int(size) for size in sizes.split("x"))


def num_chips(topology: str) -> int:
    """How many chips it has. Raises SpecError as `parse`."""
    return math.prod(parse(topology)[1])


def can_compile(topology: str) -> bool:
    """Whether the compiler for these chips is installed."""
    name = topology.partition(":")[0]
    modules = ("jax_cuda12_plugin", "jax_cuda13_plugin") if name == "h100" else ("libtpu",)
    return any(importlib.util.find_spec(module) is not None for module in modules)


def check_compiler(topology: str, *, requirements: list[str] | None = None, installed: str | None = None) -> None:
    """Raises SpecError where the installed libtpu is not of the versions that this jax was made with.

    Another one compiles too, but differently: products over groups become dense ones, and texts of modules break.
    requirements, installed: those of jax and libtpu here.
    """
    if topology.startswith("h100"):
        return
    requirements = importlib.metadata.requires("jax") or [] if requirements is None else requirements
    installed = importlib.metadata.version("libtpu") if installed is None else installed
    pins = [found[1] for line in requirements if (found := re.match(r"libtpu\s*==\s*([\d.]*\d(?:\.\*)?)", line))]
    if pins and not any(fnmatch.fnmatchcase(installed, pin) for pin in pins):
        raise SpecError(
            f"libtpu {installed} is installed, but jax {jax.__version__} is made for libtpu {pins[0]}; what another version "
            "compiles says nothing of what will run. Install the extra [tpu-aot], which brings 'jax[tpu]' of one version."
        )


# What the compiler would otherwise look for on the machine and warn of; what it compiles for is the topology alone.
WITHOUT_A_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


def devices(topology: str) -> list[jax.Device]:
    """The chips, to compile for; nothing can run on them.

    Raises SpecError where the compiler knows no such machine, and as `check_compiler`.
    """
    chip, sizes = parse(topology)
    check_compiler(topology)
    for name, value in WITHOUT_A_TPU.items():
        os.environ.setdefault(name, value)
    try:
        if topology.startswith("h100"):
            found = topologies.get_topology_desc(
                platform="cuda", topology_name="", target_config=_H100, topology=f"1x{sizes[0]}x{sizes[1]}"
            )
        else:
            found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **dict(chip.options))
    except Exception as error:
        raise SpecError(
            f"topology {topology!r}: the compiler does not know it ({str(error).splitlines()[0][:200]}). Such as {EXAMPLES_OF_NAMES}."
        ) from error
    return list(found.devices)
