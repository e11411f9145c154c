"""What holds for a layer over time, for every cell, backend and direction; then for stacks and pairs."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstmjax
from lstmjax import Bidirectional, GRUState, LSTMState, RNNState
from lstmjax.cells import cell_of
from tests import reference
from tests.problems import LENGTHS, WAYS, B, D, H, Problem, T, cast, layer, padding, problem

every_way = pytest.mark.parametrize("way", WAYS)
both_directions = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


@functools.cache
def jitted(way, reverse=False):
    """`lstmjax.run` in this way: (params, xs, state, lengths, reset) -> (state, ys), jitted once for all tests."""
    _, options = WAYS[way]

    @jax.jit
    def run(params, xs, state=None, lengths=None, reset=None):
        return lstmjax.run(params, xs, state, lengths=lengths, reset=reset, reverse=reverse, **options)

    return run


@functools.cache
def jitted_gradient(way, reverse=False):
    """The same, with the gradients of `reference.scalar`: -> ((loss, (state, ys)), (params, xs, state))."""

    def loss(*args):
        state, ys = jitted(way, reverse)(*args)
        return reference.scalar(state, ys), (state, ys)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


# What the tests do with results is done in NumPy: each operation of JAX outside of jit would be a compilation.


def run(way, reverse, *args):
    return jax.device_get(jitted(way, reverse)(*args))


def gradient(way, reverse, *args):
    return jax.device_get(jitted_gradient(way, reverse)(*args))


def of(way, **kwargs) -> Problem:
    return problem(WAYS[way][0], **kwargs)


# --- what is right ---------------------------------------------------------------------------------------------------


@every_way
@both_directions
def test_equals_numpy(x64, way, reverse):
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
    p = of(way)
    want = reference.run(*p[:3], lengths=p.lengths, reset=p.reset, reverse=reverse)
    (_, got), _ = gradient(way, reverse, *p)
    chex.assert_trees_all_close(got, cast(want, np.float32), rtol=0, atol=2e-6)


@every_way
def test_defaults_are_zeros_and_full_lengths(way):
    """None is a zero state, lengths of T and no reset; bit for bit where the program is the same."""
    p = of(way)
    zeros = lstmjax.init_state(p.params, B)
    chex.assert_trees_all_equal(run(way, False, p.params, p.xs), run(way, False, p.params, p.xs, zeros))


@every_way
@both_directions
def test_full_lengths_are_no_lengths(x64, way, reverse):
    p = of(way, dtype=np.float64)
    full = run(way, reverse, *p[:3], np.full(B, T, np.int32), p.reset)
    chex.assert_trees_all_close(full, run(way, reverse, *p[:3], None, p.reset), rtol=0, atol=1e-14)


@every_way
def test_full_lengths_are_no_lengths_to_the_bit(way):
    """Operation by operation: compiled as a whole, XLA may contract a product and a sum in one program only."""
    p = of(way, time=4)
    options = dict(WAYS[way][1], reset=p.reset)
    with jax.disable_jit():
        full = lstmjax.run(*p[:3], lengths=np.full(B, 4), **options)
        chex.assert_trees_all_equal(full, lstmjax.run(*p[:3], **options))


# --- padding ---------------------------------------------------------------------------------------------------------


@every_way
@both_directions
def test_padding_is_not_read(way, reverse):
    """Whatever stands in the padding, no bit of the results and of the gradients moves, and its own gradient is 0."""
    p = of(way)
    pad = padding(p.lengths, T)
    clean = np.where(pad[..., None], np.float32(0), p.xs)
    want = gradient(way, reverse, *p._replace(xs=clean))
    chex.assert_tree_all_finite(want)
    np.testing.assert_array_equal(want[0][1][1][pad], 0)
    for dirt in (np.nan, np.inf, -np.inf, 1e30):
        dirty = np.where(pad[..., None], np.float32(dirt), p.xs)
        got = gradient(way, reverse, *p._replace(xs=dirty, reset=p.reset ^ pad))
        chex.assert_trees_all_equal(got, want)
        np.testing.assert_array_equal(got[1][1][pad], 0)


@every_way
@both_directions
@pytest.mark.parametrize("lengths", [LENGTHS, np.zeros(B, np.int32)], ids=["one empty", "all empty"])
def test_length_zero_gives_the_initial_state(way, reverse, lengths):
    p = of(way)
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
    p = of(way)
    wild = gradient(way, reverse, *p._replace(lengths=np.array([-3, 0, T + 9, 2**31 - 1], np.int32)))
    chex.assert_trees_all_equal(wild, gradient(way, reverse, *p._replace(lengths=np.array([0, 0, T, T], np.int32))))


@every_way
def test_lengths_of_any_integer_kind(way):
    p = of(way)
    options = WAYS[way][1]
    want = lstmjax.run(*p[:3], lengths=p.lengths, **options)
    for lengths in (p.lengths.tolist(), p.lengths.astype(np.int8), p.lengths.astype(np.uint32), jnp.array(p.lengths)):
        chex.assert_trees_all_equal(lstmjax.run(*p[:3], lengths=lengths, **options), want)


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
def test_a_nan_state_does_not_survive_a_reset(way, reverse):
    p = of(way)._replace(lengths=None)
    reset = np.zeros((T, B), bool)
    reset[3] = True
    bad = p.xs.copy()
    bad[4 if reverse else 2, 1] = np.nan
    state, ys = run(way, reverse, *p._replace(xs=bad, reset=reset))
    want_state, want_ys = run(way, reverse, *p._replace(reset=reset))
    after = slice(None, 4) if reverse else slice(3, None)
    assert np.isnan(ys[4 if reverse else 2, 1]).all()
    chex.assert_trees_all_equal((state, ys[after]), (want_state, want_ys[after]))


@every_way
@both_directions
def test_reset_is_a_new_sequence(x64, way, reverse):
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
    for t in range(T):
        _, y = lstmjax.step(p.params, p.state, p.xs[t])
        np.testing.assert_allclose(ys[t], y, rtol=0, atol=1e-14)


# --- directions, pieces, batches -------------------------------------------------------------------------------------


@every_way
def test_reverse_is_forward_of_the_flipped_prefix(x64, way):
    p = of(way, dtype=np.float64)
    # A reset stands at its own flipped place: at the step before which it happens.
    flipped = {name: flip(getattr(p, name), p.lengths) for name in ("xs", "reset")}
    state, ys = run(way, False, *p._replace(**flipped))
    chex.assert_trees_all_close(run(way, True, *p), (state, flip(ys, p.lengths)), rtol=0, atol=1e-14)


def flip(rows, lengths):
    """Each sample's valid prefix the other way round."""
    rows = np.array(rows)
    for n, length in enumerate(lengths):
        rows[:length, n] = rows[:length, n][::-1]
    return rows


