"""Files of samples: what is written is read; truncated, pickled, foreign and misshapen ones give one clear error."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.evals.sample_files import SampleFile, read_samples, write_samples

PICTURES = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)


def test_they_come_back_with_their_metadata(tmp_path):
    path = tmp_path / "folder" / "samples.npz"
    write_samples(path, SampleFile(PICTURES, np.array([3, 1]), {"seed": np.array(7), "sampler": np.array("heun")}))
    found = read_samples(path)
    np.testing.assert_array_equal(found.samples, PICTURES)
    assert found.label.tolist() == [3, 1] and found.label.dtype == np.int32 and len(found) == 2
    assert int(found.metadata["seed"]) == 7 and str(found.metadata["sampler"]) == "heun"
    assert not list(path.parent.glob("*.partial"))


def test_damaged_files_give_one_clear_error(tmp_path):
    path = tmp_path / "samples.npz"
    with pytest.raises(SpecError, match="no such file of samples"):
        read_samples(path)
    write_samples(path, SampleFile(PICTURES, np.array([3, 1])))
    whole = path.read_bytes()
    for length in (0, 3, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:length])
        with pytest.raises(SpecError, match=rf"\({length} bytes\) is truncated or no npz file"):
            read_samples(path)
    changed = bytearray(whole)
    changed[len(whole) // 3] ^= 1  # one bit of a picture: the archive's own checksum finds it
    path.write_bytes(bytes(changed))
    with pytest.raises(SpecError, match="truncated or no npz"):
        read_samples(path)


def test_pickles_and_bare_arrays_are_refused(tmp_path):
    path = tmp_path / "samples.npz"
    np.savez(path, samples=PICTURES, label=np.array([1, {"a": 2}], dtype=object))
    with pytest.raises(SpecError, match="pickled objects, which are refused"):
        read_samples(path)
    path.write_bytes(b"\x80\x04]\x94.")  # a pickled empty list
    with pytest.raises(SpecError, match="pickled objects, which are refused"):
        read_samples(path)
    with path.open("wb") as file:
        np.save(file, PICTURES)
    with pytest.raises(SpecError, match="one bare array"):
        read_samples(path)
    with pytest.raises(SpecError, match="hold objects"):
        write_samples(path, SampleFile(PICTURES, np.array([3, 1]), {"note": np.array([None])}))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"samples": PICTURES}, r"lacks the arrays \['label'\]"),
        ({"samples": PICTURES / 255.0, "label": np.zeros(2, int)}, r"float64\[2, 4, 4, 3\]; it must be uint8"),
        ({"samples": PICTURES[..., :2], "label": np.zeros(2, int)}, "1 or 3"),
        ({"samples": PICTURES, "label": np.zeros(3, int)}, "one integer for each of the 2"),
        ({"samples": PICTURES, "label": np.zeros(2)}, r"float64\[2\]"),
        ({"samples": PICTURES[:0], "label": np.zeros(0, int)}, "no pictures"),
    ],
)
def test_other_arrays_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "samples.npz", **arrays)
    with pytest.raises(SpecError, match=message):
        read_samples(tmp_path / "samples.npz")
