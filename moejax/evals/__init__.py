"""Measures, routing statistics, figures and the report."""
