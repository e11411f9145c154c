"""Steps, the loop around them, and what ends it."""

import functools
import io
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

import lstmjax
from lstmjax import classify, train
from lstmjax.batches import Batches, check_labels, check_sequences
from lstmjax.train import curves, feed, loop
from lstmjax.train.summary import flops
from tests import kill

RECORDS = [
    (f"{a} {b}", label)
    for label, words in (("up", "good great"), ("down", "bad poor"))
    for a in words.split()
    for b in ("one", "two three", "four five six", "a b c d e f g", "x")
]
SMALL = classify.Recipe(
    members=2,
    embedding=8,
    hidden=(8,),
    bidirectional=False,
    dropout=0.0,
    batch_size=4,
    buckets=2,
    epochs=3,
    learning_rate=1e-2,
)


def _loss(w, batch, key):
    return jnp.mean((w - batch) ** 2)


def test_a_measure_that_is_finite_in_no_epoch_is_no_model():
    with pytest.raises(FloatingPointError, match="dev_r was finite in none of 2 epochs: there is no best one to keep"):
        train.fit(
            lambda w, batch, key: (w - batch) ** 2,
            jnp.float32(0),
            optax.sgd(0.1),
            lambda epoch: [jnp.float32(1)],
            key=jax.random.key(0),
            epochs=2,
            evaluate=lambda w: {"dev_r": float("nan")},
            metric="dev_r",
        )


def test_an_optimizer_that_looks_at_the_loss_and_the_batch():
    """The loss stands still, so the rate falls by half after every second step; a batch says how much is made of it."""

    def by_batch(updates, state, params=None, *, batch, **_):
        return jax.tree.map(lambda one: one * batch, updates), state

    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=2)
    own = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), by_batch)
    optimizer = optax.chain(optax.sgd(1.0), plateau, own)
    step = jax.jit(train.make_step(lambda w, batch, key: 3.0 + (w - jax.lax.stop_gradient(w)), optimizer))
    state, made = train.init_state(jnp.float32(0), optimizer, jax.random.key(0)), []
    for batch in (1.0, 2.0, 1.0, 1.0, 1.0):
        before = state.params
        state, _ = step(state, jnp.float32(batch))
        made.append(float(before - state.params))
    assert made == [1.0, 2.0, 0.5, 0.5, 0.25]


def test_step_is_pure_and_counts():
    optimizer = optax.adam(0.1)
    step = train.make_step(_loss, optimizer)
    state = train.init_state(jnp.float32(0), optimizer, jax.random.key(0))
    one, two = step(state, jnp.ones(3)), step(state, jnp.ones(3))
    chex.assert_trees_all_equal(one[0].params, two[0].params)
    assert int(one[0].step) == 1


def test_each_step_has_its_own_key():
    seen = []
    step = train.make_step(lambda w, b, key: w * jax.random.normal(key), optax.sgd(0.0))
    state = train.init_state(jnp.float32(1), optax.sgd(0.0), jax.random.key(0))
    for _ in range(3):
        state, report = step(state, None)
        seen.append(float(report.loss))
    assert len(set(seen)) == 3


def _fit(**kwargs):
    options = dict(key=jax.random.key(0), epochs=5) | kwargs
    return train.fit(_loss, jnp.float32(0), optax.sgd(0.1), lambda epoch: [jnp.ones(2)] * 4, **options)


def test_fit_keeps_the_best_epoch_and_stops_early():
    scores = iter([0.1, 0.5, 0.3, 0.2, 0.9])
    fitted = _fit(evaluate=lambda p: {"accuracy": next(scores)}, metric="accuracy", patience=2)
    assert fitted.best_epoch == 2
    assert len(fitted.history) == 4
    after_two = 1 - 0.8**8
    np.testing.assert_allclose(fitted.params, after_two, rtol=1e-5)


def test_fit_leaves_the_callers_params_alone():
    params = jnp.ones(3)
    train.fit(_loss, params, optax.sgd(0.1), lambda epoch: [jnp.zeros(3)], key=jax.random.key(0), epochs=2)
    assert (params == 1).all()


