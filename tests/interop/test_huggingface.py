"""The hub's folders as one format: what is read is written back, and what a folder cannot say is refused."""

import pathlib

import jax
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.interop import huggingface, language_models
from moejax.interop.contract import Foreign, formats
from moejax.models.decoder import Decoder

RECORDED = pathlib.Path(__file__).parent / "recorded"


@pytest.mark.parametrize("family", ["mixtral", "olmoe"])
def test_what_is_read_is_written_back(family, tmp_path):
    foreign = huggingface.read(RECORDED / family)
    loaded = language_models.load(RECORDED / family)
    assert foreign.spec == loaded.model and foreign.model["name"] == "decoder"
    huggingface.write(foreign, tmp_path / "out", family=family)
    again = huggingface.read(tmp_path / "out")
    assert again.spec == foreign.spec
    jax.tree.map(np.testing.assert_array_equal, again.params, foreign.params)


def test_fields_of_the_model_can_be_changed():
    assert huggingface.read(RECORDED / "mixtral", model={"remat": "full"}).spec.remat == "full"
    with pytest.raises(SpecError, match="Did you mean 'remat'"):
        huggingface.read(RECORDED / "mixtral", model={"remt": "full"})


def test_what_does_not_go_is_said(tmp_path):
    foreign = huggingface.read(RECORDED / "mixtral")
    assert isinstance(foreign.spec, Decoder) and "huggingface" in formats()
    with pytest.raises(SpecError, match="family=mixtral | qwen_moe"):
        huggingface.write(foreign, tmp_path)
    with pytest.raises(SpecError, match="Did you mean 'mixtral'"):
        huggingface.write(foreign, tmp_path, family="mixtrl")
    with pytest.raises(SpecError, match="dtype='float16' must be"):
        huggingface.read(RECORDED / "mixtral", dtype="float16")
    vit = {
        "name": "vit",
        "image_size": 8,
        "patch_size": 4,
        "dim": 8,
        "depth": 1,
        "num_heads": 2,
        "mlp_dim": 8,
        "num_classes": 2,
    }
    with pytest.raises(SpecError, match="model.name='vit' is none"):
        huggingface.write(Foreign(model=vit, params={}, state={}), tmp_path, family="mixtral")
