"""Ways to a function of the Gram matrix times a vector, beside the eigendecomposition of the solver."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hig_optax import problems
from hig_optax.experiments import machine, store, transcription
from hig_optax.experiments.bench import fresh
from hig_optax.experiments.clock import race
from hig_optax.experiments.table import Table
from hig_optax.problems import Problem

# Name of the problem and batch size: m = 448, 512, 1024.
CASES = (("quantum-dipole", 16), ("nonlinear-oscillators", 128), ("nonlinear-oscillators", 256))
POWER = -0.75  # (κ-1)/2 for κ = -1/2
DAMPINGS = (1e-2, 1e-4, 1e-6)  # over the mean of σ²
RTOL = 1e-6
TOLERANCE = 1e-8  # of the rational approximation
KRYLOV = (40, 80, 160, 320)
COLUMNS = ("K", "f", "eigh", "tridiagonal", "one Cholesky", "poles", "Lanczos, ms (error)")
NOTE = (
    "Milliseconds, medians of interleaved calls, float64. K is the Gram matrix at a fresh network, f(K) w "
    "the half-inverse with damping λ over the mean of σ², or cut at rtol 1e-6. Tridiagonal: reduction "
    "(alone in brackets), Householder vectors applied to w and back, and a sum over poles on the tridiagonal "
    "matrix; it knows no eigenvalue, and for a cut there is no such sum. On K itself the sum would take one "
    "Cholesky factorisation a pole. Lanczos: k products with K, fully reorthogonalised. Errors are those of "
    "Jᵀf(K)w. "
)


def functions(*, out: Path | str = "results", quick: bool = False) -> tuple[Table, list[Path]]:
    """Time them all; writes ``bench-functions.json`` and ``bench-functions.md`` to `out`.

    Args:
        out: Folder of results.
        quick: One case, few repetitions.
    """
    cases = CASES[:1] if quick else CASES
    with jax.enable_x64(True):
        results = [
            _measure(f"{name}, b={b}", gram(problems.get(name), b), 0.05 if quick else 1.0)
            for name, b in cases
        ]
    where = machine.environment() | {"float": "float64"}
    rows = tuple(row for result in results for row in result)
    table = Table("f(K) w", COLUMNS, rows, NOTE + machine.describe(where))
    found = {"environment": where, "columns": COLUMNS, "rows": [*map(list, rows)]}
    return table, store.write_page(Path(out) / "bench-functions", found, table.markdown())


def gram(problem: Problem, batch_size: int) -> jax.Array:
    """J Jᵀ on a batch at a fresh network, J divided by its largest entry."""
    params, draw = fresh(problem, batch_size)
    J = jax.jit(transcription.jacobian(problem))(params, draw(jnp.int32(0))).astype(jnp.float64)
    J = J / jnp.max(jnp.abs(J))
    return J @ J.T


def by_eigh(K: jax.Array, w: jax.Array, shift: float, cut: float) -> jax.Array:
    """f(K) w with all eigenvectors."""
    s, U = jnp.linalg.eigh(K, symmetrize_input=False)
    keep = s > cut * s[-1]
    return U @ (jnp.where(keep, jnp.where(keep, s + shift, 1) ** POWER, 0) * (U.T @ w))


def poles(low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights and poles with s^POWER ≈ Σ weight / (s + pole) for s in [low, high], to `TOLERANCE`.

    The trapezoidal rule on s^-p = sin(πp)/π ∫ exp((1-p)x) / (exp(x) + s) dx, over all x.

    Example:
        >>> weights, shifts = poles(1e-3, 10.0)
        >>> s = 0.37
        >>> bool(abs(sum(weights / (s + shifts)) / s**POWER - 1) < 1e-7)
        True
    """
    p, digits = -POWER, -np.log(TOLERANCE)
    step = 2 * np.pi**2 / digits
    x = np.arange(np.log(low) - digits / (1 - p), np.log(high) + digits / p, step)
    return np.sin(np.pi * p) / np.pi * step * np.exp((1 - p) * x), np.exp(x)