def test_ctrl_c_keeps_the_best_so_far():
    def batches(epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        return [jnp.ones(2)]

    fitted = train.fit(_loss, jnp.float32(0), optax.sgd(0.1), batches, key=jax.random.key(0), epochs=9)
    assert fitted.interrupted
    assert fitted.best_epoch == 2
    np.testing.assert_allclose(fitted.params, 1 - 0.8**2, rtol=1e-5)


def test_progress_is_plain_lines_without_a_terminal_and_a_bar_on_one():
    plain = io.StringIO()
    _fit(watch=train.Watch(Console(file=plain, width=200)), count=lambda b: 2)
    lines = plain.getvalue().splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("1 params, state 0.0 MiB, ")
    assert all("loss" in line and "tokens/s" in line for line in lines[1:])
    assert "\x1b" not in plain.getvalue()
    bar = io.StringIO()
    _fit(watch=train.Watch(Console(file=bar, width=200, force_terminal=True)), count=lambda b: 2)
    assert "tokens/s" in bar.getvalue()
    assert "\x1b[" in bar.getvalue()


@pytest.mark.parametrize(
    ("kwargs", "kind", "says"),
    [
        ({"epochs": 0}, ValueError, "epochs"),
        ({"epochs": 2.5}, TypeError, "epochs"),
        ({"patience": 0}, ValueError, "patience"),
        ({"key": 0}, TypeError, "key should be a PRNG key"),
        ({"metric": "f1"}, ValueError, "metric should be one of loss, got 'f1'"),
    ],
)
def test_refusals(kwargs, kind, says):
    with pytest.raises(kind, match=says):
        _fit(**kwargs)


def test_no_batches_and_a_loss_that_is_not_finite():
    with pytest.raises(ValueError, match=r"batches\(0\) should give at least one batch"):
        train.fit(_loss, jnp.float32(0), optax.sgd(0.1), lambda epoch: [], key=jax.random.key(0), epochs=1)
    with pytest.raises(FloatingPointError, match="no batch of epoch 1 had a finite loss"):
        train.fit(_loss, jnp.float32(jnp.nan), optax.sgd(0.1), lambda e: [jnp.ones(1)], key=jax.random.key(0), epochs=1)


def test_one_trace_per_bucket_over_three_epochs(monkeypatch):
    traced = []
    original = loop.make_step

    def counting(loss, optimizer, **options):
        step = original(loss, optimizer, **options)

        def counted(state, batch):
            traced.append(batch.ids.shape)
            return step(state, batch)

        return counted

    monkeypatch.setattr(loop, "make_step", counting)
    one, _ = classify.fit(RECORDS, RECORDS, SMALL)
    assert len(traced) == len(set(traced)) == 2
    two, _ = classify.fit(RECORDS, RECORDS, SMALL)  # and the same seed gives the same bits
    chex.assert_trees_all_equal(one.params, two.params)


def test_it_fits_what_is_easy():
    model, fitted = classify.fit(RECORDS, RECORDS, SMALL._replace(buckets=1, epochs=15))
    assert classify.evaluate(model, RECORDS)["accuracy"] == 1
    assert fitted.history[-1]["loss"] < fitted.history[0]["loss"]


def _quadratic(**options):
    optimizer = optax.adam(0.1)
    step = jax.jit(train.make_step(_loss, optimizer, **options))
    return step, train.init_state(jnp.ones(3), optimizer, jax.random.key(0), average=options.get("average"))


@pytest.mark.parametrize("backend", ["cpu", "gpu"])  # on the one a choice of a computation, on the other of numbers
def test_a_bad_step_changes_nothing_and_is_counted(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    step, state = _quadratic(average=0.5)
    state, _ = step(state, jnp.zeros(3))
    after, report = step(state, jnp.array([0.0, jnp.nan, 0.0]))
    chex.assert_trees_all_equal(
        (after.params, after.optimizer, after.average), (state.params, state.optimizer, state.average)
    )
    assert (int(after.step), int(after.skipped), int(after.in_a_row)) == (2, 1, 1)
    assert report.finite.tolist() == [False, False]
    after, _ = step(after, jnp.zeros(3))
    assert (int(after.skipped), int(after.in_a_row)) == (1, 0)
    assert np.isfinite(after.loss_sum)
    assert (after.params != state.params).all()


def test_both_ways_to_leave_a_bad_step_out_are_one(monkeypatch):
    """A mean that waits, one that runs, and what is carried; under `vmap` too, where a choice is made for each."""

    def carried(w, carry, batch, key):
        return jnp.mean((w + carry - batch) ** 2), 0.5 * carry + batch

    optimizer = optax.adam(0.1)
    batches = [jnp.array([0.0, k]) for k in (1.0, jnp.nan, 2.0, jnp.inf, 3.0)]
    ends = []
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        for options in ({"average": 0.5}, {"waits": True}, {"carry": jnp.zeros(2)}):
            state = train.init_state(jnp.ones(2), optimizer, jax.random.key(0), **options)
            if "waits" in options:
                state = state._replace(averaged=jnp.ones((), jnp.int32))
            make = train.make_step(carried if "carry" in options else _loss, optimizer, average=options.get("average"))
            many = jax.tree.map(lambda a: jnp.stack([a, a]), state)
            for batch in batches:
                state, _ = jax.jit(make)(state, batch)
                many, _ = jax.jit(jax.vmap(make))(many, jnp.stack([batch, jnp.ones(2)]))
            assert (int(state.step), int(state.skipped)) == (5, 2)
            assert many.skipped.tolist() == [2, 0]
            chex.assert_trees_all_close(jax.tree.map(lambda a: a[0], many)._replace(key=None), state._replace(key=None))
            ends.append((state, many))
    for one, other in zip(ends[:3], ends[3:], strict=True):
        chex.assert_trees_all_close(*(jax.tree.map(_data, ended) for ended in (one, other)), rtol=1e-6)


def _data(a):
    return jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a


def test_what_a_bad_step_leaves_as_it_was_is_held_once():
    """On a CPU the step writes its state where it was, as one without the check would: all else is a copy."""
    optimizer, key = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1)), jax.random.key(0)
    params = jnp.ones((2**12, 32))

    def loss(w, batch, key):
        return jnp.sum(w[batch] ** 2)

    def bare(state, batch):
        gradients = jax.grad(loss)(state.params, batch, key)
        with jax.numpy_dtype_promotion("standard"):
            updates, opened = optimizer.update(gradients, state.optimizer, state.params)
        return state._replace(params=optax.apply_updates(state.params, updates), optimizer=opened)

    def temporary(step):
        state = train.init_state(params, optimizer, key)
        compiled = jax.jit(step, donate_argnums=0).lower(state, jnp.arange(4)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(train.make_step(loss, optimizer)) < temporary(bare) + params.nbytes / 4


def test_a_gradient_that_is_not_finite_is_as_bad_as_a_loss():
    step = jax.jit(train.make_step(lambda w, batch, key: jnp.sqrt(w * batch).sum(), optax.sgd(1.0)))
    state, report = step(train.init_state(jnp.zeros(2), optax.sgd(1.0), jax.random.key(0)), jnp.ones(2))
    assert report.finite.tolist() == [True, False]
    assert (state.params == 0).all()
    assert int(state.skipped) == 1


def test_clipping_never_sees_what_is_not_finite():
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))

    def loss(w, batch, key):
        return (w["a"] * batch).sum() + w["b"].sum()

    step = jax.jit(train.make_step(loss, optimizer))
    state = train.init_state({"a": jnp.ones(2), "b": jnp.ones(2)}, optimizer, jax.random.key(0))
    after, report = step(state, jnp.array([jnp.inf, 1.0]))
    # The norm is not finite, and would spread over both; the report still says which leaf it came from.
    assert report.finite.tolist() == [False, False, True]
    chex.assert_trees_all_equal((after.params, after.optimizer), (state.params, state.optimizer))


