"""This machine: its CPU and memory, the user's cache folder (disk), and remembered results."""
