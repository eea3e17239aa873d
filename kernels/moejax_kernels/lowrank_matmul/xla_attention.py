"""Attention from rank space with XLA operations."""
