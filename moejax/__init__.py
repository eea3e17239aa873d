"""moejax: routers, dispatch, expert banks and weights that compose, in JAX."""

__version__ = "0.1.0"
