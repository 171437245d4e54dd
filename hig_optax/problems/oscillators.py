"""Two coupled oscillators that a network drives back to where they started."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hig_optax.problems._data import consecutive
from hig_optax.problems._network import Activation, DenseNetwork

Scalar = Float[Array, ""]
Phase = tuple[Scalar, ...]


class OscillatorSample(NamedTuple):
    """One control task.

    Attributes:
        start: State (x1, x2, v1, v2) at time 0; only the solver sees it.
        target: State wanted at the end; only the network and the loss see it.
    """

    start: Float[Array, "*batch 4"]
    target: Float[Array, "*batch 4"]


@dataclasses.dataclass(frozen=True)
class _Oscillators(abc.ABC):
    """What the two problems share: network, data, Runge-Kutta solver and loss."""

    num_steps: int
    dt: float
    activation: Activation
    hidden: tuple[int, ...] = (20, 20, 20)
    num_train: int = 4096
    num_test: int = 4096

    @abc.abstractmethod
    def acceleration(self, x1: Scalar, x2: Scalar, control: Scalar) -> tuple[Scalar, Scalar]:
        """The accelerations (v1', v2') at positions (x1, x2) under a control."""

    @property
    def reduction(self) -> str:
        """The mean over the batch."""
        return "mean"

    @property
    def network(self) -> DenseNetwork:
        """The network, from target state to one control value per time step."""
        return DenseNetwork((4, *self.hidden, self.num_steps), self.activation)

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh network parameters."""
        return self.network.init(key)

    def data(self, key: jax.Array) -> tuple[OscillatorSample, OscillatorSample]:
        """Training and test set: states uniform in [0, 1)⁴, each of them start and target."""
        train, test = (
            jax.random.uniform(k, (size, 4))
            for k, size in zip(jax.random.split(key), (self.num_train, self.num_test), strict=True)
        )
        return OscillatorSample(train, train), OscillatorSample(test, test)

    def draw(
        self, key: jax.Array, step: jax.Array | int, train: OscillatorSample, batch_size: int
    ) -> OscillatorSample:
        """Consecutive training samples; the key has no say."""
        del key
        return consecutive(step, train, batch_size)

    def control(self, params: dict[str, Any], sample: OscillatorSample) -> Float[Array, "steps"]:
        """Control values u of all time steps, from the target alone."""
        return self.network.apply(params, sample.target)

    def physics(
        self, control: Float[Array, "steps"], sample: OscillatorSample
    ) -> Float[Array, "4"]:
        """State y after one Runge-Kutta step per control value."""
        end, _ = jax.lax.scan(lambda s, u: (self._step(s, u), None), _split(sample.start), control)
        return jnp.stack(end)

    def trajectory(
        self, control: Float[Array, "steps"], sample: OscillatorSample
    ) -> Float[Array, "times 4"]:
        """All states from the start on, shape ``(num_steps + 1, 4)``: the path `physics` ends."""

        def step(state: Phase, u: Scalar) -> tuple[Phase, jax.Array]:
            state = self._step(state, u)
            return state, jnp.stack(state)

        _, path = jax.lax.scan(step, _split(sample.start), control)
        return jnp.concatenate([sample.start[None], path])

    def residual(self, params: dict[str, Any], sample: OscillatorSample) -> Float[Array, "4"]:
        """Rows y - target."""
        return self.physics(self.control(params, sample), sample) - sample.target

    def sample_loss(self, rows: Float[Array, "4"], sample: OscillatorSample) -> Scalar:
        """Σ(y - target)², without a factor ½."""
        del sample
        return jnp.sum(rows**2)

    def _step(self, state: Phase, control: Scalar) -> Phase:
        """One classical Runge-Kutta step; the control keeps its value over the four stages."""

        # The state travels as four scalars, not as a vector: under `vmap` every operation then
        # runs over contiguous samples, and a step fuses into one loop. Unrolling the time loop
        # on top of that made compilation several times longer and the step no faster.
        def slope(s: Phase) -> Phase:
            x1, x2, v1, v2 = s
            return v1, v2, *self.acceleration(x1, x2, control)

        def moved(k: Phase, h: float) -> Phase:
            return tuple(s + h * d for s, d in zip(state, k, strict=True))

        k1 = slope(state)
        k2 = slope(moved(k1, self.dt / 2))
        k3 = slope(moved(k2, self.dt / 2))
        k4 = slope(moved(k3, self.dt))
        mean = tuple((a + 2 * (b + c) + d) / 6 for a, b, c, d in zip(k1, k2, k3, k4, strict=True))
        return moved(mean, self.dt)


