"""Settings of every test: strict promotion, and eight virtual CPU devices for those that ask."""

import os
import zlib

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")

# Nearly all of a test is compilation, and its programs are too small to be worth optimizing: compiled like
# this they take a fifth of the time. The flag for it must stand in the environment when the backend starts;
# JAX 0.12 no longer knows it. The workers of a parallel run keep all cores busy by themselves.
jax.config.update("jax_disable_most_optimizations", True)
FLAGS = ["--xla_cpu_multi_thread_eigen=false"]
if jax.__version_info__ < (0, 12):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])

# Virtual devices make everything else up to ten times slower, even a single one asked for by number: tests
# marked `devices` run in a process of their own (see the Makefile).
if "HIG_OPTAX_TEST_DEVICES" in os.environ:
    jax.config.update("jax_num_cpu_devices", int(os.environ["HIG_OPTAX_TEST_DEVICES"]))

# Every new shape compiles anew: the time of an example says nothing, and the same examples every time
# make a failure one that can be repeated.
hypothesis.settings.register_profile("jax", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("jax")


# A second run, with other releases of JAX and Python, need not try each case of every table again: with
# HIG_OPTAX_TEST_ONE_IN=n it takes every n-th case of each parametrised test, at least one.
ONE_IN = int(os.environ.get("HIG_OPTAX_TEST_ONE_IN", "1"))


def pytest_collection_modifyitems(config, items):
    if ONE_IN == 1:
        return
    tables = {}
    for item in items:
        if hasattr(item, "callspec"):
            tables.setdefault(item.nodeid.split("[")[0], []).append(item)
    kept = set()
    for name, cases in tables.items():
        first = zlib.crc32(name.encode()) % min(ONE_IN, len(cases))
        kept.update(cases[first::ONE_IN])
    left_out = [item for item in items if hasattr(item, "callspec") and item not in kept]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not hasattr(item, "callspec") or item in kept]


@pytest.fixture
def compiled_as_for_users():
    """For tests of rounding: programs as the compiler makes them for users."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True)
def _enough_devices(request):
    if request.node.get_closest_marker("devices") and jax.device_count() < 8:
        pytest.skip("needs HIG_OPTAX_TEST_DEVICES=8")


def pytest_terminal_summary(terminalreporter):
    """How many combinations of optimizer and wrapper were tried."""
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if "test_optax_contract.py" in report.nodeid and report.when == "call"
    ]
    if reports:
        passed = sum(report.passed for report in reports)
        terminalreporter.write_line(
            f"Optax contract: {passed} of {len(reports)} combinations as they should be"
        )
