"""Problems to train on: a network acts through a differentiable physics.

Adding a problem means adding one file, and its line in `PROBLEMS`.
"""

import functools
from collections.abc import Callable

from hig_optax.problems._network import DenseNetwork as DenseNetwork
from hig_optax.problems._problem import Batch as Batch
from hig_optax.problems._problem import Params as Params
from hig_optax.problems._problem import Problem as Problem
from hig_optax.problems.noisy_field import FieldSample as FieldSample
from hig_optax.problems.noisy_field import NoisyField as NoisyField
from hig_optax.problems.oscillators import LinearOscillators as LinearOscillators
from hig_optax.problems.oscillators import NonlinearOscillators as NonlinearOscillators
from hig_optax.problems.oscillators import OscillatorSample as OscillatorSample
from hig_optax.problems.poisson import Poisson as Poisson
from hig_optax.problems.poisson import PoissonSample as PoissonSample
from hig_optax.problems.quantum_dipole import DipoleSample as DipoleSample
from hig_optax.problems.quantum_dipole import QuantumDipole as QuantumDipole
from hig_optax.problems.toy import Toy as Toy
from hig_optax.problems.toy import ToySample as ToySample

PROBLEMS: dict[str, Callable[[], Problem]] = {
    "linear-oscillators": LinearOscillators,
    "noisy-field": NoisyField,
    "nonlinear-oscillators": NonlinearOscillators,
    "poisson": Poisson,
    "quantum-dipole": QuantumDipole,
    "toy": Toy,
    "toy-balanced": functools.partial(Toy, lam=1.0),
}
"""Every problem by its name, as a factory without arguments."""


def get(name: str) -> Problem:
    """The problem of a name, with its default settings.

    Args:
        name: A key of `PROBLEMS`.

    Raises:
        ValueError: No problem has this name.

    Example:
        >>> get("linear-oscillators").reduction
        'mean'
    """
    try:
        factory = PROBLEMS[name]
    except KeyError:
        raise ValueError(f"No problem is named {name!r}; there are {sorted(PROBLEMS)}.") from None
    return factory()
