"""Input sources, preprocessing and checkpointable iterators."""
