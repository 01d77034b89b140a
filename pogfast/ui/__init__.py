"""`pogfast ui`: archives in a browser, served by this process to its own user.

server.py listens and ends; guard.py is the middleware that every request passes; sessions.py holds what a signed-in
browser has given: keys and ticks. site.py has what all pages share: stores, jobs, allowed directories and templates.
pages/ has a module for each group of pages, which calls the functions that the command line calls. Nothing here parses
output of a command, and no page works with data of a store that has not been authenticated below.
"""
