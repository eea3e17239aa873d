"""Rows beyond a device's room give zeros, in value and all gradients, and are counted."""

import pathlib

import pytest

from tests.child_programs import lines_of


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["", "as_they_are"])
def test_less_room_than_rows(rows):
    found = lines_of(pathlib.Path(__file__).with_name("bounded_rooms.py"), rows, seconds=600)
    assert len(found) == 2
    for exchange, error, told, lost, peak in found:
        assert error <= 1e-5, exchange
        assert told == pytest.approx(lost, abs=1e-6), exchange
        spills = exchange.startswith("LeastLoaded")
        assert (lost == 0) == spills  # what spills needs no more than its share
        assert peak == (1.0 if spills else 0.0)
