"""One training run: batches, gradient and optimizer in one compiled loop, timed without the rest."""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hig_optax.experiments import methods, views
from hig_optax.experiments.budget import SEGMENT_STEPS, Budget, Pacer
from hig_optax.experiments.checkpoint import Checkpoint
from hig_optax.experiments.course import Course
from hig_optax.experiments.history import History, Point
from hig_optax.experiments.losses import measured_loss, num_rows
from hig_optax.experiments.machine import environment, precision_of, versioned
from hig_optax.problems import Batch, Params, PhysicsInformed, Problem, SampleProblem

Watch = Callable[[Point, Params], None]
"""Called with every new `Point`, outside the training time. The parameters are overwritten after."""


class Carry(NamedTuple):
    """What goes from step to step."""

    params: Params
    state: optax.OptState
    step: jax.Array  # (), int32
    is_finite: jax.Array  # (), bool: of all steps of this segment


class Program(NamedTuple):
    """The compiled loop."""

    segment: Callable[..., tuple[Carry, jax.Array]]
    first_call_seconds: float
    """What tracing, compiling and one step of it took."""
    digest: str
    """Of the program before the compiler's optimizations: equal for equal computations."""


def train(
    problem: Problem,
    method: str,
    seed: int = 0,
    *,
    seconds: float | None = None,
    steps: int | None = None,
    settings: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
) -> History:
    """Train a problem's network once.

    Args:
        problem: What is trained; see `hig_optax.problems`.
        method: Name in `methods.METHODS`.
        seed: Decides the data, the initial network and the batches, alike for every method.
        seconds: Training time to spend, or
        steps: number of steps to take: one of the two.
        settings: Settings of the method that differ from the recommended ones.
        watch: Called with every `Point` and the parameters there.

    Returns:
        The run, with the trained parameters in ``params``.

    Raises:
        ValueError: No such method or setting, or no budget, or two.
    """
    return Trainer(problem, method, settings).run(seed, Budget(seconds, steps), watch)


