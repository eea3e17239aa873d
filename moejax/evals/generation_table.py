"""Scores of generated pictures as lines of text. Source: ours."""

from collections.abc import Sequence

from moejax.evals.generation import Comparison, Score

COLUMNS = ("n", "FD", "KID x 1000", "precision", "recall", "density", "coverage", "asked class %")


def table(comparison: Comparison) -> list[str]:
    """A comparison as lines of text, the floor last."""
    names = [row.name for row in (*comparison.rows, comparison.floor)]
    width = max(len(name) for name in [comparison.extractor, *names]) + 2
    lines = [comparison.extractor.ljust(width) + "".join(column.rjust(17) for column in COLUMNS)]
    for row in (*comparison.rows, comparison.floor):
        lines.append(row.name.ljust(width) + "".join(cell.rjust(17) for cell in _cells(row)))
    return [*lines, _footer(comparison)]


def _cells(row: Score) -> Sequence[str]:
    error = "" if row.kernel_error is None else f" ± {1000 * row.kernel_error:.3g}"
    share = row.agreement
    agreed = "-" if share is None else f"{100 * share.accuracy:.1f} ± {100 * share.standard_error:.1f}"
    shares = (f"{value:.3f}" for value in (row.precision, row.recall, row.density, row.coverage))
    return (str(row.count), f"{row.frechet:.4g}", f"{1000 * row.kernel:.3g}{error}", *shares, agreed)


def _footer(comparison: Comparison) -> str:
    return (
        f"reference {comparison.reference}, {comparison.reference_count} pictures; {comparison.feature_dim} features of "
        f"{comparison.extractor} {comparison.fingerprint[:12]}; k = {comparison.neighbours}, seed {comparison.seed}"
    )
