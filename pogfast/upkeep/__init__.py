"""Upkeep of stores: what is done to archives after they are made, and to the blobs that they need.

No file of a user's is read or written here.
"""
