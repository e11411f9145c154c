"""fused against scan, which defines what is right: in every combination of options, under every transformation."""

import functools
import re
from typing import Any, NamedTuple

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.test_util import check_grads

import lstmjax
from lstmjax.backends import abreast, chunked, chunks, tuning
from tests import reference
from tests.problems import QUICK, B, D, H, T, cast, problem

# --- values and gradients --------------------------------------------------------------------------------------------


class Setting(NamedTuple):
    """One drawn way to call run: the shapes, which arguments there are, and the options of fused."""

    time: int
    batch: int
    inputs: int
    hidden: int
    bias: bool
    state: bool
    lengths: bool
    reset: bool
    residuals: str | None = None
    chunk: int | None = None
    seed: int = 0
    reverse: bool = False


settings = st.builds(
    Setting,
    time=st.integers(1, 9),
    batch=st.integers(1, 3),
    inputs=st.integers(1, 3),
    hidden=st.integers(1, 3),
    bias=st.booleans(),
    state=st.booleans(),
    lengths=st.booleans(),
    reset=st.booleans(),
    residuals=st.sampled_from(["gates", "outputs", None]),
    chunk=st.sampled_from([None, 1, 2, 3, 4, 50]),
    seed=st.integers(0, 3),
)
argument = st.sampled_from(["params", "xs", "state", "lengths", "reset"])


def arguments(setting: Setting, seed: int, dtype: Any) -> list:
    """Params, xs, state, lengths and reset, with None for those that the setting does without."""
    s = setting
    p = problem("lstm", s.time, (s.batch,), s.inputs, s.hidden, dtype, seed, s.bias)
    return [
        p.params,
        p.xs,
        *(a if there else None for a, there in zip(p[2:], (s.state, s.lengths, s.reset), strict=True)),
    ]


def loss_of(setting: Setting, backend: str):
    """(params, xs, state, lengths, reset) -> a loss that weighs every number of the result."""
    options = dict(residuals=setting.residuals, chunk=setting.chunk) if backend == "fused" else {}

    def loss(params, xs, state, lengths, reset):
        options_of_data = dict(lengths=lengths, reset=reset, reverse=setting.reverse)
        results = lstmjax.run(params, xs, state, **options_of_data, backend=backend, **options)
        return reference.scalar(*results), results

    return loss


def compare(how, setting, args, tolerance, fused=None):
    """`how(loss)` on fused, compiled with the options `fused`, gives what it gives on scan."""
    wanted = (0, 1) if args[2] is None else (0, 1, 2)
    got, want = (
        jax.device_get(jax.jit(how(loss_of(setting, name), wanted), compiler_options=options)(*args))
        for name, options in (("fused", fused), ("scan", QUICK))
    )
    chex.assert_trees_all_close(got, want, rtol=tolerance, atol=tolerance)


def plain(loss, wanted):
    return jax.value_and_grad(loss, wanted, has_aux=True)


both_directions = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


@both_directions
@hypothesis.given(settings)
@hypothesis.settings(max_examples=6)
def test_equals_scan(reverse, setting):
    with jax.enable_x64(True):
        compare(plain, setting._replace(reverse=reverse), arguments(setting, setting.seed, np.float64), 1e-11)


