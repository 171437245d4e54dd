"""What the state of an optimizer says about a run, in sentences.

Hands on a `Diagnosis`: findings, each with its evidence, its meaning and a remedy.
"""
