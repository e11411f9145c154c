"""Steps, the loop around them, and what ends it."""

import io

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from lstmjax import classify, train

RECORDS = [
    (f"{a} {b}", label)
    for label, words in (("up", "good great"), ("down", "bad poor"))
    for a in words.split()
    for b in ("one", "two three", "four five six", "a b c d e f g", "x")
]
SMALL = classify.Recipe(embedding=8, hidden=(8,), dropout=0.0, batch_size=4, buckets=2, epochs=3, learning_rate=1e-2)


def _loss(w, batch, key):
    return jnp.mean((w - batch) ** 2)


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
        state, value = step(state, None)
        seen.append(float(value))
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
    _fit(console=Console(file=plain, width=200), count=lambda b: 2)
    lines = plain.getvalue().splitlines()
    assert len(lines) == 5
    assert "loss" in lines[0]
    assert "tokens/s" in lines[0]
    assert "\x1b" not in plain.getvalue()
    bar = io.StringIO()
    _fit(console=Console(file=bar, width=200, force_terminal=True), count=lambda b: 2)
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
    with pytest.raises(FloatingPointError, match="the loss of epoch 1 is nan"):
        train.fit(_loss, jnp.float32(jnp.nan), optax.sgd(0.1), lambda e: [jnp.ones(1)], key=jax.random.key(0), epochs=1)


def test_one_trace_per_bucket_over_three_epochs(monkeypatch):
    traced = []
    original = train.make_step

    def counting(loss, optimizer):
        step = original(loss, optimizer)

        def counted(state, batch):
            traced.append(batch.ids.shape)
            return step(state, batch)

        return counted

    monkeypatch.setattr(train, "make_step", counting)
    classify.fit(RECORDS, RECORDS, SMALL)
    assert len(traced) == len(set(traced)) == 2


def test_the_same_seed_gives_the_same_bits():
    one, two = (classify.fit(RECORDS, RECORDS, SMALL)[0] for _ in range(2))
    chex.assert_trees_all_equal(one.params, two.params)


def test_it_fits_what_is_easy():
    model, fitted = classify.fit(RECORDS, RECORDS, SMALL._replace(epochs=15))
    assert classify.evaluate(model, RECORDS)["accuracy"] == 1
    assert fitted.history[-1]["loss"] < fitted.history[0]["loss"]
