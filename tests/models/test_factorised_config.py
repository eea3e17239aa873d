"""The sizes in configs/vit/factorised.py hold what the config says of them."""

import functools
import importlib.util
import pathlib

import jax
import pytest

from moejax.core.spec import build_method
from moejax.evals.summary import summarise

PATH = pathlib.Path(__file__).resolve().parents[2] / "configs" / "vit" / "factorised.py"


@functools.cache
def config_module():
    spec = importlib.util.spec_from_file_location("factorised", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def costs(bank, match):
    """Parameters of a bank, and FLOPs that the tokens of a picture take in it: of the last block, the rest left out."""
    config = config_module().get_config(f"bank={bank},match={match}").to_dict()
    model = build_method("models", config["model"])
    part = next(p for p in summarise(model, batch_size=64).parts if p.name == "block_03")
    # Attention: four projections with biases, two norms; 16 tokens of a picture, their scores and values. And the router.
    chosen = 0 if bank == "product_keys" else model.moe.router.num_experts
    rest = 4 * 96 * 96 + 4 * 96 + 4 * 96 + 96 * chosen
    return part.params - rest, part.flops_per_example - 16 * (4 * 2 * 96 * 96 + 2 * 96 * chosen) - 2 * 2 * 16 * 16 * 96


def test_the_dense_bank_is_as_worked_out():
    # 16 experts of 2 * 96 * 96 + 96 + 96; 16 tokens through two experts of 4 * 96 * 96.
    assert costs("dense", "params") == (16 * (2 * 9216 + 192), 16 * 2 * 4 * 9216)


@pytest.mark.parametrize("match", ["params", "flops"])
@pytest.mark.parametrize("bank", list(config_module().BANKS))
def test_sizes_match_the_dense_bank(bank, match):
    wanted, found = costs("dense", match), costs(bank, match)
    which = [match] if "both" not in config_module().BANKS[bank] else ["params", "flops"]
    for name in which:
        place = ("params", "flops").index(name)
        assert abs(found[place] / wanted[place] - 1) < 0.02, (name, found, wanted)


@pytest.mark.parametrize("bank", list(config_module().BANKS))
def test_names_tell_sizes_apart(bank):
    names = {config_module().get_config(f"bank={bank},match={match}").name for match in ("params", "flops")}
    assert len(names) == (1 if "both" in config_module().BANKS[bank] else 2)


@pytest.mark.parametrize("bank", list(config_module().BANKS))
def test_small_variants_have_something_that_decays(bank):
    import re

    from moejax.core.tree import leaf_names

    config = config_module().get_config(f"bank={bank},smoke").to_dict()
    model = build_method("models", config["model"])
    names = leaf_names(jax.eval_shape(model.init, jax.random.key(0))[0])
    ((pattern, _),) = config["optimizer"]["weight_decay_rules"]
    decayed = [name for name in names if "/experts/" in name and re.search(pattern, name)]
    assert decayed
    assert not any("bias" in name or "gamma" in name for name in decayed)
