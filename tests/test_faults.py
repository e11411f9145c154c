"""Faults that users of recurrent layers report, and that have no test in another file."""

import functools
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lstmjax
from lstmjax import Regularisers, losses, regularise, text, train
from lstmjax.models import classifier
from tests import reference
from tests.problems import QUICK, WAYS, B, D, H, T, problem

every_way = pytest.mark.parametrize("way", WAYS)


def test_fifty_lengths_are_as_many_traces_as_buckets():
    """Lengths are data: sequences of 50 lengths, padded to the bounds of 3 buckets, compile 3 times."""
    rng = np.random.default_rng(0)
    sequences = [rng.integers(2, 20, n) for n in range(1, 51)]
    bounds = text.bounds([len(s) for s in sequences], 3)
    params = classifier.init(jax.random.key(0), 20, 2, embedding=4, hidden=4)
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=3)
    def logits(ids, lengths):
        return classifier.apply(params, ids, lengths)

    for bucket in text.bucket([len(s) for s in sequences], 1, bounds):
        ids, lengths = text.pad([sequences[row] for row in bucket.rows], bucket.length)
        logits(ids, lengths)


def test_a_hundred_training_steps_are_one_trace():
    """No new closure is made inside a step, and equal static options are one."""
    params = lstmjax.init_lstm(jax.random.key(0), D, H, coupling="f=1-i", clip_cell=3.0, layer_norm="gates")
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def loss(params, batch, key):
        _, ys = lstmjax.run(params, batch, regularisers=Regularisers(recurrent=0.2, zoneout_c=0.1), key=key)
        return (ys * ys).mean()

    optimizer = optax.adam(1e-3)
    step = jax.jit(train.make_step(loss, optimizer))
    state = train.init_state(params, optimizer, jax.random.key(1))
    for seed in range(100):
        # A form that is equal, not the same object, is the same kind of params.
        form = lstmjax.LSTMForm(coupling="f=1-i", clip_cell=3.0)
        state = state._replace(params=state.params._replace(form=form))
        state, _ = step(state, np.full((T, B, D), seed, np.float32))


REPEATED = """
import hashlib, sys
import jax, jax.numpy as jnp, numpy as np
import lstmjax
from tests.problems import WAYS, problem
for way, (cell, options) in WAYS.items():
    p = problem(cell)
    def loss(params, xs, key):
        rates = lstmjax.Regularisers(inputs=0.2, between=0.2)
        state, ys = lstmjax.run((params,), xs, (p.state,), reset=p.reset, regularisers=rates, key=key, **options)
        return (ys * ys).sum()
    found = jax.jit(jax.value_and_grad(loss, (0, 1)))(p.params, p.xs, jax.random.key(0))
    digest = hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in jax.tree.leaves(found)))
    print(way, digest.hexdigest())
"""


