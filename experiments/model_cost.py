"""What the model of a config costs, from shapes alone."""

from typing import Any

import jax

from moejax.core.spec import build_method, build_spec
from moejax.evals.summary import Summary, summarise
from moejax.train.optimizers import Optimizer


def summary(config: dict[str, Any], batch_size: int | None = None) -> Summary:
    """The summary of `config` (plain nested dicts). Raises SpecError for a config that cannot be built."""
    model = build_method("models", config["model"], path="config.model")
    params, _ = jax.eval_shape(model.init, jax.eval_shape(jax.random.key, 0))
    optimizer = build_spec(Optimizer, config["optimizer"], path="config.optimizer")
    transformation = optimizer.build(params, config["train"]["steps"])
    return summarise(
        model,
        batch_size=batch_size or config["data"]["batch_size"],
        length=config["data"].get("sequence_length"),
        optimizer_state=jax.eval_shape(transformation.init, params),
    )
