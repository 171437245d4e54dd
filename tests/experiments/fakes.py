"""Runs that were never run, for what is drawn and written from them."""

import numpy as np

from hig_optax import problems
from hig_optax.experiments import study
from hig_optax.experiments.compare import Comparison
from hig_optax.experiments.history import History, Point
from hig_optax.experiments.machine import environment
from hig_optax.experiments.methods import METHODS
from hig_optax.experiments.train import problem_settings

LOOKS = 4


def history(problem_name, method, losses, seed=0, budget="20s", views=None, **settings):
    """A run whose test loss took the values `losses` at four looks."""
    problem = problems.get(problem_name)
    spectral = method in ("hig", "gauss-newton")
    points = tuple(
        Point(
            step=10 * i,
            seconds=float(i),
            test_loss=loss,
            train_loss=loss,
            rank=2 if spectral and i else None,
            cutoff=0.1 if spectral and i else None,
            singular_values=(2.0, 1.0 / (i + 1), 0.01) if spectral and i else None,
            relative_error=loss**0.5 if isinstance(problem, problems.PhysicsInformed) else None,
        )
        for i, loss in enumerate(losses)
    )
    request = {
        "problem": problem.name,
        "problem_settings": problem_settings(problem),
        "method": method,
        "settings": {**METHODS[method].settings(problem), **settings},
        "seed": seed,
        "budget": budget,
        "environment": environment(),
    }
    stopped = "budget" if np.isfinite(losses[-1]) else "diverged"
    return History(
        request,
        points,
        np.ones(10 * (len(losses) - 1)),
        1.0,
        num_params=30,
        num_rows=3,
        stopped=stopped,
        views=fake_views(problem_name) if views is None else views,
    )


def fake_views(problem_name, neuron_std=0.5):
    """Arrays of the shapes that `views` records."""
    x = np.linspace(0.1, 1.0, 4)
    match problem_name:
        case "toy" | "toy-balanced":
            return {
                "curve": np.stack([x, x**2], axis=1),
                "target": np.array([0.5, 0.5]),
                "neuron_mean": np.zeros((LOOKS, 7)),
                "neuron_std": np.full((LOOKS, 7), neuron_std),
                "path": np.stack([x, x], axis=1),
                "fit": np.stack([np.zeros((4, 2)), np.stack([x, 0 * x], axis=1)]),
                "component_errors": np.array([[0.3, 0.3], [0.0, np.mean(x**4)]]),
            }
        case "linear-oscillators" | "nonlinear-oscillators":
            return {
                "target": np.ones(4),
                "control": np.array([[0.0] * 3, [1.0] * 3]),
                "trajectory": np.stack([np.zeros((4, 4)), np.full((4, 4), 0.9)]),
                "miss": np.array([2.0, 0.2]),
            }
        case "quantum-dipole":
            return {
                "target": np.full(14, 1 / 14),
                "control": np.zeros((2, 384)),
                "density": np.full((2, 5, 14), 1 / 14),
                "overlap": np.array([0.0, 0.9]),
            }
        case "poisson":
            return {
                "target": np.ones((8, 8)),
                "solution": np.eye(8),
                "field": np.stack([np.zeros((8, 8)), np.eye(8)]),
                "error": np.stack([-np.eye(8), np.zeros((8, 8))]),
            }
        case "burgers" | "kovasznay":
            return {
                "solution": np.eye(8),
                "corners": np.array([[0.0, -1.0], [1.0, 1.0]]),
                "field": np.stack([np.zeros((8, 8)), 0.9 * np.eye(8)]),
                "error": np.stack([-np.eye(8), -0.1 * np.eye(8)]),
            }
    return {}


def comparisons(directory):
    """Every experiment of a quick study, as if it had been done: HIG ends lowest everywhere."""
    done = {}
    for name, experiment in study.quick().items():
        runs = [
            history(
                experiment.problem,
                method,
                (1.0, 0.5, 0.4, 1e-3 if method == "hig" else 0.3),
                budget=str(experiment.budget),
                **experiment.overrides.get(method, {}),
            )
            for method in experiment.methods
        ]
        problem = problems.get(experiment.problem)
        done[name] = Comparison(problem, experiment.budget, tuple(runs), directory / name)
    return done
