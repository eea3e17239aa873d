"""Comparisons of samples: the floor beside them, one n for all, conditional accuracy, and what bad input gets."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.outputs import ModelOutput
from moejax.evals.feature_extractors import ClassifierFeatures, extract
from moejax.evals.frechet import ScoreWarning, frechet_distance, moments
from moejax.evals.generation import agreement, compare, label_distance
from moejax.evals.generation_table import table
from moejax.evals.kernel_distance import kernel_distance
from moejax.evals.neighbour_balls import neighbour_scores
from moejax.evals.reference_statistics import make_reference
from moejax.evals.sample_files import SampleFile


@dataclasses.dataclass(frozen=True)
class Brightness:
    """A classifier of 2 x 2 grey pictures: features are the pixels, the class is the brightest pixel."""

    gain: float = 1.0

    def apply(self, params, state, images, *, key=None):
        features = images.reshape(len(images), -1) * params["gain"]
        return ModelOutput(features, features, state, {}, {}, {})


def classifier(gain=1.0, **changes):
    options = {"normalise": lambda x: x.astype(np.float32) / np.float32(255), "described": "0_1", "batch_size": 16}
    options |= {"image_shape": (2, 2, 1), "num_classes": 4} | changes
    return ClassifierFeatures(Brightness(), {"gain": jnp.float32(gain)}, {}, **options)


def pictures(count, seed, *, noise=40):
    """Pictures with one bright pixel, that of their class."""
    rng = np.random.default_rng(seed)
    label = np.arange(count, dtype=np.int32) % 4
    values = rng.integers(0, 100, (count, 4)) + 120 * np.eye(4, dtype=int)[label]
    return np.clip(values + rng.integers(-noise, noise, (count, 4)), 0, 255).astype(np.uint8).reshape(
        -1, 2, 2, 1
    ), label


@pytest.fixture(scope="module")
def reference():
    return make_reference(classifier(), *pictures(200, 0), name="real")


def test_every_number_is_that_of_its_own_function(reference):
    samples, label = pictures(60, 1, noise=90)
    extractor = classifier()
    found = compare({"a": SampleFile(samples, label)}, extractor, reference, neighbours=3, seed=5)
    assert (found.count, found.reference_count, found.neighbour_count, found.feature_dim) == (60, 140, 60, 4)
    rest, held = reference.divide(60, seed=5)
    order = np.random.default_rng(5).permutation(60)
    scale = float(1 / np.sqrt(np.mean(rest.extracted.features.astype(np.float64) ** 2)))
    np.testing.assert_allclose(found.kernel_scale, scale, rtol=1e-9)
    for row, features, asked in (
        (found.rows[0], extract(extractor, samples).features[order], label[order]),
        (found.floor, held.extracted.features[order], held.label[order]),
    ):
        real = rest.extracted.features
        np.testing.assert_allclose(row.frechet, frechet_distance(moments(features), moments(real)), rtol=1e-6)
        kernel = kernel_distance(features, real, scale=scale, seed=5)
        np.testing.assert_allclose([row.kernel, row.kernel_error], [kernel.value, kernel.standard_error], rtol=1e-6)
        balls = neighbour_scores(features, real[:60], neighbours=3)
        assert (row.precision, row.recall, row.density, row.coverage) == dataclasses.astuple(balls)
        assert row.agreement.accuracy == pytest.approx(np.mean(features.argmax(1) == asked))
        assert row.label_distance < 0.2
    assert found.floor.frechet < found.rows[0].frechet
    assert found.floor.agreement.accuracy > found.rows[0].agreement.accuracy > 0.25


def test_one_n_for_all_files_and_a_floor_from_other_pictures(reference):
    files = {"few": SampleFile(*pictures(40, 1)), "many": SampleFile(*pictures(90, 2))}
    found = compare(files, classifier(), reference)
    assert [row.count for row in (*found.rows, found.floor)] == [40, 40, 40]
    # No more than half the reference is held out.
    assert compare({"many": SampleFile(*pictures(150, 2))}, classifier(), reference).count == 100
    other = make_reference(classifier(), *pictures(70, 3), name="other")
    apart = compare({"many": files["many"]}, classifier(), reference, real=other)
    assert (apart.count, apart.reference_count, apart.floor.name) == (70, 200, "real: other")


def test_bad_samples_score_worse_than_real_ones(reference):
    rng = np.random.default_rng(4)
    label = np.arange(80, dtype=np.int32) % 4
    noise = SampleFile(rng.integers(0, 256, (80, 2, 2, 1), dtype=np.uint8), label)
    collapsed = SampleFile(np.repeat(pictures(4, 5)[0], 20, axis=0), np.repeat(np.arange(4), 20).astype(np.int32))
    found = compare({"good": SampleFile(*pictures(80, 6)), "noise": noise, "one": collapsed}, classifier(), reference)
    good, noise, one = found.rows
    assert good.frechet < 3 * found.floor.frechet + 1e-3 < noise.frechet
    assert noise.agreement.accuracy < 0.5 < good.agreement.accuracy
    assert one.recall < 0.2 < good.recall and one.coverage < 0.3 < good.coverage


def test_errors_name_the_reason(reference):
    samples, label = pictures(40, 1)
    with pytest.raises(SpecError, match="weights or preprocessing differ"):
        compare({"a": SampleFile(samples, label)}, classifier(gain=2.0), reference)
    with pytest.raises(SpecError, match="classes 0 to 4; classifier knows 0 to 3"):
        compare({"a": SampleFile(samples, np.where(label == 3, 4, label))}, classifier(), reference)
    with pytest.raises(SpecError, match=r"takes pictures of \(2, 2, 1\), the samples are \(4, 1, 1\)"):
        compare({"a": SampleFile(samples.reshape(40, 4, 1, 1), label)}, classifier(), reference)
    with pytest.raises(SpecError, match="no samples"):
        compare({}, classifier(), reference)
    with pytest.raises(SpecError, match="neighbours=5"):
        compare({"a": SampleFile(samples[:5], label[:5])}, classifier(), reference)
    broken = classifier(normalise=lambda x: np.where(x > 200, np.nan, x).astype(np.float32))
    with pytest.raises(SpecError, match="NaN or infinite"):
        extract(broken, samples)


def test_few_samples_are_warned_about_and_the_warning_is_kept():
    label = np.arange(24, dtype=np.int32) % 4
    images = np.random.default_rng(0).integers(0, 256, (24, 2, 5, 1), dtype=np.uint8)
    wide = classifier(image_shape=(2, 5, 1), num_classes=10)
    reference = make_reference(wide, images, label, name="real")
    with pytest.warns(ScoreWarning, match="10 samples in 10 feature dimensions"):
        found = compare({"a": SampleFile(images[:10], label[:10])}, wide, reference)
    assert "10 samples in 10" in found.rows[0].warnings[0] and found.floor.warnings


def test_fingerprints_cover_weights_and_preprocessing():
    prints = {
        classifier(*args, **kwargs).fingerprint
        for args, kwargs in (((), {}), ((1.5,), {}), ((), {"described": "-1_1"}), ((), {"batch_size": 8}))
    }
    assert len(prints) == 4 and classifier().fingerprint in prints


def test_shares_of_classes_and_agreement_by_hand():
    assert label_distance(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])) == 0.25
    assert label_distance(np.array([0]), np.array([5])) == 1.0
    found = agreement(np.array([1, 2, 3, 3]), np.array([1, 2, 3, 0]))
    assert (found.accuracy, found.count) == (0.75, 4)
    assert found.standard_error == pytest.approx((0.75 * 0.25 / 4) ** 0.5)


def test_the_table_and_the_json_hold_all_of_it(reference):
    found = compare(
        {"a.npz": SampleFile(*pictures(50, 1)), "b.npz": SampleFile(*pictures(50, 2))}, classifier(), reference
    )
    lines = table(found)
    assert len(lines) == 5 and len({len(line) for line in lines[:4]}) == 1
    assert lines[3].startswith("real: real (held out)") and found.fingerprint[:12] in lines[-1]
    loaded = json.loads(json.dumps(found.to_dict()))
    assert loaded["rows"][1]["name"] == "b.npz" and loaded["floor"]["agreement"]["count"] == 50
    assert loaded["seed"] == 0 and len(loaded["fingerprint"]) == 64
