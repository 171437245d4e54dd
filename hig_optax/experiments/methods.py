"""Training methods by name: how each is built, and the settings it starts from."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import optax

import hig_optax
from hig_optax import baselines
from hig_optax.experiments import optimizers, peers, sip, soap
from hig_optax.experiments.adjustments import ADJUSTMENTS
from hig_optax.experiments.losses import batch_loss, rows_of_answer
from hig_optax.experiments.optimizers import Build, Optimizer, Settings
from hig_optax.problems import Batch, ControlProblem, Params, PhysicsInformed, Problem

ValueAndGrad = Callable[[Params, Batch], tuple[jax.Array, Params]]


def exact_gradient(problem: Problem, settings: Settings) -> ValueAndGrad:
    """The training loss of a batch and its gradient."""
    del settings
    return jax.value_and_grad(batch_loss(problem))


def scale_invariant(problem: Problem, settings: Settings) -> ValueAndGrad:
    """The training loss, and the gradient of a regression to controls that the physics corrected.

    Raises:
        ValueError: The problem has no physics that answers to a control.
    """
    if not isinstance(problem, ControlProblem):
        raise ValueError(  # noqa: TRY004 - it is the setting that is wrong, as a user sees it
            f"sip corrects controls by the physics, and the network of {problem.name} says none."
        )
    value_and_grad = sip.sip_value_and_grad(
        problem.control,
        lambda u, sample: rows_of_answer(problem, problem.physics(u, sample), sample),
        problem.sample_loss,
        rtol=settings["rtol"],
    )
    if problem.reduction == "mean":
        return value_and_grad

    def total(params: Params, batch: Batch) -> tuple[jax.Array, Params]:
        size = jax.tree.leaves(batch)[0].shape[0]
        return jax.tree.map(lambda mean: size * mean, value_and_grad(params, batch))

    return total


@dataclass(frozen=True)
class Method:
    """A way to train any `Problem`.

    Attributes:
        name: Name in `METHODS`.
        summary: One line for the reader of ``list``.
        build: ``(problem, settings) -> optimizer``; sign and learning rate are in it.
        defaults: Every setting the method knows, and its value where no problem says otherwise.
        like: A method whose recommended settings hold for this one too, as far as it has them.
        gradient: ``(problem, settings) -> value_and_grad``: what the optimizer is handed.
        package: Whose it is, where that is neither this package nor Optax.
    """

    name: str
    summary: str
    build: Build
    defaults: Mapping[str, Any]
    like: str | None = None
    gradient: Callable[[Problem, Settings], ValueAndGrad] = exact_gradient
    package: str | None = None

    def settings(self, problem: Problem, overrides: Mapping[str, Any] | None = None) -> Settings:
        """All settings of a run.

        The method's defaults, then what the problem recommends, then what the comparisons here
        adjust, then `overrides`. A step on a physics-informed network takes all of its points.

        Raises:
            ValueError: An override is not a setting of this method, or of another kind.
        """
        overrides = overrides or {}
        suggested = self._suggested(problem)
        if unknown := sorted({*suggested, *overrides} - set(self.defaults)):
            known = ", ".join(self.defaults)
            raise ValueError(f"{self.name} has no setting {', '.join(unknown)}; it has {known}.")
        batch = {}
        if isinstance(problem, PhysicsInformed):
            batch["batch_size"] = problem.num_points
        for name, value in overrides.items():
            check_kind(f"{self.name}.{name}", value, self.defaults[name])
        return {**self.defaults, **batch, **suggested, **overrides}

    def _suggested(self, problem: Problem) -> Settings:
        """What the problem recommends for this method, or for the one it is like."""
        inherited = get(self.like)._suggested(problem) if self.like else {}
        inherited = {name: value for name, value in inherited.items() if name in self.defaults}
        recommended = problem.recommended.get(self.name, {})
        adjusted = ADJUSTMENTS.get((problem.name, self.name))
        return {**inherited, **recommended, **(adjusted.settings if adjusted else {})}

    def optimizer(self, problem: Problem, settings: Settings) -> Optimizer:
        """The optimizer of one run.

        Its ``update`` takes ``batch=``, ``value=`` (the loss) and ``progress=`` by keyword.

        Raises:
            ValueError: ``settings["schedule"]`` is neither "constant" nor "cosine"; a setting has a value
                that the optimizer does not take.
        """
        try:
            built = optax.with_extra_args_support(self.build(problem, settings))
        except TypeError as error:  # of a setting: what is wrong with a problem shows later
            raise ValueError(f"{self.name}: {error}") from error
        match settings["schedule"]:
            case "constant":
                return built
            case "cosine":
                return optax.chain(built, optimizers.decay_to_zero())
            case other:
                raise ValueError(f"schedule must be 'constant' or 'cosine', got {other!r}.")


_FAMILY = {
    "batch_size": 32,
    "learning_rate": 1.0,
    "schedule": "constant",
    "solver": "auto",
    "num_matvecs": None,
    "chunk_size": None,
    "spectrum_size": 512,  # enough to see the cut in every problem; a few kilobytes of state
}
_PSEUDO_INVERSE = {
    **_FAMILY,
    "rtol": 1e-6,
    "atol": 0.0,
    "max_rank": None,
    "jacobian": "auto",
    "exact_cotangent": False,  # True: hand over the loss of the rows; the gradient only reports
}
_HIG = {**_PSEUDO_INVERSE, "exponent": -0.5, "damping": 0.0}
_ADAPTIVE = {
    **_FAMILY,
    "exponent": "auto",
    "momentum": "auto",
    "max_relative_step": "auto",
    "patience": 20.0,
}
_FIRST_ORDER = {"batch_size": 256, "learning_rate": 1e-3, "schedule": "constant"}
_DECAYING = {"batch_size": 64, "learning_rate": 3e-3, "schedule": "cosine"}

METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("hig", "half-inverse gradients, κ = -1/2", optimizers.spectral(hig_optax.hig), _HIG),
        Method(
            "gauss-newton",
            "truncated pseudo-inverse, κ = -1",
            optimizers.spectral(baselines.gauss_newton),
            _PSEUDO_INVERSE,
            like="hig",
        ),
        Method(
            "levenberg-marquardt",
            "κ = -1 with a fixed damping",
            optimizers.spectral(baselines.levenberg_marquardt),
            {**_PSEUDO_INVERSE, "damping": 1e-3},
            like="gauss-newton",
        ),
        Method(
            "adaptive-hig",
            "half-inverse gradients that choose their own step",
            optimizers.adaptive(hig_optax.adaptive_hig),
            _ADAPTIVE,
        ),
        Method(
            "adaptive-hig-cosine",
            "the same, its learning rate decaying to 0 over the budget",
            optimizers.adaptive(hig_optax.adaptive_hig),
            # What patience finds out is known here: when the steps must have become small.
            {**_ADAPTIVE, "schedule": "cosine", "patience": None},
            like="adaptive-hig",
        ),
        Method(
            "adaptive-lm",
            "Levenberg-Marquardt, damped by success",
            optimizers.adaptive(hig_optax.adaptive_hig),
            {
                **_ADAPTIVE,
                "exponent": -1.0,
                "momentum": 0.0,
                "max_relative_step": None,
                "patience": None,
            },
        ),
        Method(
            "spring",
            "damped steps at κ = -1 that carry the previous one on",
            optimizers.damped(baselines.spring),
            {
                **{name: value for name, value in _FAMILY.items() if name != "chunk_size"},
                "jacobian": "auto",
                "damping": 1e-2,
                "momentum": 0.9,
                "max_step_norm": 0.1,
            },
        ),
        Method("adam", "Adam", optimizers.from_optax(optax.adam), _FIRST_ORDER),
        Method(
            "adam-cosine",
            "Adam, its learning rate decaying to 0 over the budget",
            optimizers.from_optax(optax.adam),
            _DECAYING,
        ),
        Method(
            "muon",
            "Muon, its learning rate decaying to 0 over the budget",
            optimizers.from_optax(optax.contrib.muon),
            _DECAYING,
        ),
        Method(
            "soap",
            "SOAP, its learning rate decaying to 0 over the budget",
            optimizers.from_optax(soap.soap),
            {**_DECAYING, "b1": 0.95, "b2": 0.95, "refresh_every": 10},
        ),
        Method(
            "sip",
            "scale-invariant physics: Adam towards controls that the inverted physics corrected",
            optimizers.from_optax(optax.adam, "rtol"),
            {**_FIRST_ORDER, "rtol": 1e-5},
            like="adam",
            gradient=scale_invariant,
        ),
        Method(
            "sgd",
            "stochastic gradient descent",
            optimizers.from_optax(optax.sgd),
            {**_FIRST_ORDER, "learning_rate": 1e-2, "momentum": None},
        ),
        Method(
            "lbfgs",
            "limited-memory BFGS with a line search on the batch",
            optimizers.lbfgs,
            {
                "batch_size": 1024,
                "learning_rate": None,
                "schedule": "constant",
                "memory_size": 10,
                "max_linesearch_steps": 20,
            },
        ),
        Method(
            "ssbroyden",
            "self-scaled Broyden with a line search on the batch, of jinns",
            peers.ssbroyden,
            {
                "batch_size": 1024,
                "learning_rate": None,
                "schedule": "constant",
                "max_linesearch_steps": 25,
            },
            package="jinns",
        ),
        Method(
            "geodesic-lm",
            "Levenberg-Marquardt with geodesic acceleration, of nlls-gram",
            peers.geodesic_lm,
            {
                "batch_size": 32,
                "learning_rate": None,
                "schedule": "constant",
                "init_damping": 1e-3,
                "solver": "cholesky",
                "num_matvecs": 100,
            },
            package="nlls-gram",
        ),
    )
}
"""The methods by name."""


def check_kind(name: str, value: Any, usual: Any) -> None:
    """Refuse a word for a number and the like, which would show only once the run had begun.

    Raises:
        ValueError: `value` is of another kind than `usual`, where that tells.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if name.startswith("adaptive") and value == (None if name.endswith("patience") else "auto"):
        return
    match usual:
        case tuple():
            wanted, fits = "a tuple", isinstance(value, tuple)
        case bool():
            wanted, fits = "True or False", isinstance(value, bool)
        case int() if name.endswith("batch_size"):
            wanted = "a positive whole number"
            fits = is_number and isinstance(value, int) and value > 0
        case int() | float():
            wanted = "a finite number"
            fits = is_number and math.isfinite(value)
        case "auto" if not name.endswith(("solver", "jacobian")):
            wanted, fits = "a number, None or 'auto'", is_number or value in (None, "auto")
        case str():
            wanted, fits = "a word", isinstance(value, str)
        case _:
            wanted, fits = "a number or None", is_number or value is None
    if not fits:
        raise ValueError(f"{name} must be {wanted}, got {value!r}.")


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
