"""One step in a process of its own: how long it takes, and by how much it makes the process grow.

``python -m hig_optax.experiments.footprint '{"solver": "gram", "samples": 64, "hidden": 256}'`` prints what
it measured as JSON.
"""

import json
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hig_optax
from hig_optax.experiments import machine

INPUTS = OUTPUTS = 16
SECONDS, MOST_REPEATS = 5.0, 20
MIB = 2**20


def num_params(hidden: int) -> int:
    """Parameters of the network of a given width.

    Example:
        >>> num_params(984)
        1001728
    """
    return hidden**2 + (INPUTS + OUTPUTS + 2) * hidden + OUTPUTS


def measure(solver: str, samples: int, hidden: int) -> dict[str, Any]:
    """Take steps on a dense network of two hidden layers, 16 inputs and 16 outputs, in float32.

    Args:
        solver: As in `hig_optax.hig`; or ``"adam"``.
        samples: b; there are 16 rows to a sample.
        hidden: Width of the hidden layers.

    Returns:
        ``rows`` and ``columns``; ``seconds`` of a step, loss and its gradient included (median; the first
        step where one takes more than `SECONDS`); in MiB, ``predicted``, the peak of `hig_optax.plan`,
        ``grown``, by how much the process's resident memory was at most above that before its first step
        (a small program had run),
        and ``process``, its peak in all; ``chosen``, the solver that ``auto`` took; ``is_finite``.
    """
    keys = iter(jax.random.split(jax.random.key(0), 8))

    def normal(*shape: int) -> jax.Array:
        return jax.random.normal(next(keys), shape) / np.float32(shape[0]) ** 0.5

    sizes = [(INPUTS, hidden), (hidden, hidden), (hidden, OUTPUTS)]
    params = [{"w": normal(*size), "b": jnp.zeros(size[1])} for size in sizes]
    batch = {"x": normal(samples, INPUTS), "y": normal(samples, OUTPUTS)}

    def residual_fn(params: Any, sample: Any) -> jax.Array:
        h = sample["x"]
        for layer in params[:-1]:
            h = jnp.tanh(h @ layer["w"] + layer["b"])
        return h @ params[-1]["w"] + params[-1]["b"] - sample["y"]

    def loss_of_rows(rows: jax.Array, batch: Any) -> jax.Array:
        del batch
        return jnp.mean(jnp.sum(rows**2, axis=-1))

    def loss_fn(params: Any, batch: Any) -> jax.Array:
        return loss_of_rows(jax.vmap(residual_fn, (None, 0))(params, batch), batch)

    plan = None
    optimizer = optax.adam(1e-3)
    if solver != "adam":
        settings: dict[str, Any] = {"loss_fn": loss_of_rows, "solver": solver}
        plan = hig_optax.plan(residual_fn, params, batch, **settings)
        optimizer = hig_optax.hig(1e-2, residual_fn, **settings)

    @jax.jit
    def step(params: Any, state: Any, batch: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = optimizer.update(grads, state, params, batch=batch)
        return optax.apply_updates(params, updates), state, loss

    _warm_up()
    state = optimizer.init(params)
    compiled = step.lower(params, state, batch).compile()
    jax.block_until_ready((params, state, batch))
    before = _peak_from_here()
    seconds = [_time(compiled, params, state, batch)]
    grown = (_peak() - before) / MIB
    while seconds[0] < SECONDS and sum(seconds[1:]) < SECONDS and len(seconds) <= MOST_REPEATS:
        seconds.append(_time(compiled, params, state, batch))
    _, state, loss = compiled(params, state, batch)
    return {
        "rows": samples * OUTPUTS,
        "columns": num_params(hidden),
        "seconds": float(np.median(seconds[1:] or seconds)),
        "predicted": None if plan is None else plan.chosen.peak_bytes / MIB,
        "grown": grown,
        "process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "chosen": solver if plan is None else plan.chosen.solver,
        "is_finite": bool(jnp.isfinite(loss)),
    }


def _warm_up() -> None:
    """Let the libraries that a step calls set up their buffers, some 10 MiB whatever the size."""

    @jax.jit
    def calls(x: jax.Array) -> Any:
        return jnp.linalg.eigh(x), jnp.linalg.qr(x), jnp.linalg.svd(x), jnp.tanh(x) @ x

    jax.block_until_ready(calls(jnp.eye(64)))


def _time(step: Any, *args: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(step(*args))
    return time.perf_counter() - start


def _peak_from_here() -> int:
    """Forget the peak so far, where the system can (Linux); returns the memory in use, in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _peak()
    return _status("VmRSS")


def _peak() -> int:
    try:
        return _status("VmHWM")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, f"no {key} in /proc/self/status"
    return int(found[1]) * 1024


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    machine.use_cores(request.pop("cores", 1))
    print(json.dumps(measure(**request)))
