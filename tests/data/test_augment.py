"""Every operation: the common laws from its EXAMPLES, and numbers worked by hand."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.spec import examples
from moejax.data.augment import Augment, Step
from moejax.data.augment.affine import Affine, sample_bilinear
from moejax.data.augment.colour_jitter import ColourJitter
from moejax.data.augment.cutmix import CutMix
from moejax.data.augment.cutout import Cutout
from moejax.data.augment.flip import Flip
from moejax.data.augment.invert import Invert
from moejax.data.augment.mixup import Mixup
from moejax.data.augment.pad_crop import PadCrop
from moejax.data.augment.rand_augment import OPERATIONS, RandAugment
from moejax.data.augment.random_resized_crop import RandomResizedCrop
from moejax.data.resize import to_pil

ALL = [pytest.param(spec, id=f"{name}{i}") for i, (name, spec) in enumerate(examples("data.augment"))]


def noise(count=16, channels=3):
    return np.random.default_rng(1).integers(0, 256, (count, 12, 12, channels), dtype=np.uint8)


def run(spec, images, seed=0):
    rng = np.random.default_rng(seed)
    if hasattr(spec, "apply"):
        return spec.apply(rng, images)
    return spec.mix(rng, images.astype(np.float32), np.eye(len(images), dtype=np.float32))[0]


@pytest.mark.parametrize("spec", ALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_laws(spec, channels):
    images = noise(channels=channels)
    before = images.copy()
    once = run(spec, images)
    assert once.shape == images.shape and once.dtype == (np.uint8 if hasattr(spec, "apply") else np.float32)
    np.testing.assert_array_equal(images, before)  # the input is not written to
    np.testing.assert_array_equal(once, run(spec, images))  # a function of the generator
    assert not np.array_equal(once, images)
    if getattr(spec, "probability", 0.5) != 1.0:
        assert not np.array_equal(once, run(spec, images, seed=1))
    if hasattr(spec, "apply"):
        assert run(spec, images[:0]).shape == (0, 12, 12, channels)


def test_flip_mirrors():
    image = np.arange(3, dtype=np.uint8).reshape(1, 1, 3, 1)
    assert run(Flip(probability=1.0), image).ravel().tolist() == [2, 1, 0]
    flipped = [np.array_equal(a, b) for a, b in zip(run(Flip(), noise(400)), noise(400), strict=True)]
    assert 150 < sum(flipped) < 250


@pytest.mark.parametrize(("fill", "corner"), [("edge", 7), ("zero", 0)])
def test_pad_crop_shifts(fill, corner):
    images = np.full((50, 4, 4, 1), 7, np.uint8)
    out = run(PadCrop(pad=3, fill=fill), images)
    assert out.min() == corner and out.max() == 7
    one = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    shifts = {run(PadCrop(pad=1, fill="zero"), one, seed).tobytes() for seed in range(100)}
    assert len(shifts) == 9  # -1, 0, 1 both ways


def test_cutout_erases_one_clipped_square():
    out = run(Cutout(size=4, value=0), np.full((200, 8, 8, 1), 9, np.uint8))
    areas = (out == 0).sum((1, 2, 3))
    # centres 0..7, square from centre-2 to centre+2: lengths 2 3 4 4 4 4 4 3, so areas between 2*2 and 4*4
    assert areas.min() == 4 and areas.max() == 16
    assert abs(areas.mean() - (28 / 8) ** 2) < 0.8  # 12.25
    kept = (run(Cutout(probability=0.5), noise(200)) == noise(200)).all((1, 2, 3)).mean()
    assert 0.35 < kept < 0.65


def test_invert_and_colour_by_hand():
    image = np.array([0, 100, 255, 45], np.uint8).reshape(1, 2, 2, 1)
    assert run(Invert(probability=1.0), image).ravel().tolist() == [255, 155, 0, 210]

    class Fixed(np.random.Generator):  # contrast factor 1 + 0.5, brightness 0.1: mean 100; (x - 100) * 1.5 + 100 + 25.5
        values = iter([0.5, 0.1])

        def uniform(self, low, high, size):
            return np.full(size, next(self.values))

    # 0 -> -24.5 -> 0; 100 -> 125.5 -> 126 (even); 255 -> 358 -> 255; 45 -> 43
    assert ColourJitter().apply(Fixed(np.random.PCG64(0)), image).ravel().tolist() == [0, 126, 255, 43]


def test_bilinear_by_hand():
    image = np.array([[0, 80], [160, 240]], np.uint8).reshape(1, 2, 2, 1)

    def at(y, x):
        return sample_bilinear(image, np.array([[[y]]]), np.array([[[x]]])).item()

    assert at(0.0, 0.5) == 40 and at(0.5, 0.0) == 80
    assert at(0.25, 0.5) == 80  # 3/4 * 40 + 1/4 * 200
    assert at(-5.0, 9.0) == 80  # clipped to the top right corner


def test_affine_moves_and_keeps():
    images = noise(4)
    still = Affine(rotate=0.0, scale=0.0, shear=0.0, translate=0.0)
    np.testing.assert_array_equal(run(still, images), images)

    class Quarter(np.random.Generator):  # the first draw is the angle
        draws = iter([np.pi / 2, 0.0, 0.0, 0.0, 0.0])

        def uniform(self, low, high, size):
            return np.full(size, next(self.draws))

    turned = Affine(rotate=90.0).apply(Quarter(np.random.PCG64(0)), images[:1])
    quarter = [np.rot90(images[0], k) for k in (1, 3)]
    assert min(np.abs(turned[0].astype(int) - q).mean() for q in quarter) < 1.0


def test_mixup_weights_pictures_and_targets_alike():
    images = np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1) * np.ones((6, 2, 2, 3), np.float32)
    mixed, target = Mixup(alpha=1.0).mix(np.random.default_rng(0), images, np.eye(6, dtype=np.float32))
    assert target.dtype == np.float32
    np.testing.assert_allclose(target.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(mixed[:, 0, 0, 0], target @ np.arange(6), atol=1e-5)
    assert (target > 0).sum(1).max() == 2


def test_cutmix_targets_count_pixels():
    images = np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1) * np.ones((6, 8, 8, 3), np.float32)
    mixed, target = CutMix().mix(np.random.default_rng(0), images, np.eye(6, dtype=np.float32))
    for i in range(6):
        share = [(mixed[i, ..., 0] == n).mean() for n in range(6)]
        np.testing.assert_allclose(target[i], share, atol=1e-6)
    assert (target.max(1) < 1).any()


def test_random_resized_crop_boxes():
    spec = RandomResizedCrop(min_area=0.25, max_aspect=2.0)
    rng = np.random.default_rng(0)
    for _ in range(200):
        top, left, height, width = spec._box(rng, 40, 60)
        assert top >= 0 and top + height <= 40 and left >= 0 and left + width <= 60
        assert 0.23 * 2400 <= height * width <= 2400  # rounding of the sides
        assert 0.45 <= width / height <= 2.2
    assert spec.crop(rng, noise(1)[0], (5, 7)).shape == (5, 7, 3)
    # nothing of full area and aspect 1 fits into 10 x 1000: the centred square
    assert RandomResizedCrop(min_area=1.0, max_aspect=1.0)._box(rng, 10, 1000) == (0, 495, 10, 10)


@pytest.mark.parametrize("operation", range(len(OPERATIONS)))
def test_rand_augment_operations_keep_size_and_mode(operation):
    for channels in (1, 3):
        picture = to_pil(noise(1, channels)[0])
        for sign in (-1.0, 1.0):
            out = OPERATIONS[operation](picture, 0.9, sign)
            assert out.size == picture.size and out.mode == picture.mode


def test_order_is_the_operations_and_domains_limit_them():
    built = Augment.build({"cutout": {}, "mixup": False, "flip": True, "pad_crop": {"pad": 2}, "invert": None})
    assert [type(s.operation).__name__ for s in built.steps] == ["PadCrop", "Flip", "Cutout"]
    assert not built.mixes and not built.by_domain
    only = Augment(steps=(Step(Invert(probability=1.0), ("b",)),))
    out = only.images(np.random.default_rng(0), np.zeros((4, 2, 2, 1), np.uint8), np.array([0, 1, 1, 0]), ("a", "b"))
    assert out[:, 0, 0, 0].tolist() == [0, 255, 255, 0]


def test_of_two_mixing_operations_each_batch_draws_one():
    both = Augment.build({"mixup": {}, "cutmix": {}})
    images = noise(8).astype(np.float32)
    results = [both.mix(np.random.default_rng(s), images, np.eye(8, dtype=np.float32))[0] for s in range(12)]
    whole = [np.isin(np.unique(r), np.arange(256)).all() for r in results]  # cutmix makes no new values
    assert any(whole) and not all(whole)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Flip(probability=1.5),
        lambda: PadCrop(pad=-1),
        lambda: Cutout(size=0),
        lambda: Mixup(alpha=0.0),
        lambda: CutMix(alpha=-1.0),
        lambda: Affine(scale=1.0),
        lambda: ColourJitter(brightness=2.0),
        lambda: Invert(probability=-0.1),
        lambda: RandomResizedCrop(min_area=0.0),
        lambda: RandAugment(magnitude=11.0),
    ],
)
def test_bad_fields_are_refused(make):
    with pytest.raises(SpecError):
        make()