def test_two_processes_give_the_same_bits(capsys):
    """Values and gradients on the CPU, of every cell and backend, noise included."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", REPEATED]
    there = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout
    exec(REPEATED, {})
    here = capsys.readouterr().out
    assert here == there
    assert len(here.splitlines()) == len(WAYS)


@pytest.mark.parametrize(("forget_bias", "learns"), [(1.0, True), (0.0, False)])
def test_sixty_steps_are_remembered(forget_bias, learns):
    """With the forget bias of init an LSTM learns to tell its first input 60 steps later, from most seeds, and which
    ones hangs on the last bits of a machine; without, from none."""
    xs = np.zeros((60, 16, 1), np.float32)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], 16).astype(np.float32)
    xs[0, :, 0] = signs
    optimizer = optax.adam(1e-2)

    def loss(params, batch, key):
        state, _ = lstmjax.run(params, batch)
        return jnp.mean((state.h[:, 0] - 0.8 * signs) ** 2)

    def start(key):
        params = lstmjax.init_lstm(key, 1, 16, forget_bias=forget_bias)
        gates = lstmjax.lstm_gates(params, lstmjax.init_state(params), jnp.zeros(1))
        return train.init_state(params, optimizer, key), gates.f.mean()

    state, open_at_first = jax.vmap(start)(jax.random.split(jax.random.key(0), 6))
    assert ((np.asarray(open_at_first) > 0.7) == learns).all()
    step = jax.jit(jax.vmap(train.make_step(loss, optimizer), (0, None)))
    for _ in range(100):
        state, report = step(state, xs)
    ys = jax.vmap(lambda params: lstmjax.run(params, xs)[1])(state.params)
    right = (np.sign(ys[:, -1, :, 0]) == signs).mean(-1)
    learnt = np.asarray(report.loss < 0.01)
    np.testing.assert_array_equal(right == 1, learnt)
    assert learnt.sum() >= 3 if learns else not learnt.any()


@every_way
def test_huge_inputs_make_no_nan_on_the_way(way):
    """With JAX looking for a NaN in every operation: inputs of +-1e4 and +-1e30, forward and backward."""
    cell, options = WAYS[way]
    p = problem(cell)

    def loss(params, xs, state):
        return reference.scalar(*lstmjax.run(params, xs, state, lengths=p.lengths, **options))

    gradient = jax.jit(jax.grad(loss, (0, 1, 2)), compiler_options=QUICK)
    with jax.debug_nans(True):
        for size in (1e4, 1e30):
            found = gradient(p.params, np.sign(p.xs) * np.float32(size), p.state)
            chex.assert_tree_all_finite(found)


def test_precision_is_handed_on():
    """What is asked for is in the program, forward and backward, on every backend; nothing is asked for by default."""
    p = problem("lstm")
    m = problem("minlstm")
    for q, backends in ((p, ("scan", "fused")), (m, ("scan", "associative"))):
        for backend in backends:

            def loss(params, xs, backend=backend, precision=None):
                return lstmjax.run(params, xs, backend=backend, precision=precision)[1].sum()

            for precision, wanted in ((None, "DEFAULT"), ("highest", "HIGHEST")):
                gradient = jax.grad(functools.partial(loss, precision=precision))
                program = jax.jit(gradient).lower(q.params, q.xs).as_text()
                found = {
                    line.split("precision = [")[1].split("]")[0] for line in program.splitlines() if "dot_g" in line
                }
                assert found == {f"{wanted}, {wanted}"}, (backend, found)


def test_values_are_checked_at_run_time_by_checkify():
    """What is clipped or NaN under tracing is an error of `checkify`, and nothing is said of what is in range."""
    p = problem("lstm")
    run = jax.jit(lstmjax.checkify(lambda xs, lengths: lstmjax.run(p.params, xs, lengths=lengths)))
    error, (_, ys) = run(p.xs, p.lengths)
    assert error.get() is None
    np.testing.assert_allclose(ys, lstmjax.run(p.params, p.xs, lengths=p.lengths)[1], atol=1e-6)
    for wrong in (T + 1, -1):
        error, _ = run(p.xs, np.full(B, wrong))
        assert "lengths should lie in [0, T] with T = 7" in error.get()

    def dropped(rate):
        return lstmjax.run(p.params, p.xs, regularisers=Regularisers(recurrent=rate), key=jax.random.key(0))

    rate = jax.jit(lstmjax.checkify(dropped))
    assert rate(0.5)[0].get() is None
    assert "regularisers.recurrent should be in [0, 1)" in rate(1.5)[0].get()
    params = classifier.init(jax.random.key(0), 20, 2, embedding=4, hidden=4)
    batch = classifier.Batch(np.array([[3, 4]]), np.array([2]), np.array([1]), np.ones(1, np.float32))
    loss = jax.jit(lstmjax.checkify(functools.partial(classifier.loss, params)))
    assert loss(batch)[0].get() is None
    assert "ids should lie in [0, 20)" in loss(batch._replace(ids=np.array([[3, 20]])))[0].get()
    assert "labels should lie in [0, 2)" in loss(batch._replace(labels=np.array([-1])))[0].get()


def test_penalties_of_activations(x64):
    """AR and TAR are means of squares over what counts, with gradients that padding does not reach."""
    p = problem("lstm", dtype=np.float64)
    ys = p.xs
    valid = (np.arange(T)[:, None] < p.lengths) & (np.arange(T)[:, None] != 2)  # padding, and a gap
    np.testing.assert_allclose(losses.activation_penalty(ys), (ys**2).mean())
    np.testing.assert_allclose(losses.activation_penalty(ys, valid), (ys[valid] ** 2).mean())
    np.testing.assert_allclose(losses.temporal_activation_penalty(ys), (np.diff(ys, axis=0) ** 2).mean())
    both = valid[1:] & valid[:-1]
    want = (np.diff(ys, axis=0)[both] ** 2).mean()
    np.testing.assert_allclose(losses.temporal_activation_penalty(ys, valid), want)
    dirty = np.where(valid[..., None], ys, np.nan)
    for penalty in (losses.activation_penalty, losses.temporal_activation_penalty):
        value, gradient = jax.value_and_grad(penalty)(dirty, valid)
        np.testing.assert_allclose(value, penalty(ys, valid))
        np.testing.assert_array_equal(gradient[~valid], 0)
        assert penalty(ys, np.zeros_like(valid)) == 0
        assert penalty(ys.astype("bfloat16")).dtype == np.float32
    assert losses.temporal_activation_penalty(ys[:1]) == 0


@pytest.mark.parametrize("cell", ["lstm", "gru", "lstm-everything", "slstm"])
def test_zoneout_without_training_is_the_same_step_by_step(x64, cell):
    """step and trace leave the expectation that run leaves without a key."""
    p = problem(cell, dtype=np.float64)
    rates = Regularisers(zoneout_h=0.3, zoneout_c=0.2 if cell[:4] == "lstm" else 0.0)
    want, want_ys = lstmjax.run(*p[:3], regularisers=rates)
    states, _ = lstmjax.trace(*p[:3], regularisers=rates)
    last = jax.tree.map(lambda s: s[-1], states)
    chex.assert_trees_all_close((states.h, last), (want_ys, want), rtol=1e-13, atol=1e-13)
    state = p.state
    for x, y in zip(p.xs, want_ys, strict=True):
        state, got = lstmjax.step(p.params, state, x, regularisers=rates)
        chex.assert_trees_all_close(got, y, rtol=1e-13, atol=1e-13)


def test_zoneout_of_h_and_c_are_two_draws():
    """As often alike as two that know nothing of each other."""
    p = problem("lstm", time=50)
    work = regularise.prepare(Regularisers(zoneout_h=0.5, zoneout_c=0.5), jax.random.key(0))
    kept = regularise.of_layer(work, p.params, p.xs, jnp.float32)[2].zoneout
    assert 0.45 < np.mean(kept["h"] == kept["c"]) < 0.55
