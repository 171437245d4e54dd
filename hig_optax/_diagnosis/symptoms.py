"""The symptoms that are looked for, what each of them means, and what to change: one table."""

from typing import Literal, NamedTuple


class Symptom(NamedTuple):
    """A row of the table `SYMPTOMS`; see `diagnose`."""

    name: str
    """A few words; `Finding.symptom`."""
    shows: str
    """How it shows in the state, or in the closer look."""
    meaning: str
    """What is going on."""
    remedy: str
    """What to change."""
    kind: Literal["fault", "hint"] = "fault"
    """A fault stops the run or spoils it; a hint says where the run could be faster."""


_ALL_OF_THE_LOSS = (
    "Let the rows be errors whose squares add up to the loss: y - target, one row for each number, "
    "and sqrt(c)·θ as a block of rows for weight decay c/2·‖θ‖². Or pass loss_fn=."
)

SYMPTOMS: tuple[Symptom, ...] = (
    Symptom(
        "no step taken",
        "`count` is 0",
        "The state is the one that init returned, so that there is nothing to read yet.",
        "Pass the state that update returned.",
        "hint",
    ),
    Symptom(
        "rows not finite",
        "`spectrum.is_finite` is false, and `loss` is NaN or infinite",
        "The residual returned NaN or inf, so the step was refused: the updates were zero.",
        "Look at the samples and the parameters of that step. One broken sample stops the whole batch: "
        "drop it, or replace it and give it weight 0 (weighted_residual).",
    ),
    Symptom(
        "derivatives not finite",
        "the closer look finds finite rows and NaN or inf in the Jacobian",
        "The rows are finite but their derivatives are not: a square root or norm at 0, a division that "
        "jnp.where hides in the value but not in the derivative, or a simulator that overflows backwards.",
        "Guard the argument, not the result: jnp.sqrt(jnp.where(x > 0, x, 1)).",
    ),
    Symptom(
        "gradient not finite",
        "the closer look finds finite rows and derivatives, and NaN or inf in the gradient",
        "The loss that you differentiate overflows where the rows do not, or has a term besides them that is "
        "not finite.",
        "Look at what is in that loss besides the rows. If the rows are huge, the run had diverged before: "
        "go back to earlier parameters, and take a smaller learning rate.",
    ),
    Symptom(
        "step not finite",
        "`spectrum.is_finite` is false, and the loss of the rows is finite or not in the state",
        "NaN or inf in the derivatives, the gradient or a setting, or a step that overflows its dtype. The "
        "updates were zero.",
        "Ask for a closer look: diagnose(state, residual_fn, params, batch, grads) names the place. For an "
        "overflow: damping, or in hig a larger rtol.",
    ),
    Symptom(
        "opposite gradient",
        "`spectrum.gradient_cosine` is near -1",
        "The gradient points the other way than the sum of squares of the rows: it belongs to a loss with "
        "the opposite sign, or a term outside the rows (weight decay) outweighs them. adaptive_hig refuses "
        "such steps.",
        "Pass the gradient of the loss that is to fall, and keep its sign. " + _ALL_OF_THE_LOSS,
    ),
    Symptom(
        "another loss",
        "`spectrum.gradient_cosine` is below 0.99",
        "The loss that you differentiate is not the one that the steps minimise, the sum of squares of the "
        "rows (or loss_fn). Common causes: rows without their target, rows that are squares already, weight "
        "decay in the loss alone.",
        _ALL_OF_THE_LOSS,
    ),
    Symptom(
        "weight decay in the loss",
        "the closer look finds gradient - c·Jᵀy along the parameters",
        "The loss has a term c/2·‖θ‖² that the rows do not have. Steps ignore it while the rows are large, "
        "and are refused once it outweighs them.",
        'Put it into the rows: a block {"decay": lambda params, _: sqrt(c)·params} with batch_axis None for '
        "it. See the recipe blocks.py.",
    ),
    Symptom(
        "rows squared already",
        "the closer look finds the gradient along the plain sum of the rows, Jᵀ1",
        "The residual returns squared errors, and their squares are minimised: the fourth power. Near the "
        "solution all derivatives vanish.",
        "Return the errors themselves, y - target. The squares are taken for you.",
    ),
    Symptom(
        "rows without their target",
        "the closer look finds the gradient to come through the rows, but not along their squares",
        "The gradient is that of another function of the same rows. Most often the residual returns the "
        "output y in place of the error y - target, so that steps drive the output to zero.",
        "Return y - target, or pass loss_fn= if the loss is another function of the rows.",
    ),
    Symptom(
        "summed loss",
        "the closer look finds the gradient of the sum over the samples, not of their mean",
        "The steps of hig are proportional to the gradient: with a sum over b samples they are b times as "
        "long as with the mean. adaptive_hig does not depend on it.",
        "Take the mean over the batch, or divide the learning rate by the number of samples.",
    ),
    Symptom(
        "zero Jacobian",
        "`spectrum.rank` is 0, and everything is finite",
        "No row changes with any parameter to first order (dead or saturated units, stop_gradient), or the "
        "cut is above every singular value.",
        "See which parameters the closer look lists as without influence; start from smaller weights; in hig "
        "lower atol.",
    ),
    Symptom(
        "parameters without influence",
        "the closer look finds parameters whose column of the Jacobian is zero",
        "No row changes with these parameters. A normalisation over the batch (BatchNorm in training mode) "
        "does that: the residual sees one sample at a time, whose deviation from its own mean is 0. Others: "
        "stop_gradient, dead or saturated units, leaves that the residual does not use.",
        "Use stored statistics in the residual (use_running_average=True), or LayerNorm, which needs no "
        "batch; leave unused leaves out with mask=.",
    ),
    Symptom(
        "parameters of unlike size",
        "the closer look finds columns of the Jacobian below sqrt(ε) of the longest, of parameters that "
        "change the rows as much as others do where all change by their own size",
        "Steps count every parameter in the same unit. Those in large units, such as a stiffness of 1e8 N/m "
        "beside an amplitude of 1e-6 m, are then hidden below the rounding of the others.",
        "Write each as a typical value times a number near 1, k = 1e8 * params['k'], or as its logarithm, "
        "and let the residual do the conversion.",
    ),
    Symptom(
        "rounding floor",
        "the last steps changed `loss` by less than its rounding, or it fell to the square of the "
        "rounding of the rows",
        "The rows are as small as their rounding. The dtype allows no lower loss, and what is still accepted "
        "or rejected is chance. Or, where the loss is far from that, what would lower it is hidden: a closer "
        "look tells.",
        "Stop here if the loss is low: the run is done. For less, run in float64 (jax_enable_x64), or scale "
        "the problem so that errors are not differences of large numbers.",
    ),
    Symptom(
        "every step rejected",
        "`accepted` is false step after step, `trial_scale` at its least",
        "No length along the direction lowered the loss of the batch. Physics that jump (contacts, "
        "if-then-else), a derivative that is not that of the rows, or a loss far from a sum of squares do "
        "that; so do rows that are down at their rounding, which a closer look or all states tell apart.",
        "Compare the derivative of the rows with a difference quotient, and look whether they are "
        "continuous. If they are not, use hig with a small rate.",
    ),
    Symptom(
        "damping at its maximum",
        "`damping` is 1e6",
        "The model has failed so often that steps are those of gradient descent, very short.",
        "As for rejected steps. A loss_fn far from a sum of squares: choose rows whose squares it is.",
    ),
    Symptom(
        "batch too dear",
        "the closer look counts a step at 300 gradients and more, and the batch has far more rows than "
        "directions",
        "The batch has many more rows than it determines directions. A smaller one gives nearly the same "
        "step, at a price that falls with the square or cube of its rows.",
        "Take fewer samples: a few times as many rows as the rank. Where they are all needed, "
        'solver="krylov" takes products alone.',
    ),
    Symptom(
        "noise stops progress",
        "`plateau.scale` is below 0.1 while `plateau.power`, p of a loss that falls as t⁻ᵖ, is below 0.1",
        "The loss of new batches has stopped falling, so the steps were shortened to average the noise of "
        "many batches. With noise in the data that is the end of the run, or near it.",
        "If the loss is not low enough: larger batches, better data, or more parameters. More steps will "
        "bring little.",
        "hint",
    ),
    Symptom(
        "steps cut to their bound",
        "`is_cut` is true step after step",
        "Steps would be longer than max_relative_step allows.",
        "If the loss falls steadily, raise max_relative_step or pass None. If it jumps, the bound does its "
        "work.",
        "hint",
    ),
    Symptom(
        "low rank",
        "`spectrum.rank` is below a fifth of the shorter side of J",
        "The rows of the batch say much the same: they determine few directions of parameter space.",
        "More varied samples in place of more of them; a smaller batch costs less and says as much. If you "
        "expected more: see parameters without influence.",
        "hint",
    ),
    Symptom(
        "gradient cut off",
        "`spectrum.gradient_kept` is below 0.5",
        "Most of the gradient lies along singular values that were cut: those directions are not trained.",
        "In hig lower rtol or atol, or raise max_rank.",
        "hint",
    ),
    Symptom(
        "damping at its minimum",
        "`damping` is at the least that the shape of the batch allows",
        "Every step did what the model had promised: the batch is fitted as far as the settings allow.",
        "Nothing, while the test loss falls too. If it rises, take larger batches.",
        "hint",
    ),
)
"""What `diagnose` looks for, the most serious first.

Example:
    >>> import hig_optax
    >>> [symptom.name for symptom in hig_optax.SYMPTOMS if symptom.kind == "fault"][:2]
    ['rows not finite', 'derivatives not finite']
"""

BY_NAME = {symptom.name: symptom for symptom in SYMPTOMS}
