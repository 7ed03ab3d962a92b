"""This machine: its CPU, its memory, and what is kept on disk about it."""
