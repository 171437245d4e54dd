import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hig_optax.problems import DipoleSample, QuantumDipole

PROBLEM = QuantumDipole()
X = 2 / 15 * np.arange(1, 15)


def hamiltonian(u):
    beside = np.eye(14, k=1) + np.eye(14, k=-1)
    return (2 * np.eye(14) - beside) * (15 / 2) ** 2 + u * np.diag(X)


def sample(start=1, target=2):
    return DipoleSample(start=PROBLEM.eigenstate(start), target=PROBLEM.eigenstate(target))


@pytest.fixture
def field():
    """A control of the strength that training reaches, with jumps."""
    return 5 * np.random.default_rng(0).normal(size=384)


def test_eigenstates_are_normed_and_orthogonal_and_diagonalise_the_free_hamiltonian():
    with jax.enable_x64(True):
        states = np.stack([PROBLEM.eigenstate(k) for k in range(1, 15)]).real
    np.testing.assert_allclose(states @ states.T, np.eye(14), atol=1e-14)
    energies = (2 - 2 * np.cos(np.pi * np.arange(1, 15) / 15)) * (15 / 2) ** 2
    # Energies reach 224, so rounding does 224 ε.
    np.testing.assert_allclose(states @ hamiltonian(0) @ states.T, np.diag(energies), atol=1e-12)


@pytest.mark.parametrize("u", [0.0, 3.0, -20.0])
def test_under_a_constant_field_every_mode_turns_by_the_cayley_phase(u):
    energies, modes = np.linalg.eigh(hamiltonian(u))
    with jax.enable_x64(True):
        start = np.asarray(PROBLEM.eigenstate(1))
        y = PROBLEM.physics(jnp.full(384, u), sample())
    phases = ((1 - 0.025j * energies) / (1 + 0.025j * energies)) ** 384
    # 384 steps, each with a rounding of a few ε.
    np.testing.assert_allclose(y, modes @ (phases * (modes.T @ start)), atol=1e-12)


def test_each_step_solves_the_crank_nicolson_equation(field):
    with jax.enable_x64(True):
        path = np.asarray(PROBLEM.trajectory(jnp.asarray(field), sample()))
    for n in (0, 1, 200, 383):
        H = 0.025j * hamiltonian(field[n])
        left, right = (np.eye(14) + H) @ path[n + 1], (np.eye(14) - H) @ path[n]
        # The matrices have entries up to 3.
        np.testing.assert_allclose(left, right, atol=1e-14)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-13)])
def test_the_norm_is_kept_over_all_steps(field, dtype, tolerance):
    with jax.enable_x64(dtype == np.float64):
        path = PROBLEM.trajectory(jnp.asarray(field, dtype), sample())
        # A step rounds by about one ε, without a preferred sign: √384 ε, and some room.
        np.testing.assert_allclose(np.sum(np.abs(path) ** 2, axis=1), 1, atol=tolerance)


def test_the_norm_is_kept_under_a_violent_field():
    with jax.enable_x64(True):
        y = PROBLEM.physics(jnp.full(384, 1e4), sample())
        np.testing.assert_allclose(np.sum(np.abs(y) ** 2), 1, atol=1e-12)


def test_the_trajectory_leads_from_the_start_to_the_end(field):
    with jax.enable_x64(True):
        path = PROBLEM.trajectory(jnp.asarray(field), sample())
        assert path.shape == (385, 14)
        np.testing.assert_array_equal(path[0], PROBLEM.eigenstate(1))
        # The same steps, compiled twice.
        np.testing.assert_allclose(
            path[-1], PROBLEM.physics(jnp.asarray(field), sample()), atol=1e-13
        )


def test_targets_are_real_mixtures_of_the_second_and_third_eigenstate():
    train, test = PROBLEM.data(jax.random.key(0))
    basis = np.stack([PROBLEM.eigenstate(k) for k in (1, 2, 3)]).real
    for data in (train, test):
        c = np.asarray(data.target) @ basis.T
        # float32: a few roundings of numbers of order one.
        np.testing.assert_allclose(c[:, 0], 0, atol=1e-6)
        np.testing.assert_allclose(c[:, 1] ** 2 + c[:, 2] ** 2, 1, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(data.target, axis=1), 1, atol=1e-6)
        np.testing.assert_array_equal(
            data.start, np.broadcast_to(PROBLEM.eigenstate(1), data.start.shape)
        )
        # The angle is uniform: its cosine squared has mean 1/2, here with error 0.35 / √1024.
        np.testing.assert_allclose(np.mean(np.abs(c[:, 1]) ** 2), 0.5, atol=0.05)


def test_the_loss_is_a_sum_of_squares_blind_to_the_phase(field):
    with jax.enable_x64(True):
        task = sample()
        y = np.asarray(PROBLEM.physics(jnp.asarray(field), task))
        t = np.asarray(task.target)
        loss = PROBLEM.sample_loss(jnp.asarray(y), task)
        error = y - np.vdot(t, y) * t
        # Equal in exact arithmetic where both states have norm 1, which they keep to 1e-14.
        np.testing.assert_allclose(loss, np.vdot(error, error).real, rtol=1e-12)
        turned = PROBLEM.sample_loss(jnp.asarray(np.exp(0.7j) * y), task)
        np.testing.assert_allclose(turned, loss, rtol=1e-13)
        np.testing.assert_allclose(
            PROBLEM.sample_loss(jnp.exp(0.7j) * task.target, task), 0, atol=1e-15
        )
        np.testing.assert_allclose(PROBLEM.sample_loss(task.start, task), 1, atol=1e-15)
