"""The CUDA kernel's own source, compiled for a CPU by `cuda_on_cpu.h`, against the arithmetic of fused."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstmjax
from lstmjax.backends import chunked, chunks, kernel, nvcc, persistent
from tests import problems, reference

# Float32 products are TF32, which has the fraction of float16; in 16 bits a sum may round to the other side.
TOLERANCES = {"float32": 4e-3, "bfloat16": 3e-2, "float16": 4e-3}


B, H = 70, 20  # fill no tile of rows or units

# As if there were few multiprocessors: two groups go over their rows several times, or once.
CUTS = [
    (dtype, kind, kind[-1] + (n + (dtype == "float16")) % 2)
    for dtype in ("float32", "float16")
    for n, kind in enumerate(
        [
            (1, 1, False, 8, 1),
            (2, 2, False, 4, 1),
            (1, 2, True, 4, 1),
            (2, 1, True, 8, 1),
            (1, 1, False, 4, 2),
            (2, 1, False, 2, 2),
        ]
    )
]


def cut_of(B, H, dtype, back, kind, passes):
    """A kernel of this kind with so many passes."""
    found, _ = kernel.cut(16 * 132 * kind[-1] * kind[1], H, dtype, back, *kind)
    groups = -(-B // (16 * found.rows * passes))
    return found._replace(groups=groups, passes=passes, exchange=found.exchange and 1 << 22)


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """All kernels of these tests, on this CPU."""
    lines = set()
    for back in (False, True):
        for dtype in TOLERANCES:
            lines.add(kernel.source(kernel.plan(5, 24, jnp.dtype(dtype), back=back), 24, dtype, back=back))
        for dtype, kind, passes in CUTS:
            lines.add(kernel.source(cut_of(B, H, jnp.dtype(dtype), back, kind, passes), H, dtype, back=back))
    built(tmp_path_factory, lines)


def built(tmp_path_factory, lines, suffix="", *arguments):
    """Kernels made known to XLA, compiled with `arguments` beside the usual ones."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to compile the kernel's source with")
    path = tmp_path_factory.mktemp("kernel") / "emulated.so"
    here = str(nvcc.SOURCE.parents[2] / "tests")
    command = [compiler, "-std=c++17", "-O1", "-shared", "-fPIC", "-w", "-DLSTMJAX_EMULATED", "-I", here, "-x", "c++"]
    assert nvcc.build(path, [*command, *arguments], "\n".join(sorted(lines))) is None
    assert nvcc.load(path, "cpu", suffix) is None


