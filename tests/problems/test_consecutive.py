import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hig_optax.problems._data import consecutive


@pytest.mark.parametrize(("size", "batch_size"), [(6, 2), (5, 2), (3, 7), (1, 4), (4, 4)])
def test_batches_join_into_one_endless_round_through_the_data(size, batch_size):
    batches = [consecutive(step, jnp.arange(size), batch_size) for step in range(12)]
    np.testing.assert_array_equal(np.concatenate(batches), np.arange(12 * batch_size) % size)


def test_all_leaves_are_cut_alike():
    train = {"a": jnp.arange(6), "b": jnp.arange(12.0).reshape(6, 2)}
    batch = consecutive(1, train, 4)
    np.testing.assert_array_equal(batch["a"], [4, 5, 0, 1])
    np.testing.assert_array_equal(batch["b"], train["b"][batch["a"]])


@pytest.mark.parametrize("x64", [False, True])
def test_the_step_may_be_traced(x64):
    with jax.enable_x64(x64):
        train = jnp.arange(10)
        cut = jax.jit(lambda step: consecutive(step, train, 4))
        for step in (0, 3, 7):
            np.testing.assert_array_equal(cut(jnp.int32(step)), consecutive(step, train, 4))


def test_the_count_goes_on_where_the_product_of_step_and_batch_would_overflow():
    step, size, batch_size = 2**31 - 1, 4096, 4000
    batch = consecutive(jnp.int32(step), jnp.arange(size), batch_size)
    np.testing.assert_array_equal(batch, (step * batch_size + np.arange(batch_size)) % size)


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        consecutive(0, jnp.arange(3), 0)
