"""Half-inverse gradients: an Optax transformation to train networks through physics."""

from hig_optax import baselines as baselines
from hig_optax._diagnosis.diagnosis import Diagnosis as Diagnosis
from hig_optax._diagnosis.diagnosis import Finding as Finding
from hig_optax._diagnosis.diagnosis import diagnose as diagnose
from hig_optax._diagnosis.symptoms import SYMPTOMS as SYMPTOMS
from hig_optax._diagnosis.symptoms import Symptom as Symptom
from hig_optax._inputs.settings import STATIC_ARGS as STATIC_ARGS
from hig_optax._inputs.weights import weighted_residual as weighted_residual
from hig_optax._optimizers.accumulate import AccumulateState as AccumulateState
from hig_optax._optimizers.accumulate import accumulate as accumulate
from hig_optax._optimizers.adaptive import AdaptiveHigState as AdaptiveHigState
from hig_optax._optimizers.adaptive import adaptive_hig as adaptive_hig
from hig_optax._optimizers.bound import with_batch as with_batch
from hig_optax._optimizers.linen import apply_gradients as apply_gradients
from hig_optax._optimizers.transform import ScaleByHigState as ScaleByHigState
from hig_optax._optimizers.transform import hig as hig
from hig_optax._optimizers.transform import scale_by_hig as scale_by_hig
from hig_optax._planning.options import Option as Option
from hig_optax._planning.options import Plan as Plan
from hig_optax._planning.planning import plan as plan
from hig_optax._types import Spectrum as Spectrum

__version__ = "0.2.0"