@pytest.fixture
def emulated(library, monkeypatch):
    monkeypatch.setattr(nvcc, "suffix", lambda kernel: "")
    with jax.default_device(jax.devices("cpu")[0]):
        yield


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
    config = chunks.Config(
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
@pytest.mark.parametrize("rest", [(), ("mask",), ("lengths", "reset")], ids="+".join)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_equals_fused(emulated, dtype, rest, reverse):
    compare(*problem(5, 3, 3, 24, dtype, rest, reverse))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_outputs_in_16_bits(emulated, dtype):
    compare(*problem(5, 3, 3, 24, dtype, stored=dtype))


@pytest.mark.parametrize("case", CUTS, ids=str)
def test_every_cut(emulated, monkeypatch, case):
    """Several groups, one pass and several, rows and units that fill no tile."""
    _, kind, passes = case
    monkeypatch.setattr(kernel, "plan", lambda B, H, dtype, back: cut_of(B, H, dtype, back, kind, passes))
    compare(*problem(4, B, 3, H, case[0], ("lengths",), reverse=True))


def test_weights_that_are_too_many_for_registers_and_for_shared_memory(tmp_path_factory, monkeypatch):
    """Half of them are in each, where there is little of both."""
    kind, hidden = (2, 1, False, 2, 1), 64
    plans = {back: cut_of(20, hidden, jnp.dtype("float16"), back, kind, 1) for back in (False, True)}
    lines = {kernel.source(how, hidden, "float16", back=back) for back, how in plans.items()}
    few = ["-DLSTMJAX_REGISTERS=8", "-DLSTMJAX_SHARED=36864"]
    built(tmp_path_factory, lines, "_few", *few)
    monkeypatch.setattr(nvcc, "suffix", lambda kernel: "_few")
    monkeypatch.setattr(kernel, "plan", lambda B, H, dtype, back: plans[back])
    with jax.default_device(jax.devices("cpu")[0]):
        compare(*problem(4, 20, 3, hidden, "float16"))


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_nan_stays_in_its_sequence(emulated, dtype):
    """It reaches all units of the sequence in the next step, no other sequence, and nobody waits for ever."""
    operands, _, config = problem(6, 5, 3, 24, dtype)
    operands[3] = operands[3].at[2, 3, 1].set(jnp.nan)
    hs, *_ = jax.jit(functools.partial(kernel.forward, config=config, keep=False))(*operands)
    found = np.isnan(np.asarray(hs))
    assert found[3:, 3].all()
    found[2:, 3] = False
    assert not found.any()


# --- the choice ------------------------------------------------------------------------------------------------------


@pytest.fixture
def pretended(monkeypatch):
    """As if there were a GPU, and all could be built."""
    monkeypatch.setattr(nvcc, "missing", lambda: None)
    monkeypatch.setattr(nvcc, "failure", lambda kernel: None)
    monkeypatch.setattr(nvcc, "suffix", lambda kernel: "")


def lstm(H, D=3):
    return jax.eval_shape(lambda: lstmjax.init_lstm(jax.random.key(0), D, H))


XS = jax.ShapeDtypeStruct((7, 4, 3), jnp.float32)


def test_what_was_not_tried_on_a_card_is_there_by_name_only(pretended, monkeypatch):
    monkeypatch.setattr(persistent, "PROVEN", ())
    assert lstmjax.choose(lstm(24), XS) == "fused"
    assert lstmjax.choose(lstm(24), XS, backend="persistent") == "persistent"


def test_it_is_taken_where_it_can(pretended):
    assert lstmjax.choose(lstm(24), XS) == "persistent"
    assert lstmjax.choose(lstm(24), XS, backend="fused") == "fused"
    assert lstmjax.choose(lstm(24), XS, compute_dtype="bfloat16") == "persistent"
    few = jax.ShapeDtypeStruct((persistent.STEPS - 1, *XS.shape[1:]), XS.dtype)
    assert lstmjax.choose(lstm(24), few) == "fused"
    assert lstmjax.choose(lstm(24), few, backend="persistent") == "persistent"


@pytest.mark.parametrize(
    ("H", "options", "words"),
    [
        (24, dict(precision="highest"), "products are TF32"),
        (24, dict(residuals="outputs"), "keeps the gates"),
        (24, dict(remat=True), "keeps the gates"),
        (24, dict(chunk=3), "no chunk"),
        (2048, {}, "do not fit on the chip"),
        (24, dict(regularisers=lstmjax.Regularisers(recurrent=0.5), key=jax.random.key(0)), "recurrent dropout"),
        (24, dict(regularisers=lstmjax.Regularisers(zoneout_c=0.5), key=jax.random.key(0)), "zoneout"),
    ],
)
def test_reasons(pretended, H, options, words):
    assert words in lstmjax.reasons(lstm(H), XS, **options)["persistent"]
    assert lstmjax.choose(lstm(H), XS, **options) != "persistent"


def test_the_precision_of_the_caller_is_heeded(pretended):
    with jax.default_matmul_precision("highest"):
        assert "TF32" in lstmjax.reasons(lstm(24), XS)["persistent"]
        assert lstmjax.reasons(lstm(24), XS, compute_dtype="bfloat16")["persistent"] is None


def test_without_a_gpu_it_says_so():
    if jax.default_backend() == "gpu":
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="needs an NVIDIA GPU, and JAX runs on cpu"):
        lstmjax.run(lstmjax.init_lstm(jax.random.key(0), 3, 8), jnp.ones((5, 2, 3)), backend="persistent")


def lowered_for(platform, function, *args):
    names = ("lstmjax_forward", "lstmjax_backward")
    allowed = [jax.export.DisabledSafetyCheck.custom_call(name) for name in names]
    text = jax.export.export(jax.jit(function), platforms=(platform,), disabled_checks=allowed)(*args).mlir_module()
    return [text.count(f"@{name}(") for name in names]


def test_what_each_platform_is_given(pretended):
    """One program: on CUDA the kernel, forward and backward; elsewhere the arithmetic of fused."""

    def loss(params, xs):
        return lstmjax.run(params, xs)[1].sum()

    assert lowered_for("cuda", loss, lstm(24), XS) == [1, 0]
    assert lowered_for("cuda", jax.grad(loss), lstm(24), XS) == [1, 1]
    assert (
        lowered_for("cpu", jax.grad(loss), lstm(24), XS) == lowered_for("tpu", jax.grad(loss), lstm(24), XS) == [0, 0]
    )


