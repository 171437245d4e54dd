"""Problems to train on: a network acts through a differentiable physics.

Adding a problem means adding one file, and its line in `PROBLEMS`.
"""

import functools
from collections.abc import Callable

from hig_optax.problems._network import DenseNetwork as DenseNetwork
from hig_optax.problems._pinn import PhysicsInformed as PhysicsInformed
from hig_optax.problems._pinn import Points as Points
from hig_optax.problems._pinn import Solution as Solution
from hig_optax.problems._problem import Batch as Batch
from hig_optax.problems._problem import ControlProblem as ControlProblem
from hig_optax.problems._problem import Params as Params
from hig_optax.problems._problem import Problem as Problem
from hig_optax.problems._problem import SampleProblem as SampleProblem
from hig_optax.problems._readings import FieldSample as FieldSample
from hig_optax.problems.allen_cahn import AllenCahn as AllenCahn
from hig_optax.problems.burgers import Burgers as Burgers
from hig_optax.problems.hamiltonian_network import HamiltonianNetwork as HamiltonianNetwork
from hig_optax.problems.hamiltonian_network import MotionSample as MotionSample
from hig_optax.problems.heat import Heat as Heat
from hig_optax.problems.helmholtz import Helmholtz as Helmholtz
from hig_optax.problems.kovasznay import Kovasznay as Kovasznay
from hig_optax.problems.ks_control import FrontSample as FrontSample
from hig_optax.problems.ks_control import KSControl as KSControl
from hig_optax.problems.neural_ode import NeuralODE as NeuralODE
from hig_optax.problems.neural_ode import Trajectory as Trajectory
from hig_optax.problems.noisy_field import NoisyField as NoisyField
from hig_optax.problems.noisy_likelihood import NoisyLikelihood as NoisyLikelihood
from hig_optax.problems.operator_network import EvolvedSample as EvolvedSample
from hig_optax.problems.operator_network import OperatorNetwork as OperatorNetwork
from hig_optax.problems.oscillators import LinearOscillators as LinearOscillators
from hig_optax.problems.oscillators import NonlinearOscillators as NonlinearOscillators
from hig_optax.problems.oscillators import OscillatorSample as OscillatorSample
from hig_optax.problems.poisson import Poisson as Poisson
from hig_optax.problems.poisson import PoissonSample as PoissonSample
from hig_optax.problems.poisson_network import Poisson2D as Poisson2D
from hig_optax.problems.poisson_network import Poisson5D as Poisson5D
from hig_optax.problems.quantum_dipole import DipoleSample as DipoleSample
from hig_optax.problems.quantum_dipole import QuantumDipole as QuantumDipole
from hig_optax.problems.toy import Toy as Toy
from hig_optax.problems.toy import ToySample as ToySample

PROBLEMS: dict[str, Callable[[], Problem]] = {
    "allen-cahn": AllenCahn,
    "burgers": Burgers,
    "hamiltonian-network": HamiltonianNetwork,
    "heat-1d": Heat,
    "helmholtz": Helmholtz,
    "kovasznay": Kovasznay,
    "ks-control": KSControl,
    "linear-oscillators": LinearOscillators,
    "neural-ode": NeuralODE,
    "noisy-field": NoisyField,
    "noisy-likelihood": NoisyLikelihood,
    "nonlinear-oscillators": NonlinearOscillators,
    "operator-network": OperatorNetwork,
    "poisson": Poisson,
    "poisson-2d": Poisson2D,
    "poisson-5d": Poisson5D,
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
