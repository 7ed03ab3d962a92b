"""Which path is committed, and which token follows it?"""