def test_vmap_is_one_kernel_over_data_and_none_over_weights(pretended):
    """Mapped data join the batch. Mapped weights run side by side, by XLA; by name, one kernel after the other."""
    params, xs = lstm(24), jax.ShapeDtypeStruct((7, 3), jnp.float32)
    data = jax.ShapeDtypeStruct((7, 5, 3), jnp.float32)
    many = jax.tree.map(lambda a: jax.ShapeDtypeStruct((5, *a.shape), a.dtype), params)

    def loss(params, xs, backend=None):
        return lstmjax.run(params, xs, backend=backend)[1].sum()

    def total(params, xs):
        return jax.vmap(loss, (None, 1))(params, xs).sum()

    assert lowered_for("cuda", jax.grad(total), params, data) == [1, 1]
    assert lowered_for("cuda", jax.vmap(jax.grad(loss), (0, None)), many, xs) == [0, 0]
    insisting = functools.partial(loss, backend="persistent")
    assert lowered_for("cuda", jax.vmap(jax.grad(insisting), (0, None)), many, xs) == [1, 1]


def test_what_cannot_be_built_is_said_by_name_and_left_to_xla_else(pretended, monkeypatch):
    monkeypatch.setattr(nvcc, "failure", lambda kernel: "nvcc could not build it: no reason")

    def loss(backend, params, xs):
        return lstmjax.run(params, xs, backend=backend)[1].sum()

    assert lowered_for("cuda", functools.partial(loss, None), lstm(24), XS) == [0, 0]
    with pytest.raises(RuntimeError, match="no kernel for this: nvcc could not build it"):
        lowered_for("cuda", functools.partial(loss, "persistent"), lstm(24), XS)


def test_what_a_compiler_says_is_handed_on(tmp_path):
    problem = nvcc.build(tmp_path / "out.so", ["sh", "-c", "echo that is no C >&2; exit 1"], "nothing")
    assert problem == "nvcc could not build it: that is no C"
    assert list(tmp_path.iterdir()) == []
    assert "could not be built" in nvcc.build(tmp_path / "out.so", [str(tmp_path / "missing")], "nothing")
    assert "could not be loaded" in nvcc.load(tmp_path / "out.so", "cpu")


# --- on the card -----------------------------------------------------------------------------------------------------

on_a_gpu = pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")


def values(params, xs, state, *, lengths, reset, reverse, **options):
    """A loss that weighs all results, with its gradients, and the results."""

    def loss(params, xs, state):
        results = lstmjax.run(params, xs, state, lengths=lengths, reset=reset, reverse=reverse, **options)
        return reference.scalar(*results), results

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(params, xs, state)


def alike(got, want, tolerance):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.max(np.abs(a - b)) <= tolerance * max(1.0, np.max(np.abs(b)))


@on_a_gpu
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("ragged", [False, True], ids=["full", "lengths+reset"])
@pytest.mark.parametrize(("batch", "hidden"), [(4, 20), (37, 256), (70, 512)])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_persistent_equals_scan(dtype, batch, hidden, ragged, reverse):
    p = problems.problem("lstm", 12, (batch,), 8, hidden)
    p = p._replace(params=jax.tree.map(lambda w: w / hidden**0.5, p.params))
    data = dict(lengths=p.lengths if ragged else None, reset=p.reset if ragged else None, reverse=reverse)
    got = values(*p[:3], **data, backend="persistent", compute_dtype=dtype)
    want = values(*p[:3], **data, backend="scan", compute_dtype=dtype, precision="highest")
    alike(got, want, TOLERANCES[dtype])


@on_a_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_persistent_under_vmap(dtype):
    """Gradients of a mapped batch, and of mapped weights."""
    p = problems.problem("lstm", 12, (5, 6), 8, 32)
    many = jax.tree.map(lambda w: np.stack([w, -w]) / 6, p.params)

    def loss(params, xs, **options):
        return reference.scalar(*lstmjax.run(params, xs, compute_dtype=dtype, **options))

    def both(**options):
        inner = jax.vmap(lambda params, xs: loss(params, xs, **options), (None, 1))

        def total(params, xs):
            return inner(params, xs).sum()

        return jax.jit(jax.vmap(jax.value_and_grad(total, (0, 1)), (0, None)))(many, p.xs)

    want = both(backend="scan", precision="highest")
    alike(both(backend="persistent"), want, TOLERANCES[dtype])
    alike(both(), want, TOLERANCES[dtype])


@on_a_gpu
def test_the_same_bits_every_time():
    """Nobody reads what is not yet there: a race would show as another number now and then."""
    p = problems.problem("lstm", 200, (16,), 8, 768)
    params = jax.tree.map(lambda w: w / 30, p.params)
    data = dict(lengths=None, reset=None, reverse=False, backend="persistent")
    run = jax.jit(functools.partial(values, **data))
    first, *others = (jax.device_get(run(params, *p[1:3])) for _ in range(20))
    for other in others:
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(a, b)
