"""The forward pass over tree rows: attention, and the executors that run the layers."""