class Trainer:
    """A problem and a method, compiled once for any number of seeds and any budget.

    Attributes:
        problem: The problem.
        method: Name of the method.
        settings: All of its settings.
    """

    def __init__(
        self, problem: Problem, method: str, settings: Mapping[str, Any] | None = None
    ) -> None:
        chosen = methods.get(method)
        self.problem, self.method = problem, method
        self.settings = chosen.settings(problem, settings)
        self._optimizer = chosen.optimizer(problem, self.settings)
        self._value_and_grad = chosen.gradient(problem, self.settings)
        self._compiled: Program | None = None

    def request(self, seed: int, budget: Budget) -> dict[str, Any]:
        """Everything that decides a run, as JSON values."""
        with precision_of(self.problem):
            where = environment()
        package = methods.get(self.method).package
        return {
            "problem": self.problem.name,
            "problem_settings": problem_settings(self.problem),
            "method": self.method,
            "settings": self.settings,
            "seed": seed,
            "budget": str(budget),
            "environment": where,
            **({"package": versioned(package)} if package else {}),
        }

    def run(
        self,
        seed: int,
        budget: Budget,
        watch: Watch | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> History:
        """Train once from a seed.

        Args:
            seed: Decides the data, the initial network and the batches.
            budget: Training time or steps.
            watch: Called with every `Point` and the parameters there.
            checkpoint: Where to keep the run in progress, and to look for one to go on with. With a budget of
                steps the run then ends as if it had never been interrupted, bit for bit on the same machine;
                with one of time it takes as much training time, and as many steps as fit.
        """
        with precision_of(self.problem):
            return self._run(seed, budget, watch, checkpoint)

    def _run(
        self, seed: int, budget: Budget, watch: Watch | None, checkpoint: Checkpoint | None
    ) -> History:
        init_key, data_key, draw_key = jax.random.split(jax.random.key(seed), 3)
        train_set, test_set = _data(self.problem, data_key)
        params = _init(self.problem, init_key)
        # A copy: an optimizer's state may hold one buffer twice, which could not be given away.
        state = jax.tree.map(jnp.copy, self._optimizer.init(params))
        carry = Carry(params, state, jnp.int32(0), jnp.bool_(True))
        program = self._compile(carry, draw_key, train_set)
        first = Point(0, 0.0, **_measure(self.problem, params, test_set))
        # A change of the program, or of data and network, would make the rest of a run the rest of another.
        identity = f"{program.digest} {jax.tree.structure(carry)} {first.test_loss}"
        recorder, kept = views.Recorder(self.problem, test_set), None
        if checkpoint:
            kept = Course.restore(checkpoint, carry, identity, budget, recorder)
        if kept:
            course, carry = kept[0], jax.tree.map(jnp.copy, kept[1])
        else:
            recorder.look(params)
            course = Course(
                Pacer(budget), [first], [np.zeros(0)], recorder, program.first_call_seconds
            )
        pacer, points, losses, stopped = course.pacer, course.points, course.losses, "budget"
        if watch:
            watch(points[-1], carry.params)
        num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
        rows = num_rows(self.problem, params, self._draw(draw_key, jnp.int32(0), train_set))
        while count := pacer.next_count():
            progress, pace = np.float32(pacer.progress), np.float32(pacer.pace)
            start = time.perf_counter()
            carry, buffer = jax.block_until_ready(
                program.segment(carry, np.int32(count), progress, pace, draw_key, train_set)
            )
            pacer.add(count, time.perf_counter() - start)

            losses.append(np.asarray(buffer)[:count])
            points.append(
                _point(pacer, carry, losses[-1], _measure(self.problem, carry.params, test_set))
            )
            recorder.look(carry.params)
            if watch:
                watch(points[-1], carry.params)
            if not (np.isfinite(points[-1].test_loss) or np.isfinite(losses[-1]).any()):
                stopped = "diverged"
                break
            if checkpoint and checkpoint.is_due:
                course.save(checkpoint, carry, identity)
        return History(
            request=self.request(seed, budget),
            points=tuple(points),
            losses=np.concatenate(losses),
            first_call_seconds=course.first_call_seconds,
            num_params=num_params,
            num_rows=rows,
            stopped=stopped,
            resumed=course.resumed,
            views=recorder.views(carry.params),
            params=carry.params,
        )

    def _draw(self, key: jax.Array, step: jax.Array, train_set: Batch) -> Batch:
        return self.problem.draw(key, step, train_set, self.settings["batch_size"])

    def _compile(self, carry: Carry, key: jax.Array, train_set: Batch) -> Program:
        """The loop for this problem and method, compiled at the first call."""
        if self._compiled is None:
            spare = jax.tree.map(jnp.copy, carry)
            arguments = (np.int32(1), np.float32(0), np.float32(0), key, train_set)
            start = time.perf_counter()
            lowered = jax.jit(self._segment, donate_argnums=0).lower(carry, *arguments)
            segment = lowered.compile()
            jax.block_until_ready(segment(spare, *arguments))
            seconds = time.perf_counter() - start
            digest = hashlib.sha256(lowered.as_text().encode()).hexdigest()
            self._compiled = Program(segment, seconds, digest)
        return self._compiled

    def _segment(
        self,
        carry: Carry,
        count: jax.Array,
        progress: jax.Array,
        pace: jax.Array,
        key: jax.Array,
        train_set: Batch,
    ) -> tuple[Carry, jax.Array]:
        """Take `count` steps; the number is traced, so one compilation serves every segment.

        `progress` is the share of the budget spent before the first step, `pace` that of one step.
        Returns the carry and the mean mini-batch losses, shape (SEGMENT_STEPS,), zero past `count`.
        """
        summed = isinstance(self.problem, SampleProblem) and self.problem.reduction == "sum"
        samples = self.settings["batch_size"] if summed else 1

        def step(i: jax.Array, inner: tuple[Carry, jax.Array]) -> tuple[Carry, jax.Array]:
            (params, state, number, is_finite), losses = inner
            batch = self._draw(key, number, train_set)
            loss, grads = self._value_and_grad(params, batch)
            now = progress + pace * i.astype(pace.dtype)
            updates, state = self._optimizer.update(
                grads, state, params, batch=batch, value=loss, progress=now
            )
            params = optax.apply_updates(params, updates)
            spectrum = optax.tree.get(state, "spectrum")
            is_finite &= jnp.isfinite(loss) & (True if spectrum is None else spectrum.is_finite)
            losses = losses.at[i].set(loss / samples)
            return Carry(params, state, number + 1, is_finite), losses

        losses = jnp.zeros(SEGMENT_STEPS, jnp.result_type(float))
        carry = carry._replace(is_finite=jnp.bool_(True))
        return jax.lax.fori_loop(np.int32(0), count, step, (carry, losses))


def problem_settings(problem: Problem) -> dict[str, Any]:
    """The fields of a problem, as JSON values."""
    plain = str | int | float | bool | None
    named = {f.name: getattr(problem, f.name) for f in fields(cast("Any", problem))}
    return {name: v if isinstance(v, plain) else repr(v) for name, v in named.items()}


def _point(pacer: Pacer, carry: Carry, losses: np.ndarray, measured: Mapping[str, Any]) -> Point:
    spectrum = optax.tree.get(carry.state, "spectrum")
    seen: dict[str, Any] = {}
    if spectrum is not None:
        seen = {
            "cutoff": float(spectrum.cutoff),
            "condition": float(spectrum.condition),
            "captured": float(spectrum.gradient_kept),
        }
        seen["rank"] = int(spectrum.rank)
        seen["singular_values"] = tuple(np.trim_zeros(spectrum.singular_values, "b").tolist())
    return Point(
        step=pacer.steps,
        seconds=pacer.seconds,
        train_loss=float(losses.mean()),
        last_loss=float(losses[-1]),
        is_finite=bool(carry.is_finite),
        **measured,
        **seen,
    )


@partial(jax.jit, static_argnums=0)
def _data(problem: Problem, key: jax.Array) -> tuple[Batch, Batch]:
    return problem.data(key)


@partial(jax.jit, static_argnums=0)
def _init(problem: Problem, key: jax.Array) -> Params:
    return problem.init(key)


def _measure(problem: Problem, params: Params, test_set: Batch) -> dict[str, Any]:
    """Fields of a `Point`: the test loss, and the relative error where the problem has a solution."""
    found = {"test_loss": float(_test_loss(problem, params, test_set))}
    if isinstance(problem, PhysicsInformed):
        found["relative_error"] = float(_relative_error(problem, params, test_set))
    return found


@partial(jax.jit, static_argnums=0)
def _relative_error(problem: PhysicsInformed, params: Params, test_set: Batch) -> jax.Array:
    return problem.relative_error(params, test_set)


@partial(jax.jit, static_argnums=0)
def _test_loss(problem: Problem, params: Params, test_set: Batch) -> jax.Array:
    if isinstance(problem, PhysicsInformed):
        return problem.loss(params, test_set.points)
    assert isinstance(problem, SampleProblem)
    loss = measured_loss(problem)
    # In chunks: thousands of physical trajectories at once would leave the cache.
    return jnp.mean(jax.lax.map(lambda sample: loss(params, sample), test_set, batch_size=256))
