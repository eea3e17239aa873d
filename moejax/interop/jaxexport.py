"""The compiled forward pass of a model as `jax.export` writes it, to be called without any code of ours.

Three files: PATH, the program (StableHLO); PATH.safetensors, the weights, which it takes as its first argument, so that they can
be changed; PATH.json, what goes in and comes out, and with which versions it was made. To call it:

    program = jax.export.deserialize(bytearray(open(PATH, "rb").read()))
    logits = program.call(safetensors.numpy.load_file(PATH + ".safetensors"), images)

| model | inputs after the weights | output |
|---|---|---|
| `vit` | images [B height width channels] float32 | logits [B classes] |
| `dit` | x [B height width channels] float32, time [B] float32 (in the unit of the model's embedding), label [B] int32 | {'prediction' [, 'variance']}, both of the shape of x |
| `decoder` | tokens [B length] int32 | logits [B length vocabulary]; no cache |

Source: JAX, `jax.export` (a program stays callable for six months of releases).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from moejax.core.errors import SpecError, did_you_mean
from moejax.core.tree import flatten
from moejax.interop.contract import Foreign, plain
from moejax.models.decoder import Decoder
from moejax.models.dit import DiffusionTransformer
from moejax.models.vit import VisionTransformer

FORMAT = "a compiled forward pass (jax.export), callable without our code; written only"
UNEXPORTABLE = (jax.errors.JAXTypeError, jax.errors.JAXIndexError, jax.errors.InconclusiveDimensionOperation)
PLATFORMS = ("cpu", "cuda", "tpu")


def write(
    foreign: Foreign,
    path: str | Path,
    *,
    batch: int | str = "any",
    length: int | str = "longest",
    platforms: str = "cpu,cuda,tpu",
) -> None:
    """Writes the three files.

    batch: pictures or sequences per call; 'any' leaves it open. length: tokens of a sequence, 'longest' is the decoder's max_length; of no
    meaning for other models. platforms: lowered for each of them, with commas between.
    Raises SpecError for a model without a forward pass here, one whose layers need a fixed batch, a length that the model does
    not take, and unknown platforms.
    """
    own, size = _platforms(platforms), _batch(batch)
    spec = foreign.spec
    forward, inputs = _forward_pass(spec, size, length)
    names = {f"params/{n}": np.asarray(leaf) for n, leaf in flatten(foreign.params).items()}
    names |= {f"state/{n}": np.asarray(leaf) for n, leaf in flatten(foreign.state).items()}
    structures = jax.tree.structure(foreign.params), jax.tree.structure(foreign.state)
    order = [
        [f"{part}/{n}" for n in flatten(tree)] for part, tree in (("params", foreign.params), ("state", foreign.state))
    ]

    def program(weights: dict[str, Any], *given: Any) -> Any:
        trees = [jax.tree.unflatten(s, [weights[n] for n in own]) for s, own in zip(structures, order, strict=True)]
        return forward(*trees, *given)

    shapes = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in names.items()}
    try:
        exported = jax.export.export(jax.jit(program), platforms=own)(shapes, *inputs.values())
    except (*UNEXPORTABLE, ValueError, TypeError, NotImplementedError) as error:
        raise SpecError(
            f"the forward pass cannot be exported for batch={batch} ({str(error).splitlines()[0][:200]}). With batch='any' give a number, "
            "such as batch=8, of whole groups, or moe.dispatch='einsum' in the model, which needs no number and computes more."
        ) from error
    path = Path(path)
    path.write_bytes(_serialized(exported))
    save_file({name: np.array(leaf, order="C") for name, leaf in names.items()}, f"{path}.safetensors")
    told = {
        "weights": f"{path.name}.safetensors",
        "inputs": {name: _told(shape, batch) for name, shape in inputs.items()},
        "output": jax.tree.map(
            lambda shape: _told(shape, batch), jax.tree.unflatten(exported.out_tree, exported.out_avals)
        ),
        "platforms": own,
        "jax": jax.__version__,
        "calling_convention": exported.calling_convention_version,
        "step": foreign.step,
        "model": plain(foreign.model),
    }
    Path(f"{path}.json").write_text(json.dumps(told, indent=2) + "\n")


def _forward_pass(
    spec: Any, size: Any, length: int | str
) -> tuple[Callable[..., Any], dict[str, jax.ShapeDtypeStruct]]:
    """What computes the output from params, state and the inputs, and the inputs' shapes by name, in their order."""
    shape = jax.ShapeDtypeStruct
    match spec:
        case VisionTransformer():
            picture = (spec.image_size, spec.image_size, spec.channels)
            return lambda p, s, images: spec.apply(p, s, images).logits, {
                "images": shape((size, *picture), jnp.float32)
            }
        case DiffusionTransformer():
            picture = (spec.image_size, spec.image_size, spec.channels)
            inputs = {
                "x": shape((size, *picture), jnp.float32),
                "time": shape((size,), jnp.float32),
                "label": shape((size,), jnp.int32),
            }
            return lambda p, s, *given: _pictures(spec.apply(p, s, *given)), inputs
        case Decoder():
            tokens = shape((size, _length(length, spec.max_length)), jnp.int32)
            return lambda p, s, tokens: spec.apply(p, s, tokens).logits, {"tokens": tokens}
        case _:
            raise SpecError(f"vit, dit and decoder models are exported, not a {type(spec).__name__}.")


def _pictures(output: Any) -> dict[str, Any]:
    found = {"prediction": output.prediction, "variance": output.variance}
    return {name: value for name, value in found.items() if value is not None}


def _length(given: int | str, longest: int) -> int:
    if given == "longest":
        return longest
    number = _whole_number("length", given, "longest")
    if not 1 <= number <= longest:
        raise SpecError(f"length={number} must be from 1 to the model's max_length={longest}.")
    return number


def _told(shape: Any, batch: int | str) -> dict[str, Any]:
    return {"shape": [str(batch), *shape.shape[1:]], "dtype": shape.dtype.name}


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
    number = _whole_number("batch", given, "any")
    if number < 1:
        raise SpecError(f"batch={number} must be at least 1.")
    return number


def _whole_number(name: str, given: int | str, word: str) -> int:
    try:
        return int(given)
    except ValueError as error:
        raise SpecError(f"{name}={given!r} must be {word!r} or a whole number.") from error
