"""What a Jacobian is to those who use it."""

import abc
from typing import Any

from jaxtyping import Array, Float

from hig_optax._devices.devices import Devices
from hig_optax._float64 import Wide
from hig_optax._jacobian.strips import Condensed


class Jacobian(abc.ABC):
    """J, (m, n), float32 or float64, as far as solvers know it.

    With S = J where ``by_rows`` and S = Jᵀ elsewhere (S is to have no more rows than columns), the exact
    solvers need S Sᵀ, products of S with some vectors, and products with Sᵀ, all of it in float64; the
    others need products in the dtype of J.
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """(m, n), with the rows of all devices."""

    @property
    @abc.abstractmethod
    def dtype(self) -> Any:
        """Dtype of the entries."""

    @property
    def devices(self) -> Devices | None:
        """Those that share J."""
        return None

    @abc.abstractmethod
    def condense(self, X: Float[Array, "q k"], *, by_rows: bool) -> Condensed:
        """S Sᵀ, S X and their unit; of devices alike on all."""

    @abc.abstractmethod
    def pull(self, W: Wide) -> Wide:
        """Jᵀ W, (n, k), in float64, for W (m, k)."""

    @abc.abstractmethod
    def matrix(self) -> Float[Array, "m n"]:
        """J written out; of devices this one's share of its long side."""

    @abc.abstractmethod
    def matvec(self, x: Float[Array, " n"]) -> Float[Array, " m"]:
        """``x -> J x``, in the dtype of J."""

    @abc.abstractmethod
    def rmatvec(self, w: Float[Array, " m"]) -> Float[Array, " n"]:
        """``w -> Jᵀ w``, in the dtype of J."""