@both_directions
@pytest.mark.parametrize("state", [False, True], ids=["zeros", "state"])
@pytest.mark.parametrize("reset", [False, True], ids=["whole", "reset"])
@pytest.mark.parametrize("lengths", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize("residuals", ["gates", "outputs"])
def test_equals_scan_in_every_combination(residuals, lengths, reset, state, reverse):
    """An odd T that the chunk does not divide; what hypothesis draws above it may draw unevenly."""
    with jax.enable_x64(True):
        setting = Setting(7, 3, 2, 3, True, state, lengths, reset, residuals, chunk=3, reverse=reverse)
        compare(plain, setting, arguments(setting, 0, np.float64), 1e-11)


@both_directions
@hypothesis.given(settings)
@hypothesis.settings(max_examples=3)
def test_equals_scan_in_float32(reverse, setting):
    compare(plain, setting._replace(reverse=reverse), arguments(setting, setting.seed, np.float32), 2e-5)


@both_directions
@hypothesis.given(settings, st.sets(argument, min_size=1))
@hypothesis.settings(max_examples=5)
def test_vmap_of_the_gradient(reverse, setting, mapped):
    """Per-example values and gradients, mapped over any of the arguments: data, weights, lengths alone, ..."""
    with jax.enable_x64(True):
        args, axes = mapped_arguments(setting, mapped)

        def how(loss, wanted):
            return jax.vmap(plain(loss, wanted), axes)

        compare(how, setting._replace(reverse=reverse), args, 1e-11, QUICK)


@both_directions
@hypothesis.given(settings, st.sets(argument, min_size=1))
@hypothesis.settings(max_examples=5)
def test_gradient_of_vmap(reverse, setting, mapped):
    """Gradients of a loss over a mapped axis, over any of the arguments."""
    with jax.enable_x64(True):
        args, axes = mapped_arguments(setting, mapped)

        def how(loss, wanted):
            def total(*args):
                losses, results = jax.vmap(loss, axes)(*args)
                return (losses * np.arange(1.0, len(losses) + 1)).sum(), results

            return plain(total, wanted)

        compare(how, setting._replace(reverse=reverse), args, 1e-11, QUICK)


def mapped_arguments(setting, mapped):
    """The arguments with an axis of 2 more where they are mapped, and where that axis is: 0, of xs the last."""
    names = ["params", "xs", "state", "lengths", "reset"]
    draws = [arguments(setting, seed, np.float64) for seed in (0, 1)]
    args, axes = [], []
    for name, *pair in zip(names, *draws, strict=True):
        axis = {"xs": -1}.get(name, 0) if name in mapped and pair[0] is not None else None
        args.append(pair[0] if axis is None else jax.tree.map(lambda *a, axis=axis: np.stack(a, axis), *pair))
        axes.append(axis)
    hypothesis.assume(any(axis is not None for axis in axes))
    return args, tuple(axes)


@pytest.mark.parametrize("outer", ["weights", "data"])
def test_vmap_of_vmap(x64, outer):
    """Two mapped axes, one of weights and one of data, in either order."""
    problems = [problem("lstm", dtype=np.float64, seed=seed) for seed in (0, 1)]
    params, xs = (
        jax.tree.map(lambda *a: np.stack(a), *(getattr(p, field) for p in problems)) for field in ("params", "xs")
    )
    setting = Setting(T, B, D, H, bias=True, state=False, lengths=True, reset=False, chunk=3)
    weights, data = (0, None, None, None, None), (None, 0, None, None, None)

    def how(loss, wanted):
        axes = (data, weights) if outer == "weights" else (weights, data)
        return functools.reduce(jax.vmap, axes, plain(loss, wanted))

    compare(how, setting, [params, xs, None, problems[0].lengths, None], 1e-11)


@pytest.mark.parametrize(
    ("time", "chunk", "reverse"),
    [(10, 5, False), (23, 20, True), (41, 20, False), (10, None, True), (2, None, False), (3, 2, True)],
)
def test_chunks_of_every_kind_equal_scan(x64, time, chunk, reverse):
    """A chunk that divides the time, overlaps a lot, and overlaps but for one step; one chunk, as a short run has by
    default; and so few steps that the weights are not halved but the sums are."""
    setting = Setting(time, 3, 2, 3, bias=True, state=True, lengths=True, reset=True, reverse=reverse, chunk=chunk)
    compare(plain, setting, arguments(setting, 0, np.float64), 1e-10)


@pytest.mark.parametrize(
    ("dtypes", "residuals"),
    [
        ("bfloat16 inputs", "gates"),
        ("bfloat16 inputs", "outputs"),
        ("bfloat16 products", "outputs"),
        ("bfloat16 weights", "gates"),
        ("float16 all", "outputs"),
    ],
)
def test_half_precision_equals_scan(dtypes, residuals):
    """The same roundings in the same places, up to the order of sums."""
    p = problem("lstm")
    half = jnp.dtype("float16" if "float16 " in dtypes else "bfloat16")
    params = cast(p.params, half) if dtypes in ("bfloat16 weights", "float16 all") else p.params
    xs = cast(p.xs, half) if dtypes in ("bfloat16 inputs", "float16 all") else p.xs
    compute_dtype = half if dtypes == "bfloat16 products" else None

    def loss(backend, params, xs, state):
        options = dict(residuals=residuals, chunk=3) if backend == "fused" else {}
        data = dict(lengths=p.lengths, reset=p.reset, compute_dtype=compute_dtype, backend=backend)
        return reference.scalar(*lstmjax.run(params, xs, state, **data, **options))

    found = [
        jax.jit(jax.value_and_grad(functools.partial(loss, backend), (0, 1, 2)))(params, xs, p.state)
        for backend in ("fused", "scan")
    ]
    chex.assert_trees_all_equal_dtypes(*found)
    got, want = cast(jax.device_get(found), np.float32)
    chex.assert_trees_all_close(got, want, rtol=0.03, atol=0.03)


@pytest.mark.parametrize(("cell", "backend"), [("lstm", "scan"), ("lstm", "fused"), ("gru", "scan"), ("minlstm", None)])
def test_compute_dtype_is_that_of_the_products(cell, backend):
    """Every product of a run takes bfloat16 and sums in float32, those of fused's backward pass too; by default none
    does. The transpose of a product, as JAX has it for scan, takes its cotangent in float32."""
    p = problem(cell)

    def loss(compute_dtype, *args):
        return reference.scalar(*lstmjax.run(*args, backend=backend, compute_dtype=compute_dtype))

    for compute_dtype, operand in (("bfloat16", "bf16"), (None, "f32")):
        function = functools.partial(loss, compute_dtype)
        for how in (function, jax.grad(function, (0, 1, 2))) if backend == "fused" else (function,):
            program = lowered(how, *p[:3]).as_text()
            products = [line.split(" : ")[-1] for line in program.splitlines() if "dot_general" in line]
            assert products
            for product in products:
                operands, result = product.split(" -> ")
                assert set(re.findall(r"x(bf16|f32)>", operands)) == {operand}
                assert "xf32>" in result


@pytest.mark.parametrize("batch", [1, 4])
def test_a_row_in_bfloat16_is_written_in_place(batch):
    """XLA for a CPU updates bfloat16 buffers in float32, all of them for one row: such a loop is quadratic in time."""
    params = jax.eval_shape(lambda: lstmjax.init_lstm(jax.random.key(0), 2, 8))
    xs = jax.ShapeDtypeStruct((30, batch, 2), jnp.float32)

    def loss(params, xs):
        return lstmjax.run(params, xs, backend="fused", compute_dtype="bfloat16")[1].sum()

    program = jax.jit(jax.grad(loss, (0, 1))).lower(params, xs).compile().as_text()
    assert "dynamic-update-slice" in program
    assert not re.findall(r"= bf16.*dynamic-update-slice", program)


@pytest.mark.parametrize("residuals", ["gates", "outputs"])
def test_a_single_row_in_bfloat16_is_rounded_as_any_other(residuals):
    """On a CPU it is multiplied in float32, but by operands rounded to bfloat16: the run is that of scan, not the one
    without rounding."""
    p = problem("lstm", batch=(1,))
    options = dict(compute_dtype="bfloat16")

    def both(xs, **options):
        def loss(params):
            return reference.scalar(*lstmjax.run(params, xs, p.state, **options))

        return jax.jit(jax.value_and_grad(loss))(p.params)

    # One step, so that no rounding of h that falls on the other side has steps to grow in.
    ours, scans = (
        both(p.xs[:1], **options | more) for more in (dict(backend="fused", residuals=residuals), dict(backend="scan"))
    )
    exact = both(p.xs[:1], backend="scan")
    chex.assert_trees_all_close(ours[0], scans[0], atol=1e-7)
    assert abs(float(ours[0] - exact[0])) > 1e-5
    chex.assert_trees_all_close(ours[1], scans[1], rtol=2e-2, atol=1e-3)


@both_directions
@pytest.mark.parametrize("residuals", ["gates", "outputs"])
def test_recurrent_dropout_equals_scan(x64, residuals, reverse):
    """The same mask in the product, in its transpose and in the gradient of w_h."""
    p = problem("lstm", dtype=np.float64)

    def loss(*args, **options):
        data = dict(lengths=p.lengths, reset=p.reset, reverse=reverse)
        rates = lstmjax.Regularisers(recurrent=0.5)
        results = lstmjax.run(*args, **data, regularisers=rates, key=jax.random.key(0), **options)
        return reference.scalar(*results), results

    found = [
        jax.jit(jax.value_and_grad(functools.partial(loss, **options), (0, 1, 2), has_aux=True))(*p[:3])
        for options in (dict(backend="fused", chunk=3, residuals=residuals), dict(backend="scan"))
    ]
    chex.assert_trees_all_close(*found, rtol=1e-12, atol=1e-12)


@both_directions
@pytest.mark.parametrize(
    "rest", [(), ("lengths", "reset", "recurrent"), ("mask", "reset"), ("lengths",), ("mask",)], ids="+".join
)
@pytest.mark.parametrize("residuals", ["gates", "outputs"])
@pytest.mark.parametrize("chunk", [3, T])
def test_what_is_tuned_for_a_cpu_changes_nothing(x64, chunk, residuals, rest, reverse):
    """A batch of 5 as two and three lanes of unequal size, weights before what they multiply, and a loop for each half:
    the same run and the same gradients."""
    p = problem("lstm", batch=(5,), dtype=np.float64)
    rng = np.random.default_rng(0)
    given = dict(lengths=p.lengths, mask=rng.random((T, 5)) < 0.7, reset=p.reset, recurrent=rng.random((5, H)))
    config = chunks.Config(
        reverse=reverse,
        dtype=jnp.dtype(np.float64),
        stored=jnp.dtype(np.float64),
        chunk=chunk,
        residuals=residuals,
        precision=None,
        rest=rest,
        insist=False,
    )
    operands = [*p.params[:3], p.xs, *p.state, *(jnp.asarray(given[name]) for name in rest)]
    cotangents = [rng.standard_normal(shape) for shape in ((T, 5, H), (5, H), (5, H))]

    def both(module, x_first=None, **options):
        hs, h, c, *kept = module.forward(*operands, config=config, keep=True, **options)
        back = functools.partial(module.backward, config=config, wrt=(True,) * 6, **options)
        if x_first:
            back = functools.partial(back, x_first=True)
        return hs, h, c, kept, back(*cotangents, *operands, hs, *kept)

    pairs = [(1, False), (1, True), (2, False), (3, True)]
    tuned = [functools.partial(both, chunked, lanes=lanes, weights_first=first) for lanes, first in pairs]
    tuned.append(functools.partial(both, chunked, x_first=True))
    halves = set(rest) <= {"lengths", "mask"} and residuals == "gates"
    assert abreast.usable(config) == halves
    if halves:
        tuned.append(functools.partial(both, abreast))
        # Some of the gradients, and forward alone.
        wrt = (False, True, False, False, True, False)
        one = jax.jit(functools.partial(both, chunked), compiler_options=QUICK)()
        back = functools.partial(abreast.backward, config=config, wrt=wrt)
        some = jax.jit(back, compiler_options=QUICK)(*cotangents, *operands, one[0], *one[3])
        chex.assert_trees_all_close(some, [one[-1][1], one[-1][4]], rtol=0, atol=1e-13)
        alone = jax.jit(functools.partial(abreast.forward, config=config, keep=False), compiler_options=QUICK)
        chex.assert_trees_all_close(alone(*operands), list(one[:3]), rtol=0, atol=1e-13)
    one, *others = (jax.jit(each, compiler_options=QUICK)() for each in tuned)
    for other in others:
        chex.assert_trees_all_close(other, one, rtol=0, atol=1e-13)


# Of each processor: batch and units, and of forward and backward the lanes and whether weights are first.
TUNED = {
    False: [
        (16, 129, (2, True), (2, True)),
        (15, 129, (2, False), (2, False)),  # too few rows for so few weights
        (7, 512, (1, True), (1, True)),
        (3, 512, (1, False), (1, False)),
        (65, 129, (1, False), (1, False)),
        (64, 129, (2, True), (2, True)),
        (16, 128, (1, False), (1, False)),
        (8, 513, (1, True), (1, True)),
        (64, 513, (1, True), (1, True)),
        (2, 768, (1, False), (1, True)),
        (1, 2048, (1, False), (1, False)),  # a row is not packed
    ],
    True: [
        (64, 511, (2, False), (2, False)),
        (15, 512, (2, False), (2, False)),
        (16, 512, (2, False), (2, True)),
        (31, 513, (1, False), (1, True)),
        (4, 513, (1, False), (1, False)),
        (64, 767, (1, False), (2, True)),
        (4, 768, (1, True), (1, True)),
        (64, 1024, (1, True), (2, True)),
        (64, 1025, (1, True), (1, True)),
        (65, 1024, (1, False), (1, True)),
        (2, 768, (1, False), (1, True)),
    ],
}


@pytest.mark.parametrize("avx512", TUNED)
def test_a_step_is_tuned_on_a_cpu_only(avx512, monkeypatch):
    """Its products, forward and back: one for each lane, and the weights first or second; from any machine, for each
    platform."""
    monkeypatch.setattr(tuning, "_avx512", lambda: avx512)
    monkeypatch.setattr(tuning, "cores", lambda: 1)

    def loss(params, xs):
        return lstmjax.run(params, xs, backend="fused")[1].sum()

    for batch, hidden, *expected in TUNED[avx512]:
        params = jax.eval_shape(lambda: lstmjax.init_lstm(jax.random.key(0), 2, hidden))  # noqa: B023
        xs = jax.ShapeDtypeStruct((16, batch, 2), jnp.float32)
        for platform in ("cpu", "cuda", "tpu"):
            (there, first), (back, back_first) = expected if platform == "cpu" else [(1, False)] * 2
            text = jax.export.export(jax.jit(jax.grad(loss)), platforms=(platform,))(params, xs).mlir_module()
            assert text.count("stablehlo.dot_general") == 3 + there + back, (platform, batch, hidden)
            for lanes, weights, of, to in (
                (there, first, hidden, 4 * hidden),
                (back, back_first, 4 * hidden, hidden),
            ):
                rows = -(-batch // lanes)
                if batch == 1 and of > to:  # a row takes them as they lie
                    continue
                operands = [f"{to}x{of}", f"{of}x{rows}"] if weights else [f"{rows}x{of}", f"{of}x{to}"]
                product = ", ".join(f"tensor<{shape}xf32>" for shape in operands)
                assert product in text, (platform, batch, hidden)


# Batch and units, and whether each half has a loop of its own, with AVX-512 and without: in inference, in a run that is
# differentiated, and in its gradient.
ABREAST = [
    (8, 128, (True, True, True), (True, True, True)),
    (7, 512, (False, False, False), (False, False, False)),
    (8, 95, (False, False, False), (False, False, False)),  # too little to do
    (16, 64, (False, False, True), (False, False, True)),
    (32, 64, (True, True, True), (True, True, True)),
    (16, 129, (True, False, True), (False, False, False)),
    (64, 385, (True, False, False), (False, False, False)),
    (65, 129, (False, False, True), (False, False, False)),
    (65, 385, (False, False, True), (False, False, False)),
    (16, 512, (True, False, False), (False, False, False)),
    (64, 513, (False, False, False), (False, False, False)),
    (65, 513, (False, False, False), (False, False, False)),
]


def test_chunks_are_longer_where_halves_have_loops_of_their_own(monkeypatch):
    monkeypatch.setattr(tuning, "_avx512", lambda: True)

    def steps(rows, hidden, threads, gradient=False):
        """How many a chunk of 100 has, by the buffer of what z is made of, or of dz."""
        monkeypatch.setattr(tuning, "cores", lambda: threads)

        def run(params, xs):  # a function of its own, since JAX keeps what it has lowered
            return lstmjax.run(params, xs, backend="fused")[1].sum()

        params = jax.eval_shape(lambda: lstmjax.init_lstm(jax.random.key(0), 2, hidden))
        xs = jax.ShapeDtypeStruct((100, 32, 2), jnp.float32)
        function = jax.jit(jax.grad(run) if gradient else run)
        text = jax.export.export(function, platforms=("cpu",))(params, xs).mlir_module()
        return {int(n) for n in re.findall(rf"tensor<(\d+)x{rows}x{4 * hidden}xf32>", text)} - {1, 100}

    assert steps(32, 256, threads=1) == {10}
    assert steps(32, 256, threads=2) == {20}
    assert steps(32, 128, threads=2) == {20}
    # Forward keeps its chunks, and has a buffer for each half of one; backward has longer ones.
    assert steps(16, 128, threads=2, gradient=True) == {20, 50}


@pytest.mark.parametrize("avx512", [True, False])
def test_halves_have_loops_of_their_own_where_a_cpu_runs_both(avx512, monkeypatch):
    monkeypatch.setattr(tuning, "_avx512", lambda: avx512)
    monkeypatch.setattr(tuning, "cores", lambda: 2)

    def passes(function, *args, platform="cpu"):
        """How many there are: this is what both loops of one wait for."""
        text = jax.export.export(jax.jit(function), platforms=(platform,))(*args).mlir_module()
        return len(re.findall(r"optimization_barrier .*: tensor<128x544xf32>", text))

    def run(params, xs):
        return lstmjax.run(params, xs, backend="fused")[1].sum()

    for batch, hidden, *expected in ABREAST:
        there, kept, back = expected[0 if avx512 else 1]
        params = jax.eval_shape(lambda: lstmjax.init_lstm(jax.random.key(0), 2, hidden))  # noqa: B023
        xs = jax.ShapeDtypeStruct((16, batch, 2), jnp.float32)
        assert passes(run, params, xs) == there, (batch, hidden)
        assert passes(jax.grad(run), params, xs) == kept + back, (batch, hidden)
        assert not passes(jax.grad(run), params, xs, platform="tpu")
    params = jax.eval_shape(lambda: lstmjax.init_lstm(jax.random.key(0), 2, 128))
    xs = jax.ShapeDtypeStruct((16, 32, 2), jnp.float32)

    def with_reset(params, xs):
        return lstmjax.run(params, xs, reset=jnp.zeros(xs.shape[:2], bool), backend="fused")[1].sum()

    assert not passes(jax.grad(with_reset), params, xs)
    assert not passes(jax.grad(run), params, jax.ShapeDtypeStruct((15, 32, 2), jnp.float32))

    def half(params, xs):
        return lstmjax.run(params, xs, backend="fused", compute_dtype="bfloat16")[1].sum()

    # In bfloat16: a run that is differentiated, and its gradient.
    for batch, hidden, there, back in (
        (8, 128, False, True),
        (16, 128, True, True),
        (65, 256, avx512, avx512),
        (16, 1024, avx512, False),
        (32, 1024, avx512, avx512),
        (65, 1024, False, avx512),
        (64, 1025, False, False),
    ):
        params = jax.eval_shape(lambda: lstmjax.init_lstm(jax.random.key(0), 2, hidden))  # noqa: B023
        xs = jax.ShapeDtypeStruct((16, batch, 2), jnp.float32)
        assert passes(jax.grad(half), params, xs) == there + back, (batch, hidden)
    params = jax.eval_shape(lambda: lstmjax.init_lstm(jax.random.key(0), 2, 128))
    xs = jax.ShapeDtypeStruct((16, 32, 2), jnp.float32)
    # A gradient has chunks of twice as many steps, here of 50 in the place of 20.
    text = jax.jit(jax.grad(run)).lower(params, jax.ShapeDtypeStruct((100, 32, 2), jnp.float32)).as_text()
    assert "tensor<20x16x512xf32>" in text
    assert "tensor<50x16x512xf32>" in text
    monkeypatch.setattr(tuning, "cores", lambda: 1)
    assert not passes(jax.grad(run), params, xs)


def test_few_steps_are_not_worth_a_transpose():
    params = jax.eval_shape(lambda: lstmjax.init_lstm(jax.random.key(0), 2, 768))
    for steps, first in ((15, False), (16, True)):
        xs = jax.ShapeDtypeStruct((steps, 8, 2), jnp.float32)
        run = jax.jit(functools.partial(lstmjax.run, backend="fused"))
        text = jax.export.export(run, platforms=("cpu",))(params, xs).mlir_module()
        assert ("tensor<3072x768xf32>, tensor<768x8xf32>" in text) == first


@pytest.mark.parametrize(
    ("steps", "inputs", "options", "first"),
    [
        (16, 256, {}, True),
        (16, 255, {}, False),
        (17, 256, {}, False),  # more rows than the weights have
        (16, 256, dict(compute_dtype="bfloat16"), False),
        (16, 256, dict(chunk=8), False),
        (17, 256, dict(residuals="outputs", chunk=17), True),  # for its memory
    ],
)
def test_dx_of_few_rows_takes_the_weights_as_they_lie(steps, inputs, options, first):
    """On a CPU, which else would transpose them for it."""
    params = jax.eval_shape(lambda: lstmjax.init_lstm(jax.random.key(0), inputs, 8))
    xs = jax.ShapeDtypeStruct((steps, 16, inputs), jnp.float32)
    gradient = jax.jit(jax.grad(lambda xs, params: lstmjax.run(params, xs, backend="fused", **options)[1].sum()))
    for platform in ("cpu", "cuda"):
        text = jax.export.export(gradient, platforms=(platform,))(xs, params).mlir_module()
        assert len(re.findall(rf"tensor<{inputs}x32x\w+>, tensor<32x\d+x16x\w+>", text)) == (
            first and platform == "cpu"
        )


@pytest.mark.parametrize("batch", [1, 4])
def test_a_step_of_inference_is_few_operations(batch):
    """Up to 8 XLA for a CPU runs in their order; of more it keeps account, which takes longer than a small one."""
    params = lstmjax.init_lstm(jax.random.key(0), 16, 32)
    run = jax.jit(functools.partial(lstmjax.run, backend="fused"))
    text = run.lower(params, jnp.zeros((20, batch, 16))).compile().as_text()
    (body,) = re.findall(r" while\(.*body=%([\w.]+)", text)
    step = re.search(rf"^%{re.escape(body)} .*?^}}", text, re.S | re.M)[0]
    free = "parameter|constant|get-tuple-element|tuple|bitcast"
    named = re.findall(r"^ .* = \S+ ([\w-]+)\(", step.replace("ROOT ", ""), re.M)
    counted = [name for name in named if not re.fullmatch(free, name)]
    assert "fusion" in counted
    assert len(counted) <= 8, counted


def test_no_buffer_of_all_steps_is_copied():
    """Of buffers that begin with the same numbers XLA makes one and copies it."""
    params = lstmjax.init_lstm(jax.random.key(0), 16, 32)
    gradient = jax.grad(lambda params, xs: (lstmjax.run(params, xs, backend="fused")[1] ** 2).sum(), (0, 1))
    text = jax.jit(gradient).lower(params, jnp.zeros((20, 4, 16))).compile().as_text()
    assert "f32[20,4,128]" in text
    assert not re.findall(r"f32\[20,4,\d+\]\S* copy\(.*", text)


def test_vmap_over_sequences_has_the_chunks_of_a_batch():
    """The number of steps in a chunk is chosen for all sequences together: else there would be one, of all steps."""
    params = lstmjax.init_lstm(jax.random.key(0), 64, 128)
    xs = jax.ShapeDtypeStruct((200, 64, 64), jnp.float32)

    def batch(xs):
        return lstmjax.run(params, xs, backend="fused")[1]

    one, many = (
        jax.jit(run, compiler_options=QUICK).lower(xs).compile().memory_analysis()
        for run in (batch, jax.vmap(batch, 1, 1))
    )
    # The outputs once more, in the order that was asked for; with one chunk it was 19 times as much.
    assert many.temp_size_in_bytes <= one.temp_size_in_bytes + one.output_size_in_bytes


@pytest.mark.parametrize("scale", [1, 1e-4])
def test_one_sequence_in_float16_keeps_small_numbers(scale):
    """Those below 6e-5, which float16 has with fewer bits."""
    params, xs = lstmjax.init_lstm(jax.random.key(0), 3, 16), jax.random.normal(jax.random.key(1), (30, 1, 3))

    def loss(params, **options):
        return scale * lstmjax.run(params, xs, **options)[1][-1].sum()

    found, want = (
        jax.jit(jax.grad(functools.partial(loss, **options)), compiler_options=QUICK)(params).w_x
        for options in (dict(backend="fused", compute_dtype="float16"), dict(backend="scan"))
    )
    assert jnp.abs(found - want).max() < 5e-3 * jnp.abs(want).max()


def test_a_precision_for_each_operand_follows_it():
    """Where the weights are the first operand too."""
    params = jax.eval_shape(lambda: lstmjax.init_lstm(jax.random.key(0), 2, 768))
    xs = jax.ShapeDtypeStruct((16, 16, 2), jnp.float32)
    run = jax.jit(functools.partial(lstmjax.run, backend="fused", precision=("highest", "default")))
    text = jax.export.export(run, platforms=("cpu",))(params, xs).mlir_module()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    of_weights = [line for line in products if "tensor<3072x768xf32>, tensor<768x" in line]
    assert of_weights
    assert all("precision = [DEFAULT, HIGHEST]" in line for line in of_weights)
    assert all("precision = [HIGHEST, DEFAULT]" in line for line in products if line not in of_weights)


def test_meshes_with_explicit_axes():
    """`jax.make_mesh` makes them by default: `split_batch` takes the devices of one, and of other arrays scan runs."""
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Explicit,))
    params, xs = lstmjax.init_lstm(jax.random.key(0), 3, 4), np.ones((4, 2, 3), np.float32)
    want = lstmjax.run(params, xs)[1]
    split = lstmjax.split_batch(xs, axis=1, devices=mesh)
    assert lstmjax.choose(params, split) == "fused"
    own = jax.device_put(xs, jax.NamedSharding(mesh, jax.P(None, "rows")))
    assert "Explicit" in lstmjax.reasons(params, own)["fused"]
    for given in (split, own):
        found = jax.jit(lambda xs: lstmjax.run(params, xs)[1], compiler_options=QUICK)(given)
        np.testing.assert_allclose(found, want, rtol=1e-6)


