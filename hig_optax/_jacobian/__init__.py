"""The Jacobian of the rows: how it is differentiated, and what it is made of.

Hands on rows and a J of which solvers know no more than what can be asked of it.
"""