@every_way
@both_directions
@pytest.mark.parametrize("cut", [1, 3])
def test_two_pieces_make_the_whole(way, reverse, cut):
    """The state handed on, lengths on both sides of the cut; bit for bit with scan."""
    p = of(way)
    pieces = [
        (p.xs[:cut], np.minimum(p.lengths, cut), p.reset[:cut]),
        (p.xs[cut:], np.maximum(p.lengths - cut, 0), p.reset[cut:]),
    ]
    # A reset goes back to the initial state, which is another one for the second piece: none here.
    state, parts = p.state, []
    for xs, lengths, _ in reversed(pieces) if reverse else pieces:
        state, ys = run(way, reverse, p.params, xs, state, lengths)
        parts.append(ys)
    got = state, np.concatenate(parts[::-1] if reverse else parts)
    want = run(way, reverse, *p[:3], p.lengths)
    if "scan" in way:
        chex.assert_trees_all_equal(got, want)
    else:
        chex.assert_trees_all_close(got, want, rtol=0, atol=1e-6)


@every_way
@both_directions
def test_a_row_does_not_see_its_batch(x64, way, reverse):
    """Row n is the run of that row alone, and rows may change places."""
    p = of(way, dtype=np.float64)
    state, ys = run(way, reverse, *p)
    for n in range(B):
        alone = run(way, reverse, *rows(p, [n]))
        want = jax.tree.map(lambda s, n=n: s[[n]], state), ys[:, [n]]
        chex.assert_trees_all_close(alone, want, rtol=0, atol=1e-14)
    order = [2, 0, 3, 1]
    want = jax.tree.map(lambda s: s[order], state), ys[:, order]
    chex.assert_trees_all_close(run(way, reverse, *rows(p, order)), want, rtol=0, atol=1e-14)


