"""Augmentation: which operations, on which domains. One operation is one file here; the folder is the registry.

Operations act on uint8 batches `(rng, images [B h w c]) -> images` (`apply`), or on float batches with soft targets
`(rng, images, target [B N]) -> (images, target)` (`mix`). They run by ascending `order`, whatever the config's order.
"""

from moejax.data.augment.combine import Augment, Step

__all__ = ["Augment", "Step"]
