"""Settings of every test: strict promotion and eight virtual CPU devices."""

import hypothesis
import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_num_cpu_devices", 8)

# Every new shape compiles anew: the time of an example says nothing, and the same examples every time
# make a failure one that can be repeated.
hypothesis.settings.register_profile("jax", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("jax")
