"""What a step costs, on one device or many, and so which way it goes.

Hands on settings without "auto" in them, and a `Plan` for people.
"""
