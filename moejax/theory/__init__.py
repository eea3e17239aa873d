"""The laboratory of estimation rates: models, estimators, losses and studies, in float64 on the host and in jax."""