@pytest.mark.parametrize("residuals", ["gates", "outputs"])
def test_nothing_is_lost_of_h_beside_half_precision_inputs(residuals):
    """bfloat16 inputs and float32 weights: what h is stored in for the gradient of w_h is float32."""
    p = problem("lstm")
    xs = cast(p.xs, jnp.dtype("bfloat16"))

    def loss(params, state, **options):
        return reference.scalar(*lstmjax.run(params, xs, state, lengths=p.lengths, **options))

    found = [
        jax.jit(jax.grad(functools.partial(loss, **options), (0, 1)))(p.params, p.state)
        for options in (dict(backend="fused", residuals=residuals, chunk=3), dict(backend="scan"))
    ]
    chex.assert_trees_all_close(*found, rtol=1e-5, atol=1e-5)


# --- derivatives beyond the first ------------------------------------------------------------------------------------


def tiny(backend, **options):
    """A loss of (params, xs, state) at the smallest size that has every option, and its arguments."""
    p = problem("lstm", time=3, batch=(2,), inputs=1, hidden=2, dtype=np.float64)
    lengths, reset = np.array([3, 2]), np.array([[0, 0], [0, 1], [1, 0]], bool)

    def loss(*args):
        return reference.scalar(*lstmjax.run(*args, lengths=lengths, reset=reset, backend=backend, **options))

    return loss, p[:3]


