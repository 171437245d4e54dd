"""Settings of adaptive steps that belong together, and what "auto" stands for among them."""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool

from hig_optax._inputs.checks import check_number
from hig_optax._types import Scalar

Auto = Literal["auto"]


class Recipe(NamedTuple):
    """Settings on a batch that has been seen; see `hig_optax.adaptive_hig` for what each means."""

    exponent: Scalar
    momentum: Scalar
    max_relative_step: Scalar | None
    least_damping: Scalar
    """λ over the mean of σ², while steps are whole."""


class Choices(NamedTuple):
    """The same settings as they were given."""

    exponent: Scalar | Auto
    momentum: Scalar | Auto
    max_relative_step: Scalar | Auto | None

    def check(self) -> None:
        """Refuse what is no setting.

        Raises:
            TypeError: One is of the wrong kind.
            ValueError: One is a plain number out of range, or another word than "auto".
        """
        for name, value in self._asdict().items():
            if isinstance(value, str):
                if value != "auto":
                    raise ValueError(f"{name} must be a number or 'auto', got {value!r}.")
            elif value is not None or name not in OPTIONAL:
                check_number(name, value, *RANGES[name])

    def is_auto(self, name: str) -> bool:
        """Whether the setting of this name was left open."""
        return isinstance(getattr(self, name), str)

    def on(self, is_steady: Bool[Array, ""], *, is_large: bool, rows: int, columns: int) -> Recipe:
        """The settings on a batch of so many rows: those that were given, and "auto" by `OPEN` or `DECIDED`.

        On a batch that is fixed or large those of `STEADY` that are numbers take their place, and on a large
        one, as long as it changes, a wider bound.
        """
        automatic = OPEN if rows < columns else DECIDED
        if is_large:
            automatic = automatic._replace(max_relative_step=LARGE_STEP)
        numbers = {
            name: jnp.where(is_steady, getattr(STEADY, name), getattr(automatic, name))
            for name in ("exponent", "momentum", "least_damping")
        }
        given = {name: value for name, value in self._asdict().items() if not self.is_auto(name)}
        return automatic._replace(**numbers | given)


RANGES: Mapping[str, tuple[str, Any]] = {
    "exponent": ("a finite number", math.isfinite),
    "momentum": ("in [0, 1)", lambda x: 0 <= x < 1),
    "max_relative_step": ("finite and positive", lambda x: 0 < x < math.inf),
}
OPTIONAL = ("max_relative_step",)

# What "auto" means. A batch with fewer rows than there are parameters leaves most of them open: what earlier
# batches said of them is kept, and a bound keeps one batch from deciding too much. One with more rows
# decides them all, and there the same precautions cost decades (see ADAPTIVE.md, the notebooks').
OPEN = Recipe(
    exponent=-0.75,
    momentum=0.95,
    max_relative_step=0.02,
    # Batches fitted one at a time are fitted as promised, so that the damping ends at its minimum. With
    # 1e-10 the loss of the nonlinear oscillators in float32 rose again by two decades, in a slow drift along
    # what is rounding in J; with 1e-6 it fell less far.
    least_damping=1e-8,
)
DECIDED = Recipe(
    exponent=-0.5,
    momentum=0.0,
    max_relative_step=None,
    least_damping=1e-10,
)
# And on a batch that stays the same nothing is noise, on a large one little: there the full inverse converges
# best, momentum is worth a decade, and the damping may fall as far as the arithmetic lets it.
STEADY = Recipe(
    exponent=-1.0,
    momentum=0.9,
    max_relative_step=None,
    least_damping=1e-16,
)

# The bound on a large batch that changes. Without it helmholtz with fresh points ended at 5.2e-3, with it at
# 1.1e-4, and with half of it at 7.0e-2 (25 s, seed 100); the dipole, taken for large, at 0.25 and at 8.3e-8.
LARGE_STEP = 0.1
# And how much more than a small one it tells of the length of the last step, by which patience is divided.
LARGE_TELLS = 4
