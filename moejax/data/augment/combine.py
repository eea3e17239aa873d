"""The chosen operations in their order. Config: `{'flip': {}, 'pad_crop': {'pad': 4}, 'mixup': None, ...}`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moejax.core.errors import SpecError, did_you_mean
from moejax.core.spec import build_spec, methods

ROOM = "data.augment"


@dataclasses.dataclass(frozen=True)
class Step:
    """One operation; `domains` limits it to the pictures of these domains (None: all)."""

    operation: Any
    domains: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """steps: operations by ascending `order`. Of several mixing operations each batch draws one."""

    steps: tuple[Step, ...] = ()

    @classmethod
    def build(cls, config: Mapping[str, Any] | None, *, path: str = "data.augment") -> "Augment":
        """From `{operation: fields}`; every operation also takes `domains`. None or False leaves one out."""
        known = methods(ROOM)
        steps = []
        for name, value in dict(config or {}).items():
            if name not in known:
                raise SpecError(f"{path}.{name} is no operation of moejax/data/augment.{did_you_mean(name, known)}")
            if value is None or value is False:
                continue
            fields = {} if value is True else dict(value)
            domains = fields.pop("domains", None)
            operation = build_spec(known[name], fields, path=f"{path}.{name}")
            if domains is not None and hasattr(operation, "mix"):
                raise SpecError(f"{path}.{name}.domains: mixing works on whole batches and takes no domains.")
            steps.append(Step(operation, None if domains is None else tuple(domains)))
        return cls(steps=tuple(sorted(steps, key=lambda step: step.operation.order)))

    @property
    def by_domain(self) -> bool:
        """Does any operation need to know the domains of the pictures?"""
        return any(step.domains is not None for step in self.steps)

    @property
    def mixes(self) -> bool:
        """Are targets soft?"""
        return bool(self._mixing)

    @property
    def crop(self) -> Any:
        """The operation that cuts a picture of any size to the batch's size, or None."""
        return next((s.operation for s in self.steps if hasattr(s.operation, "crop")), None)

    def check(self, info: Any) -> None:
        """SpecError when a step names a domain that the data set has not, or does not fit its picture size."""
        for step in self.steps:
            for domain in step.domains or ():
                if domain not in info.domain_names:
                    raise SpecError(
                        f"data.augment: {info.name} has no domain {domain!r}.{did_you_mean(domain, info.domain_names)}"
                    )
            if hasattr(step.operation, "check"):
                step.operation.check(info.image_shape)

    def images(
        self,
        rng: np.random.Generator,
        images: np.ndarray,
        domains: np.ndarray | None,
        domain_names: Sequence[str],
        *,
        cropped: bool = False,
    ) -> np.ndarray:
        """The uint8 operations on a batch [B h w c]; `domains` [B] holds each picture's domain index.

        `cropped`: leave out the crop, it is done already.
        """
        for step in self.steps:
            if hasattr(step.operation, "mix") or (cropped and hasattr(step.operation, "crop")):
                continue
            if step.domains is None or domains is None:
                images = step.operation.apply(rng, images)
                continue
            chosen = np.isin(domains, [domain_names.index(name) for name in step.domains])
            images = images.copy()
            images[chosen] = step.operation.apply(rng, images[chosen])
        return images

    def mix(self, rng: np.random.Generator, images: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One of the mixing operations, drawn for this batch, on float32 pictures and targets."""
        if not self._mixing:
            return images, target
        return self._mixing[int(rng.integers(len(self._mixing)))].mix(rng, images, target)

    @property
    def _mixing(self) -> list[Any]:
        return [step.operation for step in self.steps if hasattr(step.operation, "mix")]
