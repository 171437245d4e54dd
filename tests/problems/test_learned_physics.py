"""The energy learned from a motion and the operator learned from solutions: their physics and their data."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hig_optax.problems import HamiltonianNetwork, OperatorNetwork
from hig_optax.problems._data import drawn


def dense(params, x):
    """The network, from its formula."""
    layers = jax.tree.map(np.asarray, [params["layers"][i] for i in range(len(params["layers"]))])
    for layer in layers[:-1]:
        x = np.tanh(x @ layer["kernel"] + layer["bias"])
    return x @ layers[-1]["kernel"] + layers[-1]["bias"]


def first(problem, data):
    """Fresh parameters, and the first sample of a data set with its rows and its loss, in float64."""
    with jax.enable_x64(True):
        params = problem.init(jax.random.key(0))
        sample = jax.tree.map(lambda leaf: leaf[0], problem.data(jax.random.key(1))[data])
        rows = problem.residual(params, sample)
        loss = problem.sample_loss(rows, sample)
    return params, jax.tree.map(np.asarray, sample), rows, loss


def test_pendulums_move_by_weight_and_springs():
    q, p = np.random.default_rng(0).normal(size=(2, 3))
    push = -np.sin(q) + [q[1] - q[0], q[0] - 2 * q[1] + q[2], q[1] - q[2]]
    with jax.enable_x64(True):
        motion = HamiltonianNetwork().motion(jnp.asarray(np.concatenate([q, p])))
    np.testing.assert_allclose(motion, np.concatenate([p, push]), rtol=0, atol=1e-14)


def test_rows_compare_the_derivatives_of_the_network_with_the_target():
    params, sample, rows, loss = first(HamiltonianNetwork(), data=0)
    h = 1e-5 * np.eye(6)
    slope = (dense(params, sample.state + h) - dense(params, sample.state - h))[:, 0] / 2e-5
    field = np.concatenate([slope[3:], -slope[:3]])
    # Central differences: h² = 1e-10 times a third derivative, rounding 1e-16 / h.
    np.testing.assert_allclose(rows, field - sample.target, rtol=0, atol=1e-9)
    np.testing.assert_allclose(loss, np.sum((field - sample.target) ** 2), rtol=1e-8)


def test_measurements_have_the_noise_that_is_told_and_tests_none():
    problem = HamiltonianNetwork()
    train, test = problem.data(jax.random.key(2))
    missed = train.target - jax.vmap(problem.motion)(train.state)
    # Of 2000 numbers each: their standard deviation is known to 1.6 %.
    np.testing.assert_allclose(np.std(missed, axis=0), 0.02, rtol=0.08)
    assert np.abs(np.mean(missed)) < 1e-3
    np.testing.assert_array_equal(test.target, jax.vmap(problem.motion)(test.state))
    np.testing.assert_allclose(np.std(train.state, axis=0), 1, rtol=0.08)


def test_the_equation_is_solved_by_central_differences_and_euler_steps():
    u = start = np.sin(1.0 + np.arange(64.0)) + 0.3
    for _ in range(200):
        after, before = np.roll(u, -1), np.roll(u, 1)
        u = u + 5e-4 * (0.05 * (after - 2 * u + before) * 64**2 - u * (after - before) * 64 / 2)
    with jax.enable_x64(True):
        end = np.asarray(OperatorNetwork().solve(jnp.asarray(start)))
    np.testing.assert_allclose(end, u, rtol=0, atol=1e-13)
    np.testing.assert_allclose(np.mean(end), np.mean(start), rtol=1e-12)  # which the equation keeps


def test_the_solution_is_that_of_finer_grids_and_shorter_steps_to_a_few_percent():
    with jax.enable_x64(True):
        _, test = OperatorNetwork(num_test=16).data(jax.random.key(0))
        ends = [np.asarray(test.target)]
        for finer in (2, 4):
            fine = OperatorNetwork(
                num_points=64 * finer,
                num_steps=200 * finer**2,
                dt=5e-4 / finer**2,
                num_train=1,
                num_test=16,
            )
            ends.append(np.asarray(fine.data(jax.random.key(0))[1].target)[:, ::finer])
    coarse, fine = (np.sqrt(np.mean((a - b) ** 2)) for a, b in itertools.pairwise(ends))
    assert coarse < 0.03 * np.std(ends[-1])
    np.testing.assert_allclose(coarse / fine, 4, rtol=0.2)  # second order in the distance of points


def test_starts_are_four_waves_that_weaken_with_their_number():
    train, _ = OperatorNetwork().data(jax.random.key(3))
    modes = np.fft.rfft(train.start, axis=1) / 32
    np.testing.assert_allclose(modes[:, [0, *range(5, 33)]], 0, atol=1e-6)
    parts = np.stack([modes.real, modes.imag])[:, :, 1:5] * np.arange(1, 5)
    # Of 512 functions: their standard deviation is known to 3 %.
    np.testing.assert_allclose(np.std(parts, axis=1), 1, rtol=0.15)


def test_the_answer_is_the_product_of_trunk_and_branch():
    params, sample, rows, loss = first(OperatorNetwork(), data=1)
    angle = 2 * np.pi * np.arange(64) / 64
    functions = dense(params["trunk"], np.stack([np.sin(angle), np.cos(angle)], axis=1))
    answer = functions @ dense(params["branch"], sample.start)
    np.testing.assert_allclose(rows, (answer - sample.target) / 8, rtol=0, atol=1e-13)
    np.testing.assert_allclose(loss, np.mean((answer - sample.target) ** 2), rtol=1e-12)


def test_batches_have_no_sample_twice_and_all_samples_in_the_end():
    draw = jax.jit(lambda step: drawn(jax.random.key(4), step, jnp.arange(20), 8))
    batches = np.stack([draw(step) for step in range(30)])
    assert all(len(set(batch)) == 8 for batch in batches.tolist())
    assert set(batches.ravel().tolist()) == set(range(20))
    np.testing.assert_array_equal(batches[7], draw(7))


@pytest.mark.parametrize("batch_size", [0, 21])
def test_a_batch_that_the_data_set_does_not_hold_is_refused(batch_size):
    with pytest.raises(ValueError, match=rf"from 1 to 20, all there are, got {batch_size}"):
        drawn(jax.random.key(0), 0, jnp.arange(20), batch_size)