def test_scan_has_second_derivatives(x64):
    loss, args = tiny("scan")
    check_grads(jax.jit(loss), args, order=2, modes=["rev"], atol=1e-5, rtol=1e-5)


def tree_cos(tree):
    """A direction as good as any."""
    return jax.tree.map(jnp.cos, tree)


def jvp(loss, args):
    return jax.jvp(loss, args, tree_cos(args))[1]


def jacfwd(loss, args):
    return jax.jacfwd(loss, 2)(*args)


def hessian(loss, args):
    return jax.hessian(loss, 2)(*args)


def gradient_of_gradient(loss, args):
    return jax.grad(lambda xs: (jax.grad(loss)(args[0], xs, args[2]).w_h ** 2).sum())(args[1])


def jvp_of_gradient(loss, args):
    return jax.jvp(jax.grad(loss, (0, 1, 2)), args, tree_cos(args))[1]


def gradient_of_jvp(loss, args):
    return jax.grad(lambda *args: jax.jvp(loss, args, tree_cos(args))[1], (0, 1, 2))(*args)


def jvp_of_jvp(loss, args):
    return jax.jvp(lambda *args: jax.jvp(loss, args, tree_cos(args))[1], args, tree_cos(args))[1]


def vmap_of_jvp(loss, args):
    def of_bias(b):
        here = (args[0]._replace(b=b), *args[1:])
        return jax.jvp(loss, here, tree_cos(here))[1]

    return jax.vmap(of_bias)(jnp.stack([args[0].b, -args[0].b]))


