"""Models: where they are, which can be decoded by trees, and loading each once."""
