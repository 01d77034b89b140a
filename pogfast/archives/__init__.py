"""Reading archives: opened, listed, searched, compared and counted.

Nothing here changes an archive or a store, and nothing is restored.
"""
