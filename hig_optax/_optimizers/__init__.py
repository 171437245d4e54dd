"""The Optax transformations, and what their states report."""