DERIVATIVES = [jvp, jacfwd, hessian, gradient_of_gradient, jvp_of_gradient, gradient_of_jvp, jvp_of_jvp, vmap_of_jvp]
every_derivative = pytest.mark.parametrize("derivative", DERIVATIVES, ids=lambda f: f.__name__)


@every_derivative
def test_backend_none_has_scans_derivatives(x64, derivative):
    """Forward mode and second derivatives through backend=None, where a first derivative takes fused."""
    options = dict(reverse=True, residuals="outputs", chunk=2)
    (loss, args), (slow_loss, _) = tiny(None, **options), tiny("scan", reverse=True)
    assert lstmjax.choose(*args[:2], **options) == "fused"
    compiled = jax.jit(derivative, static_argnums=0, compiler_options=QUICK)
    got, want = (jax.device_get(compiled(f, args)) for f in (loss, slow_loss))
    chex.assert_trees_all_close(got, want, rtol=1e-10, atol=1e-10)


@every_derivative
def test_fused_by_name_refuses_what_it_has_not(x64, derivative):
    """By name it insists: no quiet way to scan, and the error says what to ask for instead."""
    loss, args = tiny("fused")
    args = jax.tree.map(jnp.asarray, args)
    for call in (derivative, jax.jit(derivative, static_argnums=0)):
        with pytest.raises(TypeError, match='backend="scan"'):
            call(loss, args)


