"""Maintenance of stores: check, copy, prune, remove, rewrite, lock and doctor.

No file of the user's is read or written here.
"""
