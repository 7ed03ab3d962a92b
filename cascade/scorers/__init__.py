"""Scorers: how good is an answer? One scorer, one file."""
