"""Training methods by name: how to build the optimizer, and the settings it starts from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import GradientTransformationExtraArgs as Optimizer

import hig_optax
from hig_optax.problems import Batch, Params, Problem

Settings = dict[str, Any]


@dataclass(frozen=True)
class Method:
    """A way to train any `Problem`.

    Attributes:
        name: Name in `METHODS`.
        summary: One line for the reader of ``list``.
        build: ``(problem, settings) -> optimizer``; sign and learning rate are in it.
        defaults: Every setting the method knows, and its value where no problem says otherwise.
        like: A method whose recommended settings hold for this one too.
        fixed: Settings that make this method what it is; they win over those taken from `like`.
    """

    name: str
    summary: str
    build: Callable[[Problem, Settings], Optimizer]
    defaults: Mapping[str, Any]
    like: str | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, problem: Problem, overrides: Mapping[str, Any] | None = None) -> Settings:
        """All settings of a run: defaults, then what the problem recommends, then `overrides`.

        Raises:
            ValueError: An override is not a setting of this method.
        """
        recommended, overrides = problem.recommended, overrides or {}
        inherited = recommended.get(self.like, {}) if self.like else {}
        own = recommended.get(self.name, {})
        if unknown := sorted({*inherited, *own, *overrides} - set(self.defaults)):
            known = ", ".join(self.defaults)
            raise ValueError(f"{self.name} has no setting {', '.join(unknown)}; it has {known}.")
        return {**self.defaults, **inherited, **self.fixed, **own, **overrides}

    def optimizer(self, problem: Problem, settings: Settings) -> Optimizer:
        """The optimizer of one run; its ``update`` takes ``batch=`` and ``progress=`` by keyword.

        Raises:
            ValueError: ``settings["schedule"]`` is neither "constant" nor "cosine".
        """
        built = optax.with_extra_args_support(self.build(problem, settings))
        match settings["schedule"]:
            case "constant":
                return built
            case "cosine":
                return optax.chain(built, decay_to_zero())
            case other:
                raise ValueError(f"schedule must be 'constant' or 'cosine', got {other!r}.")


def loss_of_rows(problem: Problem) -> Callable[[Any, Batch], jax.Array]:
    """The scalar training loss of a batch from its rows: ``(rows, batch) -> loss``."""
    reduce = {"mean": jnp.mean, "sum": jnp.sum}[problem.reduction]
    return lambda rows, batch: reduce(jax.vmap(problem.sample_loss)(rows, batch))


def batch_loss(problem: Problem) -> Callable[[Params, Batch], jax.Array]:
    """The scalar training loss of a batch, reduced as the problem says: ``(params, batch) -> loss``."""
    of_rows = loss_of_rows(problem)

    def loss(params: Params, batch: Batch) -> jax.Array:
        return of_rows(jax.vmap(problem.residual, in_axes=(None, 0))(params, batch), batch)

    return loss


def decay_to_zero() -> Optimizer:
    """Scale updates by half a cosine of the run's `progress`: 1 at its start, 0 at its end.

    The horizon is the budget itself, of time or of steps, not a number of steps guessed before the
    run: the training loop says how far it is, and one compiled loop serves any budget.

    Example:
        >>> opt = decay_to_zero()
        >>> updates, _ = opt.update(jnp.ones(2), opt.init(None), progress=jnp.asarray(0.5))
        >>> updates.round(6)
        Array([0.5, 0.5], dtype=float32)
    """

    def update(
        updates: optax.Updates,
        state: optax.EmptyState,
        params: optax.Params | None = None,
        *,
        progress: jax.Array,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params, extra
        factor = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0)))
        return jax.tree.map(lambda u: u * factor.astype(u.dtype), updates), state

    return Optimizer(optax.init_empty_state, update)


def _without_loop_settings(settings: Settings) -> Settings:
    return {k: v for k, v in settings.items() if k not in ("batch_size", "schedule")}


def _hig(problem: Problem, settings: Settings) -> Optimizer:
    settings = _without_loop_settings(settings)
    learning_rate, exact = settings.pop("learning_rate"), settings.pop("exact_cotangent")
    loss_fn = loss_of_rows(problem) if exact else None
    return hig_optax.hig(learning_rate, problem.residual, loss_fn=loss_fn, **settings)


def _from_optax(make: Callable[..., Any]) -> Callable[[Problem, Settings], Optimizer]:
    def build(problem: Problem, settings: Settings) -> Optimizer:
        del problem
        optimizer = optax.with_extra_args_support(make(**_without_loop_settings(settings)))

        def update(*arguments: Any, **extra: Any) -> tuple[optax.Updates, optax.OptState]:
            # Optax raises floats to integer powers, which a program with strict promotion forbids.
            with jax.numpy_dtype_promotion("standard"):
                return optimizer.update(*arguments, **extra)

        return Optimizer(optimizer.init, update)

    return build


_SPECTRAL = {
    "batch_size": 32,
    "learning_rate": 1.0,
    "schedule": "constant",
    "exponent": -0.5,
    "rtol": 1e-6,
    "atol": 0.0,
    "max_rank": None,
    "damping": 0.0,
    "jacobian": "auto",
    "solver": "auto",
    "chunk_size": None,
    "spectrum_size": 512,  # enough to see the cut in every problem; a few kilobytes of state
    "exact_cotangent": False,  # True: hand over the loss of the rows; the gradient only reports
}
_FIRST_ORDER = {"batch_size": 256, "learning_rate": 1e-3, "schedule": "constant"}

METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("hig", "half-inverse gradients, κ = -1/2", _hig, _SPECTRAL),
        Method(
            "gauss-newton",
            "truncated pseudo-inverse, κ = -1",
            _hig,
            {**_SPECTRAL, "exponent": -1.0},
            like="hig",
            fixed={"exponent": -1.0},
        ),
        Method(
            "levenberg-marquardt",
            "κ = -1 with a fixed damping",
            _hig,
            {**_SPECTRAL, "exponent": -1.0, "damping": 1e-3},
            like="hig",
            fixed={"exponent": -1.0, "damping": 1e-3},
        ),
        Method("adam", "Adam", _from_optax(optax.adam), _FIRST_ORDER),
        Method(
            "adam-cosine",
            "Adam, its learning rate decaying to 0 over the budget",
            _from_optax(optax.adam),
            {**_FIRST_ORDER, "batch_size": 64, "learning_rate": 3e-3, "schedule": "cosine"},
        ),
        Method(
            "muon",
            "Muon, its learning rate decaying to 0 over the budget",
            _from_optax(optax.contrib.muon),
            {**_FIRST_ORDER, "batch_size": 64, "learning_rate": 3e-3, "schedule": "cosine"},
        ),
        Method(
            "sgd",
            "stochastic gradient descent",
            _from_optax(optax.sgd),
            {**_FIRST_ORDER, "learning_rate": 1e-2, "momentum": None},
        ),
    )
}
"""The methods by name."""


def get(name: str) -> Method:
    """The method called `name`.

    Raises:
        ValueError: There is none; the message lists those there are.

    Example:
        >>> get("hig").summary
        'half-inverse gradients, κ = -1/2'
    """
    if name not in METHODS:
        raise ValueError(f"No method {name!r}; there are {', '.join(METHODS)}.")
    return METHODS[name]
