import jax
import jax.numpy as jnp
import numpy as np
import pytest
from swing import Swing

from hig_optax import problems
from hig_optax.experiments import views
from hig_optax.experiments.history import History

SMALL = {
    "toy": problems.Toy(num_test=32, num_train=4),
    "oscillators": problems.LinearOscillators(num_steps=6, num_train=4, num_test=4, hidden=(3,)),
    "dipole": problems.QuantumDipole(
        num_points=5, num_steps=300, num_train=4, num_test=4, hidden=(3,)
    ),
    "poisson": problems.Poisson(size=4, num_train=4, num_test=4, hidden=(3,)),
    "kovasznay": problems.Kovasznay(num_interior=4, num_boundary=4, hidden=(3,)),
    "poisson-5d": problems.Poisson5D(num_interior=4, num_boundary=4, hidden=(3,)),
}


def recorded(problem):
    _, test = problem.data(jax.random.key(0))
    params = [problem.init(jax.random.key(i)) for i in (1, 2)]
    recorder = views.Recorder(problem, test)
    for p in params:
        recorder.look(p)
    return recorder.views(params[-1]), params, jax.tree.map(lambda leaf: leaf[0], test)


def test_the_toy_shows_neurons_and_one_way():
    seen, params, _ = recorded(SMALL["toy"])
    assert seen["neuron_mean"].shape == seen["neuron_std"].shape == (2, 7)
    assert seen["path"].shape == (2, 2)
    assert seen["fit"].shape == (2, *seen["curve"].shape)
    _, test = SMALL["toy"].data(jax.random.key(0))
    neurons = jax.vmap(SMALL["toy"].neurons, (None, 0))(params[1], test)
    np.testing.assert_allclose(seen["neuron_std"][1], np.std(neurons, axis=0), rtol=1e-5)


def test_trajectories_end_where_the_physics_does():
    problem = SMALL["oscillators"]
    seen, params, sample = recorded(problem)
    assert seen["trajectory"].shape == (2, 7, 4)
    for p, path in zip(params, seen["trajectory"], strict=True):
        end = problem.physics(problem.control(p, sample), sample)
        np.testing.assert_allclose(path[-1], end, rtol=1e-5)


def test_densities_are_thinned_and_sum_to_one():
    seen, _, _ = recorded(SMALL["dipole"])
    assert seen["density"].shape[0] == 2
    assert seen["density"].shape[1] <= views.MAX_TIMES
    np.testing.assert_allclose(seen["density"].sum(axis=-1), 1, rtol=1e-4)
    assert ((seen["overlap"] >= 0) & (seen["overlap"] <= 1)).all()


def test_poisson_shows_field_and_solution():
    seen, params, sample = recorded(SMALL["poisson"])
    np.testing.assert_allclose(
        seen["field"][0], SMALL["poisson"].control(params[0], sample), rtol=1e-5
    )
    np.testing.assert_array_equal(seen["solution"], sample.field)


@pytest.mark.parametrize(("name", "shape"), [("kovasznay", (61, 41)), ("poisson-5d", (33, 33))])
def test_a_solution_is_shown_in_a_plane(name, shape):
    problem = SMALL[name]
    seen, params, _ = recorded(problem)
    assert seen["solution"].shape == shape
    assert seen["field"].shape == (2, *shape)
    low, high = (np.array(end[:2]) for end in (problem.box.low, problem.box.high))
    np.testing.assert_allclose(seen["corners"], [low, high], atol=1e-6)
    corner = jnp.array([*problem.box.high[:2], *[0.5] * (problem.box.dimension - 2)], np.float32)
    exact = getattr(problem, "exact", problem.given)
    np.testing.assert_allclose(
        seen["solution"][-1, -1], np.ravel(exact(corner))[0], rtol=1e-5, atol=1e-6
    )
    for p, field in zip(params, seen["field"], strict=True):
        np.testing.assert_allclose(field[-1, -1], np.ravel(problem.field(p, corner))[0], rtol=1e-5)


def test_a_miss_smaller_than_what_views_are_rounded_to_is_kept():
    problem = SMALL["oscillators"]
    seen, params, sample = recorded(problem)
    end = problem.physics(problem.control(params[1], sample), sample)
    np.testing.assert_allclose(seen["miss"][1], np.linalg.norm(end - sample.target), rtol=1e-5)
    # Trained until path and target agree in all digits that are stored of them.
    path = np.array(seen["trajectory"])
    path[1, -1] = sample.target * (1 + 1e-7)
    close = seen | {"trajectory": path, "miss": np.array([2.0, 3e-7])}
    run = History({"method": "hig", "seed": 0}, (), np.zeros(0), 0.0, 1, 1, views=close)
    stored = History.from_json(run.to_json()).views
    np.testing.assert_array_equal(stored["trajectory"][1, -1], stored["target"])
    assert stored["miss"][1] == 3e-7


@pytest.mark.parametrize(("name", "exact"), [("poisson", "solution"), ("kovasznay", "solution")])
def test_errors_are_recorded_by_themselves(name, exact):
    seen, _, _ = recorded(SMALL[name])
    np.testing.assert_allclose(seen["error"], seen["field"] - seen[exact], rtol=1e-4, atol=1e-5)


def test_the_toys_errors_are_those_of_its_components():
    seen, _, _ = recorded(SMALL["toy"])
    _, test = SMALL["toy"].data(jax.random.key(0))
    assert seen["component_errors"].shape == (2, test.target.shape[-1])
    thinned = np.mean((seen["fit"] - seen["curve"]) ** 2, axis=1)
    np.testing.assert_allclose(
        seen["component_errors"], thinned, rtol=0.5
    )  # of a quarter of the points


def test_a_problem_without_views_has_none():
    assert recorded(Swing())[0] == {}


@pytest.mark.parametrize("name", SMALL)
def test_views_survive_json(name):
    seen, _, _ = recorded(SMALL[name])
    before = History({"method": "hig", "seed": 0}, (), np.zeros(0), 0.0, 1, 1, views=seen)
    after = History.from_json(before.to_json())
    for key, array in seen.items():
        np.testing.assert_allclose(after.views[key], array, rtol=1e-3)
