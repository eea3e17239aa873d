"""Ways of moving tokens by a plan: one file per strategy."""
