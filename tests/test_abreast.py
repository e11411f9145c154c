"""A loop for each half of the batch: the numbers of scan; and that nothing which XLA writes in one loop is touched in
the other, so that it may run both at the same time, from what it says of its own buffers."""

import functools
import os
import re
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstmjax
from lstmjax.backends import tuning

STEPS, BATCH, INPUTS, HIDDEN = 18, 17, 3, 96  # halves of unequal size, and a last chunk that overlaps the one before it


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.setattr(tuning, "cores", lambda: 2)


def drawn(rest):
    """Params, inputs, state, and what `run` is given beside them."""
    rng = np.random.default_rng(0)

    def of(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    params = lstmjax.init_lstm(jax.random.key(0), INPUTS, HIDDEN)
    given = {
        "lengths": jnp.asarray(rng.integers(0, STEPS + 1, BATCH), jnp.int32),
        "mask": jnp.asarray(rng.random((STEPS, BATCH)) < 0.7),
    }
    state = lstmjax.LSTMState(of(BATCH, HIDDEN), of(BATCH, HIDDEN))
    return params, of(STEPS, BATCH, INPUTS), state, {rest: given[rest]} if rest else {}


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("rest", ["", "lengths", "mask"], ids=str)
@pytest.mark.parametrize("chunk", [5, None])
def test_equals_scan(chunk, rest, reverse, two_threads):
    params, xs, state, given = drawn(rest)

    def loss(params, xs, state, **options):
        after, ys = lstmjax.run(params, xs, state, reverse=reverse, **given, **options)
        return (jnp.sin(ys) * jnp.linspace(-1, 1, HIDDEN)[None, None]).mean() + (after.h * after.c).mean(), (after, ys)

    found = []
    for options in (dict(backend="fused", chunk=chunk), dict(backend="scan")):
        function = jax.jit(jax.value_and_grad(functools.partial(loss, **options), (0, 1, 2), has_aux=True))
        # Of the gradient, and of what is not differentiated.
        found.append((function(params, xs, state), jax.jit(functools.partial(loss, **options))(params, xs, state)))
        if options["backend"] == "fused":
            assert "tensor<128x544xf32>" in function.lower(params, xs, state).as_text()
    chex.assert_trees_all_close(*found, rtol=1e-5, atol=3e-7)


def test_transformed(two_threads):
    """vmap over batches, gradients of it and vmaps of gradients."""
    params, xs, state, _ = drawn("")
    many = jnp.stack([xs, xs[::-1], 2 * xs])

    def loss(params, xs, backend):
        return (lstmjax.run(params, xs, state, backend=backend)[1] ** 2).mean()

    def all_of(backend):
        one = functools.partial(loss, backend=backend)
        return (
            jax.vmap(one, (None, 0))(params, many),
            jax.grad(lambda params: jax.vmap(one, (None, 0))(params, many).sum())(params),
            jax.vmap(jax.grad(one), (None, 0))(params, many),
        )

    chex.assert_trees_all_close(jax.jit(all_of, static_argnums=0)("fused"), all_of("scan"), rtol=2e-5, atol=1e-6)


# A run and its gradient, compiled where XLA writes down what it does.
PROGRAM = """
import sys
import jax
import jax.numpy as jnp
import lstmjax
from lstmjax.backends import tuning

tuning.cores = lambda: 2
tuning._avx512 = lambda: True
params = lstmjax.init_lstm(jax.random.key(0), 16, 128)
xs = jnp.ones((20, 16, 16))
padding = {"lengths": jnp.arange(5, 21), "mask": jnp.ones((20, 16), bool)}

for case in sys.argv[1:]:
    what, chunk, dtype = case.split("_")
    given = {what: padding[what]} if what in padding else {}
    options = dict(backend="fused", chunk=int(chunk), compute_dtype=dtype, reverse=what == "reverse", **given)

    def loss(params, xs):
        state, ys = lstmjax.run(params, xs, **options)
        return (state.h if what == "last" else ys**2).sum()

    function = {"inference": loss, "weights": jax.grad(loss)}.get(what, jax.grad(loss, (0, 1)))

    def program(params, xs):
        return function(params, xs)

    program.__name__ = case
    jax.jit(program).lower(params, xs).compile()
"""

CASES = [
    *(f"{what}_5_float32" for what in ("plain", "lengths", "mask", "reverse", "inference", "weights", "last")),
    *(f"{what}_20_float32" for what in ("plain", "inference", "weights", "last")),
    *(f"plain_{chunk}_bfloat16" for chunk in (5, 20)),
]


@pytest.fixture(scope="module")
def dumped(tmp_path_factory):
    """What XLA wrote of all cases."""
    folder = tmp_path_factory.mktemp("xla")
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_dump_to={folder} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=float",
        "JAX_PLATFORMS": "cpu",
    }
    subprocess.run([sys.executable, "-c", PROGRAM, *CASES], env=environment, check=True)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_the_loops_of_the_halves_have_no_number_in_common(case, dumped):
    (said,) = dumped.glob(f"*jit_{case}.*buffer-assignment.txt")
    (program,) = dumped.glob(f"*jit_{case}.*after_optimizations.txt")
    computations, buffers = _computations(program.read_text()), _buffers(said.read_text())
    every = [line for lines in computations.values() for line in lines]
    waited = {line.split(" = ")[0].lstrip("%") for line in every if " = f32[128,544]" in line}
    shared = {where for (value, _), all_of in buffers.items() if value in waited for where in all_of}
    pairs = []
    for lines in computations.values():
        loops = [line for line in lines if " while(" in line and not _outer(line, computations)]
        pairs += zip(loops[::2], loops[1::2], strict=True)
    assert len(pairs) == (1 if case.startswith("inference") else 2)
    for pair in pairs:
        (writes, reads), (others, seen) = (_touched(loop, computations, buffers) for loop in pair)
        assert min(len(part) for part in (writes, reads, others, seen)) > 5
        for mine, its in ((writes, others | seen), (others, writes | reads)):
            assert not [(a, b) for a in mine for b in its if _overlap(a[1], b[1])]
        # Nor in common with what both wait for.
        assert len(shared) >= 1
        assert not [(a, b) for a in writes | others for b in shared if _overlap(a[1], b)]


