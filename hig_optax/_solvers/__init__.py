"""From a Jacobian and a gradient to a direction: singular values, the formula f(σ), and the way back.

Hands on a `Direction`. No solver knows what a Jacobian is made of.
"""
