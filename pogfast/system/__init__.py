"""What is around pogfast: clocks, the environment, the user's directories, encodings, threads, and reports of retries.

Small modules that know nothing about archives; every package may use them.
"""
