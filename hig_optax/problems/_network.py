"""The dense network of the experiments, as a pure function of a plain tree of arrays."""

import dataclasses
import itertools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

Activation = Literal["tanh", "relu"]

_ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}


@dataclasses.dataclass(frozen=True)
class DenseNetwork:
    """Fully connected layers ``h = activation(h @ kernel + bias)``; the last one is linear.

    Kernels start Glorot-uniform, U[-a, a] with a² = 6 / (fan_in + fan_out), and biases at zero.

    The parameters are a plain nested dict, ``{"layers": {0: {"kernel": (in, out), "bias": (out,)},
    1: …}}``, rather than an ``nnx.State``: the same leaves in the same order, cheaper to pass
    through ``jax.jit`` at every step, and readable without Flax.

    Attributes:
        widths: Number of values in the input, each hidden layer and the output; at least two.
        activation: ``"tanh"`` or ``"relu"``, applied after every layer but the last.

    Raises:
        ValueError: Fewer than two widths, a width below one, or an unknown activation.

    Example:
        >>> network = DenseNetwork((4, 20, 3), "tanh")
        >>> params = network.init(jax.random.key(0))
        >>> network.apply(params, jnp.ones(4)).shape
        (3,)
    """

    widths: tuple[int, ...]
    activation: Activation

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise ValueError(f"widths must be two or more positive numbers, got {self.widths}.")
        if self.activation not in _ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {sorted(_ACTIVATIONS)}, got {self.activation!r}."
            )

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh parameters from a random key, in JAX's default float dtype (float64 under x64)."""
        return nnx.to_pure_dict(nnx.state(_Layers(self.widths, nnx.Rngs(key))))

    def apply(self, params: dict[str, Any], x: Float[Array, "_"]) -> Float[Array, "_"]:
        """The output for one input vector of length ``widths[0]``, in the dtype of both."""
        return _affine(params["layers"][len(self.widths) - 2], self.hidden(params, x))

    def hidden(self, params: dict[str, Any], x: Float[Array, "_"]) -> Float[Array, "_"]:
        """The activations of the last hidden layer, for watching neurons saturate."""
        # Plain products, not Flax's: what is differentiated twice by the input is traced many times over.
        for i in range(len(self.widths) - 2):
            x = _ACTIVATIONS[self.activation](_affine(params["layers"][i], x))
        return x


def _affine(layer: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jnp.dot(x, layer["kernel"], precision="highest") + layer["bias"]


class _Layers(nnx.Module):
    """The layers as Flax starts them."""

    def __init__(self, widths: tuple[int, ...], rngs: nnx.Rngs) -> None:
        dtype = jax.dtypes.canonicalize_dtype(float)
        self.layers = nnx.List(
            nnx.Linear(
                fan_in,
                fan_out,
                kernel_init=nnx.initializers.glorot_uniform(),
                param_dtype=dtype,
                precision="highest",
                rngs=rngs,
            )
            for fan_in, fan_out in itertools.pairwise(widths)
        )