def _split(state: Float[Array, "4"]) -> Phase:
    """A state vector as four scalars."""
    return state[0], state[1], state[2], state[3]


@dataclasses.dataclass(frozen=True)
class LinearOscillators(_Oscillators):
    """Two linear oscillators with a weak linear coupling, driven for 12 time units.

    The state s = (x1, x2, v1, v2) holds two positions and two velocities. With the control u(t),
    which acts on the second oscillator only,

        x1' = v1        v1' = -x1 + c (x2 - x1)
        x2' = v2        v2' = -x2 + c (x1 - x2) + u        c = 0.2

    The network reads the target state and answers with all control values at once; u is constant
    over a time step and over its four Runge-Kutta stages. The solver starts from `start` and takes
    24 classical Runge-Kutta steps of 0.5. In the data the target is the start: the network must
    bring the oscillators back to where they were, though the network never sees `start` itself.

        network         4 - 20 - 20 - 20 - 24, tanh, last layer linear       1444 parameters
        control         u, shape (24,)
        physics         y = s(12), shape (4,)
        residual        y - target, shape (4,)
        sample_loss     Σ(y - target)², without ½; the mean over the batch is minimised
        data            4096 training and 4096 test states, uniform in [0, 1)⁴

    Everything is dimensionless: the free oscillator has mass 1, stiffness 1 and period 2π.

    The end state is linear in the control, so all that is not linear here is the network. The
    singular values of the Jacobian still span three to five decades over a mini-batch: the
    directions in which control moves the end state, and in which parameters move the control,
    are very unequal, and plain gradients see only the strong ones.

    Recommended settings: for half-inverse gradients, batches of 32 at learning rate 1. The book
    cuts singular values below 1e-10 of the largest, which is below what float32 resolves; 1e-6
    trains alike. For Adam, batches of 256 at 1e-3. `sip` is the book's scale-invariant physics
    baseline: the physics is inverted sample by sample (cut at 1e-5), and Adam fits the network to
    the controls that result.

    Attributes:
        num_steps: Number of time steps and of control values.
        dt: Length of a time step.
        activation: Activation of the hidden layers.
        hidden: Widths of the hidden layers.
        num_train: Number of training samples.
        num_test: Number of test samples.
        coupling: Stiffness c of the spring between the oscillators.

    Example:
        >>> problem = LinearOscillators()
        >>> params = problem.init(jax.random.key(0))
        >>> train, _ = problem.data(jax.random.key(1))
        >>> sample = jax.tree.map(lambda leaf: leaf[0], train)
        >>> problem.residual(params, sample).shape
        (4,)

    References:
        Thuerey et al., Physics-based Deep Learning, the notebook on half-inverse gradients:
        equations, network and settings. Schnell, Holl and Thuerey, Half-Inverse Gradients for
        Physical Deep Learning, ICLR 2022: the method.
    """

    num_steps: int = 24
    dt: float = 0.5
    activation: Activation = "tanh"
    coupling: float = 0.2

    @property
    def name(self) -> str:
        """``"linear-oscillators"``."""
        return "linear-oscillators"

    @property
    def recommended(self) -> Mapping[str, Mapping[str, Any]]:
        """Settings per method."""
        return {
            "hig": {"batch_size": 32, "learning_rate": 1.0, "rtol": 1e-6},
            "gauss-newton": {"batch_size": 32, "learning_rate": 1.0, "rtol": 1e-6},
            "adam": {"batch_size": 256, "learning_rate": 1e-3},
            "muon": {"batch_size": 64, "learning_rate": 3e-3, "schedule": "cosine"},
            "spring": {"batch_size": 32, "learning_rate": 1.0, "damping": 1e-6},
            "sip": {"batch_size": 256, "learning_rate": 1e-3, "rtol": 1e-5},
        }

    def acceleration(self, x1: Scalar, x2: Scalar, control: Scalar) -> tuple[Scalar, Scalar]:
        """The accelerations (v1', v2') at positions (x1, x2) under a control."""
        pull = self.coupling * (x2 - x1)
        return pull - x1, control - pull - x2


