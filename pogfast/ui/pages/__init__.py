"""The pages, a module for each group of them.

A function gets a request, and an action its form as well; it reads the query, calls one function of a package below,
and renders a template of its own name. What is shown is text; templates escape it.
"""
