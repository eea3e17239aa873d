"""Accuracy over all examples, per domain and per class, each with the number of examples behind it."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from moejax.core.errors import SpecError


def accuracy(
    correct: Bool[np.ndarray, "B"],
    labels: Int[np.ndarray, "B"],
    *,
    class_names: Sequence[str],
    domain_names: Sequence[str] = (),
    class_domains: Sequence[int] = (),
) -> dict:
    """{'all': entry, 'domains': {name: entry}, 'classes': {name: entry}}; an entry is {'accuracy', 'count', 'standard_error'}.

    Accuracies are fractions. The standard error is that of a proportion, sqrt(p (1 - p) / count): what another draw of
    test pictures would change, not another seed. Classes without an example are left out.
    Raises SpecError when there is no example, or when domains do not cover the classes.
    Source: ours.
    """
    if not len(labels):
        raise SpecError("accuracy needs at least one example; the split is empty.")
    if domain_names and len(class_domains) != len(class_names):
        raise SpecError(f"class_domains has {len(class_domains)} entries for {len(class_names)} classes.")
    domains = {}
    if domain_names:
        domain_of = np.asarray(class_domains, np.int64)[labels]
        for index, name in enumerate(domain_names):
            if (chosen := domain_of == index).any():
                domains[name] = _entry(correct[chosen])
    classes = {name: _entry(correct[labels == i]) for i, name in enumerate(class_names) if (labels == i).any()}
    return {"all": _entry(correct), "domains": domains, "classes": classes}


def _entry(correct: np.ndarray) -> dict:
    share = float(np.mean(correct))
    return {
        "accuracy": share,
        "count": len(correct),
        "standard_error": float(np.sqrt(share * (1.0 - share) / len(correct))),
    }
