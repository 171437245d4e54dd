"""A quantum particle in a box that a network lifts to a wanted state with an electric field."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from hig_optax.problems._data import consecutive
from hig_optax.problems._network import Activation, DenseNetwork

State = Complex[Array, "points"]


class DipoleSample(NamedTuple):
    """One control task.

    Attributes:
        start: Wave function at time 0, with Σ|ψ|² = 1; complex. Only the solver sees it.
        target: Wave function wanted at the end, likewise. Only the network and the loss see it.
    """

    start: Complex[Array, "*batch points"]
    target: Complex[Array, "*batch points"]


@dataclasses.dataclass(frozen=True)
class QuantumDipole:
    """A particle in a box, driven from its ground state by a field that couples to its position.

    The box has length 2 and hard walls; ψ lives on the 14 inner points x_j = j dx, dx = 2/15, and
    is zero outside. With the control u(t), the field strength,

        i ∂ψ/∂t = H(u) ψ        (H(u) ψ)_j = -(ψ_{j+1} - 2 ψ_j + ψ_{j-1}) / dx² + u x_j ψ_j

    and one Crank-Nicolson step of dt = 0.05, under a control that is constant in it, solves

        (1 + i dt/2 H(u_n)) ψ_{n+1} = (1 - i dt/2 H(u_n)) ψ_n

    which is unitary for every u: Σ|ψ|² stays 1. 384 steps are taken. The eigenstates of the empty
    box are ψ^(k)_j ∝ sin(π k j / 15), with Σ|ψ^(k)|² = 1. The particle starts in ψ^(1), and the
    target is a random mixture of the next two, (c1 ψ^(2) + c2 ψ^(3)) / √(c1² + c2²) with real
    normal c1 and c2. The network reads the target, real and imaginary parts of each point in turn,
    and answers with the control values of all steps.

        network         28 - 20 - 20 - 20 - 384, tanh, last layer linear     9484 parameters
        control         u, shape (384,), real
        physics         y = ψ after 384 steps, shape (14,), complex
        residual        y, shape (14,), complex: 28 real rows
        sample_loss     1 - |⟨target, y⟩|², in [0, 1]; the mean over the batch is minimised
        data            1024 training and 1024 test targets

    Everything is dimensionless, in units of ħ = 2 mass = 1; ⟨a, b⟩ = Σ conj(a_j) b_j, without dx.

    The rows are the state itself and not an error, since a global phase of ψ means nothing and no
    single state is the goal. The loss is nevertheless a sum of squares: the rows of the error
    y - ⟨target, y⟩ target give 1 - |⟨target, y⟩|² exactly.

    At the weights a network starts with, the field is weak, the overlap tiny and the landscape
    flat, with singular values of the Jacobian that fall to nothing without a gap. This is what
    half-inverse gradients are for; it is also where the cut matters.

    Recommended settings are the paper's: for half-inverse gradients, batches of 16 at learning
    rate 0.5, singular values cut below 1e-5 of the largest; for Adam, batches of 256 at 5e-4. Those
    of the other methods were searched for.

    Attributes:
        num_points: Number of inner points.
        num_steps: Number of time steps and of control values.
        dt: Length of a time step.
        activation: Activation of the hidden layers.
        hidden: Widths of the hidden layers.
        num_train: Number of training samples.
        num_test: Number of test samples.

    Example:
        >>> problem = QuantumDipole()
        >>> sample = DipoleSample(start=problem.eigenstate(1), target=problem.eigenstate(2))
        >>> y = problem.physics(jnp.zeros(384), sample)
        >>> float(jnp.round(jnp.abs(jnp.vdot(sample.start, y)), 3))  # without a field it stays
        1.0

    References:
        Schnell, Holl and Thuerey, Half-Inverse Gradients for Physical Deep Learning, ICLR 2022,
        and the authors' code: equations, network and settings.
    """

    num_points: int = 14
    num_steps: int = 384
    dt: float = 0.05
    activation: Activation = "tanh"
    hidden: tuple[int, ...] = (20, 20, 20)
    num_train: int = 1024
    num_test: int = 1024

    @property
    def name(self) -> str:
        """``"quantum-dipole"``."""
        return "quantum-dipole"

    @property
    def recommended(self) -> Mapping[str, Mapping[str, Any]]:
        """Settings per method."""
        return {
            "hig": {"batch_size": 16, "learning_rate": 0.5, "rtol": 1e-5},
            "adaptive-hig": {"batch_size": 16, "learning_rate": 1.0},
            "spring": {"batch_size": 16, "learning_rate": 1.0, "damping": 1e-6},
            "adaptive-lm": {"batch_size": 16, "learning_rate": 1.0},
            "gauss-newton": {"batch_size": 16, "learning_rate": 0.5, "rtol": 1e-5},
            "adam": {"batch_size": 256, "learning_rate": 5e-4},
            "adam-cosine": {"batch_size": 8, "learning_rate": 1e-2},
            "muon": {"batch_size": 16, "learning_rate": 1e-2, "schedule": "cosine"},
        }

    @property
    def reduction(self) -> str:
        """The mean over the batch."""
        return "mean"

    @property
    def dx(self) -> float:
        """Distance of two points in a box of length 2."""
        return 2.0 / (self.num_points + 1)

    @property
    def network(self) -> DenseNetwork:
        """The network, from target state to one control value per time step."""
        return DenseNetwork((2 * self.num_points, *self.hidden, self.num_steps), self.activation)

    def eigenstate(self, k: int) -> Complex[Array, "points"]:
        """The k-th eigenstate of the empty box, k from 1, with Σ|ψ|² = 1."""
        wave = np.sin(np.pi * k * np.arange(1, self.num_points + 1) / (self.num_points + 1))
        return jnp.asarray(wave / np.linalg.norm(wave), jax.dtypes.canonicalize_dtype(complex))

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh network parameters."""
        return self.network.init(key)

    def data(self, key: jax.Array) -> tuple[DipoleSample, DipoleSample]:
        """Training and test set: from the first eigenstate to mixtures of the next two."""
        basis = jnp.stack([self.eigenstate(2), self.eigenstate(3)])

        def targets(key: jax.Array, size: int) -> DipoleSample:
            c = jax.random.normal(key, (size, 2))
            c = c / jnp.linalg.norm(c, axis=1, keepdims=True)
            target = jnp.dot(c.astype(basis.dtype), basis, precision="highest")
            return DipoleSample(jnp.broadcast_to(self.eigenstate(1), target.shape), target)

        train_key, test_key = jax.random.split(key)
        return targets(train_key, self.num_train), targets(test_key, self.num_test)

    def draw(
        self, key: jax.Array, step: jax.Array | int, train: DipoleSample, batch_size: int
    ) -> DipoleSample:
        """Consecutive training samples; the key has no say."""
        del key
        return consecutive(step, train, batch_size)

    def control(self, params: dict[str, Any], sample: DipoleSample) -> Float[Array, "steps"]:
        """Field strength u at all time steps, from the target."""
        parts = jnp.stack([sample.target.real, sample.target.imag], axis=-1)
        return self.network.apply(params, parts.ravel())

    def physics(
        self, control: Float[Array, "steps"], sample: DipoleSample
    ) -> Complex[Array, "points"]:
        """State y after one Crank-Nicolson step per control value."""
        end, _ = jax.lax.scan(lambda psi, u: (self._step(psi, u), None), sample.start, control)
        return end

    def trajectory(
        self, control: Float[Array, "steps"], sample: DipoleSample
    ) -> Complex[Array, "times points"]:
        """All states from the start on, ``(num_steps + 1, num_points)``: the path `physics` ends."""

        def step(psi: State, u: jax.Array) -> tuple[State, State]:
            psi = self._step(psi, u)
            return psi, psi

        _, path = jax.lax.scan(step, sample.start, control)
        return jnp.concatenate([sample.start[None], path])

    def residual(self, params: dict[str, Any], sample: DipoleSample) -> Complex[Array, "points"]:
        """Rows y, complex."""
        return self.physics(self.control(params, sample), sample)

    def sample_loss(self, rows: Complex[Array, "points"], sample: DipoleSample) -> Float[Array, ""]:
        """1 - |⟨target, y⟩|², blind to a global phase."""
        overlap = jnp.vdot(sample.target, rows, precision="highest")
        return 1 - (overlap.real**2 + overlap.imag**2)

    def _step(self, psi: Complex[Array, "points"], u: Float[Array, ""]) -> Complex[Array, "points"]:
        """One Crank-Nicolson step: solve (1 + i dt/2 H) φ = ψ, and return 2 φ - ψ.

        As 1 - i dt/2 H = 2 - (1 + i dt/2 H), this is the step above with one solve and no product.
        """
        x = jnp.asarray(self.dx * np.arange(1, self.num_points + 1), u.dtype)
        hop = -self.dt / 2 / self.dx**2
        diagonal = jax.lax.complex(jnp.ones_like(x), self.dt / 2 * u * x - 2 * hop)
        beside = np.full(self.num_points, 1j * hop)
        beside[-1] = 0.0
        above = jnp.asarray(beside, psi.dtype)
        below = jnp.asarray(np.roll(beside, 1), psi.dtype)
        # LAPACK's tridiagonal solver, its loop in compiled code: on a CPU this was faster than
        # elimination written out in JAX, dense inverses, and products with triangular matrices.
        phi = jax.lax.linalg.tridiagonal_solve(below, diagonal, above, psi[:, None])[:, 0]
        return 2 * phi - psi