def by_tridiagonal(K: jax.Array, w: jax.Array, shift: float, high: float) -> jax.Array:
    """f(K) w from K = Q T Qᵀ: poles on T, for which a solution costs O(m)."""
    a, d, e, taus = jax.lax.linalg.tridiagonal(K, lower=True)
    index = jnp.arange(w.size)

    def reflected(i: jax.Array, w: jax.Array) -> jax.Array:
        v = jnp.where(index > i + 1, a[:, i], jnp.where(index == i + 1, 1.0, 0.0))
        return w - taus[i] * v * (v @ w)

    last = taus.size - 1
    z = jax.lax.fori_loop(0, taus.size, reflected, w)
    weights, shifts = poles(shift, high)
    lower, upper = jnp.pad(e, (1, 0)), jnp.pad(e, (0, 1))

    def solved(pole: jax.Array) -> jax.Array:
        return jax.lax.linalg.tridiagonal_solve(lower, d + shift + pole, upper, z[:, None])[:, 0]

    y = jnp.asarray(weights) @ jax.vmap(solved)(jnp.asarray(shifts))
    return jax.lax.fori_loop(0, taus.size, lambda i, y: reflected(last - i, y), y)


def by_lanczos(K: jax.Array, w: jax.Array, shift: float, cut: float, k: int) -> jax.Array:
    """f(K) w on the Krylov space of k vectors."""

    def step(j: jax.Array, carry: tuple) -> tuple:
        Q, diagonal, beside, q, previous, b = carry
        Q = Q.at[j].set(q)
        v = K @ q - b * previous
        a = v @ q
        v = v - a * q
        for _ in range(2):
            v = v - (Q @ v) @ Q
        b = jnp.linalg.norm(v)
        return Q, diagonal.at[j].set(a), beside.at[j].set(b), v / jnp.where(b > 0, b, 1), q, b

    m, length = w.size, jnp.linalg.norm(w)
    start = (jnp.zeros((k, m)), jnp.zeros(k), jnp.zeros(k), w / length, jnp.zeros(m), 0.0)
    Q, diagonal, beside, *_ = jax.lax.fori_loop(0, k, step, start)
    T = jnp.diag(diagonal) + jnp.diag(beside[:-1], 1) + jnp.diag(beside[:-1], -1)
    return length * (by_eigh(T, jnp.zeros(k).at[0].set(1.0), shift, cut) @ Q)


def _measure(label: str, K: jax.Array, seconds: float) -> list[tuple[str, ...]]:
    w = jax.random.normal(jax.random.key(1), K.shape[:1], K.dtype)
    m, largest = K.shape[0], float(jnp.linalg.norm(K, 2))
    mean = float(jnp.trace(K)) / m
    rows: list[tuple[str, ...]] = []
    for damping in (*DAMPINGS, None):
        shift, cut = (0.0, RTOL**2) if damping is None else (damping * mean, -1.0)
        # Eigenvalues of a semidefinite matrix may come out a little below zero; a cut at 0 is none for λ > 0.
        calls: dict[str, Callable[[], Any]] = {
            "eigh": _call(by_eigh, K, w, shift=shift, cut=max(cut, 0.0)),
            "reduction": _call(jax.lax.linalg.tridiagonal, K),
            "Cholesky": _call(jnp.linalg.cholesky, K + 1e-3 * largest * jnp.eye(m)),
        }
        if damping is not None:
            calls["tridiagonal"] = _call(by_tridiagonal, K, w, shift=shift, high=2 * largest)
        for k in KRYLOV:
            calls[f"Lanczos {k}"] = _call(by_lanczos, K, w, shift=shift, cut=max(cut, 0.0), k=k)
        times = {name: 1e3 * t.median for name, t in race(calls, seconds=seconds).items()}
        exact = calls["eigh"]()

        def error(name: str, calls: Any = calls, exact: Any = exact) -> float:
            miss = calls[name]() - exact
            return float(jnp.sqrt(jnp.abs(miss @ K @ miss) / (exact @ K @ exact)))

        told = "none"
        if damping is not None:
            told = f"{times['tridiagonal']:.1f}, error {error('tridiagonal'):.0e}"
        rows.append(
            (
                f"{label}, m={m}" if damping == DAMPINGS[0] else "",
                "cut" if damping is None else f"λ={damping:.0e}",
                f"{times['eigh']:.1f}",
                f"{told} ({times['reduction']:.1f})",
                f"{times['Cholesky']:.1f}",
                "none" if damping is None else str(poles(shift, 2 * largest)[0].size),
                ", ".join(
                    f"k={k} {times[f'Lanczos {k}']:.1f} ({error(f'Lanczos {k}'):.0e})"
                    for k in KRYLOV
                ),
            )
        )
    return rows


def _call(fun: Callable, *args: Any, **settings: Any) -> Callable[[], Any]:
    jitted = jax.jit(lambda *args: fun(*args, **settings))
    return lambda: jitted(*args)
