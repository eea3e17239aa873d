"""Every Pallas and mesh name that differs between the jax versions we support, said once."""

import jax


def abstract_device() -> tuple[str, str] | None:
    """(platform, device kind) of the mesh in use, where ahead-of-time compilation has set one that knows its chip."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    if device is None:
        return None
    return device.platform or "", device.device_kind or ""