def test_parts_of_a_batch_give_the_gradient_of_the_whole():
    batch = jax.random.normal(jax.random.key(1), (8, 3))

    def loss(w, batch, key):
        return jnp.mean((batch @ w) ** 2)

    states = []
    for accumulate in (1, 4):
        step = train.make_step(loss, optax.sgd(0.1), accumulate=accumulate)
        states.append(step(train.init_state(jnp.ones(3), optax.sgd(0.1), jax.random.key(0)), batch))
    np.testing.assert_allclose(states[0][0].params, states[1][0].params, rtol=1e-6)
    np.testing.assert_allclose(states[0][1].loss, states[1][1].loss, rtol=1e-6)
    step = train.make_step(loss, optax.sgd(0.1), accumulate=3)
    with pytest.raises(ValueError, match=r"batch should have a first axis that accumulate = 3 divides, got shape \(8"):
        step(states[0][0], batch)


def _poisoned(where):
    """Batches of ones, of which the steps in `where` (counted from 1 over all epochs) are NaN."""

    def batches(epoch):
        return [jnp.full(2, jnp.nan if 4 * epoch + k + 1 in where else 1.0) for k in range(4)]

    return batches


def test_a_run_goes_on_past_bad_steps_and_counts_them():
    fitted = train.fit(
        _loss, jnp.float32(0), optax.sgd(0.1), _poisoned({2, 3, 6}), key=jax.random.key(0), epochs=3, bad_steps=3
    )
    assert [record["skipped"] for record in fitted.history] == [2, 1, 0]
    np.testing.assert_allclose(fitted.state.params, 1 - 0.8**9, rtol=1e-5)
    np.testing.assert_allclose(fitted.history[0]["loss"], (1 + 0.8**2) / 2, rtol=1e-5)


