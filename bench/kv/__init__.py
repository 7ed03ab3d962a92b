"""What a KV policy costs in quality: perplexity and agreement, beside memory and speed."""
