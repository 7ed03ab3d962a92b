"""KV policies: what they cost in quality, and what they save over context length."""
