"""What holds for every test: a strict JAX, and hypothesis that draws the same examples each time."""

import os

# Before anyone imports Keras, which reads it once.
os.environ.setdefault("KERAS_BACKEND", "jax")

import hypothesis
import jax
import pytest

# Strict, so that the library neither promotes a dtype nor broadcasts a rank by accident, whatever its caller has set.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Most of an example is compilation, so its time says nothing: no deadline.
hypothesis.settings.register_profile("lstmjax", derandomize=True, deadline=None)
hypothesis.settings.load_profile("lstmjax")


@pytest.fixture
def x64():
    """64-bit types for one test."""
    with jax.enable_x64(True):
        yield
