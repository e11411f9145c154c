"""Long sequences: what the compiled gradient needs, checkpoints in time, and truncated backpropagation."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstmjax
from tests import reference
from tests.problems import FULL, QUICK, WAYS, B, T, problem

MB = 2**20


def temporary(function, *args):
    """Bytes of temporary memory of the compiled program."""
    return jax.jit(function, compiler_options=FULL).lower(*args).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("options", [dict(backend="scan"), dict(backend="fused"), dict(remat=100)], ids=str)
def test_twenty_thousand_steps_in_400_megabytes(options):
    """The gradient at T = 20,000, B = 4, D = H = 128. Compiled, not run."""
    params = jax.eval_shape(functools.partial(lstmjax.init_lstm, inputs=128, hidden=128), jax.random.key(0))
    xs = jax.ShapeDtypeStruct((20_000, 4, 128), jnp.float32)

    def loss(params, xs, **more):
        _, ys = lstmjax.run(params, xs, **options | more)
        return (ys * ys).sum()

    lean = temporary(jax.grad(functools.partial(loss, remat=options.get("remat", True)), (0, 1)), params, xs)
    assert lean < 400 * MB
    if "backend" in options:
        assert lean < temporary(jax.grad(loss, (0, 1)), params, xs) / 2


@pytest.mark.parametrize(
    ("time", "batch", "hidden", "megabytes"),
    [(50, 16, 128, 4), (50, 1, 512, 2.5), (100, 64, 64, 9), (20, 4, 512, 4), (100, 1, 128, 1.2)],
)
def test_outputs_are_all_that_is_kept(time, batch, hidden, megabytes):
    """With `residuals="outputs"` a gradient holds a few steps at a time; or all of them where these are small beside
    the weights, and then no second gradient of the weights. D = 128."""
    params = jax.eval_shape(functools.partial(lstmjax.init_lstm, inputs=128, hidden=hidden), jax.random.key(0))
    xs = jax.ShapeDtypeStruct((time, batch, 128), jnp.float32)

    def loss(params, xs):
        _, ys = lstmjax.run(params, xs, backend="fused", residuals="outputs")
        return (ys * ys).sum()

    assert temporary(jax.grad(loss, (0, 1)), params, xs) < megabytes * MB


def test_checkpoints_grow_as_the_root():
    """Where the outputs are not asked for, four times the steps need about twice the memory, not four times."""

    def need(time):
        p = problem("lstm", time=time, batch=(4,), inputs=8, hidden=32)

        def loss(params, xs):
            return lstmjax.run(params, xs, backend="scan", remat=True)[0].h.sum()

        return temporary(jax.grad(loss), p.params, p.xs)

    few, many = need(1_024), need(4_096)
    assert many < 2.5 * few


@pytest.mark.parametrize(
    ("remat", "reverse"), [(True, False), (True, True), (3, False), (3, True), (1, False), (9, True)]
)
def test_remat_changes_nothing(x64, remat, reverse):
    """In every segmentation, of which one with odd steps; with lengths and resets across the segments' ends."""
    p = problem("lstm", dtype=np.float64)

    def loss(*args, **options):
        results = lstmjax.run(*args, lengths=p.lengths, reset=p.reset, reverse=reverse, backend="scan", **options)
        return reference.scalar(*results), results

    found = []
    for options in (dict(remat=remat), {}):
        gradient = jax.value_and_grad(functools.partial(loss, **options), (0, 1, 2), has_aux=True)
        found.append(jax.jit(gradient, compiler_options=QUICK)(*p[:3]))
    chex.assert_trees_all_close(*found, rtol=0, atol=1e-13)


def test_remat_takes_forward_mode_and_second_derivatives(x64):
    p = problem("gru", time=5, batch=(2,), inputs=1, hidden=2, dtype=np.float64)

    def loss(remat, params):
        return reference.scalar(*lstmjax.run(params, p.xs, p.state, remat=remat))

    hessians = (jax.hessian(functools.partial(loss, remat)) for remat in (2, False))
    got, want = (jax.jit(hessian, compiler_options=QUICK)(p.params) for hessian in hessians)
    chex.assert_trees_all_close(got, want, rtol=1e-11, atol=1e-11)