def rows(p, order):
    """A problem with these rows of its batch, in this order."""
    state = jax.tree.map(lambda s: s[order], p.state)
    return Problem(p.params, p.xs[:, order], state, p.lengths[order], p.reset[:, order])


@every_way
@both_directions
def test_any_number_of_batch_axes(x64, way, reverse):
    p = of(way, dtype=np.float64)
    state, ys = run(way, reverse, *p)
    square = Problem(
        p.params,
        p.xs.reshape(T, 2, 2, D),
        jax.tree.map(lambda s: s.reshape(2, 2, H), p.state),
        p.lengths.reshape(2, 2),
        p.reset.reshape(T, 2, 2),
    )
    want = jax.tree.map(lambda s: s.reshape(2, 2, H), state), ys.reshape(T, 2, 2, H)
    chex.assert_trees_all_close(run(way, reverse, *square), want, rtol=0, atol=1e-14)
    single = Problem(p.params, p.xs[:, 0], jax.tree.map(lambda s: s[0], p.state), p.lengths[0], p.reset[:, 0])
    want = jax.tree.map(lambda s: s[0], state), ys[:, 0]
    chex.assert_trees_all_close(run(way, reverse, *single), want, rtol=0, atol=1e-14)


# --- transformations -------------------------------------------------------------------------------------------------


@every_way
def test_jit_remat_and_no_jit_agree(x64, way):
    p = of(way, dtype=np.float64)
    options = WAYS[way][1] | dict(lengths=p.lengths, reset=p.reset, reverse=True)
    (_, want), gradients = gradient(way, True, *p)
    chex.assert_trees_all_close(lstmjax.run(*p[:3], **options), want, rtol=0, atol=1e-14)

    @jax.checkpoint
    def loss(params, xs, state):
        return reference.scalar(*lstmjax.run(params, xs, state, **options))

    chex.assert_trees_all_close(jax.jit(jax.grad(loss, (0, 1, 2)))(*p[:3]), gradients, rtol=0, atol=1e-13)


@every_way
def test_vmap_over_models_is_a_loop(x64, way):
    """An ensemble: other weights, other states, the same inputs."""
    problems = [of(way, dtype=np.float64, seed=seed) for seed in (0, 1)]
    params, state = (stacked([getattr(p, field) for p in problems]) for field in ("params", "state"))
    p = problems[0]
    ensemble = jax.jit(jax.vmap(jitted_gradient(way), (0, None, 0, None, None)))
    loop = [gradient(way, False, q.params, p.xs, q.state, p.lengths, p.reset) for q in problems]
    got = ensemble(params, p.xs, state, p.lengths, p.reset)
    chex.assert_trees_all_close(got, stacked(loop), rtol=0, atol=1e-13)


def stacked(trees):
    return jax.tree.map(lambda *arrays: np.stack(arrays), *trees)


@every_way
def test_same_call_same_bits_and_inputs_untouched(way):
    p = of(way)
    before = jax.tree.map(np.copy, p)
    on_device = jax.tree.map(jnp.asarray, p)
    chex.assert_trees_all_equal(gradient(way, False, *on_device), gradient(way, False, *on_device))
    options = dict(WAYS[way][1], lengths=on_device.lengths, reset=on_device.reset)
    chex.assert_trees_all_equal(lstmjax.run(*on_device[:3], **options), lstmjax.run(*on_device[:3], **options))
    chex.assert_trees_all_equal(on_device, before)  # neither written nor donated
    lstmjax.run(*p[:3], lengths=p.lengths, reset=p.reset, **WAYS[way][1])
    chex.assert_trees_all_equal(p, before)


@every_way
def test_truncated_backpropagation_in_a_scan(x64, way):
    """The state goes round a scan over windows and is cut between them: the sum of the windows' own gradients."""
    p = of(way, dtype=np.float64)
    windows = np.stack([p.xs, p.xs[::-1]])

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        def body(state, xs):
            state, ys = jitted(way)(params, xs, jax.lax.stop_gradient(state), p.lengths, p.reset)
            return state, reference.scalar(state, ys)

        return jax.lax.scan(body, jax.tree.map(jnp.asarray, p.state), windows)[1].sum()

    (first, (state, _)), (d_first, *_) = gradient(way, False, *p._replace(xs=windows[0]))
    (second, _), (d_second, *_) = gradient(way, False, *p._replace(xs=windows[1], state=state))
    want = jax.tree.map(np.add, (first, d_first), (second, d_second))
    chex.assert_trees_all_close(loss(p.params), want, rtol=0, atol=1e-13)


