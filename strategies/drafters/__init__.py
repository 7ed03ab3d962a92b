"""What may come next after these tree nodes, and how likely?"""
