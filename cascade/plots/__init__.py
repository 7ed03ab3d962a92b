"""Figures of the report: one figure, one file, drawn from a `Study`."""
