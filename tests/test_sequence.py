"""A layer over time, for every cell, backend and direction: what is right, and the edges; then stacks and pairs.

What holds between one run and another is in `test_properties.py`.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstmjax
from lstmjax import Bidirectional, GRUState, LSTMState, RNNState
from lstmjax.cells.cell import How
from lstmjax.cells.kinds import cell_of
from tests import reference
from tests.problems import CELLS, FULL, LENGTHS, QUICK, WAYS, B, D, H, Problem, T, cast, layer, padding, problem

every_way = pytest.mark.parametrize("way", WAYS)
both_directions = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


def plain(way, reverse=False, **static):
    """`lstmjax.run` in this way: (params, xs, state, lengths, reset, mask) -> (state, ys)."""
    options = WAYS[way][1] | static

    def run(params, xs, state=None, lengths=None, reset=None, mask=None):
        return lstmjax.run(params, xs, state, lengths=lengths, reset=reset, mask=mask, reverse=reverse, **options)

    return run


def plain_gradient(way, reverse=False, **static):
    """The same, with the gradients of `reference.scalar`: -> ((loss, (state, ys)), (params, xs, state))."""

    def loss(*args):
        state, ys = plain(way, reverse, **static)(*args)
        return reference.scalar(state, ys), (state, ys)

    return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)


@functools.cache
def jitted(way, reverse=False, **static):
    """`plain`, jitted once for all tests: a program for each choice of shapes and of arguments that are not None."""
    return jax.jit(plain(way, reverse, **static), compiler_options=QUICK)


@functools.cache
def jitted_gradient(way, reverse=False, **static):
    """`plain_gradient` likewise."""
    return jax.jit(plain_gradient(way, reverse, **static), compiler_options=QUICK)


# What the tests do with results is done in NumPy: each operation of JAX outside of jit would be a compilation.


def called(function, params, xs, *rest):
    """The results in NumPy; with 64-bit types where the numbers have them."""
    with jax.enable_x64(xs.dtype == np.float64):
        return jax.device_get(function(params, xs, *rest))


def run(way, reverse, *args, **static):
    return called(jitted(way, reverse, **static), *args)


def gradient(way, reverse, *args, **static):
    return called(jitted_gradient(way, reverse, **static), *args)


def of(way, **kwargs) -> Problem:
    return problem(WAYS[way][0], **kwargs)


# --- what is right ---------------------------------------------------------------------------------------------------


@every_way
@both_directions
def test_equals_numpy(way, reverse):
    """Values and all gradients, with lengths, resets and an initial state."""
    p = of(way, dtype=np.float64)
    options = dict(lengths=p.lengths, reset=p.reset, reverse=reverse)

    def loss(*args):
        return reference.scalar(*reference.run(*args, **options))

    (_, results), gradients = gradient(way, reverse, *p)
    chex.assert_trees_all_close(results, reference.run(*p[:3], **options), rtol=0, atol=1e-13)
    chex.assert_trees_all_close(gradients, reference.gradients(loss, *p[:3]), rtol=0, atol=1e-12)


@every_way
@both_directions
def test_float32_is_near_float64(way, reverse):
    """Compiled as it is for users: all other programs here are compiled quickly."""
    p = of(way)
    want, gradients = gradient(way, reverse, *cast(p, np.float64))
    dirty = np.where(padding(p.lengths, T)[..., None], np.float32(np.nan), p.xs)
    got = called(jax.jit(plain_gradient(way, reverse), compiler_options=FULL), *p._replace(xs=dirty))
    chex.assert_trees_all_close(got[0][1], cast(want[1], np.float32), rtol=0, atol=2e-6)
    chex.assert_trees_all_close(got[1], cast(gradients, np.float32), rtol=1e-5, atol=1e-5)


@every_way
def test_defaults_are_zeros_and_full_lengths(way):
    """None is a zero state, lengths of T and no reset; bit for bit where the program is the same."""
    p = of(way)
    zeros = lstmjax.init_state(p.params, B)
    chex.assert_trees_all_equal(run(way, False, p.params, p.xs), run(way, False, p.params, p.xs, zeros))


# --- padding ---------------------------------------------------------------------------------------------------------


@every_way
@both_directions
@pytest.mark.parametrize("lengths", [LENGTHS, np.zeros(B, np.int32)], ids=["one empty", "all empty"])
def test_length_zero_gives_the_initial_state(way, reverse, lengths):
    p = of(way, dtype=np.float64)
    (_, (state, ys)), (d_params, d_xs, d_state) = gradient(way, reverse, *p._replace(lengths=lengths))
    empty = lengths == 0
    chex.assert_tree_all_finite((d_params, d_xs, d_state))
    np.testing.assert_array_equal(ys[:, empty], 0)
    np.testing.assert_array_equal(d_xs[:, empty], 0)
    for k, (after, before, d) in enumerate(zip(state, p.state, d_state, strict=True)):
        np.testing.assert_array_equal(after[empty], before[empty])
        # The identity: what comes in as the cotangent of the final state comes out as that of the initial one.
        np.testing.assert_array_equal(d[empty], reference.weights(before, 1 + k)[empty])
    if empty.all():
        chex.assert_trees_all_equal(d_params, jax.tree.map(np.zeros_like, d_params))


@every_way
@both_directions
@pytest.mark.parametrize(("time", "batch"), [(0, 2), (3, 0), (0, 0)])
def test_nothing_in_nothing_out(way, reverse, time, batch):
    p = of(way, time=time, batch=(batch,))
    (_, (state, ys)), (d_params, d_xs, d_state) = gradient(way, reverse, *p)
    assert ys.shape == (time, batch, H)
    chex.assert_trees_all_equal(state, p.state)
    chex.assert_trees_all_equal(d_params, jax.tree.map(np.zeros_like, p.params))
    chex.assert_trees_all_equal(d_xs, p.xs)
    identity = type(p.state)(*(reference.weights(s, 1 + k) for k, s in enumerate(p.state)))
    chex.assert_trees_all_equal(d_state, identity)


@every_way
@both_directions
def test_lengths_are_clipped_under_tracing(way, reverse):
    """Where they cannot be refused, lengths below 0 are 0 and lengths above T are T."""
    p = of(way, dtype=np.float64)
    wild = gradient(way, reverse, *p._replace(lengths=np.array([-3, 0, T + 9, 2**31 - 1], np.int32)))
    chex.assert_trees_all_equal(wild, gradient(way, reverse, *p._replace(lengths=np.array([0, 0, T, T], np.int32))))


def test_lengths_of_any_integer_kind():
    """At the door, which all ways have in common."""
    p = problem("rnn")
    want = lstmjax.run(*p[:3], lengths=p.lengths)
    for lengths in (p.lengths.tolist(), p.lengths.astype(np.int8), p.lengths.astype(np.uint32), jnp.array(p.lengths)):
        chex.assert_trees_all_equal(lstmjax.run(*p[:3], lengths=lengths), want)


@pytest.mark.parametrize(("kind", "time", "length"), [("int8", 128, 100), ("uint8", 300, 200), ("int16", 40000, 30000)])
def test_lengths_of_few_bits_beside_many_steps(kind, time, length):
    """T itself would be another number in their dtype."""
    params = lstmjax.init_rnn(jax.random.key(0), 1, 1)
    xs, given = jnp.ones((time, 1, 1)), np.array([length], kind)
    run = jax.jit(lambda n: lstmjax.run(params, xs, lengths=n)[1], compiler_options=QUICK)
    want = run(given.astype(np.int32))
    assert (want[:length] != 0).all()
    np.testing.assert_array_equal(run(given), want)
    np.testing.assert_array_equal(lstmjax.run(params, xs, lengths=given)[1], want)
    checkified = jax.jit(lstmjax.checkify(lambda n: lstmjax.run(params, xs, lengths=n)[1]), compiler_options=QUICK)
    checkified(given)[0].throw()


@every_way
@both_directions
def test_a_nan_stays_in_its_sample(way, reverse):
    """One inside a valid step spoils that sample from there on, and no other."""
    p = of(way)._replace(lengths=None, reset=None)
    bad = p.xs.copy()
    bad[3, 1, 0] = np.nan
    state, ys = run(way, reverse, *p._replace(xs=bad))
    want_state, want_ys = run(way, reverse, *p)
    spoilt = np.zeros((T, B), bool)
    spoilt[slice(None, 4) if reverse else slice(3, None), 1] = True
    np.testing.assert_array_equal(np.isnan(ys), np.broadcast_to(spoilt[..., None], ys.shape))
    np.testing.assert_array_equal(ys[~spoilt], want_ys[~spoilt])
    for s, want in zip(state, want_state, strict=True):
        np.testing.assert_array_equal(np.delete(s, 1, 0), np.delete(want, 1, 0))


@every_way
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_huge_inputs_saturate(way, size):
    p = of(way)
    found = gradient(way, False, *p._replace(xs=np.sign(p.xs) * np.float32(size)))
    chex.assert_tree_all_finite(found)


# --- reset -----------------------------------------------------------------------------------------------------------


@every_way
@both_directions
@pytest.mark.parametrize("at", [3, 4])
def test_a_nan_state_does_not_survive_a_reset(way, reverse, at):
    """Before an odd step and before an even one: associative joins steps in pairs."""
    p = of(way)._replace(lengths=None)
    reset = np.zeros((T, B), bool)
    reset[at] = True
    bad, before = p.xs.copy(), at + 1 if reverse else at - 1
    bad[before, 1] = np.nan
    state, ys = run(way, reverse, *p._replace(xs=bad, reset=reset))
    want_state, want_ys = run(way, reverse, *p._replace(reset=reset))
    after = slice(None, at + 1) if reverse else slice(at, None)
    assert np.isnan(ys[before, 1]).all()
    chex.assert_trees_all_equal((state, ys[after]), (want_state, want_ys[after]))


@every_way
@both_directions
def test_reset_is_a_new_sequence(way, reverse):
    """A reset of all samples splits the run in two, each from the initial state."""
    p = of(way, dtype=np.float64)
    reset = np.zeros((T, B), bool)
    reset[4 if reverse else 3] = True
    cut = 5 if reverse else 3
    state, ys = run(way, reverse, *p[:3], None, reset)
    halves = [run(way, reverse, p.params, xs, p.state) for xs in (p.xs[:cut], p.xs[cut:])]
    want_ys = np.concatenate([ys for _, ys in halves])
    chex.assert_trees_all_close((state, ys), (halves[0 if reverse else 1][0], want_ys), rtol=0, atol=1e-14)


@every_way
@both_directions
def test_reset_at_every_step_gives_every_step_the_initial_state(x64, way, reverse):
    p = of(way, dtype=np.float64)
    _, ys = run(way, reverse, *p[:3], None, np.ones((T, B), bool))
    everywhere = jax.tree.map(lambda s: np.broadcast_to(s, (T, *s.shape)), p.state)
    _, want = lstmjax.step(p.params, everywhere, p.xs)
    np.testing.assert_allclose(ys, want, rtol=0, atol=1e-14)


# --- batches, transformations ----------------------------------------------------------------------------------------


@every_way
@both_directions
def test_any_number_of_batch_axes(way, reverse):
    p = of(way, dtype=np.float64)
    state, ys = run(way, reverse, *p)
    square = Problem(
        p.params,
        p.xs.reshape(T, 2, 2, D),
        jax.tree.map(lambda s: s.reshape(2, 2, -1), p.state),
        p.lengths.reshape(2, 2),
        p.reset.reshape(T, 2, 2),
    )
    want = jax.tree.map(lambda s: s.reshape(2, 2, -1), state), ys.reshape(T, 2, 2, H)
    chex.assert_trees_all_close(run(way, reverse, *square), want, rtol=0, atol=1e-14)
    single = Problem(p.params, p.xs[:, 0], jax.tree.map(lambda s: s[0], p.state), p.lengths[0], p.reset[:, 0])
    want = jax.tree.map(lambda s: s[0], state), ys[:, 0]
    chex.assert_trees_all_close(run(way, reverse, *single), want, rtol=0, atol=1e-14)


@every_way
def test_truncated_backpropagation_in_a_scan(x64, way):
    """The state goes round a scan over windows and is cut between them: the sum of the windows' own gradients."""
    p = of(way, dtype=np.float64)
    windows = np.stack([p.xs, p.xs[::-1]])

    @functools.partial(jax.jit, compiler_options=QUICK)
    @jax.value_and_grad
    def loss(params):
        def body(state, xs):
            state, ys = plain(way)(params, xs, jax.lax.stop_gradient(state), p.lengths, p.reset)
            return state, reference.scalar(state, ys)

        return jax.lax.scan(body, jax.tree.map(jnp.asarray, p.state), windows)[1].sum()

    (first, (state, _)), (d_first, *_) = gradient(way, False, *p._replace(xs=windows[0]))
    (second, _), (d_second, *_) = gradient(way, False, *p._replace(xs=windows[1], state=state))
    want = jax.tree.map(np.add, (first, d_first), (second, d_second))
    chex.assert_trees_all_close(loss(p.params), want, rtol=0, atol=1e-13)


