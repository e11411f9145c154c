"""Features with a mean of 0 and a deviation of 1: against NumPy over all steps at once, and through whole runs."""

import json

import numpy as np
import pytest

from lstmjax import datasets, sequences
from lstmjax.datasets import Drawn
from lstmjax.standardise import Moments, from_json, moments, standardise, to_json

SMALL = sequences.DEFAULT._replace(hidden=(4,), batch_size=8, epochs=2, patience=9, buckets=2, standardise=True)
RNG = np.random.default_rng(0)


def _sequences(scale, shift, dtype=np.float64, n=7):
    rng = np.random.default_rng(1)
    return [(rng.normal(size=(int(rng.integers(1, 9)), 3)) * scale + shift).astype(dtype) for _ in range(n)]


@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (1e-6, 1e4), (1e8, -3), (np.array([1, 1e-3, 1e5]), 7)])
def test_all_steps_together_have_this_mean_and_spread(scale, shift):
    xs = _sequences(scale, shift)
    known, steps = moments(xs), np.concatenate(xs).astype(np.longdouble)
    np.testing.assert_allclose(known.mean, steps.mean(0).astype(float), rtol=1e-12)
    np.testing.assert_allclose(known.deviation, steps.std(0).astype(float), rtol=1e-9)
    brought = np.concatenate([standardise(x, known) for x in xs])
    np.testing.assert_allclose(brought.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(brought.std(0), 1, rtol=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e9 + 0.1])
def test_a_feature_that_never_changes_is_only_centred(value):
    x = np.stack([np.full(1000, value), np.arange(1000)], 1)
    known = moments([x[:300], x[300:]])
    assert known.deviation[0] == 1
    np.testing.assert_allclose(standardise(x, known)[:, 0], 0, atol=1e-12 * max(value, 1))


@pytest.mark.parametrize("dtype", [np.uint8, bool, np.float16, np.int32])
def test_numbers_of_other_kinds_do_not_overflow(dtype):
    x = RNG.integers(0, 2 if dtype is bool else 200, (5000, 2)).astype(dtype)
    known = moments([x])
    np.testing.assert_allclose(known.mean, x.astype(float).mean(0))
    np.testing.assert_allclose(known.deviation, x.astype(float).std(0))


def test_what_was_written_is_read():
    known = moments(_sequences(3, 1))
    again = from_json(json.loads(json.dumps(to_json(known))))
    for one, other in zip(again, known, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: moments([]), ValueError, "with a step at least, got 0 steps"),
        (lambda: moments([np.zeros((0, 2))]), ValueError, "with a step at least, got 0 steps"),
        (lambda: moments([np.zeros((1, 2)), np.zeros((1, 3))]), ValueError, r"of one D.*\(2,\), \(3,\)"),
        (lambda: moments([np.zeros(3)]), ValueError, "should be"),
        (lambda: standardise(np.zeros((1, 3)), moments([np.eye(2)])), ValueError, r"\[..., 2\], got shape \(1, 3\)"),
        (lambda: from_json({"mean": [1.0], "deviation": [0.0]}), ValueError, "deviations above 0"),
        (lambda: from_json({"mean": [1.0, 2.0], "deviation": [1.0]}), ValueError, "two lists of one length"),
        (lambda: from_json({"mean": [1.0]}), KeyError, "deviation"),
    ],
)
def test_refusals(call, error, says):
    with pytest.raises(error, match=says):
        call()


def _records(scale=1.0, shift=0.0, n=40):
    return [(x * scale + shift, int(x[0, 0] > 0)) for x in _sequences(1, 0, n=n)]


def test_the_unit_of_a_feature_makes_no_difference():
    """Models of the same data in other units give the same answers; without it they do not."""
    xs = [x for x, _ in _records()]

    def answers(settings, scale, shift):
        records = _records(scale, shift)
        model, _ = sequences.fit(records[:30], records[30:], settings)
        return np.stack(sequences.predict(model, [x * scale + shift for x in xs]))

    units = np.array([30.0, 1e-3, 2.0]), np.array([4.0, 0.0, -60.0])
    here, there = answers(SMALL, 1, 0), answers(SMALL, *units)
    np.testing.assert_allclose(there, here, atol=1e-5)
    as_they_come = SMALL._replace(standardise=False)
    assert np.abs(answers(as_they_come, *units) - answers(as_they_come, 1, 0)).max() > 1e-2


def test_a_sequence_has_the_same_answer_beside_longer_ones():
    records = _records(3, 50)
    model, _ = sequences.fit(records[:30], records[30:], SMALL)
    xs = [x for x, _ in records]
    together = sequences.predict(model, xs)
    for x, answer in zip(xs, together, strict=True):
        np.testing.assert_allclose(sequences.predict(model, [x])[0], answer, atol=1e-6)
    found = sequences.evaluate(model, records)
    assert found["accuracy"] == np.mean([np.argmax(a) == y for a, (_, y) in zip(together, records, strict=True)])


def test_batches_are_padded_after_it():
    records = _records(1, 10)
    model, task = sequences._task(records, records, SMALL)
    steps = []
    for batch in task.batches(0):
        for x, n in zip(batch.xs, batch.lengths, strict=True):
            steps.append(x[:n])
            assert not x[n:].any()
    steps = np.concatenate(steps)
    assert steps.dtype == np.float32
    np.testing.assert_allclose(steps.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(steps.std(0), 1, rtol=1e-5)
    assert model.moments is not None


def test_what_is_drawn_is_brought_to_it_too():
    training = Drawn("adding", 9, 64)
    dev = list(zip(*datasets.adding(1, 20, 9), strict=True))
    _, task = sequences._task(training, dev, SMALL._replace(standardise=True, batch_size=64))
    (batch,) = task.batches(0)
    np.testing.assert_allclose(batch.xs.mean((0, 1)), 0, atol=0.3)
    np.testing.assert_allclose(batch.xs.std((0, 1)), 1, atol=0.2)


def test_a_model_survives_the_folder(tmp_path):
    records = _records(1, 10)
    model, _ = sequences.fit(records[:30], records[30:], SMALL)
    folder = sequences.save(model, tmp_path / "m")
    loaded, xs = sequences.load(folder), [x for x, _ in records]
    assert isinstance(loaded.moments, Moments)
    np.testing.assert_array_equal(np.stack(sequences.predict(loaded, xs)), np.stack(sequences.predict(model, xs)))
    about = next(path for path in folder.iterdir() if "moments" in path.read_text(errors="ignore"))
    held = json.loads(about.read_text())

    def rewrite(node, change):
        if isinstance(node, dict):
            if "moments" in node:
                change(node)
            for inner in node.values():
                rewrite(inner, change)

    for change, says in [
        (lambda node: node["moments"].update(mean=[0.0], deviation=[1.0]), "moments of 1 features, and 3 inputs"),
        (lambda node: node.pop("moments"), "KeyError"),
    ]:
        rewrite(held, change)
        about.write_text(json.dumps(held))
        with pytest.raises(ValueError, match=f"describes no model of sequences: .*{says}"):
            sequences.load(folder)


def test_symbols_have_no_spread():
    with pytest.raises(ValueError, match="standardise is for features, got 3 symbols"):
        sequences.fit([(np.array([0, 2, 1]), 1)] * 3, [(np.array([0, 1]), 1)], SMALL)
    with pytest.raises(TypeError, match="standardise should be True or False, got float"):
        sequences.fit(_records(), _records(), SMALL._replace(standardise=2.0))
