"""Samplers, one file each: how noise becomes data."""