def test_so_many_bad_steps_in_a_row_end_it():
    with pytest.raises(FloatingPointError) as ended:
        train.fit(
            _loss, jnp.float32(0), optax.sgd(0.1), _poisoned({3, 4, 5}), key=jax.random.key(0), epochs=3, bad_steps=3
        )
    assert str(ended.value).startswith(
        "step 5 (epoch 2, batch 0) is number 3 in a row that is not finite in the loss, the gradient; params are those "
        "after step 2"
    )


def test_the_leaf_that_is_not_finite_is_named():
    params = {"good": jnp.ones(2), "bad": jnp.zeros(2)}

    def loss(w, batch, key):
        return w["good"].sum() + jnp.sqrt(w["bad"]).sum()

    with pytest.raises(FloatingPointError, match="not finite in the gradient of bad; params"):
        train.fit(loss, params, optax.sgd(0.1), lambda e: [0.0] * 4, key=jax.random.key(0), epochs=1, bad_steps=2)


def test_sigterm_saves_and_a_new_run_goes_on_to_the_same_bits(tmp_path):
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = kill.bits(kill.work(tmp_path / "whole"))
    for after in (1, 6, 9):  # in an epoch, and at the end of one
        assert kill.work(tmp_path / "cut", stop_after=after).interrupted
    process = kill.start(tmp_path / "cut", stop_after=13)  # in another process
    kill.finish(process)
    kill.finish(kill.start(tmp_path / "cut"))
    assert json.loads((tmp_path / "cut" / "final.json").read_text()) == whole


def _saved(folder, **options):
    options = dict(key=jax.random.key(0), epochs=2, about={"rate": 0.1}) | options
    with train.Snapshots(folder) as snapshots:
        return train.fit(
            _loss, jnp.float32(0), optax.sgd(0.1), lambda e: [jnp.ones(2)] * 4, snapshots=snapshots, **options
        )


def test_a_run_that_is_over_is_handed_back(tmp_path):
    one, two = _saved(tmp_path), _saved(tmp_path, resume=True)
    assert one.history == two.history
    chex.assert_trees_all_equal(one.params, two.params)
    assert len(_saved(tmp_path, resume=True, epochs=3).history) == 3


