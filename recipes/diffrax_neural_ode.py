"""diffrax: a neural ODE. `adjoint` decides which derivatives pass; `throw=False` turns failure into NaN."""

import diffrax
import jax
import jax.numpy as jnp
import optax

import hig_optax

TIMES = jnp.linspace(0.0, 2.0, 5)


def field(_, y, params):
    return params["v"] @ jnp.tanh(params["w"] @ y + params["b"])


def path(params, start):
    # The default adjoint has reverse mode alone, ForwardMode forward mode alone: hig_optax finds out, but
    # then there is no krylov and no acceleration. DirectAdjoint passes both, for more memory.
    return diffrax.diffeqsolve(
        *(diffrax.ODETerm(field), diffrax.Tsit5(), 0.0, 2.0, 0.1, start, params),
        saveat=diffrax.SaveAt(ts=TIMES),
        stepsize_controller=diffrax.PIDController(rtol=1e-5, atol=1e-6),
        adjoint=diffrax.DirectAdjoint(),
        max_steps=64,
        throw=False,  # too many steps: NaN or inf, the update is zero, and is_finite says so
    ).ys


def error(params, sample):
    return path(params, sample["start"]) - sample["path"]


def loss_fn(params, batch):
    return jnp.mean(jnp.sum(jax.vmap(error, (None, 0))(params, batch) ** 2, axis=(-2, -1)))


def main(steps=60):
    w, v = jax.random.normal(jax.random.key(0), (2, 8, 2))
    params = {"w": w, "b": jnp.zeros(8), "v": 0.1 * v.T}
    starts = jax.random.normal(jax.random.key(1), (6, 2))
    turn = jnp.stack([jnp.cos(2 * TIMES), jnp.sin(2 * TIMES)])  # a rotation, to be learned
    paths = (
        starts[:, None] * turn[0][:, None]
        + starts[:, None, ::-1] * jnp.array([-1.0, 1.0]) * turn[1][:, None]
    )
    batch = {"start": starts, "path": paths}
    opt = hig_optax.adaptive_hig(error)
    state = opt.init(params)

    @jax.jit
    def step(params, state, batch):
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = opt.update(grads, state, params, batch=batch)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for _ in range(steps):
        params, state, loss = step(params, state, batch)
        losses.append(float(loss))
    return losses


if __name__ == "__main__":
    print(main())
