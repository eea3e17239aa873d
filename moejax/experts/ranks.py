"""Ranks of the experts of a bank: one for all, or a tuple that the experts take in turn.

Source: ours.
"""

from moejax.core.errors import SpecError

Rank = int | tuple[int, ...]


def check_rank(rank: Rank) -> None:
    """Raises SpecError for a rank below 1, or no rank at all."""
    ranks = rank if isinstance(rank, tuple) else (rank,)
    if not ranks or min(ranks) < 1:
        raise SpecError(f"rank={rank} must be at least 1: a number, or a tuple of one for each expert in turn.")


def cut_ranks(rank: Rank, full: int) -> tuple[int, ...]:
    """The ranks as they count, none above the full rank; one entry when all experts share it."""
    return tuple(min(r, full) for r in (rank if isinstance(rank, tuple) else (rank,)))


def stored_ranks(rank: Rank, num_experts: int, full: int) -> tuple[int, ...]:
    """One rank per expert. Raises SpecError when the length of a tuple does not divide the number of experts."""
    ranks = cut_ranks(rank, full)
    if num_experts % len(ranks):
        raise SpecError(
            f"rank={rank} names {len(ranks)} experts and the bank has {num_experts}; give one rank, or a tuple whose "
            f"length divides {num_experts}."
        )
    return ranks * (num_experts // len(ranks))
