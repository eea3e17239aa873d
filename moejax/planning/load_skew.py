"""How much more the busiest device has to do than the mean one, from recorded routing.

Source: ours.
"""

import numpy as np
from jaxtyping import Float

from moejax.core.errors import SpecError
from moejax.evals.routing_traces import RoutingTrace


def skew(trace: RoutingTrace, devices: int, experts: int | None = None, *, seed: int = 0) -> float:
    """Load of the busiest device over the mean, averaged over the layers; E / n neighbours of the experts lie on each device.

    experts: None for those that were recorded. For another number, loads are drawn from the recorded ones (their quantiles),
    in a random order: an assumption, that more experts are loaded as unevenly as those. Raises SpecError where devices do not
    divide the experts.
    """
    experts = trace.num_experts if experts is None else experts
    if devices < 1 or experts % devices:
        raise SpecError(f"{devices} devices do not divide {experts} experts; choose a divisor.")
    order = np.random.default_rng(seed)
    found = []
    for load in trace.loads():
        spread = load if experts == trace.num_experts else order.permutation(quantiles(load, experts))
        found.append(spread.reshape(devices, -1).sum(axis=1).max() * devices / spread.sum())
    return float(np.mean(found))


def quantiles(load: Float[np.ndarray, "E"], number: int) -> Float[np.ndarray, "_"]:
    """Shares of `number` experts, ascending, that are spread as those of `load`; their sum is one."""
    places = (np.arange(len(load)) + 0.5) / len(load)
    drawn = np.interp((np.arange(number) + 0.5) / number, places, np.sort(load))
    return drawn / drawn.sum()
