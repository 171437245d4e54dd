import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hig_optax.experiments import methods, train
from hig_optax.experiments.budget import Budget
from hig_optax.experiments.losses import batch_loss


def train_by_hand(problem, method, settings, seed, steps):
    """What the loop should do, as a loop in Python."""
    init_key, data_key, draw_key = jax.random.split(jax.random.key(seed), 3)
    train_set, _ = problem.data(data_key)
    params = problem.init(init_key)
    optimizer = methods.get(method).optimizer(problem, settings)
    state, losses = optimizer.init(params), []

    @jax.jit
    def step(params, state, batch, progress):
        loss, grads = jax.value_and_grad(batch_loss(problem))(params, batch)
        updates, state = optimizer.update(
            grads, state, params, batch=batch, value=loss, progress=progress
        )
        return optax.apply_updates(params, updates), state, loss

    for i in range(steps):
        batch = problem.draw(draw_key, jnp.int32(i), train_set, settings["batch_size"])
        params, state, loss = step(params, state, batch, jnp.float32(i / steps))
        losses.append(float(loss))
    return params, np.array(losses)


@pytest.mark.parametrize("method", ["hig", "adam-cosine"])
def test_segments_equal_a_python_loop(swing, method):
    trainer = train.Trainer(swing, method)
    history = trainer.run(1, Budget(steps=20))
    params, losses = train_by_hand(swing, method, trainer.settings, 1, 20)
    # Both do the same operations in float32, in loops that XLA fuses differently.
    np.testing.assert_allclose(history.losses, losses, rtol=1e-3)
    chex.assert_trees_all_close(history.params, params, rtol=1e-3, atol=1e-4)


def test_a_run_tells_its_course(swing):
    seen = []
    history = train.train(
        swing, "hig", 0, steps=40, watch=lambda point, params: seen.append((point, params["in"][0]))
    )
    assert [point for point, _ in seen] == list(history.points)
    assert history.points[0].step == 0
    assert history.points[-1].step == history.steps == history.losses.size == 40
    assert history.first_call_seconds > 0
    assert (history.num_rows, history.num_params) == (16, 48)
    last = history.points[-1]
    assert last.test_loss < 0.1 * history.points[0].test_loss
    assert last.last_loss == pytest.approx(history.losses[-1])
    assert last.is_finite
    assert len(last.singular_values) == 16
    assert last.singular_values[last.rank - 1] > last.cutoff
    assert last.condition == pytest.approx(
        last.singular_values[0] / last.singular_values[last.rank - 1], rel=1e-5
    )


def test_equal_steps_are_deterministic_and_one_compilation_serves_all_seeds(swing):
    trainer = train.Trainer(swing, "adam")
    first, other, again = (trainer.run(seed, Budget(steps=30)) for seed in (0, 1, 0))
    np.testing.assert_array_equal(first.losses, again.losses)
    chex.assert_trees_all_equal(first.params, again.params)
    assert not np.array_equal(first.losses, other.losses)
    assert first.first_call_seconds == other.first_call_seconds


def test_a_run_without_anything_finite_stops(swing):
    history = train.train(swing, "sgd", 0, steps=5000, settings={"learning_rate": 1e30})
    assert history.stopped == "diverged"
    assert history.steps < 5000
    assert not history.points[-1].is_finite
