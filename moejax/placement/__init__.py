"""Which device computes which expert: spilled from call to call, copied by measured load, or moved to where its tokens are."""
