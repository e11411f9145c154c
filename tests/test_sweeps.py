"""Many runs in one: each is the run it would be alone, and one that fails disturbs no other."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lstmjax import classify, train
from tests.test_train import RECORDS, SMALL

SETTINGS = train.parse_sweep("learning_rate=1e-2,3e-2 seed=0..1")


def test_each_model_of_a_sweep_is_the_one_trained_alone():
    recipe = SMALL._replace(members=1, dropout=0.2, epochs=2, buckets=1)
    models, swept = classify.sweep(RECORDS, RECORDS, SETTINGS, recipe)
    for k, model in [(2, models[2])]:
        alone = recipe._replace(learning_rate=SETTINGS["learning_rate"][k], seed=SETTINGS["seed"][k])
        assert model.recipe == alone
        single, fitted = classify.fit(RECORDS, RECORDS, alone)
        assert fitted.best_epoch == swept.best_epoch[k]
        for ours, theirs in zip(jax.tree.leaves(model.params), jax.tree.leaves(single.params), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
        for one, all_of_them in zip(fitted.history, swept.history, strict=True):
            np.testing.assert_allclose(all_of_them["loss"][k], one["loss"], rtol=1e-4)
    scores = [max(record["dev_accuracy"][k] for record in swept.history) for k in range(4)]
    assert swept.best == int(np.argmax(scores))


def _sweep(rates=(0.01, 0.1, 0.4), **options):
    options = {
        "loss": lambda w, batch, key, settings: (w - batch) ** 2,
        "begin": lambda settings: (jnp.float32(0), jax.random.key(0)),
        "optimizer": lambda settings: optax.sgd(settings["rate"]),
        "batches": lambda epoch: [jnp.float32(2)] * 5,
        "settings": {"rate": list(rates)},
        "epochs": 3,
    } | options
    return train.sweep(**options)


def test_one_that_is_not_finite_stands_still_and_disturbs_no_other():
    steep = {"loss": lambda w, batch, key, s: jnp.where(s["rate"] > 0.3, jnp.nan, (w - batch) ** 2)}
    found, calm = _sweep(**steep), _sweep()
    np.testing.assert_array_equal(found.params[:2], calm.params[:2])
    assert found.params[2] == 0
    assert found.best_epoch == (3, 3, 0)
    assert found.best == 1
    assert [record["loss"][2] for record in found.history] == [None] * 3
    with pytest.raises(FloatingPointError, match="no model of the sweep had a finite loss in epoch 1"):
        _sweep(loss=lambda w, batch, key, s: jnp.nan * w)


def test_each_keeps_a_mean_of_its_own():
    found = _sweep(average=0.9)
    for k, rate in enumerate((0.01, 0.1, 0.4)):
        alone = train.fit(
            lambda w, batch, key: (w - batch) ** 2,
            jnp.float32(0),
            optax.sgd(rate),
            lambda epoch: [jnp.float32(2)] * 5,
            key=jax.random.key(0),
            epochs=3,
            average=0.9,
        )
        np.testing.assert_allclose(found.params[k], alone.params, rtol=1e-6)


def test_a_sweep_goes_on(tmp_path):
    whole = _sweep()
    with train.Snapshots(tmp_path) as snapshots:
        _sweep(snapshots=snapshots, epochs=2)
        with pytest.raises(ValueError, match="give resume=True to go on with it"):
            _sweep(snapshots=snapshots)
        with pytest.raises(ValueError, match=r"another sweep: settings was .*0\.4\]} and is now .*0\.3\]}"):
            _sweep(rates=(0.01, 0.1, 0.3), snapshots=snapshots, resume=True)
        again = _sweep(snapshots=snapshots, resume=True)
    np.testing.assert_array_equal(again.params, whole.params)
    assert again.history == whole.history


def test_a_sweep_that_was_stopped_in_an_epoch_goes_on_from_there(tmp_path):
    whole, made = _sweep(), []

    class Today(list):
        def __getitem__(self, k):
            made.append(k)
            if len(made) == 9:  # in the second epoch
                signal.raise_signal(signal.SIGTERM)
            return super().__getitem__(k)

    with train.Snapshots(tmp_path) as snapshots:
        stopped = _sweep(batches=lambda epoch: Today([jnp.float32(2)] * 5), snapshots=snapshots)
        assert stopped.interrupted
        assert 5 < snapshots.steps()[-1] < 10
        again = _sweep(snapshots=snapshots, resume=True)
    np.testing.assert_array_equal(again.params, whole.params)
    assert again.history == whole.history


def test_seeds_of_32_bits_are_those_of_one_run():
    seeds = [3_000_000_000, 5]
    found = train.sweep(
        lambda w, batch, key, settings: (w - batch) ** 2,
        lambda settings: (jax.random.normal(jax.random.key(settings["seed"])), jax.random.key(0)),
        lambda settings: optax.sgd(0.0),
        lambda epoch: [jnp.float32(2)],
        {"seed": seeds},
        epochs=1,
    )
    expected = [jax.random.normal(jax.random.key(seed)) for seed in seeds]
    np.testing.assert_array_equal(found.params, np.array(expected))


def test_refusals():
    for text in ("", "lr", "lr=", "lr=a", "=1", "lr=1 lr=2", "seed=3..1"):
        with pytest.raises(ValueError, match="a sweep should be of the form"):
            train.parse_sweep(text)
    with pytest.raises(ValueError, match=r"settings should be lists of one length, got \{'a': 1, 'b': 2\}"):
        _sweep(settings={"a": [1], "b": [1, 2]})
    with pytest.raises(ValueError, match=r"settings\['rate'\] should be a finite number"):
        _sweep(rates=(0.1, float("nan")))
    with pytest.raises(TypeError, match="settings should be a dict of lists"):
        _sweep(settings=[1])
    with pytest.raises(ValueError, match="metric should be one of loss, got 'f1'"):
        _sweep(metric="f1")
    with pytest.raises(ValueError, match="a setting of the sweep should be one of"):
        classify.sweep(RECORDS, RECORDS, {"hidden": [8]}, SMALL)
    with pytest.raises(ValueError, match="learning_rate should be a number above 0"):
        classify.sweep(RECORDS, RECORDS, {"learning_rate": [-1.0]}, SMALL)


def test_the_learning_rate_that_is_found_makes_the_loss_fall():
    batch = jax.random.normal(jax.random.key(0), (32, 4))

    def loss(w, batch, key):
        return ((batch @ (w - 1)) ** 2).mean()

    found = train.find_learning_rate(loss, jnp.zeros(4), optax.sgd, lambda e: [batch], key=jax.random.key(0), high=10.0)
    assert found.losses[-1] < 4 * found.losses.min()
    assert len(found.losses) < 100  # it ended where the loss had grown
    # sgd on a quadratic falls up to a rate of 2 / its largest curvature, and grows beyond.
    largest = 2 * np.linalg.eigvalsh(np.asarray(batch.T @ batch) / 32)[-1]
    assert 0.05 / largest < found.rate < 2 / largest
    lower = train.find_learning_rate(
        lambda *given: loss(*given) - 100, jnp.zeros(4), optax.sgd, lambda e: [batch], key=jax.random.key(0), high=0.1
    )
    assert len(lower.losses) == 100  # a loss below 0 is none that has grown
    with pytest.raises(ValueError, match="high should be above low"):
        train.find_learning_rate(loss, jnp.zeros(4), optax.sgd, lambda e: [batch], key=jax.random.key(0), low=2.0)
    with pytest.raises(FloatingPointError, match="was not finite, or grew"):
        train.find_learning_rate(loss, jnp.full(4, jnp.nan), optax.sgd, lambda e: [batch], key=jax.random.key(0))
