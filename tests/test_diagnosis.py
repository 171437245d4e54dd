"""What the doctor reads in a state, and what it finds when it looks closer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hig_optax
from hig_optax import baselines

X = jnp.linspace(-1.0, 1.0, 16)
BATCH = {"x": X, "y": jnp.sin(3 * X)}


def residual_fn(params, sample):
    return params["v"] @ jnp.tanh(params["w"] * sample["x"] + params["b"]) - sample["y"]


def loss_fn(params, batch):
    return jnp.mean(jax.vmap(residual_fn, (None, 0))(params, batch) ** 2)


def init(seed=0):
    w, b, v = jax.random.normal(jax.random.key(seed), (3, 6))
    return {"w": 2 * w, "b": b, "v": v}


def trained(opt, params, steps, batch_at=lambda i: BATCH, loss_fn=loss_fn):
    """Parameters at the end, and the states of all steps."""

    def step(carry, i):
        params, state = carry
        batch = batch_at(i)
        updates, state = opt.update(jax.grad(loss_fn)(params, batch), state, params, batch=batch)
        return (optax.apply_updates(params, updates), state), state

    carry = params, opt.init(params)
    (params, _), states = jax.lax.scan(step, carry, jnp.arange(steps))
    return params, states


def fresh(i):
    x = jax.random.uniform(jax.random.fold_in(jax.random.key(7), i), (16,), minval=-1.0)
    return {"x": x, "y": jnp.sin(3 * x)}


@pytest.mark.parametrize(
    "opt",
    [
        hig_optax.adaptive_hig(residual_fn),
        hig_optax.hig(0.3, residual_fn),
        baselines.spring(0.5, residual_fn, damping=1e-2),
    ],
    ids=["adaptive", "hig", "spring"],
)
def test_nothing_is_wrong_with_a_run_that_learns(opt):
    params, states = jax.jit(functools.partial(trained, opt, steps=60, batch_at=fresh))(init())
    assert loss_fn(params, BATCH) < 0.1 * loss_fn(init(), BATCH)
    grads = jax.grad(loss_fn)(params, BATCH)
    last = jax.tree.map(lambda x: x[-1], states)
    for diagnosis in (
        hig_optax.diagnose(last),
        hig_optax.diagnose(states),
        hig_optax.diagnose(states, residual_fn, params, BATCH, grads),
    ):
        assert diagnosis.faults == ()


def test_text_has_all_parts_and_data_the_numbers():
    diagnosis = hig_optax.diagnose(broken_state())
    (finding,) = diagnosis.faults
    assert finding.symptom == "opposite gradient"
    assert finding.numbers["gradient_cosine"] == pytest.approx(-1)
    text = str(diagnosis)
    assert text.startswith("AdaptiveHigState, 1 steps, batch loss")
    assert f"FAULT: opposite gradient ({finding.evidence})." in text
    assert f"Meaning: {finding.meaning}" in text
    assert f"Remedy:  {finding.remedy}" in text
    assert repr(diagnosis).startswith("Diagnosis(opposite gradient")
    assert "<td>opposite gradient</td>" in diagnosis._repr_html_()


def broken_state(wrap=lambda opt: opt):
    """The state after one step on the gradient of minus the loss."""
    opt, params = wrap(hig_optax.adaptive_hig(residual_fn)), init()
    grads = jax.grad(lambda p: -loss_fn(p, BATCH))(params)
    return opt.update(grads, opt.init(params), params, batch=BATCH)[1]


def injected(opt):
    del opt
    factory = optax.inject_hyperparams(
        hig_optax.adaptive_hig, static_args=(*hig_optax.STATIC_ARGS, "exponent", "momentum")
    )
    return factory(
        residual_fn,
        learning_rate=0.5,
        patience=200.0,
        max_relative_step=0.1,
    )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda opt: optax.chain(opt, optax.scale(1.0)),
        lambda opt: hig_optax.accumulate(opt, 1, BATCH),
        lambda opt: optax.masked(opt, {"w": True, "b": True, "v": True}),
        lambda opt: optax.apply_if_finite(opt, 3),
        injected,
    ],
    ids=["chain", "accumulate", "masked", "apply_if_finite", "inject_hyperparams"],
)
def test_wrappers_are_looked_through(wrap):
    assert hig_optax.diagnose(broken_state(wrap)).symptoms[0] == "opposite gradient"


def test_a_spectrum_alone_is_read():
    assert hig_optax.diagnose(broken_state().spectrum).symptoms[0] == "opposite gradient"


def test_members_of_an_ensemble_are_read_by_themselves():
    opt = hig_optax.adaptive_hig(residual_fn)
    params = jax.vmap(init)(jnp.arange(3))
    params["w"] = params["w"].at[1, 0].set(jnp.nan)
    _, states = jax.jit(jax.vmap(lambda p: trained(opt, p, 6)))(params)
    assert states.count.shape == (3, 6)
    swapped = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), states)  # a scan of a vmap
    for stacked in (states, swapped):
        finding = hig_optax.diagnose(stacked).faults[0]
        assert finding.symptom == "rows not finite"
        assert finding.evidence == "1 of 3 members (1): is_finite is false in all 6 steps"


def test_the_state_of_init_says_that_no_step_was_taken():
    opt = hig_optax.adaptive_hig(residual_fn)
    assert hig_optax.diagnose(opt.init(init())).symptoms == ("no step taken",)


def state_with(**fields):
    """A state of a run that goes well but for `fields`; those of its spectrum by their name."""
    opt, params = hig_optax.adaptive_hig(residual_fn), init()
    grads = jax.grad(loss_fn)(params, BATCH)
    state = opt.update(grads, opt.init(params), params, batch=BATCH)[1]
    assert hig_optax.diagnose(state).faults == ()
    inside = {k: v for k, v in fields.items() if k in state.spectrum._fields}
    outside = {k: v for k, v in fields.items() if k not in inside}
    return state._replace(spectrum=state.spectrum._replace(**inside), **outside)


@pytest.mark.parametrize(
    ("fields", "symptom"),
    [
        ({"damping": jnp.float32(1e6)}, "damping at its maximum"),
        ({"damping": jnp.float32(1e-8)}, "damping at its minimum"),
        ({"accepted": jnp.array(False), "trial_scale": jnp.float32(4**-8)}, "every step rejected"),
        ({"rank": jnp.int32(0)}, "zero Jacobian"),
        ({"rank": jnp.int32(2), "full_rank": jnp.int32(64)}, "low rank"),
        ({"gradient_kept": jnp.float32(0.3)}, "gradient cut off"),
        ({"gradient_cosine": jnp.float32(0.5)}, "another loss"),
        ({"is_finite": jnp.array(False)}, "step not finite"),
        ({"is_finite": jnp.array(False), "loss": jnp.float32(jnp.inf)}, "rows not finite"),
        ({"loss": jnp.float32(1), "trial_loss": jnp.float32(1 - 1e-7)}, "rounding floor"),
    ],
)
def test_each_symptom_of_a_single_state(fields, symptom):
    assert symptom in hig_optax.diagnose(state_with(**fields)).symptoms


def test_one_rejection_is_nothing():
    state = state_with(accepted=jnp.array(False), trial_scale=jnp.float32(4.0**-4))
    assert hig_optax.diagnose(state).symptoms == ()


def test_steps_that_are_cut_to_the_bound():
    opt = hig_optax.adaptive_hig(residual_fn, max_relative_step=1e-4)
    _, states = trained(opt, init(), 8, fresh)
    (finding,) = (f for f in hig_optax.diagnose(states) if f.symptom == "steps cut to their bound")
    assert finding.numbers["share"] == 1


def test_physics_that_jumps_rejects_every_step():
    opt = hig_optax.adaptive_hig(jumping)
    _, states = trained(opt, init(), 12, loss_fn=of_jumping)
    assert hig_optax.diagnose(states).symptoms[0] == "every step rejected"
    last = jax.tree.map(lambda x: x[-1], states)
    assert hig_optax.diagnose(last).symptoms[0] == "every step rejected"


def jumping(params, sample):
    """A row whose derivative says the opposite of its value."""
    y = residual_fn(params, sample)
    return 2 * jax.lax.stop_gradient(y) - y


def of_jumping(params, batch):
    return jnp.mean(jax.vmap(jumping, (None, 0))(params, batch) ** 2)


def close(residual_fn, params, batch, grads, **settings):
    opt = hig_optax.adaptive_hig(residual_fn, **settings)
    _, state = opt.update(grads, opt.init(params), params, batch=batch)
    return hig_optax.diagnose(state, residual_fn, params, batch, grads, **settings)


def test_derivatives_that_are_not_finite_are_named():
    def distance(params, sample):
        return jnp.sqrt(params["a"] * sample) + params["b"]

    params, batch = {"a": jnp.ones(()), "b": jnp.ones(())}, jnp.array([1.0, 0.0, 4.0])
    finding = close(distance, params, batch, params)[0]
    assert finding.symptom == "derivatives not finite"
    assert finding.evidence.endswith("derivatives of sample 1 of 3 samples, by params['a']")


def test_a_gradient_that_is_not_finite_is_named():
    grads = jax.grad(loss_fn)(init(), BATCH)
    finding = close(residual_fn, init(), BATCH, grads | {"b": jnp.full((6,), jnp.inf)})[0]
    assert finding.symptom == "gradient not finite"
    assert finding.evidence.endswith("gradient by params['b']")


def test_blocks_and_the_whole_batch_are_named():
    blocks = {"data": residual_fn, "wall": lambda params, _: jnp.log(params["v"][:2])}
    params = init() | {"v": jnp.array([1.0, -1.0, 1.0, 1.0, 1.0, 1.0])}
    batch = {"data": BATCH, "wall": None}
    finding = close(blocks, params, batch, params, batch_axis={"data": 0, "wall": None})[0]
    assert finding.symptom == "rows not finite"
    assert finding.evidence.endswith("rows of the whole batch in block 'wall': 1 of 2 rows")


def test_decay_is_measured():
    def decayed(params):
        return loss_fn(params, BATCH) + 0.5 * 0.3 * optax.tree.norm(params, squared=True)

    finding = close(residual_fn, init(), BATCH, jax.grad(decayed)(init()))[0]
    assert finding.symptom == "weight decay in the loss"
    assert finding.numbers["decay"] == pytest.approx(0.3, rel=1e-3)


def test_a_loss_of_the_rows_is_compared_with_itself():
    def exponential(rows, batch):
        return jnp.mean(jnp.exp(2 * rows))

    grads = jax.grad(lambda p: exponential(jax.vmap(residual_fn, (None, 0))(p, BATCH), BATCH))(
        init()
    )
    (finding,) = close(residual_fn, init(), BATCH, grads)
    assert finding.symptom == "rows without their target"
    assert close(residual_fn, init(), BATCH, grads, loss_fn=exponential).symptoms == ()


def test_krylov_and_chunks_are_the_same_to_a_closer_look():
    grads = jax.grad(loss_fn)(init(), BATCH)
    assert close(residual_fn, init(), BATCH, grads, solver="krylov", chunk_size=4).faults == ()


def test_a_jacobian_too_large_to_write_out(monkeypatch):
    monkeypatch.setattr("hig_optax._diagnosis.closer.LARGE_JACOBIAN", 1)
    grads = jax.tree.map(jnp.negative, jax.grad(loss_fn)(init(), BATCH))
    assert close(residual_fn, init(), BATCH, grads)[0].symptom == "opposite gradient"


def test_bad_input_is_refused():
    with pytest.raises(TypeError, match="state must hold the state of an optimizer of hig_optax"):
        hig_optax.diagnose(optax.adam(1e-3).init(init()))
    state = broken_state()
    with pytest.raises(TypeError, match="traced ones"):
        jax.jit(lambda s: np.size(hig_optax.diagnose(s)))(state)
    with pytest.raises(
        TypeError, match="diagnose takes the settings of scale_by_hig, got momentum"
    ):
        hig_optax.diagnose(state, residual_fn, init(), BATCH, momentum=0.9)
    with pytest.raises(ValueError, match="params must be passed"):
        hig_optax.diagnose(state, residual_fn)


def test_parameters_in_unlike_units_are_named():
    def decay(params, sample):
        return params["small"] * 1e6 * jnp.exp(-params["large"] * 1e-8 * sample["x"]) - sample["y"]

    params = {"small": jnp.float32(1e-6), "large": jnp.float32(1e8)}
    grads = jax.tree.map(jnp.ones_like, params)
    (finding,) = (
        f for f in close(decay, params, BATCH, grads) if f.symptom == "parameters of unlike size"
    )
    assert "for params['large'] are down to" in finding.evidence
    assert finding.evidence.endswith("that for params['small']")
    assert 1e-15 < finding.numbers["ratio"] < 1e-13
    # Those that hardly matter, or start at zero, hide nothing.
    for large in (0.0, 1e2):
        found = close(decay, params | {"large": jnp.float32(large)}, BATCH, grads)
        assert "parameters of unlike size" not in found.symptoms
    assert "parameters of unlike size" not in close(residual_fn, init(), BATCH, init(1)).symptoms


def test_the_table_is_complete():
    names = [symptom.name for symptom in hig_optax.SYMPTOMS]
    assert len(set(names)) == len(names) > 20
    assert all(symptom.meaning and symptom.remedy for symptom in hig_optax.SYMPTOMS)
