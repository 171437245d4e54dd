"""Reference data of the four experiments, in the shapes of `hig_optax.problems`.

The files under ``tests/golden`` hold flat vectors in the order θ = kernel, bias of layer 1,
kernel, bias of layer 2, …, each raveled row by row; JAX puts a layer's bias before its kernel.
`flat` and `unflat` translate. Rows of J are sample-major.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hig_optax import problems

FOLDER = Path(__file__).parent / "golden"
ORDER = ("kernel", "bias")

PROBLEMS = {
    "linear": "linear-oscillators",
    "nonlinear": "nonlinear-oscillators",
    "poisson": "poisson",
    "quantum": "quantum-dipole",
}
"""Name in the registry of each golden file."""


def load(name: str) -> dict[str, np.ndarray]:
    """All arrays of ``golden/<name>.npz``, by the names that ``golden/README.md`` explains."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return dict(arrays)


def problem(name: str) -> problems.Problem:
    """The problem a golden file belongs to."""
    return problems.get(PROBLEMS[name])


def params(problem: problems.Problem, golden: dict[str, np.ndarray], dtype: Any) -> Any:
    """The golden weights as the problem's parameter tree."""
    count = sum(key.startswith("W") and key[1:].isdigit() for key in golden)
    theta = np.concatenate([golden[f"W{i}"].ravel() for i in range(count)])
    return unflat(theta, problem, dtype)


def flat(tree: Any) -> jax.Array:
    """A tree like the parameters as one vector in golden order; leading axes, if any, stay.

    A Jacobian in tree form, with rows as leading axes of every leaf, becomes (*rows, n).
    """
    layers = tree["layers"]
    leading = layers[0]["bias"].shape[:-1]
    return jnp.concatenate(
        [layers[i][kind].reshape(*leading, -1) for i in sorted(layers) for kind in ORDER], axis=-1
    )


def unflat(theta: np.ndarray, problem: problems.Problem, dtype: Any) -> Any:
    """A vector (n,) in golden order as a tree like the problem's parameters."""
    layers = jax.eval_shape(problem.init, jax.random.key(0))["layers"]
    shapes = [layers[i][kind].shape for i in sorted(layers) for kind in ORDER]
    ends = np.cumsum([np.prod(shape) for shape in shapes])
    if theta.shape != (ends[-1],):
        raise ValueError(f"theta must have shape ({ends[-1]},), got {theta.shape}.")
    leaves = iter(
        jnp.asarray(part.reshape(shape), dtype)
        for part, shape in zip(np.split(theta, ends[:-1]), shapes, strict=True)
    )
    return {"layers": {i: {kind: next(leaves) for kind in ORDER} for i in sorted(layers)}}


def batch(problem: problems.Problem, golden: dict[str, np.ndarray], dtype: Any) -> Any:
    """The golden mini-batch as the problem's samples; complex ones get the precision of `dtype`."""
    start, target = (jnp.asarray(golden[key].astype(dtype)) for key in ("x", "y_target"))
    if problem.name == "quantum-dipole":
        start, target = (jax.lax.complex(a[..., 0], a[..., 1]) for a in (start, target))
        return problems.DipoleSample(start, target)
    if problem.name == "poisson":
        return problems.PoissonSample(target=target, field=start)
    return problems.OscillatorSample(start, target)


def rows(y: jax.Array) -> jax.Array:
    """Flat real rows in golden order: sample-major, and Re, Im in turn where `y` is complex."""
    if jnp.iscomplexobj(y):
        y = jnp.stack([y.real, y.imag], axis=-1)
    return y.ravel()
