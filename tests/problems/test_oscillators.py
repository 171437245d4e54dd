import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from hig_optax.problems import LinearOscillators, NonlinearOscillators, OscillatorSample

START = np.array([0.9, 0.1, -0.4, 0.6])
CONTROL = np.sin(np.arange(24.0))
both = pytest.mark.parametrize("kind", [LinearOscillators, NonlinearOscillators])


def sample(start, target=None):
    start = jnp.asarray(start)
    return OscillatorSample(start=start, target=start if target is None else jnp.asarray(target))


def end(kind, refinement, control=CONTROL):
    """The end state over 24 control intervals of 0.5, each cut into `refinement` time steps."""
    problem = kind(num_steps=24 * refinement, dt=0.5 / refinement)
    return np.asarray(problem.physics(jnp.repeat(jnp.asarray(control), refinement), sample(START)))


def exact_linear_end(coupling=0.2):
    """The linear system solved exactly, from one constant control to the next."""
    system = np.zeros((5, 5))  # (x1, x2, v1, v2, u), with u' = 0
    system[0, 2] = system[1, 3] = system[3, 4] = 1
    system[2, :2] = -1 - coupling, coupling
    system[3, :2] = coupling, -1 - coupling
    flow = expm(0.5 * system)
    state = START
    for u in CONTROL:
        state = (flow @ [*state, u])[:4]
    return state


def test_linear_steps_are_fourth_order_accurate():
    with jax.enable_x64(True):
        errors = [np.linalg.norm(end(LinearOscillators, k) - exact_linear_end()) for k in (2, 4, 8)]
    # Halving a fourth-order step divides the error by 16, up to terms of the next order in dt.
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 16, rtol=0.15)
    assert errors[-1] < 1e-5


def test_nonlinear_steps_are_fourth_order_accurate():
    with jax.enable_x64(True):
        ends = [end(NonlinearOscillators, k) for k in (8, 16, 32, 64)]
    changes = np.linalg.norm(np.diff(ends, axis=0), axis=1)
    # Differences of successive refinements shrink like the error itself. The cubic force makes the
    # next order matter more than in the linear system.
    np.testing.assert_allclose(changes[:-1] / changes[1:], 16, rtol=0.2)


def energy_linear(path):
    x1, x2, v1, v2 = path.T
    return (v1**2 + v2**2 + x1**2 + x2**2 + 0.2 * (x1 - x2) ** 2) / 2


def energy_nonlinear(path):
    x1, x2, v1, v2 = path.T
    return (v1**2 + v2**2 + x1**2 + x2**2) / 2 + (x1 - x2) ** 4 / 4


@pytest.mark.parametrize(
    ("kind", "energy"),
    [(LinearOscillators, energy_linear), (NonlinearOscillators, energy_nonlinear)],
)
def test_without_control_energy_is_conserved_to_the_order_of_the_steps(kind, energy):
    drifts = []
    with jax.enable_x64(True):
        for k in (4, 8):
            problem = kind(num_steps=24 * k, dt=0.5 / k)
            path = np.asarray(problem.trajectory(jnp.zeros(24 * k), sample(START)))
            energies = energy(path)
            drifts.append(np.abs(energies / energies[0] - 1).max())
    assert drifts[1] < 1e-4
    # At least fourth order; for a linear oscillator RK4's amplification is 1 - (ω dt)⁶/144 a step,
    # hence a drift of fifth order over a fixed time.
    assert drifts[0] / drifts[1] > 14
    if kind is LinearOscillators:
        np.testing.assert_allclose(drifts[0] / drifts[1], 32, rtol=0.05)


@both
def test_the_trajectory_leads_from_the_start_to_the_end(kind):
    problem = kind()
    control = 0.1 * jnp.arange(problem.num_steps, dtype=jnp.float32)
    path = problem.trajectory(control, sample(START.astype(np.float32)))
    assert path.shape == (problem.num_steps + 1, 4)
    np.testing.assert_array_equal(path[0], START.astype(np.float32))
    # The same steps, compiled twice.
    np.testing.assert_allclose(
        path[-1], problem.physics(control, sample(START.astype(np.float32))), rtol=1e-4
    )


@both
def test_rest_stays_rest_and_a_control_moves_the_second_oscillator_first(kind):
    problem = kind()
    rest = sample(np.zeros(4, np.float32))
    np.testing.assert_array_equal(problem.physics(jnp.zeros(problem.num_steps), rest), np.zeros(4))
    first_step = problem.trajectory(jnp.ones(problem.num_steps), rest)[1]
    x1, x2, v1, v2 = np.abs(first_step)
    assert x2 > 2 * x1
    assert v2 > 2 * v1


@both
def test_the_network_sees_the_target_and_the_solver_the_start(kind):
    problem = kind()
    params = problem.init(jax.random.key(0))
    here, there = START.astype(np.float32), -START.astype(np.float32)
    control = problem.control(params, sample(here, target=here))
    np.testing.assert_array_equal(problem.control(params, sample(there, target=here)), control)
    assert not np.allclose(problem.control(params, sample(here, target=there)), control)
    y = problem.physics(control, sample(here, target=here))
    np.testing.assert_array_equal(problem.physics(control, sample(here, target=there)), y)
    np.testing.assert_allclose(
        problem.residual(params, sample(here, target=here)), y - here, rtol=1e-6
    )


@both
def test_the_data_are_states_in_the_unit_cube_that_are_their_own_targets(kind):
    train, test = kind().data(jax.random.key(0))
    for data in (train, test):
        assert data.start.shape == (4096, 4)
        np.testing.assert_array_equal(data.start, data.target)
        assert data.start.min() >= 0
        assert data.start.max() < 1
        # The mean of 4096 uniform numbers has a standard deviation of 0.0045.
        np.testing.assert_allclose(data.start.mean(axis=0), 0.5, atol=0.02)


@both
def test_the_loss_is_the_squared_distance_without_a_half(kind):
    rows = jnp.array([1.0, -2.0, 0.0, 3.0])
    assert kind().sample_loss(rows, sample(START.astype(np.float32))) == 14.0