# --- dtypes ----------------------------------------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_dtype_in_is_dtype_out(way, dtype, weights):
    """ys has the dtype of xs, a gradient that of its argument, the state float32 or wider."""
    with jax.enable_x64(dtype == "float64"):
        p = of(way)
        params, xs = cast(p.params, jnp.dtype(weights)), cast(p.xs, jnp.dtype(dtype))
        wide = jnp.dtype("float64" if dtype == "float64" else "float32")
        state = cast(p.state, wide)
        (_, (after, ys)), gradients = jax.eval_shape(jitted_gradient(way), params, xs, state, p.lengths, p.reset)
        assert ys.dtype == dtype
        assert {s.dtype for s in after} == {wide}
        want = jax.tree.map(lambda a: a.dtype, (params, xs, state))
        assert jax.tree.map(lambda a: a.dtype, gradients) == want
        # A narrower state is widened.
        narrow, _ = jax.eval_shape(jitted(way), params, xs, cast(p.state, jnp.dtype("float16")))
        assert {s.dtype for s in narrow} == {wide}


@every_way
@pytest.mark.parametrize("half", ["inputs", "compute"])
def test_bfloat16_is_near_float32(way, half):
    """Inputs in bfloat16, or products only: near the float32 run, in value and in gradient."""
    p = of(way)
    xs = bfloat16(p.xs)
    compute_dtype = "bfloat16" if half == "compute" else None
    options = dict(WAYS[way][1], lengths=p.lengths, reset=p.reset, compute_dtype=compute_dtype)

    def loss(*args):
        return reference.scalar(*lstmjax.run(*args, **options))

    got = jax.jit(jax.grad(loss, (0, 1, 2)))(p.params, cast(xs, jnp.float32) if half == "compute" else xs, p.state)
    _, want = gradient(way, False, *p._replace(xs=cast(xs, np.float32)))
    chex.assert_trees_all_close(cast(got, jnp.float32), want, rtol=0.05, atol=0.1)


@every_way
def test_the_state_does_not_drift_in_half_precision(way):
    """1,000 steps of bfloat16 inputs: nearer to float64 than the same cell with a bfloat16 state, by far."""
    p = of(way, time=1000, batch=(2,))
    params, xs = bfloat16((p.params, p.xs))
    with jax.enable_x64(True):
        exact, _ = run(way, False, *cast((params, xs, p.state), np.float64))

    @jax.jit
    def naive(params, xs, state):
        def step(state, x):
            return cell_of(params).step(params, state, x, None, None)

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
    walk(
        jax.make_jaxpr(jitted_gradient(way))(*p).jaxpr, lambda eqn: found.update(v.aval.dtype.name for v in eqn.outvars)
    )
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