def test_a_running_mean_of_the_params_is_kept_evaluated_and_returned(tmp_path):
    targets = [1.0, jnp.nan, 3.0, 2.0, 5.0]
    step = jax.jit(train.make_step(_loss, optax.sgd(0.25), average=0.5))
    state = train.init_state(jnp.ones(2), optax.sgd(0.25), jax.random.key(0), average=0.5)
    mean = np.ones(2)
    for t, target in enumerate(targets, start=1):
        state, _ = step(state, jnp.full(2, target))
        if np.isfinite(target):
            decay = min(0.5, (1 + t) / (10 + t))
            mean = decay * mean + (1 - decay) * np.asarray(state.params)
        np.testing.assert_allclose(state.average, mean, rtol=1e-6)
    seen = []
    how = dict(average=0.9, evaluate=lambda w: seen.append(np.asarray(w)) or {}, epochs=3)
    one = _saved(tmp_path / "one", **how)
    np.testing.assert_array_equal(one.state.average, seen[-1])
    np.testing.assert_array_equal(one.params, one.state.average)  # the last epoch is the best
    assert (one.params != one.state.params).all()
    _saved(tmp_path / "two", **how | dict(epochs=2))
    chex.assert_trees_all_equal(_saved(tmp_path / "two", resume=True, **how).params, one.params)
    _saved(tmp_path / "three", epochs=1)
    with pytest.raises(ValueError, match="has no leaf average"):
        _saved(tmp_path / "three", resume=True, **how)
    with pytest.raises(ValueError, match="average should be"):
        train.make_step(_loss, optax.sgd(0.1), average=1.0)


def test_snapshots_between_epochs_are_those_that_are_due(tmp_path, monkeypatch):
    monkeypatch.setattr(train.Snapshots, "due", lambda self: False)
    saved = []
    usual = train.Snapshots.save
    monkeypatch.setattr(
        train.Snapshots, "save", lambda self, step, *a, **k: saved.append(step) or usual(self, step, *a, **k)
    )
    _saved(tmp_path / "never", epochs=3)
    assert saved == [12]  # the end of the run, whatever is due
    _saved(tmp_path / "asked", epochs=3, save_every=2)
    assert saved[1:] == [2, 4, 6, 8, 10, 12]
    monkeypatch.setattr(train.Snapshots, "due", lambda self: True)
    _saved(tmp_path / "due", epochs=3)
    assert saved[7:] == [4, 8, 12]


def test_another_run_is_not_gone_on_with(tmp_path):
    _saved(tmp_path)
    with pytest.raises(ValueError, match="holds snapshots of a run: give resume=True"):
        _saved(tmp_path)
    with pytest.raises(ValueError, match=r"of another run: rate was 0\.1 and is now 0\.2"):
        _saved(tmp_path, resume=True, about={"rate": 0.2})


def test_patience_holds_over_a_new_start(tmp_path):
    scores = iter([0.5, 0.1, 0.1])
    options = dict(metric="accuracy", patience=2, epochs=9)
    one = _saved(tmp_path, evaluate=lambda p: {"accuracy": next(scores)}, **options)
    again = _saved(tmp_path, evaluate=lambda p: pytest.fail("it had ended"), resume=True, **options)
    assert len(one.history) == len(again.history) == 3


def test_the_log_has_each_step_once_also_after_a_new_start(tmp_path):
    kill.work(tmp_path, stop_after=9)
    log = tmp_path / "log.jsonl"
    with open(log, "a") as file:
        file.write('{"step": 1')  # as a kill leaves it
    kill.work(tmp_path)
    steps, epochs = train.read_log(log)
    assert [line["step"] for line in steps] == [10]
    assert [line["epoch"] for line in epochs] == [1, 2, 3]


