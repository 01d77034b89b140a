"""Packs: many small blobs in one object of a store.

The table at the end of a pack says what is in it; index objects repeat what the tables say, and can be thrown away.
FORMAT.md, "Packs".
"""
