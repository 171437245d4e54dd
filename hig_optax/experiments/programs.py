"""Programs with several large decompositions at once, each run in a process of its own by the watchdog.

``python -m hig_optax.experiments.programs NAME`` prints how many seconds a program took.
"""

import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

import hig_optax

Tree = Any
ROWS, PARAMETERS, MEMBERS, STEPS = 500, 700, 4, 2


def residual_fn(w: jax.Array, sample: Mapping[str, jax.Array]) -> jax.Array:
    """One row: a neuron minus what it should be."""
    return jnp.tanh(sample["x"] @ w) - sample["y"]


def waves(w: jax.Array, sample: Mapping[str, jax.Array]) -> jax.Array:
    """Rows by way of a Fourier transform, as spectral simulators have it."""
    field = jnp.fft.irfft(jnp.fft.rfft(w * sample["x"]) * 0.5, PARAMETERS)
    return jnp.tanh(field[:1]) - sample["y"]


def problem(seed: int) -> tuple[jax.Array, Tree]:
    """Parameters and a batch of one row a sample."""
    x, y, w = (jax.random.fold_in(jax.random.key(seed), i) for i in range(3))
    batch = {
        "x": jax.random.normal(x, (ROWS, PARAMETERS)) / PARAMETERS**0.5,
        "y": jax.random.uniform(y, (ROWS,), minval=-0.5, maxval=0.5),
    }
    return jax.random.normal(w, (PARAMETERS,)), batch


def train(
    opt: optax.GradientTransformationExtraArgs,
    w: jax.Array,
    batch: Tree,
    residual: Any = residual_fn,
) -> jax.Array:
    """The parameters after a few steps."""

    def loss(w: jax.Array) -> jax.Array:
        rows = jax.vmap(residual, (None, 0))(w, batch)
        return jnp.mean(jnp.sum(rows.reshape(ROWS, -1) ** 2, axis=-1))

    def step(carry: Tree, _: None) -> tuple[Tree, None]:
        w, state = carry
        updates, state = opt.update(jax.grad(loss)(w), state, w, batch=batch)
        return (optax.apply_updates(w, updates), state), None

    return jax.lax.scan(step, (w, opt.init(w)), length=STEPS)[0][0]


def ensemble(opt: optax.GradientTransformationExtraArgs, residual: Any = residual_fn) -> jax.Array:
    """Members of an ensemble, side by side by `jax.vmap`."""
    problems = [problem(seed) for seed in range(MEMBERS)]
    ws, batches = jax.tree.map(lambda *x: jnp.stack(x), *problems)
    return jax.jit(jax.vmap(lambda w, batch: train(opt, w, batch, residual)))(ws, batches)


def hig(solver: Any, residual: Any = residual_fn) -> optax.GradientTransformationExtraArgs:
    """Half-inverse gradients by a solver."""
    num_matvecs = 40 if solver == "krylov" else None
    return hig_optax.hig(0.1, residual, solver=solver, num_matvecs=num_matvecs)


def optimizers_in_one_program() -> list[jax.Array]:
    """Optimizers that know nothing of each other, in one compiled program."""
    several = [hig("gram"), hig("svd"), hig_optax.adaptive_hig(residual_fn), hig("krylov")]
    problems = [problem(seed) for seed in range(len(several))]
    return jax.jit(
        lambda problems: [train(opt, *at) for opt, at in zip(several, problems, strict=True)]
    )(problems)


def threads() -> list[jax.Array]:
    """Two Python threads that train at the same time."""
    found: dict[int, jax.Array] = {}

    def work(number: int, opt: optax.GradientTransformationExtraArgs) -> None:
        w, batch = problem(number)
        found[number] = jax.block_until_ready(jax.jit(lambda w: train(opt, w, batch))(w))

    both = [
        threading.Thread(target=work, args=pair) for pair in enumerate((hig("gram"), hig("svd")))
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    return list(found.values())


def bare() -> list[Any]:
    """Decompositions alone, without an optimizer: four of 1000 by `eigh`, three of 700 by `svd`."""
    A = jax.random.normal(jax.random.key(0), (7, 1000, 1000))

    def decompose(A: jax.Array) -> list[Any]:
        found: list[Any] = [jnp.linalg.eigh(A[i] + A[i].T) for i in range(4)]
        return found + [jnp.linalg.svd(A[i, :700, :700]) for i in range(4, 7)]

    return jax.jit(decompose)(A)


def bare_batches() -> list[Any]:
    """A batch of four by `eigh` beside another one, twenty times over, without an optimizer."""
    A = jax.random.normal(jax.random.key(0), (2, 4, 200, 200))
    S = A + A.swapaxes(2, 3)

    def decompose(S: jax.Array, _: None) -> tuple[jax.Array, None]:
        found = [jnp.linalg.eigh(S[i])[1] for i in range(2)]
        return S + 1e-3 * jnp.stack(found), None

    return jax.jit(lambda S: jax.lax.scan(decompose, S, length=20))(S)


PROGRAMS: Mapping[str, Callable[[], Any]] = {
    "ensemble, gram": lambda: ensemble(hig("gram")),
    "ensemble, svd": lambda: ensemble(hig("svd")),
    "ensemble, adaptive_hig": lambda: ensemble(hig_optax.adaptive_hig(residual_fn)),
    "ensemble, krylov, Fourier transforms": lambda: ensemble(hig("krylov", waves), waves),
    "four optimizers in one program": optimizers_in_one_program,
    "two threads": threads,
    "decompositions alone": bare,
    "batches of decompositions alone": bare_batches,
}
"""Every one of them, by name."""


def main(name: str) -> None:
    """Run one program and print its seconds.

    Raises:
        RuntimeError: What it computes is not finite.
    """
    start = time.perf_counter()
    found = jax.block_until_ready(PROGRAMS[name]())
    if not all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(found)):
        raise RuntimeError(f"{name}: not finite.")
    print(f"{time.perf_counter() - start:.3f}")


if __name__ == "__main__":
    main(sys.argv[1])