# --- truncated backpropagation ---------------------------------------------------------------------------------------


def windowed(way):
    """A loss over a window of (xs, lengths left), and the problem it is of."""
    cell, options = WAYS[way]

    def loss(params, data, state):
        xs, reset = data
        state, ys = lstmjax.run(params, xs, state, reset=reset, **options)
        return (ys * ys).sum() + sum((s * s).sum() for s in state), state

    return loss, problem(cell, dtype=np.float64)


@pytest.mark.parametrize(
    ("way", "window"), [("lstm-scan", 1), ("lstm-scan", 3), ("lstm-scan", 50), ("lstm-fused", 3), ("gru-scan", 3)]
)
def test_truncation_is_the_sum_of_windows(x64, way, window):
    """3 does not divide 7: the last window is shorter."""
    loss, p = windowed(way)
    truncated = jax.jit(lstmjax.truncated_value_and_grad(loss, window), compiler_options=QUICK)
    whole = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICK)
    found = truncated(p.params, (p.xs, p.reset), p.state)
    total, gradients, state = 0, None, p.state
    for start in range(0, T, window):
        data = p.xs[start : start + window], p.reset[start : start + window]
        (value, state), d = whole(p.params, data, state)
        total += value
        gradients = d if gradients is None else jax.tree.map(jnp.add, gradients, d)
    chex.assert_trees_all_close(found, ((total, state), gradients), rtol=1e-12, atol=1e-12)


def test_no_sequences():
    gru, none = lstmjax.init_gru(jax.random.key(0), 3, 4), jnp.zeros((4, 0, 3))
    assert lstmjax.run(gru, none, remat=True)[1].shape == (4, 0, 4)

    def loss(params, xs, state):
        state, ys = lstmjax.run(params, xs, state)
        return ys.sum(), state

    (value, _), gradients = lstmjax.truncated_value_and_grad(loss, 2)(gru, none, lstmjax.init_state(gru, 0))
    assert value == 0
    assert not gradients.w_x.any()


def test_truncation_truncates(x64):
    """One window of all steps is the whole gradient, and windows of one step are not."""
    loss, p = windowed("lstm-scan")
    data = p.xs, np.zeros((T, B), bool)
    whole, short = (lstmjax.truncated_value_and_grad(loss, w)(p.params, data, p.state)[1] for w in (T, 1))
    want = jax.grad(lambda params: loss(params, data, p.state)[0])(p.params)
    chex.assert_trees_all_close(whole, want, rtol=1e-12, atol=1e-12)
    assert np.abs(np.asarray(short.w_h) - np.asarray(want.w_h)).max() > 1e-3


def test_truncation_needs_the_memory_of_a_window():
    p = problem("lstm", time=4_000, batch=(4,), inputs=4, hidden=32)

    def loss(params, xs, state):
        state, ys = lstmjax.run(params, xs, state)
        return (ys * ys).sum(), state

    need = [temporary(lstmjax.truncated_value_and_grad(loss, w), p.params, p.xs, p.state) for w in (40, 4_000)]
    assert need[0] < need[1] / 20


def test_truncation_refuses():
    loss, p = windowed("lstm-scan")
    xs, reset = p.xs, p.reset
    with pytest.raises(ValueError, match="window should be an int of at least 1, got 0"):
        lstmjax.truncated_value_and_grad(loss, 0)
    with pytest.raises(TypeError, match=r"loss should be a function"):
        lstmjax.truncated_value_and_grad(3.0, 2)
    step = lstmjax.truncated_value_and_grad(loss, 2)
    with pytest.raises(ValueError, match=r"one leading time axis .* got lengths \[6, 7\]"):
        step(p.params, (xs, reset[:-1]), p.state)
    with pytest.raises(ValueError, match=r"got lengths \[0\]"):
        step(p.params, (xs[:0], reset[:0]), p.state)
    with pytest.raises(TypeError, match=r"data should be arrays with a leading time axis, got float 1\.0"):
        step(p.params, (xs, 1.0), p.state)
    with pytest.raises(ValueError, match="loss should return the next state in the shapes of the state"):
        lstmjax.truncated_value_and_grad(lambda params, data, state: (params.b.sum(), state.h), 2)(
            p.params, xs, p.state
        )
