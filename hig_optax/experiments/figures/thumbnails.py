"""A small picture of each problem, of its data alone: nothing is trained for it."""

from functools import singledispatch
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hig_optax.experiments.figures import style
from hig_optax.problems import (
    HamiltonianNetwork,
    KSControl,
    LinearOscillators,
    NeuralODE,
    NoisyField,
    NoisyLikelihood,
    NonlinearOscillators,
    OperatorNetwork,
    PhysicsInformed,
    Poisson,
    Problem,
    QuantumDipole,
    Toy,
)

SIZE = (2.4, 1.6)  # inches
COLOURS = ("#009E73", "#CC79A7")


def figure(problem: Problem) -> Figure:
    """What the problem is about, without words."""
    _, test = problem.data(jax.random.key(0))
    with style.styled():
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        axes.axis("off")
        _draw(problem, test, axes)
    return figure


@singledispatch
def _draw(problem: Any, test: Any, axes: Axes) -> None:
    """The curve of targets; other problems have pictures of their own."""
    del problem
    axes.plot(*np.asarray(test.target).T, color=COLOURS[0])


@_draw.register
def _(problem: Toy, test: Any, axes: Axes) -> None:
    curve = np.asarray(test.target) * np.array([1.0, 0.25 if problem.lam < 1 else 1.0])
    axes.plot(*curve.T, color=COLOURS[0])
    axes.set(aspect="equal", ylim=(-1.1, 1.1))


def _lines(values: Any, axes: Axes) -> None:
    for line, colour in zip(np.asarray(values).T, COLOURS, strict=True):
        axes.plot(line, color=colour)


@_draw.register(LinearOscillators)
@_draw.register(NonlinearOscillators)
def _(problem: Any, test: Any, axes: Axes) -> None:
    sample = jax.tree.map(lambda leaf: leaf[0], test)
    _lines(problem.trajectory(jnp.zeros(problem.num_steps), sample)[:, :2], axes)


@_draw.register
def _(problem: NeuralODE, test: Any, axes: Axes) -> None:
    del problem
    _lines(test.target[0], axes)


@_draw.register
def _(problem: HamiltonianNetwork, test: Any, axes: Axes) -> None:
    # The first pendulum's motion in its plane of angle and momentum, where the others hang at rest.
    q, p = np.meshgrid(np.linspace(-3.0, 3.0, 15), np.linspace(-2.0, 2.0, 11))
    states = np.zeros((*q.shape, 6), np.float32)
    states[..., 0], states[..., 3] = q, p
    del test
    motion = np.asarray(jax.vmap(jax.vmap(problem.motion))(jnp.asarray(states)))
    axes.quiver(q, p, motion[..., 0], motion[..., 3], color=COLOURS[0])


@_draw.register
def _(problem: OperatorNetwork, test: Any, axes: Axes) -> None:
    del problem
    _lines(np.stack([test.start[0], test.target[0]], axis=1), axes)


@_draw.register
def _(problem: QuantumDipole, test: Any, axes: Axes) -> None:
    sample = jax.tree.map(lambda leaf: leaf[0], test)
    # A field at the frequency of the first transition, which makes the state swing.
    time = problem.dt * jnp.arange(problem.num_steps, dtype=float)
    field = 2 * jnp.sin(1.5 * jnp.pi**2 / 4 * 2 * time)
    density = np.abs(problem.trajectory(field, sample)) ** 2
    axes.imshow(density.T, aspect="auto", cmap="magma", interpolation="bilinear")


@_draw.register
def _(problem: KSControl, test: Any, axes: Axes) -> None:
    sample = jax.tree.map(lambda leaf: leaf[0], test)
    control = problem.strength * jnp.linspace(-1.0, 1.0, 8)
    path = np.asarray(problem.trajectory(control, sample))
    axes.imshow(path, aspect="auto", cmap="RdBu_r", interpolation="bilinear")


@_draw.register
def _(problem: Poisson, test: Any, axes: Axes) -> None:
    del problem
    axes.imshow(np.asarray(test.target[0]), cmap="RdBu_r")


@_draw.register
def _(problem: NoisyField, test: Any, axes: Axes) -> None:
    readings, _ = problem.data(jax.random.key(1))
    del test
    x, y = np.asarray(readings.x)[:600].T
    axes.scatter(x, y, c=np.asarray(readings.target)[:600], s=6, cmap="RdBu_r")


@_draw.register
def _(problem: NoisyLikelihood, test: Any, axes: Axes) -> None:
    # Readings near the line x₂ = 0, and a band of two standard deviations there.
    near = np.abs(np.asarray(test.x)[:, 1]) < 0.3
    axes.scatter(np.asarray(test.x)[near, 0], np.asarray(test.target)[near], s=3, color=COLOURS[1])
    x = jnp.stack([jnp.linspace(-1.0, 1.0, 101), jnp.zeros(101)], axis=1)
    mean, spread = np.asarray(problem.mean(x)), np.asarray(problem.spread(x))
    axes.fill_between(x[:, 0], mean - 2 * spread, mean + 2 * spread, color=COLOURS[0], alpha=0.2)
    axes.plot(x[:, 0], mean, color=COLOURS[0])


@_draw.register
def _(problem: PhysicsInformed, test: Any, axes: Axes) -> None:
    _, solution = problem.picture(test)
    values = np.asarray(solution)
    most = float(np.abs(values - values.mean()).max())
    middle = float(values.mean())
    axes.imshow(
        values.T,
        origin="lower",
        aspect="auto",
        cmap="RdBu_r",
        vmin=middle - most,
        vmax=middle + most,
        interpolation="bilinear",
    )
