"""The system around pogfast: clocks, the environment, the user's directories, encodings, threads, and retries.

Small modules that know nothing of archives; everything above may use them.
"""