# --- dtypes ----------------------------------------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize("half", ["inputs", "compute"])
def test_bfloat16_is_near_float32(way, half):
    """Inputs in bfloat16, or products only: near the float32 run, in value and in gradient."""
    p = of(way)
    xs = bfloat16(p.xs)
    compute_dtype = "bfloat16" if half == "compute" else None
    narrow = p._replace(xs=cast(xs, jnp.float32) if half == "compute" else xs)
    _, got = gradient(way, False, *narrow, compute_dtype=compute_dtype)
    _, want = gradient(way, False, *p._replace(xs=cast(xs, np.float32)))
    chex.assert_trees_all_close(cast(got, jnp.float32), want, rtol=0.05, atol=0.1)


@every_way
def test_the_state_does_not_drift_in_half_precision(way):
    """1,000 steps of bfloat16 inputs: nearer to float64 than the same cell with a bfloat16 state, by far."""
    p = of(way, time=1000, batch=(2,))
    params, xs = bfloat16((p.params, p.xs))
    exact, _ = run(way, False, *cast((params, xs, p.state), np.float64))

    @functools.partial(jax.jit, compiler_options=QUICK)
    def naive(params, xs, state):
        def step(state, x):
            state, _ = cell_of(params).advance(params, state, x, How())
            return bfloat16(state), None

        return jax.lax.scan(step, state, xs)[0]

    kept, _ = run(way, False, params, xs, p.state)
    drifted = naive(params, xs, jax.tree.map(jnp.asarray, bfloat16(p.state)))
    error, naive_error = (np.abs(np.float64(s[-1]) - exact[-1]).max() for s in (kept, drifted))
    assert error < 0.02
    assert error < naive_error / 2


