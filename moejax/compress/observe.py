"""Weights that count what they multiply: the sums come out of `jax.grad`, so that no layer knows that it is observed.

An identity around the input of a product has slots beside it, arrays of zeros that nothing reads. Its backward pass hands
the gradient through and returns, as the gradient of the slots, sums over the rows that went by. Gradients of one array add
up over calls, scans, vmaps and devices, and so do sums. Nothing of the true gradient enters, so a compiler leaves it out.
Source: ours.
"""

import dataclasses
import functools
from typing import Annotated, Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from moejax.compress.row_sums import Sums, buffer_sums, ragged_sums
from moejax.core.errors import SpecError
from moejax.core.layouts import Buffers, Layout, Ragged
from moejax.linear.epilogue import finish

INPUT_FIELDS = ("count", "second_moment", "absolute", "rows", "calls")
OUTPUT_FIELDS = ("output_sum", "output_square")


@flax.struct.dataclass
class RealBuffers(Buffers):
    """Buffers that remember which slots hold a token: behind the first bias and activation, padding is no longer zero."""

    real: Annotated[Any, Bool[Array, "E C"]]


@flax.struct.dataclass
class Observed:
    """A leaf that multiplies as `leaf` does. slots: zeros [...] by field of INPUT_FIELDS and OUTPUT_FIELDS.

    'calls' [] or [E] comes back as the number of times that the weight was used: 0 means that the result of the
    differentiated function does not depend on it, and nothing was counted.
    Slots have the leading axes of the weight: L where layers are stacked, E in a bank. `mix` mixes them as it mixes
    experts: a row counts for an expert with the weight that the expert has in the mixture.
    """

    leaf: Any
    slots: Annotated[Any, dict[str, Float[Array, "..."]]]

    def matmul(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """The product of the leaf."""
        real = _not_zero(_alone(x))
        y = self.leaf.matmul(_watched_alone(self.slots, INPUT_FIELDS, x, real))
        return _watched_alone(self.slots, OUTPUT_FIELDS, y, real)

    def grouped_matmul(
        self, x: Layout, *, bias: Float[Array, "E F"] | None = None, activation: str | None = None
    ) -> Layout:
        """The product of the leaf; buffers come back as RealBuffers, so that the next leaf knows the padding, too."""
        where, plain = _where(x), _plain(x)
        plain = dataclasses.replace(plain, tokens=_watched(self.slots, INPUT_FIELDS, plain.tokens, where))
        if not any(name in self.slots for name in OUTPUT_FIELDS):
            return _marked(self.leaf.grouped_matmul(plain, bias=bias, activation=activation), where)
        y = self.leaf.grouped_matmul(plain)
        y = dataclasses.replace(y, tokens=_watched(self.slots, OUTPUT_FIELDS, y.tokens, where))
        return _marked(finish(y, bias, activation), where)

    def mix(self, weight: Float[Array, "G E"]) -> "Observed":
        """The mixed leaf, observed. Raises SpecError for the kind 'rows': rows cannot be taken by a share."""
        if "rows" in self.slots:
            raise SpecError(
                "statistics of kind 'rows' cannot be sampled where a router mixes the experts' parameters; "
                "leave the kind out, or collect in a model whose router moves tokens."
            )
        slots = {
            name: jnp.einsum("GE,E...->G...", weight.astype(zeros.dtype), zeros) for name, zeros in self.slots.items()
        }
        return Observed(self.leaf.mix(weight), slots)

    def materialise(self) -> Float[Array, "... D F"]:
        """The dense kernel of the leaf."""
        return self.leaf.materialise()


@flax.struct.dataclass
class ObservedRouter:
    """The parameters of a router, whatever they are, and slots for the tokens that it reads.

    A layer with experts calls `observe` before it routes.
    """

    params: Any
    slots: Annotated[Any, dict[str, Float[Array, "..."]]]

    def observe(self, tokens: Float[Array, "G S D"]) -> tuple[Any, Float[Array, "G S D"]]:
        """The router's own parameters, and the tokens to go on with."""
        return self.params, _watched_alone(self.slots, INPUT_FIELDS, tokens, _not_zero(_alone(tokens)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _watch(sums: Sums, x: Array, slots: dict[str, Array], where: Array) -> Array:
    """The identity of x. where: Bool [E C] for buffers x [E C D], or the group sizes [E] of rows x [M D]."""
    del sums, slots, where
    return x


def _watch_forward(sums: Sums, x: Array, slots: dict[str, Array], where: Array) -> tuple[Array, Any]:
    del sums, slots
    return x, (x, where)


def _watch_backward(sums: Sums, residuals: Any, gradient: Array) -> tuple[Array, dict[str, Array], None]:
    x, where = residuals
    found = buffer_sums(sums, x, where) if where.ndim == 2 else ragged_sums(sums, x, where)
    return gradient, found, None


_watch.defvjp(_watch_forward, _watch_backward)


def _watched(slots: dict[str, Array], fields: tuple[str, ...], x: Array, where: Array) -> Array:
    """The identity of x, its rows counted in those of the fields that have a slot."""
    own = {name: slots[name] for name in fields if name in slots}
    if not own:
        return x
    return _watch(Sums(tuple(own), own["rows"].shape[-2] if "rows" in own else 0), x, own, where)


def _watched_alone(slots: dict[str, Array], fields: tuple[str, ...], x: Array, real: Array) -> Array:
    """The same for a kernel that is in no bank: all rows are one buffer."""
    return _watched({name: zeros[None] for name, zeros in slots.items()}, fields, _alone(x), real).reshape(x.shape)


def _alone(x: Float[Array, "... D"]) -> Float[Array, "1 C D"]:
    return x.reshape(1, -1, x.shape[-1])


def _not_zero(buffers: Float[Array, "E C D"]) -> Bool[Array, "E C"]:
    return jnp.any(buffers != 0, axis=-1)


def _where(x: Layout) -> Bool[Array, "E C"] | Int[Array, "E"]:
    if isinstance(x, Ragged):
        return x.group_sizes
    return x.real if isinstance(x, RealBuffers) else _not_zero(x.tokens)


def _plain(x: Layout) -> Layout:
    return Buffers(x.tokens) if isinstance(x, Buffers) else x


def _marked(y: Layout, where: Array) -> Layout:
    return RealBuffers(y.tokens, where) if isinstance(y, Buffers) else y
