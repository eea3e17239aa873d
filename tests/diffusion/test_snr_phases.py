"""Phases of equal length in log SNR, against the formula of rectified flow and the numbers of DDPM."""

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.diffusion.processes.ddpm import DDPM
from moejax.diffusion.processes.rectified_flow import RectifiedFlow
from moejax.diffusion.snr_phases import log_snr, snr_phases


def test_rectified_flow_by_formula() -> None:
    # log SNR = 2 log((1 - t) / t), from t = 0.001 to 0.999 (nothing is left at 1): symmetric, so two phases meet at 1/2.
    assert snr_phases(RectifiedFlow(), 1) == ()
    assert snr_phases(RectifiedFlow(), 2) == (500,)
    # Four phases: a half of log 999 from the middle, t = 1 / (1 + sqrt(999)) and its mirror.
    edge = 1000 / (1 + np.sqrt(999.0))
    assert snr_phases(RectifiedFlow(), 4) == (int(np.ceil(edge)), 500, int(np.ceil(1000 - edge)))


def test_each_boundary_is_the_first_step_of_its_phase() -> None:
    process = DDPM()
    boundaries = snr_phases(process, 3)
    assert len(boundaries) == 2 and 0 < boundaries[0] < boundaries[1] < 1000
    high, low = log_snr(process, np.asarray([process.min_time, process.max_time]))
    for i, step in enumerate(boundaries, 1):
        edge = high + (low - high) * i / 3
        before, at = log_snr(process, np.asarray([step, step + 1]) / 1000)  # step i is the time (i + 1) / 1000
        assert before > edge - 1e-4 and at <= edge + 1e-4
    np.testing.assert_allclose(process.model_time(jnp.asarray([boundaries[0] + 1.0]) / 1000), boundaries[0], atol=1e-3)


def test_numbers_of_phases_that_cannot_be() -> None:
    with pytest.raises(SpecError, match="num_phases=0 must be at least 1"):
        snr_phases(DDPM(), 0)
    with pytest.raises(SpecError, match="num_phases=1000 is too many"):
        snr_phases(DDPM(), 1000)
