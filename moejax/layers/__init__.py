"""Layers: frozen specs with pure `init` and `apply`."""
