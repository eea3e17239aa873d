"""Inception-v3 without its weights: resizing, layers, names and shapes against independent computation.

What only the weights could show, features of real pictures equal to the original's, is not tested here.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from safetensors.numpy import save_file

from moejax.core.errors import SpecError
from moejax.evals import inception
from moejax.evals.bilinear_resize import resize_bilinear
from moejax.evals.inception import InceptionFeatures, expected_shapes, fold, read_weights
from moejax.evals.inception_layout import LAYOUT, MAX, MAX_HALVE, MEAN, Branches, Unit, units


def resized_by_loops(image, rows, columns, grid):
    """Each pixel on its own, in float64."""
    old_rows, old_columns, channels = image.shape

    def place(i, old, new):
        at = i * old / new if grid == "tensorflow1" else max(0.0, (i + 0.5) * old / new - 0.5)
        low = min(int(math.floor(at)), old - 1)
        return low, min(low + 1, old - 1), at - low

    out = np.zeros((rows, columns, channels))
    for i in range(rows):
        top, bottom, down = place(i, old_rows, rows)
        for j in range(columns):
            left, right, across = place(j, old_columns, columns)
            upper = (1 - across) * image[top, left] + across * image[top, right]
            lower = (1 - across) * image[bottom, left] + across * image[bottom, right]
            out[i, j] = (1 - down) * upper + down * lower
    return out


@pytest.mark.parametrize("grid", ["tensorflow1", "half_pixel"])
@pytest.mark.parametrize(("old", "new"), [((3, 5), (7, 8)), ((9, 6), (4, 5)), ((4, 4), (4, 9)), ((1, 2), (3, 3))])
def test_resizing_equals_loops(grid, old, new):
    image = np.random.default_rng(0).integers(0, 256, (*old, 2)).astype(np.float32)
    found = resize_bilinear(jnp.asarray(image[None]), new, grid=grid)
    np.testing.assert_allclose(found[0], resized_by_loops(image.astype(np.float64), *new, grid), atol=2e-4)


def test_the_grids_by_hand():
    row = jnp.array([0.0, 4.0, 8.0]).reshape(1, 1, 3, 1)
    # 3 -> 6 pixels at i / 2: the last one repeats; at (i + 1/2) / 2 - 1/2: -1/4 (cut to 0), 1/4, 3/4 ...
    first = resize_bilinear(row, (1, 6), grid="tensorflow1")
    np.testing.assert_allclose(first.ravel(), [0, 2, 4, 6, 8, 8], atol=1e-6)
    second = resize_bilinear(row, (1, 6), grid="half_pixel")
    np.testing.assert_allclose(second.ravel(), [0, 1, 3, 5, 7, 8], atol=1e-6)
    assert resize_bilinear(row, (1, 3), grid="tensorflow1") is row
    with pytest.raises(SpecError, match="unknown"):
        resize_bilinear(row, (1, 6), grid="tensorflow")


def test_preprocessing_ends_near_minus_one_and_one():
    black, white = jnp.zeros((1, 2, 2, 3)), jnp.full((1, 2, 2, 3), 255.0)
    for name, (low, high) in {"tensorflow": (-1.0, 127 / 128), "pytorch_fid": (-1.0, 1.0)}.items():
        for image, value in ((black, low), (white, high)):
            found = inception.prepare(image, name)
            assert found.shape == (1, 299, 299, 3)
            np.testing.assert_allclose(found, value, atol=1e-6)


@pytest.mark.parametrize("unit", [
    Unit("a", 2, 3, (3, 3), stride=2, same=False), Unit("a", 2, 3, (3, 3)), Unit("a", 2, 3, (1, 7)),
    Unit("a", 2, 3, (7, 1)), Unit("a", 2, 3, (1, 1)), Unit("a", 2, 3, (5, 5)), Unit("a", 2, 3, (3, 3), same=False),
])  # fmt: skip
def test_a_unit_equals_scipys_correlation_and_an_unfolded_norm(unit, monkeypatch):
    rng = np.random.default_rng(1)
    monkeypatch.setattr(inception, "LAYOUT", (unit,))
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in expected_shapes().items()}
    tensors["a.bn.running_var"] = np.abs(tensors["a.bn.running_var"])
    image = rng.normal(size=(9, 10, 2))
    found = inception.run(fold(tensors), jnp.asarray(image[None], jnp.float32), (unit,))[0]
    for out in range(3):
        mode = "same" if unit.same else "valid"
        maps = [scipy.signal.correlate2d(image[..., i], tensors["a.conv.weight"][out, i], mode) for i in range(2)]
        sums = np.sum(maps, axis=0)[:: unit.stride, :: unit.stride]
        mean, var = tensors["a.bn.running_mean"][out], tensors["a.bn.running_var"][out]
        normed = (sums - mean) / np.sqrt(var + 1e-3) * tensors["a.bn.weight"][out] + tensors["a.bn.bias"][out]
        np.testing.assert_allclose(found[..., out], np.maximum(normed, 0), atol=3e-5)


def test_pools_by_loops():
    image = np.random.default_rng(2).normal(size=(5, 6)).astype(np.float32) - 3  # negative: zeros in the rim would show
    given = jnp.asarray(image)[None, :, :, None]

    def windows(stride, rim):
        for i in range(0, 5 if rim else 3, stride):
            for j in range(0, 6 if rim else 4, stride):
                top, left = (max(i - 1, 0), max(j - 1, 0)) if rim else (i, j)
                yield image[top : i + (2 if rim else 3), left : j + (2 if rim else 3)]

    for name, value, stride, rim in ((MEAN, np.mean, 1, True), (MAX, np.max, 1, True), (MAX_HALVE, np.max, 2, False)):
        found = inception.run({}, given, (name,))
        np.testing.assert_allclose(found.ravel(), [value(w) for w in windows(stride, rim)], rtol=1e-5, err_msg=name)


def test_branches_are_joined_in_order():
    x = jnp.arange(18.0).reshape(1, 3, 3, 2)
    found = inception.run({}, x, (Branches(((MAX,), (), (MEAN, MAX_HALVE, Branches(((),))))[:2]),))
    np.testing.assert_array_equal(found[..., 2:], x)
    assert found.shape == (1, 3, 3, 4)


def test_the_layout_is_inception_v3():
    shapes = expected_shapes()
    assert len(list(units(LAYOUT))) == 94 and len(shapes) == 5 * 94
    trained = sum(math.prod(shape) for name, shape in shapes.items() if "running" not in name)
    assert trained + 2048 * 1000 + 1000 == 23_834_568  # the published Inception-v3 without its auxiliary classifier
    assert shapes["Conv2d_1a_3x3.conv.weight"] == (32, 3, 3, 3)
    assert shapes["Mixed_5b.branch_pool.conv.weight"] == (32, 192, 1, 1)
    assert shapes["Mixed_6c.branch7x7dbl_2.conv.weight"] == (160, 160, 7, 1)
    assert shapes["Mixed_6c.branch7x7dbl_3.conv.weight"] == (160, 160, 1, 7)
    assert shapes["Mixed_7a.branch7x7x3_4.bn.running_var"] == (192,)
    assert shapes["Mixed_7c.branch3x3dbl_3b.conv.weight"] == (384, 384, 3, 1)
    params = {u.name: {"kernel": (*u.kernel, u.inputs, u.outputs), "bias": (u.outputs,)} for u in units(LAYOUT)}
    params = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s, jnp.float32), params, is_leaf=lambda s: isinstance(s, tuple)
    )
    sizes = {7: (35, 192), 10: (35, 288), 11: (17, 768), 15: (17, 768), 16: (8, 1280), 18: (8, 2048)}
    for steps, (side, channels) in sizes.items():
        shape = jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.float32)
        found = jax.eval_shape(lambda p, x, n=steps: inception.run(p, x, LAYOUT[:n]), params, shape)
        assert found.shape == (2, side, side, channels)


def random_weights():
    rng = np.random.default_rng(3)
    tensors = {}
    for name, shape in expected_shapes().items():
        width = math.prod(shape[1:]) / 2 if len(shape) == 4 else 81
        values = rng.normal(size=shape) / width**0.5
        tensors[name] = (values + 1 if name.endswith(("running_var", "bn.weight")) else values).astype(np.float32)
    return tensors


def test_files_of_weights_are_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(inception, "LAYOUT", LAYOUT[:8])  # up to the first mixed block: small files
    weights = random_weights()
    path = tmp_path / "inception.safetensors"
    with pytest.raises(SpecError, match="cannot be read as safetensors"):
        InceptionFeatures(path)
    counters = {"Mixed_5b.branch1x1.bn.num_batches_tracked": np.zeros((), np.int64)}
    save_file(weights | counters | {"fc.weight": np.zeros((1008, 8), np.float32)}, path)
    assert read_weights(path).keys() == expected_shapes().keys()
    prints = {InceptionFeatures(path, preprocessing=name).fingerprint for name in ("tensorflow", "pytorch_fid")}
    assert len(prints) == 2
    save_file(weights | {"fc.weight": np.zeros((1000, 8), np.float32)}, path)
    with pytest.raises(SpecError, match=r"classifies 1000 classes: .* not the network of the published FID"):
        read_weights(path)
    lacking = dict(weights)
    lacking["Mixed_5b.extra"] = lacking.pop("Conv2d_1a_3x3.conv.weight")
    save_file(lacking, path)
    with pytest.raises(SpecError, match=r"2 tensors differ, the first: Conv2d_1a_3x3.conv.weight: missing"):
        read_weights(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(SpecError, match="cannot be read"):
        read_weights(path)
    with pytest.raises(SpecError, match="preprocessing='tf' is unknown"):
        InceptionFeatures(path, preprocessing="tf")


@pytest.mark.slow
def test_the_whole_network_runs_on_pictures_of_any_size(tmp_path):
    path = tmp_path / "inception.safetensors"
    save_file(random_weights(), path)
    extractor = InceptionFeatures(path, batch_size=2)
    grey = np.random.default_rng(4).integers(0, 256, (2, 20, 31, 1), dtype=np.uint8)
    found = extractor(grey)
    assert found.features.shape == (2, 2048) and found.predicted is None and np.isfinite(found.features).all()
    np.testing.assert_allclose(extractor(np.repeat(grey, 3, axis=-1)).features, found.features, rtol=1e-5)
    assert np.abs(found.features[0] - found.features[1]).max() > 1e-4
