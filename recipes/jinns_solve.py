"""jinns: its loss as blocks of rows. `jinns.solve` passes no batch, so `with_batch` binds one."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jinns

import hig_optax


class Relaxation(jinns.loss.ODE):
    """du/dt + 3 u = 2 sin(4 t)."""

    def equation(self, t, u, params):
        slope = jax.jvp(lambda t: u(t, params), (t,), (jnp.ones_like(t),))[1]
        return slope + 3.0 * u(t, params) - 2.0 * jnp.sin(4.0 * t)


def main(steps=100):
    key = jax.random.key(0)
    layers = ((eqx.nn.Linear, 1, 12), (jnp.tanh,), (eqx.nn.Linear, 12, 1))
    u, init = jinns.nn.PINN_MLP.create(key=key, eqx_list=layers, eq_type="ODE")
    params = jinns.parameters.Params(nn_params=init, eq_params={})
    data = jinns.data.DataGeneratorODE(key=key, nt=32, tmin=0.0, tmax=2.0, method="grid")
    equation, start = Relaxation(), (0.0, 1.0)
    weights = jinns.loss.LossWeightsODE(dyn_loss=1.0, initial_condition=1.0)
    loss = jinns.loss.LossODE(
        u=u,
        dynamic_loss=equation,
        initial_condition=start,
        loss_weights=weights,
        params=params,
    )

    # The same loss in rows: the squares of a block add up to a term. Weights would go in as square roots.
    blocks = {
        "equation": lambda p, t: equation.evaluate(t, u, p) / 32**0.5,
        "start": lambda p, _: u(jnp.array([start[0]]), p) - start[1],
    }
    batch = {"equation": data.times, "start": None}
    opt = hig_optax.adaptive_hig(blocks, batch_axis={"equation": 0, "start": None})
    opt = hig_optax.with_batch(opt, batch)  # the line that differs: all points at every step
    found = jinns.solve(
        n_iter=steps, init_params=params, data=data, loss=loss, optimizer=opt, verbose=False
    )
    return [float(x) for x in found[1]]


if __name__ == "__main__":
    print(main())