@dataclasses.dataclass(frozen=True)
class NonlinearOscillators(_Oscillators):
    """Two linear oscillators with a cubic coupling, driven for 12 time units.

    The state s = (x1, x2, v1, v2) holds two positions and two velocities. With the control u(t),
    which acts on the second oscillator only,

        x1' = v1        v1' = -x1 + (x2 - x1)³
        x2' = v2        v2' = -x2 + (x1 - x2)³ + α u        α = 3

    The network reads the target state and answers with all control values at once; u is constant
    over a time step and over its four Runge-Kutta stages. The solver starts from `start` and takes
    96 classical Runge-Kutta steps of 0.125. In the data the target is the start.

        network         4 - 20 - 20 - 20 - 96, relu, last layer linear       2956 parameters
        control         u, shape (96,)
        physics         y = s(12), shape (4,)
        residual        y - target, shape (4,)
        sample_loss     Σ(y - target)², without ½; the mean over the batch is minimised
        data            4096 training and 4096 test states, uniform in [0, 1)⁴

    Everything is dimensionless: the free oscillator has mass 1, stiffness 1 and period 2π.

    The cubic spring grows stiff with the distance it spans: a control that is too strong throws
    the oscillators apart, and the end state then depends on the controls ever more violently.
    Gauss-Newton steps do just that and diverge; half-inverse steps stay short where the physics is
    insensitive, and converge.

    Recommended settings are the paper's: for half-inverse gradients, batches of 128 at learning
    rate 1, singular values cut below 1e-6 of the largest; for Gauss-Newton the same; for Adam,
    batches of 512 at 3e-4. Batches of 32 take half-inverse gradients further in the same time.

    Attributes:
        num_steps: Number of time steps and of control values.
        dt: Length of a time step.
        activation: Activation of the hidden layers.
        hidden: Widths of the hidden layers.
        num_train: Number of training samples.
        num_test: Number of test samples.
        drive: Force α per unit of control.

    Example:
        >>> problem = NonlinearOscillators()
        >>> rest = OscillatorSample(start=jnp.zeros(4), target=jnp.zeros(4))
        >>> problem.physics(jnp.zeros(96), rest)
        Array([0., 0., 0., 0.], dtype=float32)

    References:
        Schnell, Holl and Thuerey, Half-Inverse Gradients for Physical Deep Learning, ICLR 2022,
        and the authors' code: equations, network and settings.
    """

    num_steps: int = 96
    dt: float = 0.125
    activation: Activation = "relu"
    drive: float = 3.0

    @property
    def name(self) -> str:
        """``"nonlinear-oscillators"``."""
        return "nonlinear-oscillators"

    @property
    def recommended(self) -> Mapping[str, Mapping[str, Any]]:
        """Settings per method."""
        return {
            "hig": {"batch_size": 128, "learning_rate": 1.0, "rtol": 1e-6},
            "gauss-newton": {"batch_size": 128, "learning_rate": 1.0, "rtol": 1e-6},
            "adam": {"batch_size": 512, "learning_rate": 3e-4},
            "muon": {"batch_size": 64, "learning_rate": 3e-3, "schedule": "cosine"},
        }

    def acceleration(self, x1: Scalar, x2: Scalar, control: Scalar) -> tuple[Scalar, Scalar]:
        """The accelerations (v1', v2') at positions (x1, x2) under a control."""
        stretch = x2 - x1
        # As a product: `**3` costs a call to pow in the derivative on some backends.
        pull = stretch * stretch * stretch
        return pull - x1, self.drive * control - pull - x2
