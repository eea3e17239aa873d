"""The compiled forward pass of a classifier as `jax.export` writes it, to be called without any code of ours.

Three files: PATH, the program (StableHLO); PATH.safetensors, the weights, which it takes as an argument, so that they can be
changed; PATH.json, what goes in and comes out, and with which versions it was made. To call it:

    program = jax.export.deserialize(bytearray(open(PATH, "rb").read()))
    logits = program.call(safetensors.numpy.load_file(PATH + ".safetensors"), images)

Source: JAX, `jax.export` (a program stays callable for six months of releases).
"""

import json
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from safetensors.numpy import save_file

from moejax.core.errors import SpecError, did_you_mean
from moejax.core.tree import flatten
from moejax.interop.contract import Foreign, plain

FORMAT = "a compiled forward pass (jax.export), callable without our code; written only"
UNEXPORTABLE = (jax.errors.JAXTypeError, jax.errors.JAXIndexError, jax.errors.InconclusiveDimensionOperation)
PLATFORMS = ("cpu", "cuda", "tpu")


def write(foreign: Foreign, path: str | Path, *, batch: int | str = "any", platforms: str = "cpu,cuda,tpu") -> None:
    """Writes the three files.

    batch: pictures per call; 'any' leaves it open. platforms: lowered for each of them, with commas between.
    Raises SpecError for a model that is no classifier of pictures, one whose layers need a fixed batch, and unknown platforms.
    """
    own, size = _platforms(platforms), _batch(batch)
    spec = foreign.spec
    if not hasattr(spec, "classify"):
        raise SpecError(f"only classifiers of pictures are exported, not a {foreign.model['name']!r} model.")
    names = {f"params/{n}": np.asarray(leaf) for n, leaf in flatten(foreign.params).items()}
    names |= {f"state/{n}": np.asarray(leaf) for n, leaf in flatten(foreign.state).items()}
    structures = jax.tree.structure(foreign.params), jax.tree.structure(foreign.state)
    order = [
        [f"{part}/{n}" for n in flatten(tree)] for part, tree in (("params", foreign.params), ("state", foreign.state))
    ]

    def forward(weights: dict[str, Array], images: Array) -> Array:
        trees = [jax.tree.unflatten(s, [weights[n] for n in own]) for s, own in zip(structures, order, strict=True)]
        return spec.apply(*trees, images).logits

    shapes = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in names.items()}
    picture = (spec.image_size, spec.image_size, spec.channels)
    images = jax.ShapeDtypeStruct((size, *picture), jnp.float32)
    try:
        exported = jax.export.export(jax.jit(forward), platforms=own)(shapes, images)
    except (*UNEXPORTABLE, ValueError, TypeError, NotImplementedError) as error:
        raise SpecError(
            f"the forward pass cannot be exported for batch={batch} ({str(error).splitlines()[0][:200]}). With batch='any' give a number, "
            "such as batch=8, of whole groups, or moe.dispatch='einsum' in the model, which needs no number and computes more."
        ) from error
    path = Path(path)
    path.write_bytes(_serialized(exported))
    save_file({name: np.array(leaf, order="C") for name, leaf in names.items()}, f"{path}.safetensors")
    told = {
        "input": {"weights": f"{path.name}.safetensors", "images": [str(batch), *picture], "dtype": "float32"},
        "output": [str(batch), spec.num_classes],
        "platforms": own,
        "jax": jax.__version__,
        "calling_convention": exported.calling_convention_version,
        "step": foreign.step,
        "model": plain(foreign.model),
    }
    Path(f"{path}.json").write_text(json.dumps(told, indent=2) + "\n")


def _platforms(given: str) -> tuple[str, ...]:
    own = tuple(given.split(","))
    for platform in own:
        if platform not in PLATFORMS:
            raise SpecError(f"platforms: {platform!r} is unknown.{did_you_mean(platform, PLATFORMS)}")
    return own


def _serialized(exported: jax.export.Exported) -> bytearray:
    try:
        return exported.serialize()
    except ImportError as error:
        raise SpecError(
            "jax writes exported programs with flatbuffers, which is not installed: pip install flatbuffers"
        ) from error


def _batch(given: int | str) -> object:
    if given == "any":
        return jax.export.symbolic_shape("b")[0]
    try:
        number = int(given)
    except ValueError as error:
        raise SpecError(f"batch={given!r} must be 'any' or a whole number.") from error
    if number < 1:
        raise SpecError(f"batch={number} must be at least 1.")
    return number
