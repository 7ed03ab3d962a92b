"""Ways to run a model's forward pass over tree rows; all write the same cache."""
