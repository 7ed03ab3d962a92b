"""The only place that knows transformers, CUDA and kernels."""
