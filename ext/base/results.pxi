# What an int means that a function of the engine returns. There are two kinds: a member of an enum, which its declaration
# names, and an errno.

ctypedef int Errno              # 0 when nothing went wrong
