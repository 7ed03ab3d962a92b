"""Figures: one figure, one file, drawn from the Parquet alone."""