def test_a_deep_stack_equals_numpy_and_its_layers_by_hand(x64):
    p = deep()
    options = dict(lengths=p.lengths, reset=p.reset)

    def slow_loss(*args):
        return reference.scalar(*reference.run(*args, **options))

    def loss(*args):
        results = lstmjax.run(*args, **options)
        return reference.scalar(*results), results

    def by_hand(params, xs, state):
        (pair, gru, other), (pair_state, gru_state, other_state) = params, state
        f, ys_f = lstmjax.run(pair.forward, xs, pair_state.forward, **options)
        b, ys_b = lstmjax.run(pair.backward, xs, pair_state.backward, **options, reverse=True)
        middle, ys = lstmjax.run(gru, jnp.concatenate([ys_f, ys_b], -1), gru_state, **options)
        last, ys = lstmjax.run(other, ys, other_state, **options)
        return (Bidirectional(f, b), middle, last), ys

    (_, got), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*p[:3])
    chex.assert_trees_all_close(got, reference.run(*p[:3], **options), rtol=0, atol=1e-14)
    chex.assert_trees_all_close(gradients, reference.gradients(slow_loss, *p[:3]), rtol=0, atol=1e-13)
    chex.assert_trees_all_close(jax.jit(by_hand)(*p[:3]), got, rtol=0, atol=1e-14)


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


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@both_directions
def test_trace_is_run_step_by_step(x64, cell, reverse):
    p = problem(cell, dtype=np.float64)
    options = dict(lengths=p.lengths, reset=p.reset, reverse=reverse)
    states, gates = lstmjax.trace(*p[:3], **options)
    final, ys = lstmjax.run(*p[:3], **options, backend="scan")
    chex.assert_trees_all_close(states.h, ys, rtol=0, atol=1e-14)
    pad = padding(p.lengths, T)
    for traced, last, initial in zip(states, final, p.state, strict=True):
        np.testing.assert_array_equal(traced[pad], 0)
        for n, length in enumerate(p.lengths):
            end = 0 if reverse else length - 1
            np.testing.assert_allclose(last[n], traced[end, n] if length else initial[n], rtol=0, atol=1e-14)
    # The gates of a step are those of its cell, from the state before it.
    slow = {"lstm": reference.lstm_gates, "gru": reference.gru_gates}.get(cell)
    assert type(gates).__name__ == f"{cell.upper()}Gates"
    for gate in gates:
        np.testing.assert_array_equal(gate[pad], 0)
    for n, length in enumerate(p.lengths):
        before = jax.tree.map(lambda s, n=n: s[n], p.state)
        for t in reversed(range(length)) if reverse else range(length):
            if p.reset[t, n]:
                before = jax.tree.map(lambda s, n=n: s[n], p.state)
            if slow is not None:
                want = slow(p.params, before, p.xs[t, n])
                chex.assert_trees_all_close(jax.tree.map(lambda g, t=t, n=n: g[t, n], gates), want, atol=1e-13)
            before = jax.tree.map(lambda s, t=t, n=n: s[t, n], states)


def test_trace_has_the_containers_of_params(x64):
    p = deep()
    pair, gru, other = jax.device_get(jax.jit(lstmjax.trace)(*p[:3], lengths=p.lengths, reset=p.reset))
    _, ys = reference.run(*p[:3], lengths=p.lengths, reset=p.reset)
    np.testing.assert_allclose(np.concatenate([other.forward[0].h, other.backward[0].h], -1), ys, rtol=0, atol=1e-14)
    # A layer's input is the output of the one before, so its trace is that of the layer alone.
    middle = np.concatenate([pair.forward[0].h, pair.backward[0].h], -1)
    alone = lstmjax.trace(p.params[1], middle, p.state[1], lengths=p.lengths, reset=p.reset)
    chex.assert_trees_all_close(alone, gru, rtol=0, atol=1e-14)


@pytest.mark.parametrize("x64_on", [False, True])
def test_every_public_function_has_an_abstract_value(x64_on):
    """`eval_shape` of all of them: float32 in, float32 out, whether 64-bit types are on or not."""
    with jax.enable_x64(x64_on):
        p = cast(deep(), np.float32)
        state, ys = p.state, jax.ShapeDtypeStruct((5, 3, 3), np.float32)
        options = dict(lengths=p.lengths, reset=p.reset)
        same(jax.eval_shape(lstmjax.run, *p[:3]), (state, ys))
        same(jax.eval_shape(lstmjax.run, *p[:3], **options), (state, ys))
        same(jax.eval_shape(lambda params: lstmjax.init_state(params, 3), p.params), state)
        traced = jax.eval_shape(lstmjax.trace, *p[:3], **options)
        assert traced[1][0].h.shape == traced[1][1].r.shape == (5, 3, 2)
        stack, x = (p.params[0].forward, layer(np.random.default_rng(0), "rnn", 3, 2)), p.xs[0]
        stack_state = (state[0].forward, state[2].forward)
        same(jax.eval_shape(lstmjax.step, stack, stack_state, x), (stack_state, stack_state[1].h))
        for cell in ("lstm", "gru", "rnn"):
            q = problem(cell)
            init = functools.partial(getattr(lstmjax, f"init_{cell}"), inputs=D, hidden=H)
            for kind in ("glorot", "keras", "torch"):
                same(jax.eval_shape(functools.partial(init, init=kind), jax.random.key(0)), q.params)
            step = getattr(lstmjax, f"{cell}_step")
            same(jax.eval_shape(step, q.params, q.state, q.xs[0]), (q.state, q.state.h))
            if cell != "rnn":
                gates = jax.eval_shape(getattr(lstmjax, f"{cell}_gates"), q.params, q.state, q.xs[0])
                same(list(gates), [q.state.h] * len(gates))


def same(abstract, like):
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract, like)
