"""The settings that all optimizers of the family share, checked once."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax
import numpy as np

from hig_optax._inputs.checks import (
    check_choice,
    check_count,
    check_function,
    check_number,
    shown,
    static_hint,
)
from hig_optax._types import (
    AxisName,
    BadSamples,
    Count,
    JacobianMode,
    LossFn,
    ResidualFns,
    Scalar,
    Solver,
    Tree,
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """See `hig_optax.scale_by_hig` for what each setting means.

    Raises:
        TypeError: A setting is of the wrong kind.
        ValueError: A setting that is a plain number or a choice is outside its range. Traced numbers are
            not checked; one that is NaN makes the update zero and flagged, like any other NaN.
    """

    residual_fn: ResidualFns
    loss_fn: LossFn | None = None
    exponent: Scalar = -0.5
    rtol: Scalar = 1e-6
    atol: Scalar = 0.0
    max_rank: Count | None = None
    damping: Scalar = 0.0
    batch_axis: Tree = 0
    mask: Any = None
    jacobian: JacobianMode = "auto"
    solver: Solver = "auto"
    num_matvecs: int | None = None
    rows_per_sample: int | Literal["auto"] | None = None
    chunk_size: int | None = None
    spectrum_size: int = 64
    axis_name: AxisName = None
    bad_samples: BadSamples = "refuse"
    is_damped: bool = False
    """Whether every step is damped by more than the noise of a Gram matrix, as adaptive ones are."""
    may_hold: bool = False
    """Whether ``"krylov"`` was chosen by price alone, so that J may be held for a step that is worth it."""

    @property
    def numbers(self) -> dict[str, Any]:
        """The settings that may be traced."""
        names = ("exponent", "rtol", "atol", "max_rank", "damping")
        return {name: getattr(self, name) for name in names}

    def __post_init__(self) -> None:
        if isinstance(self.residual_fn, Mapping):
            _check_blocks(self.residual_fn)
        else:
            check_function("residual_fn", self.residual_fn, ("params", "sample"))
        if self.loss_fn is not None:
            check_function("loss_fn", self.loss_fn, ("rows", "batch"))
        check_count("max_rank", self.max_rank, optional=True, may_be_traced=True)
        for name in ("num_matvecs", "chunk_size", "spectrum_size"):
            check_count(name, getattr(self, name), optional=name != "spectrum_size")
        if self.rows_per_sample != "auto":
            check_count("rows_per_sample", self.rows_per_sample, optional=True)
        _check_batch_axis(self.batch_axis)
        _check_axis_name(self.axis_name)
        check_choice("jacobian", self.jacobian, get_args(JacobianMode))
        check_choice("solver", self.solver, get_args(Solver))
        check_choice("bad_samples", self.bad_samples, get_args(BadSamples))
        if self.num_matvecs is not None and self.solver not in ("auto", "krylov"):
            raise ValueError(
                f'num_matvecs is the number of products that solver="krylov" takes, got {self.num_matvecs} '
                f'with solver="{self.solver}". Leave it out, or use solver="krylov".'
            )
        check_number("exponent", self.exponent, "a finite number", math.isfinite)
        check_number("rtol", self.rtol, "in [0, 1)", lambda x: 0 <= x < 1)
        check_number("atol", self.atol, "finite and not negative", lambda x: 0 <= x < math.inf)
        check_number(
            "damping", self.damping, "finite and not negative", lambda x: 0 <= x < math.inf
        )

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the blocks of rows, in JAX's order; empty for a residual without."""
        return tuple(sorted(self.residual_fn)) if isinstance(self.residual_fn, Mapping) else ()


NOT_PASSED: Any = object()
"""Stands for a batch that ``update`` was not given; None is one that a residual may need."""


def check_passed(params: Tree, batch: Tree) -> None:
    """Refuse a call of ``update`` without what the Jacobian is taken of.

    Raises:
        ValueError: `params` or `batch` was not passed.
    """
    if params is None:
        raise ValueError(
            "params must be passed, the Jacobian is taken there: "
            "opt.update(grads, state, params, batch=batch)."
        )
    if batch is NOT_PASSED:
        raise ValueError(
            "batch must be passed, the Jacobian is taken on it: opt.update(grads, state, params, "
            "batch=batch). If a wrapper around opt, or a trainer, passes no extra arguments on "
            "(optax.lookahead, jinns.solve, say), hand it hig_optax.with_batch(opt, batch), built inside the "
            "step where batches change. A residual that needs no batch takes batch=None with batch_axis=None."
        )


def _check_blocks(residual_fns: Mapping[str, Any]) -> None:
    if not residual_fns or not all(isinstance(name, str) for name in residual_fns):
        raise ValueError(
            "residual_fn must be a function or a dict {name: function} with at least one block, got "
            f"{dict(residual_fns)!r}."
        )
    for name, fun in residual_fns.items():
        check_function(f"residual_fn[{name!r}]", fun, ("params", "sample"))


def _check_batch_axis(batch_axis: Tree) -> None:
    for axis in jax.tree.leaves(batch_axis):
        if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
            raise TypeError(
                f"batch_axis must be an int, None, or a tree of them, got {shown(axis)}. "
                f"{static_hint('batch_axis', axis)}"
            )


def _check_axis_name(name: Any) -> None:
    names = name if isinstance(name, tuple) else (name,)
    if name is not None and not all(isinstance(x, str) for x in names):
        raise TypeError(
            "axis_name must be a str, a tuple of them, or None, "
            f"got {shown(name)}. {static_hint('axis_name', name)}"
        )