# --- the choice ------------------------------------------------------------------------------------------------------


def test_choose_and_reasons():
    lstm, gru, rnn = (problem(cell).params for cell in ("lstm", "gru", "rnn"))
    xs = jax.ShapeDtypeStruct((T, B, D), np.float32)  # only shape and dtype are read
    assert lstmjax.choose(lstm, xs) == "fused"
    assert lstmjax.choose(gru, xs) == lstmjax.choose(rnn, xs) == "scan"
    assert lstmjax.choose(lstm, xs, backend="scan") == "scan"
    assert lstmjax.choose(lstm, xs, residuals="outputs", chunk=3) == "fused"
    stack = (lstmjax.Bidirectional(lstm, gru), problem("rnn", inputs=2 * H).params)
    assert lstmjax.choose(stack, xs) == (lstmjax.Bidirectional("fused", "scan"), "scan")
    found = lstmjax.reasons(lstm, xs)
    assert (found["scan"], found["fused"]) == (None, None)
    assert "MinLSTMParams" in found["associative"]
    assert "GRUParams" in lstmjax.reasons(gru, xs)["fused"]
    assert "residuals" in lstmjax.reasons(lstm, xs, residuals="gates")["scan"]
    assert "chunk" in lstmjax.reasons(lstm, xs, chunk=2)["scan"]
    assert lstmjax.reasons(lstm, xs, chunk=2)["fused"] is None


