"""Meshes, logical-axis rules and partition specs for trees."""