def test_a_measure_that_is_not_finite_is_null_in_the_log(tmp_path):
    """JSON has no NaN; and the picture leaves such points out."""
    log, values = tmp_path / "log.jsonl", iter((0.25, float("nan"), 0.5))
    _fit(watch=train.Watch(log=log, every=2), evaluate=lambda p: {"accuracy": next(values)}, epochs=3)
    assert "NaN" not in log.read_text()
    steps, epochs = train.read_log(log)
    assert [line["accuracy"] for line in epochs] == [0.25, None, 0.5]
    pytest.importorskip("matplotlib")
    epochs[1]["loss"] = None
    curves.draw({"run": (steps, epochs), "no steps": ([], epochs)}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size


def test_one_trace_over_many_steps():
    traced = []

    def loss(w, batch, key):
        traced.append(1)
        return ((w - batch) ** 2).mean()

    train.fit(loss, jnp.zeros(2), optax.adam(0.1), lambda e: [np.ones(2)] * 25, key=jax.random.key(0), epochs=4)
    assert len(traced) == 1


def test_the_summary_costs_no_second_compilation():
    traced = []

    def loss(w, batch, key):
        traced.append(1)
        return ((batch @ w) ** 2).mean()

    said = io.StringIO()
    train.fit(
        loss,
        jnp.zeros((4, 3)),
        optax.sgd(0.1),
        lambda e: [np.ones((5, 4), np.float32)] * 3,
        key=jax.random.key(0),
        epochs=2,
        watch=train.Watch(Console(file=said, width=200)),
    )
    assert len(traced) == 1
    assert said.getvalue().startswith("12 params, state 0.0 MiB, ")
    # batch @ w, and its transpose: 2 * 5 * 4 * 3 each.
    assert "240 FLOP a step" in said.getvalue()


def test_the_flops_of_a_recurrent_step_are_those_of_its_products():
    T, B, D, H = 7, 3, 5, 4
    params = lstmjax.init_lstm(jax.random.key(0), D, H)
    xs = jnp.ones((T, B, D))
    once = 2 * T * B * (D + H) * 4 * H

    def loss(params, xs, backend):
        return lstmjax.run(params, xs, backend=backend)[1].sum()

    for backend in ("scan", "fused"):
        of = functools.partial(loss, backend=backend)
        assert flops(jax.make_jaxpr(of)(params, xs)) == once
        assert flops(jax.make_jaxpr(jax.grad(of, (0, 1)))(params, xs)) == pytest.approx(3 * once, rel=0.05)
    many = jax.make_jaxpr(lambda ps, xs: jax.vmap(lambda p: lstmjax.run(p, xs)[1])(ps))
    stacked = jax.tree.map(lambda a: jnp.stack([a, a]), params)
    assert flops(many(stacked, xs)) == 2 * once


def test_what_the_feed_cannot_make_is_raised_in_its_place():
    def make(k):
        if k == 2:
            raise ValueError("no batch 2")
        return k

    fed = feed.ahead(make, range(5))
    assert [next(fed), next(fed)] == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="no batch 2"):
        next(fed)


def test_tensorboard_gets_the_curves(tmp_path):
    pytest.importorskip("tensorboardX")
    _fit(watch=train.Watch(tensorboard=tmp_path / "tb"), evaluate=lambda p: {"accuracy": 0.5})
    assert [path.name.startswith("events") for path in (tmp_path / "tb").iterdir()] == [True]


def test_a_log_that_is_none_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no log of a run"):
        train.read_log(tmp_path / "log.jsonl")
    (tmp_path / "log.jsonl").write_text("mine\n{}\n")
    with pytest.raises(ValueError, match="line 1 is no line of a log: 'mine'"):
        train.read_log(tmp_path / "log.jsonl")
    with pytest.raises(ValueError, match="every should be an int of at least 1"):
        train.Watch(every=0)


def test_batches_are_a_function_of_seed_and_epoch():
    lengths = np.random.default_rng(0).integers(1, 30, 50)
    make = lambda cut: (cut.length, tuple(cut.rows.tolist()))  # noqa: E731
    one, two, other = (Batches(lengths, make, batch_size=8, buckets=3, seed=seed) for seed in (0, 0, 1))
    assert list(one(3)) == list(two(3)) != list(one(4))
    assert list(one(3)) != list(other(3))
    for epoch in range(3):
        assert sorted(row for _, rows in one(epoch) for row in rows) == list(range(50))
        assert len(one(epoch)) == len(one(0))
    assert one(5)[2] == list(one(5))[2]
    with pytest.raises(ValueError, match="batch_size should be"):
        Batches(lengths, make, batch_size=0)


