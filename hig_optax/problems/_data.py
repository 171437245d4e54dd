"""How fixed training sets become mini-batches."""

from typing import TypeVar

import jax
import jax.numpy as jnp

Tree = TypeVar("Tree")


def consecutive(step: jax.Array | int, train: Tree, batch_size: int) -> Tree:
    """Cut the mini-batch of one step from a data set: consecutive samples, never shuffled.

    Batch 0 starts at sample 0, every batch begins where the one before ended, and past the last
    sample the count goes on at the first. The data were drawn at random once; cutting them in
    order makes every run with the same data see the same batches.

    Args:
        step: Number of the step, from 0; may be traced.
        train: Tree of arrays with one leading sample axis of common length.
        batch_size: Number of samples, at least 1; static. It may exceed the data set.

    Returns:
        The same tree with leading axes of length ``batch_size``.

    Raises:
        ValueError: ``batch_size`` is below 1.

    Example:
        >>> consecutive(2, jnp.arange(5), 2)
        Array([4, 0], dtype=int32)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    size = jax.tree.leaves(train)[0].shape[0]
    # Batches recur after `size` steps. Reducing the step first keeps the product small: an int32
    # product of step and batch size would overflow within a long run.
    step = jnp.asarray(step)
    start = (step % size) * (batch_size % size) % size
    indices = (start + jnp.arange(batch_size, dtype=step.dtype)) % size
    return jax.tree.map(lambda leaf: leaf[indices], train)


def drawn(key: jax.Array, step: jax.Array | int, train: Tree, batch_size: int) -> Tree:
    """Draw the mini-batch of one step from a data set: samples at random, none of them twice.

    Args:
        key: Random key of the run.
        step: Number of the step; may be traced.
        train: Tree of arrays with one leading sample axis of common length.
        batch_size: Number of samples, at most the data set's; static.

    Returns:
        The same tree with leading axes of length ``batch_size``, the same one for the same key and step.

    Raises:
        ValueError: ``batch_size`` is below 1 or larger than the data set.

    Example:
        >>> sorted(drawn(jax.random.key(0), 3, jnp.arange(5), 5).tolist())
        [0, 1, 2, 3, 4]
    """
    size = jax.tree.leaves(train)[0].shape[0]
    if not 1 <= batch_size <= size:
        raise ValueError(f"batch_size must be from 1 to {size}, all there are, got {batch_size}.")
    # The places of the largest of random numbers: a tenth of the time that a permutation of 2000 takes.
    chance = jax.random.uniform(jax.random.fold_in(key, step), (size,))
    _, indices = jax.lax.top_k(chance, batch_size)
    return jax.tree.map(lambda leaf: leaf[indices], train)
