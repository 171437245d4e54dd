"""The devices that share a batch: where an update is called, and what they tell each other.

Hands on a `Devices`, or None where there is nobody to share with.
"""
