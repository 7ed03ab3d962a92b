"""Decoder layers, one readable description per family, for the functional executor."""
