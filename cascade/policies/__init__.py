"""Stop policies: stop, or run the next stage? One policy, one file."""
