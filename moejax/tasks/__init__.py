"""What is optimised: `init`, `loss`, `evaluate` as pure functions."""
