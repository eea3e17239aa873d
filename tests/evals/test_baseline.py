"""The baseline's pooling by hand, its recorded figures, and the contact sheet."""

import numpy as np
import pytest

from moejax.data import build
from moejax.data.dataset import ArraySplit, Dataset, Opened
from moejax.data.pipeline import Pipeline
from moejax.evals.baseline import PATCHWORK, logistic_regression, pooled_pixels
from moejax.evals.contact_sheet import contact_sheet


def striped(count):
    """Two domains: the first is told by the left half's brightness, the second's classes look alike."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 4
    images = rng.integers(0, 40, (count, 8, 8, 3), dtype=np.uint8)
    images[labels == 1, :, :4] += 200
    images[labels >= 2, :, 4:] += 200
    return ArraySplit(images, labels.astype(np.int32))


@pytest.fixture(scope="module")
def stripes():
    splits = {"train": striped(80), "test": striped(40)}
    opened = Opened(
        class_names=("dark", "bright", "twin a", "twin b"),
        domain_names=("told", "twins"),
        class_domains=(0, 0, 1, 1),
        splits=splits,
    )
    return Dataset("stripes", opened, Pipeline(batch_size=8))


def test_pooling_by_hand():
    # 2x2 cells of a 5x5 picture: one row and column are cut off, cells are 2x2: means of 0 51 102 153 quarters
    image = np.zeros((1, 5, 5, 1), np.uint8)
    image[0, :2, :2, 0] = [[51, 51], [102, 0]]  # mean 51
    image[0, 2:4, 2:4, 0] = 255
    np.testing.assert_allclose(pooled_pixels(image, 2), [[0.2, 0, 0, 1.0]])


def test_accuracy_per_domain(stripes):
    accuracy = logistic_regression(stripes, side=2)
    assert set(accuracy) == {"all", "told", "twins"}
    assert accuracy["told"] == 1.0 and accuracy["twins"] < 1.0
    assert accuracy["all"] == pytest.approx((accuracy["told"] + accuracy["twins"]) / 2)


@pytest.mark.slow
def test_recorded_figures_of_patchwork():
    measured = logistic_regression(build("patchwork"))
    assert measured == pytest.approx(PATCHWORK, abs=0.004)


def test_contact_sheet_has_a_row_per_class(stripes, tmp_path):
    figure = contact_sheet(stripes, columns=5)
    assert [axis.get_ylabel() for axis in figure.axes] == ["dark", "bright", "twin a", "twin b"]
    assert len(contact_sheet(stripes, domain="twins").axes) == 2
    row = np.asarray(figure.axes[1].images[0].get_array())
    assert row.shape == (8, 5 * 10 - 2, 3) and row[:, 8:10].min() == 255
    assert row[:, :4].min() >= 200 and row[:, 4:8].max() < 40
    figure.savefig(tmp_path / "sheet.png")
