"""Kernels of our own: C sources, compiled once per machine, and how they are called."""
