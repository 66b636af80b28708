"""What DVC starts: paths in, paths out.

A stage checks the parameters, opens the run, and calls one function.
"""
