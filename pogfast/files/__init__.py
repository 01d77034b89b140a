"""Files and directories of this machine: their paths, the patterns that select them, their metadata.

Nothing here deals with archives, keys or blobs.
"""
