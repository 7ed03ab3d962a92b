"""The KV cache: rows by position, and what a policy evicts from it."""