def bfloat16(tree):
    return cast(tree, jnp.dtype("bfloat16"))


@every_way
def test_no_float64_slips_in(x64, way):
    """With 64-bit types on, a float32 run and its gradient still are float32 throughout."""
    p = of(way)
    found = set()
    jaxpr = jax.make_jaxpr(plain_gradient(way))(*p).jaxpr
    walk(jaxpr, lambda eqn: found.update(v.aval.dtype.name for v in eqn.outvars))
    assert "float32" in found
    assert "float64" not in found


def walk(jaxpr, visit):
    """Visit every equation, those of inner jaxprs too."""
    for eqn in jaxpr.eqns:
        visit(eqn)
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            if hasattr(value, "eqns"):  # a jaxpr, closed or not
                walk(getattr(value, "jaxpr", value), visit)


# --- stacks, pairs, traces -------------------------------------------------------------------------------------------


def deep():
    """A stack of everything, no two widths alike: a pair of LSTMs, a GRU, a pair of an RNN and a GRU."""
    rng = np.random.default_rng(3)
    draw = functools.partial(layer, rng, dtype=np.float64)

    def state(kind, hidden):
        return kind(*(rng.normal(size=(3, hidden)) for _ in kind._fields))

    params = (
        Bidirectional(draw("lstm", 2, 3), draw("lstm", 2, 2)),
        draw("gru", 5, 2),
        Bidirectional(draw("rnn", 2, 2), draw("gru", 2, 1)),
    )
    initial = (
        Bidirectional(state(LSTMState, 3), state(LSTMState, 2)),
        state(GRUState, 2),
        Bidirectional(state(RNNState, 2), state(GRUState, 1)),
    )
    return Problem(params, rng.normal(size=(5, 3, 2)), initial, np.array([5, 0, 3]), rng.random((5, 3)) < 0.3)