def _outer(loop, computations):
    """Whether a loop has others in it."""
    return any(" while(" in line for name in re.findall(r"body=%([\w.\-]+)", loop) for line in computations[name])


def _computations(text):
    """The lines of each computation, by its name."""
    found = {}
    for block in re.split(r"\n(?=%|ENTRY)", text):
        head, *lines = block.split("\n")
        found[head.split(" ")[0].lstrip("%")] = [line.strip().removeprefix("ROOT ") for line in lines if " = " in line]
    return found


def _buffers(text):
    """Where each value lies: allocation, first byte and the one past the last, by name and place in its tuple."""
    found, allocation = {}, None
    for line in text.split("\n"):
        if head := re.match(r"allocation (\d+):", line):
            allocation = int(head[1])
        value = re.match(r" value: <\d+ ([\w.\-]+)(\{[\d,]*\})?.*?@\d+> \(size=(\d+),offset=(\d+)\)", line)
        if value:
            size, offset = int(value[3]), int(value[4])
            found.setdefault((value[1], value[2] or ""), set()).add((allocation, offset, offset + size))
    return found


def _touched(loop, computations, buffers):
    """What a loop writes, and what it reads of what it is given: pairs of a name and a place."""
    writes, reads = set(), set()
    for name in re.findall(r"(?:body|condition)=%([\w.\-]+)", loop):
        for line in computations[name]:
            made, _, how = line.partition(" = ")
            made = made.lstrip("%")
            operation = re.search(r" ([a-z\-]+)\(", how)[1]
            if operation == "parameter":
                for (value, place), where in buffers.items():
                    if value == made and place:
                        reads |= {(made + place, one) for one in where}
            elif operation not in ("get-tuple-element", "tuple", "constant", "bitcast"):
                writes |= {(made, one) for one in buffers.get((made, ""), ())}
    return writes, reads


def _overlap(a, b):
    return a[0] == b[0] and a[1] < b[2] and b[1] < a[2]
