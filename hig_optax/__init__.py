"""Half-inverse gradients: an Optax transformation to train networks through physics."""

from hig_optax import baselines
from hig_optax._diagnosis.diagnosis import Diagnosis, Finding, diagnose
from hig_optax._diagnosis.symptoms import SYMPTOMS, Symptom
from hig_optax._inputs.checks import STATIC_ARGS
from hig_optax._inputs.weights import weighted_residual
from hig_optax._moved import refuse_moved as _refuse_moved
from hig_optax._optimizers.accumulate import AccumulateState, accumulate
from hig_optax._optimizers.adaptive import adaptive_hig
from hig_optax._optimizers.adaptive_step import AdaptiveHigState
from hig_optax._optimizers.bound import with_batch
from hig_optax._optimizers.hig import hig
from hig_optax._optimizers.scale import ScaleByHigState, scale_by_hig
from hig_optax._planning.options import Option, Plan
from hig_optax._planning.planning import plan
from hig_optax._types import Spectrum

__version__ = "0.2.0"

# Not by name: type checkers that see a module's __getattr__ let every misspelt name pass.
globals()["__getattr__"] = _refuse_moved(__name__)

__all__ = [
    "STATIC_ARGS",
    "SYMPTOMS",
    "AccumulateState",
    "AdaptiveHigState",
    "Diagnosis",
    "Finding",
    "Option",
    "Plan",
    "ScaleByHigState",
    "Spectrum",
    "Symptom",
    "accumulate",
    "adaptive_hig",
    "baselines",
    "diagnose",
    "hig",
    "plan",
    "scale_by_hig",
    "weighted_residual",
    "with_batch",
]
