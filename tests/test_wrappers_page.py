"""The table of Optax's wrappers in docs/howto/frameworks.md says what happens."""

import pathlib
import re

import jax
import jax.numpy as jnp
import optax
import pytest
from optax import contrib

import hig_optax

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "howto" / "frameworks.md"
OURS = pathlib.Path(hig_optax.__file__).parent
ROW = re.compile(r"^\| `(optax\.[\w.]+)` \| ([^|]+) \| ([^|]+) \|", re.MULTILINE)
FOUND = {name: (outcome, who) for name, outcome, who in ROW.findall(PAGE.read_text())}

PARAMS = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
BATCH = jax.random.normal(jax.random.key(0), (5, 3))
HELPS = {"batch": "as it is", "batch, all_params": "`all_params=params`", "bound": "`with_batch`"}


@pytest.fixture(autouse=True)
def _as_in_a_users_program():
    """Optax mixes dtypes, so promotion is the usual one."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def residual(params, x):
    return jnp.tanh(x @ params["w"] + params["b"]) - x[:2]


@jax.jit
def loss(params):
    return jnp.mean(jnp.sum(jax.vmap(residual, (None, 0))(params, BATCH) ** 2, -1))


def ascent():
    return optax.chain(contrib.normalize(), optax.sgd(0.01))


WRAPPERS = {
    "optax.chain": lambda opt: optax.chain(optax.clip_by_global_norm(1.0), opt),
    "optax.apply_if_finite": lambda opt: optax.apply_if_finite(opt, 3),
    # It hands on the gradient of the other leaves as it is, which would be a step uphill.
    "optax.masked": lambda opt: optax.chain(
        optax.masked(opt, {"w": True, "b": False}),
        optax.masked(optax.set_to_zero(), {"w": False, "b": True}),
    ),
    "optax.partition": lambda opt: optax.partition(
        {"ours": opt, "adam": optax.adam(1e-3)}, {"w": "ours", "b": "adam"}
    ),
    "optax.MultiSteps": lambda opt: optax.MultiSteps(opt, 2),
    "optax.contrib.schedule_free": lambda opt: contrib.schedule_free(opt, learning_rate=0.1),
    "optax.contrib.mechanize": contrib.mechanize,
    "optax.contrib.sam": lambda opt: contrib.sam(opt, ascent()),
    "optax.contrib.split_real_and_imaginary": contrib.split_real_and_imaginary,
    "optax.contrib.differentially_private_aggregate": lambda opt: optax.chain(
        contrib.differentially_private_aggregate(1.0, 0.1, jax.random.key(0)), opt
    ),
}


INNER = {
    "adaptive_hig": lambda: hig_optax.adaptive_hig(residual),
    "hig": lambda: hig_optax.hig(0.1, residual),
}


def trained(wrap, how, inner):
    """The loss after four steps."""
    opt = wrap(hig_optax.with_batch(inner, BATCH) if how == "bound" else inner)
    params, state = PARAMS, opt.init(PARAMS)

    @jax.jit
    def step(params, state):
        extra = {} if how == "bound" else {"batch": BATCH}
        extra |= {"all_params": params} if "all_params" in how else {}
        updates, state = opt.update(jax.grad(loss)(params), state, params, **extra)
        return optax.apply_updates(params, updates), state

    for _ in range(4):
        params, state = step(params, state)
    return loss(params)


def outcome(wrap, inner):
    """(what helps, who refused it before that)."""
    who = "-"
    for how, helps in HELPS.items():
        try:
            after = trained(wrap, how, inner)
        except (TypeError, ValueError) as error:
            at = error.__traceback__
            while at.tb_next is not None:
                at = at.tb_next
            # An argument that Optax does not know ends in the call itself, in this file.
            is_ours = OURS in pathlib.Path(at.tb_frame.f_code.co_filename).parents
            who = who if who != "-" else "hig_optax" if is_ours else "Optax"
        else:
            assert after < loss(PARAMS)
            return helps, who
    return "no", who


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("name", WRAPPERS)
def test_the_table_says_what_happens(name, inner):
    assert outcome(WRAPPERS[name], INNER[inner]()) == FOUND[name]


def test_the_table_has_no_other_rows():
    assert set(FOUND) == set(WRAPPERS)
