"""Measuring: data sets, arms, statistics, report. Filled by the bench; nothing here yet."""