def test_run_takes_the_backend_that_choose_names():
    """The primitive of fused is in the program where choose says so, and nowhere else."""
    p = problem("lstm")
    for backend in (None, "scan", "fused"):
        text = str(jax.make_jaxpr(functools.partial(lstmjax.run, backend=backend))(p.params, p.xs))
        fused = "scan[" not in text
        assert ("fused" if fused else "scan") == lstmjax.choose(p.params, p.xs, backend=backend)


# --- what is compiled ------------------------------------------------------------------------------------------------


def lowered(function, *args):
    return jax.jit(function).lower(*args)


def test_gradient_of_vmap_has_one_weight_gradient():
    """With shared weights no array holds a weight gradient for each of n examples; vmap of grad has one, of course."""
    n, inputs, hidden = 7, 3, 11
    p = problem("lstm", batch=(n,), inputs=inputs, hidden=hidden)
    xs = np.moveaxis(p.xs, 1, 0)

    def loss(params, xs):
        return reference.scalar(*lstmjax.run(params, xs, backend="fused"))

    def total(params, xs):
        return jax.vmap(loss, (None, 0))(params, xs).sum()

    def holds_one_per_example(function):
        text = lowered(function, p.params, xs).as_text()
        assert f"tensor<{inputs}x{4 * hidden}xf32>" in text
        sizes = [(n, rows, columns) for rows in (inputs, hidden) for columns in (4 * hidden,)]
        return any("x".join(map(str, size)) + "xf32" in text for size in sizes)

    assert not holds_one_per_example(jax.grad(total))
    assert holds_one_per_example(jax.vmap(jax.grad(loss), (None, 0)))


