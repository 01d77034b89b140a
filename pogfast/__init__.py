"""pogfast: file encryption and backup at the speed of the machine, in the format of pog.

Importing the package imports nothing else: a command must be able to answer --help at once.
"""

__version__ = "0.1.0"