@pytest.mark.parametrize(
    ("sequences", "vocabulary", "says"),
    [
        ([np.array([1, 2]), np.array([-1])], 5, r"sequences\[1\] should hold ids in \[0, 5\), got -1 at step 0"),
        ([np.array([1.0])], 5, r"sequences\[0\] should be ids int\[T\], got float64\[1\]"),
        (
            [np.ones((2, 3)), np.array([[0, 1, np.nan]])],
            None,
            r"sequences\[1\] should hold finite numbers, got nan at step 0, feature 2",
        ),
        ([np.ones((2, 3)), np.ones((2, 4))], None, r"sequences\[1\] should be \[T, 3\], got shape \(2, 4\)"),
        ([[1, 2]], 5, r"sequences\[0\] should be an array, got list"),
    ],
)
def test_training_data_is_looked_at(sequences, vocabulary, says):
    with pytest.raises((TypeError, ValueError), match=says):
        check_sequences(sequences, vocabulary)


def test_labels_are_looked_at():
    check_labels(np.array([0, 1, 2]), 3)
    with pytest.raises(ValueError, match=r"labels\[1\] should lie in \[0, 3\), got -1"):
        check_labels([0, -1, 7], 3)
    with pytest.raises(TypeError, match="labels should be ints"):
        check_labels([0.5], 3)


def test_an_epoch_whose_measure_is_not_finite_is_never_the_best(tmp_path):
    scores = iter([float("nan"), 0.5, float("inf"), 0.4])
    fitted = _saved(tmp_path, evaluate=lambda p: {"accuracy": next(scores)}, metric="accuracy", epochs=4)
    assert fitted.best_epoch == 2
    again = _saved(tmp_path, metric="accuracy", epochs=4, resume=True)
    assert np.isnan(again.history[0]["accuracy"])
    assert again.best_epoch == 2


def test_several_devices_of_one_process_share_a_batch_in_rows():
    mesh = lstmjax.devices.mesh(jax.devices()[:1])
    batches = lambda e: [np.arange(6.0, dtype=np.float32).reshape(2, 3)]  # noqa: E731
    one = train.fit(_loss, jnp.float32(0), optax.sgd(0.1), batches, key=jax.random.key(0), epochs=2, mesh=mesh)
    two = train.fit(_loss, jnp.float32(0), optax.sgd(0.1), batches, key=jax.random.key(0), epochs=2)
    np.testing.assert_allclose(one.params, two.params, rtol=1e-6)
    with pytest.raises(ValueError, match="specs say how params are split over the devices of a mesh, and mesh is None"):
        _fit(specs=jax.sharding.PartitionSpec())
    with pytest.raises(TypeError, match=r"mesh should be a jax\.sharding\.Mesh of one axis, got int 2"):
        _fit(mesh=2)


def test_models_that_devices_cannot_share():
    mesh, spec = lstmjax.devices.mesh(jax.devices()[:1]), jax.sharding.PartitionSpec()
    with pytest.raises(ValueError, match="models are shared by the devices of a mesh, and mesh is None"):
        _fit(models=True)
    with pytest.raises(ValueError, match="models are shared by the devices of a mesh, and specs say how"):
        _fit(models=True, mesh=mesh, specs=spec)
    with pytest.raises(
        ValueError, match=r"params should have an axis of models in front that 1 devices divide, got sha"
    ):
        _fit(models=True, mesh=mesh)
    # Adam counts its steps once for all models.
    given = (jnp.zeros(2), optax.adam(0.1), lambda epoch: [jnp.ones(2)] * 4)
    alone = train.fit(_loss, *given, key=jax.random.key(0), epochs=2)
    shared = train.fit(_loss, *given, key=jax.random.key(0), epochs=2, models=True, mesh=mesh)
    np.testing.assert_allclose(shared.params, alone.params, rtol=1e-6)
