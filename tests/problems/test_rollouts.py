"""The two rollout problems with many rows to a sample: their solvers and their data."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from hig_optax.problems import FrontSample, KSControl, NeuralODE
from hig_optax.problems.neural_ode import _nerve

PUSHES = np.sin(1.0 + np.arange(8.0))


def front(problem):
    """The start, as target too."""
    start = problem._samples(jax.random.key(0), 1).start[0]
    return FrontSample(start, start)


def test_steps_of_the_front_are_fourth_order_accurate():
    with jax.enable_x64(True):
        ends = []
        for k in (16, 32, 64, 128):
            problem = KSControl(num_points=32, num_steps=8 * k, dt=0.25 / k)
            ends.append(problem.physics(0.2 * jnp.asarray(PUSHES), front(problem)))
        step, finer = (KSControl(num_steps=20 * k, dt=0.25 / k) for k in (1, 4))
        usual = [p.physics(0.2 * jnp.asarray(PUSHES), front(p)) for p in (step, finer)]
    changes = np.linalg.norm(np.diff(ends, axis=0), axis=1)
    # Halving divides the error by 16 once the fastest decay of a mode, k⁴ = 97 on 32 points, is resolved;
    # with longer steps the order is between 3 and 4.
    np.testing.assert_allclose(changes[:-1] / changes[1:], 16, rtol=0.15)
    assert changes[-1] < 1e-8
    np.testing.assert_allclose(usual[0], usual[1], atol=3e-4)  # of values up to 3


def test_the_front_is_resolved_by_its_points():
    with jax.enable_x64(True):
        coarse, fine = KSControl(), KSControl(num_points=256)
        start = front(fine).start
        push = jnp.asarray(PUSHES)
        end = fine.physics(push, FrontSample(start, start))
        half = coarse.physics(push, FrontSample(start[::2], start[::2]))
    np.testing.assert_allclose(half, end[::2], atol=1e-8)


def test_a_faint_wave_grows_at_its_rate_and_the_mean_with_the_push():
    with jax.enable_x64(True):
        problem = KSControl()
        x = problem.length * np.arange(problem.num_points) / problem.num_points
        for number in (2, 6):
            k = 2 * np.pi / problem.length * number
            wave = jnp.asarray(1e-6 * np.cos(k * x))
            end = problem.physics(jnp.zeros(8), FrontSample(wave, wave))
            # What is not linear is of the order of the square.
            np.testing.assert_allclose(end, np.exp(5 * (k**2 - k**4)) * wave, atol=1e-11)
        start = front(problem)
        end = problem.physics(jnp.ones(8), start)
        # y y_x and the derivatives have mean 0: all that moves the mean is the force. Eight bumps of
        # standard deviation 2 on a ring of 32, over 5 time units.
        expected = 5 * 8 * 2 * np.sqrt(2 * np.pi) / 32
        np.testing.assert_allclose(jnp.mean(end), expected, rtol=1e-3)


def test_the_path_of_the_front_ends_where_the_physics_does():
    problem = KSControl(num_steps=4)
    sample, push = front(problem), jnp.asarray(PUSHES, jnp.float32)
    path = problem.trajectory(push, sample)
    assert path.shape == (5, 128)
    np.testing.assert_array_equal(path[0], sample.start)
    np.testing.assert_allclose(path[-1], problem.physics(push, sample), atol=1e-5)


def test_targets_of_the_front_are_reached_by_strengths_within_bounds_and_not_left_alone():
    problem = KSControl()
    key = jax.random.key(3)
    samples, strengths = problem._samples(key, 4), problem._strengths(key, 4)
    assert np.abs(strengths).max() < problem.strength
    rows = jax.vmap(problem.physics)(strengths, samples) - samples.target
    np.testing.assert_allclose(rows, 0, atol=1e-5)
    left_alone = jax.vmap(lambda sample: problem.physics(jnp.zeros(8), sample))(samples)
    assert np.std(left_alone - samples.target) > 0.01
    x = np.arange(128) * 2 * np.pi / 128
    np.testing.assert_allclose(samples.start[2], np.cos(x) * (1 + np.sin(x)), atol=1e-6)


def test_the_network_reads_the_target_of_the_front_and_speaks_in_units_of_the_largest_strength():
    problem = KSControl()
    sample = front(problem)
    params = problem.init(jax.random.key(1))
    said = problem.control(params, sample)
    assert said.shape == (8,)
    twice = dataclasses.replace(problem, strength=2 * problem.strength)
    np.testing.assert_allclose(twice.control(params, sample), 2 * said, rtol=1e-6)
    other = sample._replace(target=2 * sample.target)
    assert np.abs(problem.control(params, other) - said).max() > 1e-3 * np.abs(said).max()
    blind = sample._replace(start=2 * sample.start)
    np.testing.assert_array_equal(problem.control(params, blind), said)


def test_steps_along_a_trajectory_are_fourth_order_accurate():
    start = np.array([-1.5, 0.3])
    with jax.enable_x64(True):
        problem = NeuralODE()
        paths = [problem.path(_nerve, jnp.asarray(start), substeps=n) for n in (1, 2, 4, 8)]
    changes = np.linalg.norm(np.diff(paths, axis=0).reshape(3, -1), axis=1)
    np.testing.assert_allclose(changes[:-1] / changes[1:], 16, rtol=0.3)


def test_a_linear_slope_is_solved():
    with jax.enable_x64(True):
        problem = NeuralODE(num_times=4)
        A = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
        path = problem.path(lambda s: A @ s, jnp.array([1.0, 0.0]), substeps=16)
        t = 0.25 * np.arange(1, 5)
        np.testing.assert_allclose(path, np.stack([np.cos(t), -np.sin(t)], axis=1), atol=1e-8)


def test_targets_are_paths_of_the_equations_up_to_the_order_of_the_steps():
    problem = NeuralODE(num_train=8, num_test=2)
    train, _ = problem.data(jax.random.key(0))
    coarse = jax.vmap(lambda s: problem.path(_nerve, s))(train.start)
    missed = np.sqrt(np.mean((coarse - train.target) ** 2))
    # What a network that knew the equations would be left with: far below what training reaches.
    assert 1e-7 < missed < 1e-3
    assert train.target.shape == (8, 80, 2)
