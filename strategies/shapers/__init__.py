"""Which nodes to grow, which to send to verification, when to stop?"""
