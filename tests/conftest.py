"""What holds for every test: a strict JAX, and hypothesis that draws the same examples each time."""

import gc
import os
from importlib import metadata
from pathlib import Path

# Before anyone imports Keras, which reads it once.
os.environ.setdefault("KERAS_BACKEND", "jax")

# Programs that run once over a few numbers are not worth making fast: compiling them, here and in the processes that
# tests start, takes a third of the time. Tests of what users get ask for FULL (problems.py), and
# `python -m tests.conformance` is compiled as theirs.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1 "
    # Later ones have no such flag, and XLA aborts at one it does not know.
    + "--xla_cpu_use_fusion_emitters=false " * metadata.version("jaxlib").startswith("0.10.")
    + os.environ.get("XLA_FLAGS", "")
)

import hypothesis
import jax
import pytest

from tests.problems import WAYS

# Strict, so that the library neither promotes a dtype nor broadcasts a rank by accident, whatever its caller has set.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Devices are counted once in a process, and here they are one, whatever a command line asks for: what takes several
# has a process of its own.
jax.devices()

# Tracing makes many small objects that live, and looking through them for garbage took 6 % of the run.
gc.set_threshold(100_000, 50, 100)

# Most of an example is compilation, so its time says nothing: no deadline.
hypothesis.settings.register_profile("lstmjax", derandomize=True, deadline=None)
hypothesis.settings.load_profile("lstmjax")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of the properties that hold for every way and direction, each way has one direction in a quick run, in turn; the
    others are marked slow."""
    for item in items:
        drawn = getattr(getattr(item, "callspec", None), "params", {})
        crossed = item.path.stem == "test_properties" and {"way", "reverse"} <= drawn.keys()
        if crossed and (list(WAYS).index(drawn["way"]) + drawn["reverse"]) % 2:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def x64():
    """64-bit types for one test."""
    with jax.enable_x64(True):
        yield


def pytest_runtest_teardown(item, nextitem):
    """Let compiled programs go before there are too many: each is mapped into memory in pieces, of which Linux grants a
    process 65,530, and past them a compilation is a segmentation fault."""
    count[0] += 1
    if count[0] % 25 == 0 and MAPS.exists() and len(MAPS.read_bytes().splitlines()) > 30_000:
        jax.clear_caches()


count = [0]
MAPS = Path("/proc/self/maps")
