"""Models built of layers, and the published sizes as data."""
