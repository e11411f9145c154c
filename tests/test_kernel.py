"""The CUDA kernel's own source, compiled for a CPU by `cuda_on_cpu.h`, against the arithmetic of fused."""

import functools
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstmjax.backends import chunked, kernel, nvcc

# Float32 products are TF32, which has the fraction of float16; in 16 bits a sum may round to the other side.
TOLERANCES = {"float32": 4e-3, "bfloat16": 3e-2, "float16": 4e-3}


B, H = 70, 20  # fill no tile of rows or units

# As if there were few multiprocessors: two groups go over their rows several times, or once.
CUTS = [
    (dtype, kind, passes)
    for dtype in ("float32", "float16")
    for kind in [(1, 1, False, 8), (2, 2, False, 4), (1, 2, True, 4), (2, 1, True, 8)]
    for passes in (1, 2)
]


def cut_of(B, H, dtype, back, kind, passes):
    """A kernel of this kind with so many passes."""
    found, _ = kernel.cut(B, H, dtype, back, *kind)
    groups = -(-B // (16 * found.rows * passes))
    return found._replace(groups=groups, passes=passes, exchange=found.exchange and 1 << 22)


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """All kernels of these tests, on this CPU."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to compile the kernel's source with")
    lines = set()
    for back in (False, True):
        for dtype in TOLERANCES:
            lines.add(kernel.source(kernel.plan(5, 24, jnp.dtype(dtype), back=back), 24, dtype, back=back))
        for dtype, kind, passes in CUTS:
            lines.add(kernel.source(cut_of(B, H, jnp.dtype(dtype), back, kind, passes), H, dtype, back=back))
    path = tmp_path_factory.mktemp("kernel") / "emulated.so"
    here = str(nvcc.SOURCE.parents[2] / "tests")
    arguments = [compiler, "-std=c++17", "-O1", "-shared", "-fPIC", "-w", "-DLSTMJAX_EMULATED", "-I", here, "-x", "c++"]
    assert nvcc.build(path, arguments, "\n".join(sorted(lines))) is None
    assert nvcc.load(path, "cpu") is None


@pytest.fixture
def emulated(library, monkeypatch):
    monkeypatch.setattr(nvcc, "suffix", lambda kernel: "")


def problem(T, B, D, H, dtype, rest=(), reverse=False, stored=None, seed=0):
    """Operands of a run, cotangents of its results, and its config."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    w_x, w_h, b = normal(D, 4 * H) / D**0.5, normal(H, 4 * H) / H**0.5, normal(4 * H) / 2
    given = dict(
        lengths=jnp.asarray(rng.integers(0, T + 1, B), jnp.int32),
        mask=jnp.asarray(rng.random((T, B)) < 0.7),
        reset=jnp.asarray(rng.random((T, B)) < 0.25),
    )
    # An h0 that no step could give.
    operands = [w_x, w_h, b, normal(T, B, D), 3 * normal(B, H), normal(B, H), *(given[name] for name in rest)]
    config = chunked.Config(
        reverse=reverse,
        dtype=jnp.dtype(dtype),
        stored=jnp.dtype(stored or "float32"),
        chunk=T,
        residuals="gates",
        precision=None,
        rest=tuple(rest),
        insist=False,
        persistent=True,
    )
    return operands, [normal(T, B, H), normal(B, H), normal(B, H)], config


def both(module, operands, cotangents, config):
    """All that forward and backward give."""
    hs, h, c, *kept = module.forward(*operands, config=config, keep=True)
    dhs = cotangents[0].astype(config.stored)
    gradients = module.backward(dhs, *cotangents[1:], *operands, hs, *kept, config=config, wrt=(True,) * 6)
    return [hs, h, c], gradients


def compare(operands, cotangents, config):
    got, want = (
        jax.jit(functools.partial(both, module, config=config))(operands, cotangents) for module in (kernel, chunked)
    )
    tolerance = TOLERANCES[config.dtype.name]
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        assert np.max(np.abs(a - b)) <= tolerance * max(1.0, np.max(np.abs(b)))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("rest", [(), ("lengths",), ("mask",), ("reset",), ("lengths", "reset")], ids="+".join)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_equals_fused(emulated, dtype, rest, reverse):
    compare(*problem(6, 5, 3, 24, dtype, rest, reverse))


@pytest.mark.parametrize("case", CUTS, ids=str)
def test_every_cut(emulated, monkeypatch, case):
    """Several groups, one pass and several, rows and units that fill no tile."""
    _, kind, passes = case
    monkeypatch.setattr(kernel, "plan", lambda B, H, dtype, back: cut_of(B, H, dtype, back, kind, passes))
    compare(*problem(4, B, 3, H, case[0], ("lengths",), reverse=True))
