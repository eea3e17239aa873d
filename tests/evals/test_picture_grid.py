"""Grids put every pixel where it belongs; animations hold every step."""

import numpy as np
from PIL import Image

from moejax.evals.picture_grid import grid_figure, tile, write_animation


def test_tiles():
    pictures = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((3, 2, 2, 1), np.uint8)
    sheet = tile(pictures, columns=2)
    assert sheet.shape == (2 + 2 + 2, 2 + 2 + 2, 3)
    assert (sheet[:2, 4:] == 1).all() and (sheet[4:, :2] == 2).all()
    assert (sheet[2:4] == 255).all() and (sheet[4:, 4:] == 255).all()


def test_a_figure_has_a_row_for_every_name():
    figure = grid_figure(np.zeros((6, 2, 2, 3), np.uint8), 3, ["shirt", "bag"], title="two classes")
    assert [axis.get_ylabel() for axis in figure.axes] == ["shirt", "bag"]
    assert figure.axes[0].images[0].get_array().shape == (2, 3 * 2 + 2 * 2, 3)


def test_an_animation_ends_with_the_pictures(tmp_path):
    frames = np.linspace(0, 255, 4).astype(np.uint8)[:, None, None, None, None] * np.ones((4, 2, 3, 3, 1), np.uint8)
    write_animation(frames, tmp_path / "way.gif", columns=2, zoom=2)
    with Image.open(tmp_path / "way.gif") as image:
        assert image.n_frames == 4
        image.seek(3)
        last = np.asarray(image.convert("RGB"))
    assert last.shape == (6, 2 * (3 + 2 + 3), 3)
    assert (last[:, :6] == 255).all()
