"""Every exchange by every plan equals one device, in value and all gradients, whatever the mesh and the bank."""

import pathlib

import pytest

from tests.child_programs import lines_of

pytestmark = pytest.mark.slow

NARROW = {"bfloat16": 2e-2, "int8": 4e-2}  # what rounding tokens and gradients, twice each, may change


def rows_of(*arguments):
    return lines_of(pathlib.Path(__file__).with_name("on_eight_devices.py"), *arguments, seconds=1500)


def wrong(rows, limit=1e-5):
    def allowed(exchange):
        return next((narrow for wire, narrow in NARROW.items() if wire in exchange), limit)

    assert rows
    return [row for row in rows if not row[2] <= allowed(row[0]) or row[3]]


@pytest.mark.parametrize(
    ("mesh", "bank", "exchanges"),
    [
        ("data=2,expert=4", "mlp", ""),
        ("data=2,expert=2,model=2", "swiglu", "ring/constraints"),
        ("data=1,fsdp=2,expert=2,model=2", "mlp", "all_to_all"),
    ],
)
def test_eight_devices_equal_one(mesh, bank, exchanges):
    assert wrong(rows_of(mesh, bank, "", exchanges)) == []


# One bank of each kind: split widths, factors, parameters beside the kernels, another width on the way (of rank 2), no kernels.
@pytest.mark.parametrize("bank", ["low_rank", "modulated", "latent-1", "product_keys"])
def test_banks_whose_experts_and_widths_are_split(bank):
    rows = rows_of("data=1,expert=4,model=2", bank, "drops", "all_gather")
    assert wrong(rows, 1e-4) == []  # longer chains of products


def test_rows_that_travel_as_they_are():
    exchanges = "all_to_all/least_loaded/replicated"
    assert wrong(rows_of("data=2,expert=4", "mlp", "all to one expert", exchanges, "as_they_are")) == []
