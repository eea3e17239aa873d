"""Ways of experts that live on other devices: one file per method."""
