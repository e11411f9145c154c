"""The linear model of words without their order, against its equation and the optimum of what it minimises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstmjax import classify
from lstmjax.models import bag
from lstmjax.recipe import Recipe

pytest.importorskip("sklearn")

WORDS, CLASSES = 9, 3


@pytest.fixture(scope="module")
def data():
    """Sequences in which some words tell of a class, with ids that are no words among them; one is empty."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, CLASSES, 60)
    sequences = [np.concatenate([rng.integers(0, WORDS + 2, 5), [2 + k] * rng.integers(1, 3)]) for k in classes]
    sequences[7] = np.zeros(0, np.int64)
    return [ids.astype(np.int32) for ids in sequences], classes


def _features(sequences):
    """The equation, word by word."""
    of = [sum(j in ids for ids in sequences) for j in range(WORDS)]
    rarity = [0.0, 0.0] + [1 + np.log((1 + len(sequences)) / (1 + n)) for n in of[2:]]
    found = np.zeros((len(sequences), WORDS))
    for row, ids in zip(found, sequences, strict=True):
        words = [j for j in ids if j < WORDS]
        length = sum(rarity[j] ** 2 for j in words) ** 0.5
        for j in words:
            row[j] += rarity[j] / (length or 1)
    return found


def test_logits_are_the_equation_whatever_is_padded(data):
    sequences, classes = data
    fitted = bag.fit(sequences, classes, WORDS, CLASSES)
    expected = _features(sequences) @ np.asarray(fitted.w, np.float64) + np.asarray(fitted.b, np.float64)
    assert np.ptp(expected, axis=1).max() > 1
    for fill in (0, 3):
        padded = np.full((len(sequences), 12), fill, np.int32)
        for row, ids in zip(padded, sequences, strict=True):
            row[: len(ids)] = ids
        found = jax.jit(jax.vmap(bag.logits, (None, 0, 0)))(fitted, padded, np.array([len(s) for s in sequences]))
        np.testing.assert_allclose(found, expected, atol=2e-5)
    gradient = jax.grad(lambda fitted: bag.logits(fitted, jnp.zeros(3, jnp.int32), jnp.array(3)).sum())(fitted)
    assert all(np.isfinite(leaf).all() for leaf in gradient)


@pytest.mark.parametrize("several", [False, True])
def test_fit_ends_where_the_penalised_loss_is_flat(data, several):
    sequences, classes = data
    features, weights = _features(sequences), np.random.default_rng(1).uniform(0.5, 2, len(sequences))
    targets = np.eye(CLASSES)[classes]
    if several:
        targets[:, 1] = np.maximum(targets[:, 1], targets[:, 0])
    given = targets if several else classes
    fitted = bag.fit(sequences, given, WORDS, CLASSES, weights=weights, strength=0.5)
    w, b = (np.asarray(array, np.float64) for array in (fitted.w, fitted.b))
    logits = features @ w + b
    p = 1 / (1 + np.exp(-logits)) if several else np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    errors = (p - targets) * weights[:, None]
    slope = 0.5 * features.T @ errors + w
    assert np.abs(0.5 * features.T @ (targets * weights[:, None])).max() > 1  # what a flat slope is small beside
    np.testing.assert_allclose(slope, 0, atol=0.02)
    np.testing.assert_allclose(errors.sum(0), 0, atol=0.05)


def test_two_classes_and_classes_that_do_not_occur(data):
    sequences, classes = data
    two = bag.fit(sequences, classes % 2, WORDS, 2)
    np.testing.assert_allclose(two.w[:, 0], -two.w[:, 1], rtol=1e-6)
    ids = jnp.array([3, 3, 3])  # of class 1
    assert bag.logits(two, ids, jnp.array(3)).argmax() == 1
    more = bag.fit(sequences, classes, WORDS, CLASSES + 1)
    assert bag.logits(more, ids, jnp.array(3)).argmin() == CLASSES
    targets = np.stack([classes == 1, classes >= 0, classes > 9], 1)
    always = jax.nn.sigmoid(bag.logits(bag.fit(sequences, targets, WORDS, 3), ids, jnp.array(3)))
    np.testing.assert_allclose(always[1:], [61 / 62, 1 / 62], rtol=1e-5)


def test_targets_of_another_shape_are_refused(data):
    sequences, classes = data
    with pytest.raises(ValueError, match=r"targets should be \[N\] or \[N, K\], N = 60 and K = 3, got shape \(59,\)"):
        bag.fit(sequences, classes[1:], WORDS, CLASSES)
    with pytest.raises(ValueError, match="strength should be"):
        bag.fit(sequences, classes, WORDS, CLASSES, strength=0.0)


@pytest.mark.parametrize("pieces", [0, 32])
def test_a_recipe_with_a_linear_part_is_measured_saved_and_loaded_with_it(tmp_path, pieces):
    words = {"good": ("fine", "great", "superb"), "bad": ("poor", "awful", "dire")}
    records = [(f"it is {word} {n}", label) for label, of in words.items() for word in of for n in "abcd"]
    recipe = Recipe(
        members=2, embedding=4, hidden=(4,), epochs=2, batch_size=8, buckets=1, linear_part=True, pieces=pieces
    )
    model, fitted = classify.fit(records, records, recipe)
    texts = [text for text, _ in records]
    found = classify.predict(model, texts)
    assert classify.evaluate(model, records)["accuracy"] == max(row["dev_accuracy"] for row in fitted.history) == 1
    alone = model._replace(params=model.params._replace(bag=None))
    assert np.abs(found - classify.predict(alone, texts)).max() > 0.05  # two epochs teach an LSTM next to nothing
    classify.save(model, tmp_path / "m")
    np.testing.assert_array_equal(classify.predict(classify.load(tmp_path / "m"), texts), found)
    swept, _ = classify.sweep(records, records, {"seed": [0, 1]}, recipe)
    assert [classify.evaluate(one, records)["accuracy"] for one in swept] == [1, 1]
