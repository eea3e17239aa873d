"""Diffusion and flow models: processes, predictions, losses, samplers and guidance, each piece a pure function."""
