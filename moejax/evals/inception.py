"""Inception-v3 of the Fréchet Inception distance in JAX, on weights from a local file.

Nothing is downloaded: the user converts the published file (`pt_inception-2015-12-05-6726825d.pth` of pytorch-fid, or the
equal one of torch-fidelity) once, on a machine with PyTorch:

  safetensors.torch.save_file(torch.load("pt_inception-2015-12-05-6726825d.pth", weights_only=True), "inception.safetensors")

Without those weights neither figures of published papers nor equality with the original on real pictures can be checked
here; the tests check the resizing, every layer's arithmetic and the names and shapes of the weights.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from safetensors import SafetensorError, safe_open

from moejax.core.errors import SpecError, did_you_mean
from moejax.data.resize import set_channels
from moejax.evals.bilinear_resize import resize_bilinear
from moejax.evals.feature_extractors import Extracted, fingerprint
from moejax.evals.inception_layout import LAYOUT, MAX, MAX_HALVE, MEAN, NUM_CLASSES, Branches, Unit, units

SIZE = 299  # rows and columns that the network sees
_EPSILON = 1e-3  # of its batch norms
_PREPROCESSING = {"tensorflow": "tensorflow1", "pytorch_fid": "half_pixel"}  # -> the grid of the resizing
_CONVERT = "moejax/evals/inception.py says how to write the file from the published weights."


class InceptionFeatures:
    """The 2048 features before the classifier. Grey pictures get three equal channels, any size is resized to 299.

    preprocessing: 'tensorflow', what the original graph does with bytes x: TensorFlow 1's resizing, then (x - 128) / 128;
    or 'pytorch_fid', what that package does: half-pixel centres, then 2 x / 255 - 1. Published figures exist of both.
    Raises SpecError for a file that is missing or damaged, or that holds other weights.
    Source: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", section 4; Szegedy et al. 2016.
    Deviations: batch norms are folded into the convolutions, computed in float64 and rounded once.
    """

    def __init__(self, path: str | Path, *, preprocessing: str = "tensorflow", batch_size: int = 32):
        if preprocessing not in _PREPROCESSING:
            raise SpecError(f"preprocessing={preprocessing!r} is unknown.{did_you_mean(preprocessing, _PREPROCESSING)}")
        self.num_classes: int | None = None
        self.name, self.unit_features, self.batch_size = "inception", True, batch_size
        self._params = fold(read_weights(path))
        self.fingerprint = fingerprint(self._params, "inception pool3", preprocessing)
        self._step = jax.jit(lambda params, images: apply(params, prepare(images, preprocessing)))

    def __call__(self, images: UInt8[np.ndarray, "B height width channels"]) -> Extracted:
        """Features of one batch."""
        return Extracted(np.asarray(self._step(self._params, set_channels(images, 3).astype(np.float32))))


def prepare(images: Float[Array, "B height width 3"], preprocessing: str) -> Float[Array, "B 299 299 3"]:
    """Bytes as float32 in [0, 255] -> what the network reads, about [-1, 1]."""
    resized = resize_bilinear(images, (SIZE, SIZE), grid=_PREPROCESSING[preprocessing])
    return (resized - 128.0) / 128.0 if preprocessing == "tensorflow" else 2.0 * (resized / 255.0) - 1.0


def apply(params: Mapping[str, Any], images: Float[Array, "B height width 3"]) -> Float[Array, "B 2048"]:
    """Mean over all places of the last block's output. params: as `fold` returns them."""
    return jnp.mean(run(params, images, LAYOUT), axis=(1, 2))


def run(params: Mapping[str, Any], x: Float[Array, "B h w c"], chain: tuple[Any, ...]) -> Float[Array, "B h2 w2 c2"]:
    """The steps of `chain` one after the other."""
    for step in chain:
        if isinstance(step, Unit):
            x = _convolve(params[step.name], x, step)
        elif isinstance(step, Branches):
            x = jnp.concatenate([run(params, x, inner) for inner in step.chains], axis=-1)
        else:
            x = _POOLS[step](x)
    return x


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the file that features need, by its name there (kernels as [out in rows columns])."""
    shapes: dict[str, tuple[int, ...]] = {}
    for unit in units(LAYOUT):
        shapes[f"{unit.name}.conv.weight"] = (unit.outputs, unit.inputs, *unit.kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{unit.name}.bn.{part}"] = (unit.outputs,)
    return shapes


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of `expected_shapes`; the classifier and the counters of the batch norms are left in the file.

    Raises SpecError naming tensors that are missing, left over, or of another shape.
    """
    try:
        with safe_open(str(path), framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise SpecError(f"{path} cannot be read as safetensors ({error}). {_CONVERT}") from error
    classes = tensors.pop("fc.weight", np.zeros((NUM_CLASSES, 0))).shape[0]
    tensors.pop("fc.bias", None)
    if classes != NUM_CLASSES:
        raise SpecError(
            f"{path} classifies {classes} classes: an Inception-v3, but not the network of the published FID, "
            f"which has {NUM_CLASSES}. {_CONVERT}"
        )
    tensors = {name: value for name, value in tensors.items() if not name.endswith(".num_batches_tracked")}
    expected, found = expected_shapes(), {name: value.shape for name, value in tensors.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        lines = [f"{name}: {found.get(name, 'missing')}, expected {expected.get(name, 'nothing')}" for name in wrong]
        raise SpecError(f"{path}: {len(wrong)} tensors differ, the first: {'; '.join(lines[:3])}. {_CONVERT}")
    return tensors


def fold(tensors: Mapping[str, np.ndarray]) -> dict[str, dict[str, Array]]:
    """Unit name -> 'kernel' [rows columns in out] and 'bias' [out] in float32, the batch norm multiplied in."""
    params = {}
    for unit in units(LAYOUT):
        weight, *norm = (
            tensors[f"{unit.name}.{part}"].astype(np.float64)
            for part in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
        )
        factor = norm[0] / np.sqrt(norm[3] + _EPSILON)
        kernel = np.transpose(weight * factor[:, None, None, None], (2, 3, 1, 0))
        params[unit.name] = {
            "kernel": jnp.asarray(kernel, jnp.float32),
            "bias": jnp.asarray(norm[1] - norm[2] * factor, jnp.float32),
        }
    return params


def _convolve(params: Mapping[str, Array], x: Array, unit: Unit) -> Array:
    rows, columns = unit.kernel
    padding = ((rows // 2, rows // 2), (columns // 2, columns // 2)) if unit.same else ((0, 0), (0, 0))
    y = jax.lax.conv_general_dilated(
        x, params["kernel"], (unit.stride, unit.stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )  # fmt: skip
    return jax.nn.relu(y + params["bias"][None, None, None, :])


def _maximum(x: Array, *, stride: int) -> Array:
    padding = ((0, 0), (1, 1), (1, 1), (0, 0)) if stride == 1 else ((0, 0),) * 4
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, stride, stride, 1), padding)


def _mean_without_padding(x: Array) -> Array:
    def window_sum(values: Array) -> Array:
        return jax.lax.reduce_window(values, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")

    return window_sum(x) / window_sum(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


_POOLS = {
    MEAN: _mean_without_padding,
    MAX: lambda x: _maximum(x, stride=1),
    MAX_HALVE: lambda x: _maximum(x, stride=2),
}
