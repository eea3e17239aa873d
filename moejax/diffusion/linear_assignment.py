"""The exact linear assignment inside a compiled function: one column for each row, at the least total cost.

Rows are added one by one along the shortest augmenting path (Dijkstra on reduced costs); each step of the search looks at
a whole row at once. It starts from the columns' minima, which already assign about two thirds of random rows. In the worst
case B^2 steps of B work follow one another, so it belongs to minibatches (some hundred rows), not to whole data sets.

Source: Jonker & Volgenant 1987, "A Shortest Augmenting Path Algorithm for Dense and Sparse Linear Assignment Problems",
in the form of Crouse 2016, "On Implementing 2D Rectangular Assignment Algorithms", which scipy follows.
Deviations: of Jonker & Volgenant's preparations only the column reduction; float32, so that the total is the optimum up to
rounding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class _Matching(NamedTuple):
    """The partial assignment both ways (-1: none) and the dual prices that prove it optimal."""

    column_of: Int[Array, " B"]
    row_of: Int[Array, " B"]
    row_price: Float[Array, " B"]
    column_price: Float[Array, " B"]


class _Search(NamedTuple):
    """Dijkstra's state. row: whose edges come next. sink: the free column that was reached, -1 before."""

    row: Int[Array, ""]
    sink: Int[Array, ""]
    length: Float[Array, ""]
    shortest: Float[Array, " B"]
    parent: Int[Array, " B"]
    rows_seen: Bool[Array, " B"]
    columns_done: Bool[Array, " B"]


def linear_assignment(cost: Float[Array, "B B"]) -> Int[Array, " B"]:
    """The column of each row, a permutation of least total cost. Not differentiable; entries that are not finite count 0."""
    cost = jax.lax.stop_gradient(cost).astype(jnp.float32)
    cost = jnp.where(jnp.isfinite(cost), cost, 0.0)  # a NaN would never be reached, and the search never end

    def add(row: Int[Array, ""], matching: _Matching) -> _Matching:
        return _augment(cost, matching, row)

    return jax.lax.fori_loop(0, cost.shape[0], add, _start(cost)).column_of


def _start(cost: Float[Array, "B B"]) -> _Matching:
    """Column reduction: every column asks for its cheapest row, and the first to ask gets it."""
    size = cost.shape[0]
    columns = jnp.arange(size, dtype=jnp.int32)
    wanted = jnp.argmin(cost, axis=0).astype(jnp.int32)
    first = jnp.min(jnp.where(wanted[None] == columns[:, None], columns[None], size), axis=1)
    return _Matching(
        column_of=jnp.where(first < size, first, -1),
        row_of=jnp.where(first[wanted] == columns, wanted, -1),
        row_price=jnp.zeros(size, jnp.float32),
        column_price=jnp.min(cost, axis=0),
    )


def _search(cost: Float[Array, "B B"], matching: _Matching, row: Int[Array, ""]) -> _Search:
    """The shortest path from a row without column to a column without row, in reduced costs.

    A row that has a column is done before the first step. This is no `cond`, because under vmap both its branches run,
    and from such a row the search might find no free column, and so no end.
    """
    size = cost.shape[0]

    def step(search: _Search) -> _Search:
        row = search.row
        reach = search.length + cost[row] - matching.row_price[row] - matching.column_price
        better = ~search.columns_done & (reach < search.shortest)
        shortest = jnp.where(better, reach, search.shortest)
        open_lengths = jnp.where(search.columns_done, jnp.inf, shortest)
        column = jnp.argmin(open_lengths).astype(jnp.int32)
        owner = matching.row_of[column]
        return _Search(
            row=jnp.maximum(owner, 0),
            sink=jnp.where(owner < 0, column, -1),
            length=open_lengths[column],
            shortest=shortest,
            parent=jnp.where(better, row, search.parent),
            rows_seen=search.rows_seen.at[row].set(True),
            columns_done=search.columns_done.at[column].set(True),
        )

    start = _Search(
        row=jnp.asarray(row, jnp.int32),
        sink=matching.column_of[row],
        length=jnp.float32(0.0),
        shortest=jnp.full(size, jnp.inf, jnp.float32),
        parent=jnp.full(size, -1, jnp.int32),
        rows_seen=jnp.zeros(size, bool),
        columns_done=jnp.zeros(size, bool),
    )
    return jax.lax.while_loop(lambda search: search.sink < 0, step, start)


def _augment(cost: Float[Array, "B B"], matching: _Matching, row: Int[Array, ""]) -> _Matching:
    """The row assigned too: prices moved so that the path found is free of cost, then its edges flipped."""
    found = _search(cost, matching, row)
    slack = found.length - found.shortest
    owned = jnp.where(matching.column_of >= 0, slack[jnp.maximum(matching.column_of, 0)], found.length)
    row_price = matching.row_price + jnp.where(found.rows_seen, owned, 0.0)
    column_price = matching.column_price - jnp.where(found.columns_done, slack, 0.0)

    def flip(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        column, column_of, row_of = carry
        owner = found.parent[column]
        return column_of[owner], column_of.at[owner].set(column), row_of.at[column].set(owner)

    # The row had no column: its old entry, -1, ends the path. Where it had one, there is no path.
    last = jnp.where(matching.column_of[row] < 0, found.sink, -1)
    _, column_of, row_of = jax.lax.while_loop(
        lambda carry: carry[0] >= 0, flip, (last, matching.column_of, matching.row_of)
    )
    return _Matching(column_of, row_of, row_price, column_price)
