"""exponax: a network finds the initial field that Burgers' equation turns into a given one."""

import exponax
import jax
import jax.numpy as jnp
import optax

import hig_optax

POINTS = 24
STEPPER = exponax.stepper.Burgers(1, 2 * jnp.pi, POINTS, 0.1, diffusivity=0.1)
EVOLVE = exponax.repeat(STEPPER, 10)  # a scan: both modes pass


def network(params, target):
    return params["v"] @ jnp.tanh(params["w"] @ target[0] + params["b"])


def error(params, target):
    return EVOLVE(network(params, target)[None]) - target  # (1, POINTS)


def loss_fn(params, batch):
    return jnp.mean(jnp.sum(jax.vmap(error, (None, 0))(params, batch) ** 2, axis=(1, 2)))


def draw(key, number=16):
    """Fields that the equation can reach: what it makes of random waves."""
    phase, size = jax.random.uniform(key, (2, number, 1), minval=0.5, maxval=2.0)
    x = jnp.linspace(0.0, 2 * jnp.pi, POINTS, endpoint=False)
    return jax.vmap(EVOLVE)((0.5 * size * jnp.sin(x + 3 * phase))[:, None])


def main(steps=60):
    w, v = jax.random.normal(jax.random.key(0), (2, 32, POINTS)) / POINTS**0.5
    params = {"w": w, "b": jnp.zeros(32), "v": v.T}
    opt = hig_optax.adaptive_hig(error)
    state = opt.init(params)

    @jax.jit
    def step(params, state, key):
        batch = draw(key)
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = opt.update(grads, state, params, batch=batch)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for i in range(steps):
        params, state, loss = step(params, state, jax.random.fold_in(jax.random.key(1), i))
        losses.append(float(loss))
    return losses


if __name__ == "__main__":
    print(main())