def test_a_deep_stack_equals_numpy(x64):
    p = deep()
    options = dict(lengths=p.lengths, reset=p.reset)

    def slow_loss(*args):
        return reference.scalar(*reference.run(*args, **options))

    def loss(*args):
        results = lstmjax.run(*args, **options)
        return reference.scalar(*results), results

    gradient = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True), compiler_options=QUICK)
    (_, got), gradients = gradient(*p[:3])
    chex.assert_trees_all_close(got, reference.run(*p[:3], **options), rtol=0, atol=1e-14)
    chex.assert_trees_all_close(gradients, reference.gradients(slow_loss, *p[:3]), rtol=0, atol=1e-13)


def test_a_reversed_stack_has_every_layer_reversed(x64):
    rng = np.random.default_rng(0)
    params = (layer(rng, "lstm", 2, 3, np.float64), layer(rng, "rnn", 3, 2, np.float64))
    xs = rng.normal(size=(5, 3, 2))
    options = dict(lengths=np.array([5, 0, 3]), reverse=True)
    want = reference.run(params, xs, **options)
    chex.assert_trees_all_close(lstmjax.run(params, xs, **options), want, rtol=0, atol=1e-14)


def test_stacks_may_nest(x64):
    """A stack within a stack is the stack of its layers, and a pair may be of stacks."""
    rng = np.random.default_rng(0)
    a, b, c = (layer(rng, cell, i, o, np.float64) for cell, i, o in [("lstm", 2, 3), ("gru", 3, 2), ("rnn", 2, 2)])
    xs = rng.normal(size=(5, 3, 2))
    (nested_state, last), ys = lstmjax.run(((a, b), c), xs)
    chex.assert_trees_all_close(((*nested_state, last), ys), lstmjax.run((a, b, c), xs), rtol=0, atol=0)
    pair = Bidirectional((a, b), (c, c))
    chex.assert_trees_all_close(lstmjax.run(pair, xs), reference.run(pair, xs), rtol=0, atol=1e-14)


