"""Cascades: answer with a small model where that is good enough, with a larger one otherwise."""
