"""Measuring: data sets, arms, a paired runner, statistics, figures and the report."""