def test_a_run_outside_of_jit_is_compiled_once():
    """Of a backend whose loop is made of a new function at every call."""
    params = lstmjax.init_gru(jax.random.key(0), D, 7)
    xs, compiled = np.ones((5, 2, D), np.float32), []
    jax.block_until_ready(lstmjax.run(params, xs))
    jax.block_until_ready(lstmjax.trace(params, xs))
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event))
    try:
        jax.block_until_ready(lstmjax.run(params, 2 * xs))
        jax.block_until_ready(lstmjax.trace(params, 2 * xs))
        assert not [event for event in compiled if "backend_compile" in event]
    finally:
        jax.monitoring.clear_event_listeners()


@pytest.mark.parametrize("cell", CELLS)
@both_directions
def test_trace_equals_numpy_and_run(x64, cell, reverse):
    """Every step's state and gates, 0 in the padding."""
    p = problem(cell, dtype=np.float64)
    options = dict(lengths=p.lengths, reset=p.reset, reverse=reverse)
    trace = jax.jit(functools.partial(lstmjax.trace, **options), compiler_options=QUICK)
    states, gates = trace(*p[:3])
    chex.assert_trees_all_close((states, gates), reference.trace(*p[:3], **options), rtol=0, atol=1e-13)
    chex.assert_trees_all_close(states.h, jitted(f"{cell}-scan", reverse)(*p)[1], rtol=0, atol=1e-14)


def test_trace_has_the_containers_of_params(x64):
    """A layer's input is the output of the one before, so its trace is that of the layer alone."""
    p = deep()
    got = jax.jit(lstmjax.trace, compiler_options=QUICK)(*p[:3], lengths=p.lengths, reset=p.reset)
    chex.assert_trees_all_close(got, reference.trace(*p[:3], lengths=p.lengths, reset=p.reset), rtol=0, atol=1e-13)