def test_outputs_keep_much_less_than_gates():
    """Temporary memory of the compiled gradient: the gates of all steps, or little more than the outputs."""
    p = problem("lstm", time=400, batch=(8,), inputs=16, hidden=32)

    def temporary(**options):
        def loss(params, xs):
            _, ys = lstmjax.run(params, xs, **options)
            return (ys * ys).sum()

        return lowered(jax.grad(loss), p.params, p.xs).compile().memory_analysis().temp_size_in_bytes

    output = 400 * 8 * 32 * 4
    gates, outputs = (temporary(backend="fused", residuals=residuals) for residuals in ("gates", "outputs"))
    assert gates > 5 * output
    assert outputs < 0.5 * gates
    assert gates < temporary(backend="scan")


def test_memory_of_a_long_sequence():
    """10,000 steps: the gradient with residuals="outputs" needs less than four times its outputs."""
    p = problem("lstm", time=10_000, batch=(2,), inputs=4, hidden=32)

    def loss(params, xs):
        _, ys = lstmjax.run(params, xs, residuals="outputs")
        return (ys * ys).sum()

    memory = lowered(jax.grad(loss), p.params, p.xs).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * 10_000 * 2 * 32 * 4


@pytest.mark.parametrize("backend", ["scan", "fused"])
def test_exports_for_every_platform(backend):
    """From any machine, for CPU, CUDA and TPU; and what was exported gives the same numbers here."""
    p = problem("lstm")

    def loss(*args):
        params, xs, state, lengths, reset = args
        results = lstmjax.run(params, xs, state, lengths=lengths, reset=reset, backend=backend)
        return reference.scalar(*results), results

    function = jax.jit(jax.value_and_grad(loss, has_aux=True))
    flat = jax.jit(lambda *leaves: jax.tree.leaves(function(*jax.tree.unflatten(jax.tree.structure(p), leaves))))
    leaves = jax.tree.leaves(p)
    exported = jax.export.export(flat, platforms=("cpu", "cuda", "tpu"))(*leaves)
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    chex.assert_trees_all_close(exported.call(*leaves), flat(*leaves), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", [None, "scan", "fused"])
def test_one_trace_for_all_values(backend):
    """Lengths, resets and states are data: other values do not compile again."""
    p = problem("lstm")
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def loss(params, xs, state, lengths, reset):
        return reference.scalar(*lstmjax.run(params, xs, state, lengths=lengths, reset=reset, backend=backend))

    for seed in range(5):
        loss(*problem("lstm", seed=seed)._replace(lengths=np.roll(p.lengths, seed)))
