"""The forward pass over tree rows: attention, layers, linears, and the executors that run them."""
