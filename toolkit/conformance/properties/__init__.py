"""The properties: one function each, grouped by the kind of strategy that they test."""
