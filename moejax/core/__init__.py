"""Vocabulary that every other room shares: axes, plans, layouts, contracts, specs, named trees, segments."""
