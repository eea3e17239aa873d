"""Reference statistics: written and read, taken from the cache, and every damage or mismatch noticed."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.evals.feature_extractors import Extracted
from moejax.evals.frechet import moments
from moejax.evals.npz_files import write_arrays
from moejax.evals.reference_statistics import cached_reference, make_reference, read_reference, write_reference

PICTURES = np.random.default_rng(0).integers(0, 256, (20, 2, 2, 1), dtype=np.uint8)
LABEL = np.arange(20, dtype=np.int32) % 4


class Pixels:
    """An extractor whose features are the pixels; counts its calls."""

    name, num_classes, unit_features, batch_size = "pixels", 4, True, 6

    def __init__(self, fingerprint="a" * 64):
        self.fingerprint, self.calls = fingerprint, 0

    def __call__(self, images):
        self.calls += 1
        flat = images.reshape(len(images), -1)
        return Extracted(flat.astype(np.float32), (flat[:, 0] % 4).astype(np.int32))


def test_the_last_batch_is_filled_and_cut(tmp_path):
    pixels = Pixels()
    found = make_reference(pixels, PICTURES, LABEL, name="twenty")
    assert pixels.calls == 4
    np.testing.assert_array_equal(found.extracted.features, PICTURES.reshape(20, 4))
    np.testing.assert_array_equal(found.extracted.predicted, PICTURES[:, 0, 0, 0] % 4)


def test_the_cache_is_used_for_the_same_pictures_and_extractor_only(tmp_path):
    pixels = Pixels()
    first = cached_reference(pixels, PICTURES, LABEL, name="set/test", folder=tmp_path)
    calls = pixels.calls
    again = cached_reference(pixels, PICTURES, LABEL, name="set/test", folder=tmp_path)
    assert pixels.calls == calls
    np.testing.assert_array_equal(again.extracted.features, first.extracted.features)
    np.testing.assert_array_equal(again.moments.covariance, moments(first.extracted.features).covariance)
    assert (again.name, again.pictures, len(again)) == ("set/test", first.pictures, 20)
    cached_reference(pixels, PICTURES[::-1], LABEL, name="set/test", folder=tmp_path)
    assert pixels.calls == 2 * calls
    cached_reference(pixels, PICTURES, LABEL[::-1], name="set/test", folder=tmp_path)
    other = Pixels("b" * 64)
    cached_reference(other, PICTURES, LABEL, name="set/test", folder=tmp_path)
    assert other.calls == calls and len(list(tmp_path.iterdir())) == 4


def test_features_of_another_extractor_are_refused():
    found = make_reference(Pixels(), PICTURES, LABEL, name="twenty")
    found.check(Pixels())
    with pytest.raises(SpecError, match=r"'twenty' was made with an extractor aaaaaaaaaaaa, .* pixels bbbbbbbbbbbb"):
        found.check(Pixels("b" * 64))


def test_a_damaged_cache_is_detected(tmp_path):
    path = tmp_path / "reference.npz"
    reference = make_reference(Pixels(), PICTURES, LABEL, name="twenty")
    write_reference(path, reference)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SpecError, match=r"truncated or no npz file of reference statistics.*Delete it"):
        read_reference(path)
    path.write_bytes(whole)
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    # A well-formed archive whose contents are others: only the checksum knows.
    write_arrays(path, {**arrays, "mean": arrays["mean"] + 1.0})
    with pytest.raises(SpecError, match="is damaged"):
        read_reference(path)
    write_arrays(path, {**arrays, "format": np.array("version 0")})
    with pytest.raises(SpecError, match="'version 0', not 'moejax reference"):
        read_reference(path)
    write_arrays(path, {name: array for name, array in arrays.items() if name != "label"})
    with pytest.raises(SpecError, match=r"lacks the arrays \['label'\]"):
        read_reference(path)


def test_dividing_gives_every_picture_once():
    reference = make_reference(Pixels(), PICTURES, LABEL, name="twenty")
    rest, held = reference.divide(5, seed=3)
    assert (len(rest), len(held), held.name) == (15, 5, "twenty (held out)")
    joined = np.concatenate([rest.extracted.features, held.extracted.features])
    assert sorted(map(tuple, joined)) == sorted(map(tuple, reference.extracted.features))
    lookup = {tuple(f): label for f, label in zip(reference.extracted.features, LABEL, strict=True)}
    assert all(lookup[tuple(f)] == label for f, label in zip(held.extracted.features, held.label, strict=True))
    assert rest.moments.count == 15
    with pytest.raises(SpecError, match="20 of the 20"):
        reference.divide(20, seed=0)
