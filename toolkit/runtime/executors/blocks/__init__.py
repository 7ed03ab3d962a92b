"""Decoder blocks, one readable description per family, for the functional executor."""
