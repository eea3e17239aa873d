"""Train state, step, optimisers, loop, checkpoints and metrics."""
