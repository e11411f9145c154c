"""The linear model of words without their order, against its equation and the optimum of what it minimises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstmjax import classify, match, members
from lstmjax.commands import compare, tasks
from lstmjax.models import bag, matcher
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
    with pytest.raises(
        ValueError, match=r"targets should be \[N\] or \[N, K\], N = 60 above 0 and K = 3, got shape \(59,\)"
    ):
        bag.fit(sequences, classes[1:], WORDS, CLASSES)
    with pytest.raises(ValueError, match="strength should be"):
        bag.fit(sequences, classes, WORDS, CLASSES, strength=0.0)


def _compared(rarity, first, second):
    """The equation of a pair of ids [T, F], key by key; words and pieces are apart."""

    def scaled(keys):
        found = np.zeros(len(rarity))
        for j in keys:
            if j < len(rarity):
                found[j] += rarity[j]
        return found / (np.linalg.norm(found) or 1)

    sides = [(scaled(ids[:, 0]), scaled(ids[:, 1:].ravel())) for ids in (first, second)]
    (x, more_x), (y, more_y) = sides
    shared = sum(a > 0 and b > 0 for a, b in zip(x, y, strict=True))
    s = [x @ y, more_x @ more_y, shared / max(1, (x > 0).sum()), shared / max(1, (y > 0).sum())]
    products = [s[a] * s[b] for a in range(4) for b in range(a, 4)]
    x, y = x + more_x, y + more_y
    return np.concatenate([abs(x - y), x * y, s, products])


@pytest.fixture(scope="module")
def pairs():
    """Pairs of ids [T, 3] that share more or less, words below 9 and pieces up to 15; one is of nothing."""
    rng = np.random.default_rng(1)

    def text(n):
        return np.concatenate([rng.integers(0, 9, (n, 1)), rng.integers(9, 17, (n, 2))], 1).astype(np.int32)

    found = []
    for _ in range(40):
        one, other = text(5), text(3)
        found.append((one, np.concatenate([other, one[: rng.integers(0, 5)]])))
    found[3] = (text(0), text(0))
    return found, np.array([min(2, len(other) - 3) if len(one) else 0 for one, other in found])


@pytest.mark.parametrize("spread", [False, True])
def test_pairs_are_their_equation_and_fitted_to_where_it_is_flat(pairs, spread):
    pairs, targets = pairs
    sure = np.eye(CLASSES)[targets]
    likely = 0.75 * sure + 0.25 * np.roll(sure, 1, 1) if spread else sure
    fitted = bag.fit_pairs(pairs, likely if spread else targets, 15, CLASSES, strength=0.5)
    rarity = np.asarray(fitted.rarity, np.float64)
    texts = [set(ids.ravel()) for pair in pairs for ids in pair]
    for j in range(2, 15):
        np.testing.assert_allclose(rarity[j], 1 + np.log(81 / (1 + sum(j in ids for ids in texts))), rtol=1e-6)
    features = np.stack([_compared(rarity, *pair) for pair in pairs])
    w = np.concatenate([fitted.apart, fitted.both, fitted.alike]).astype(np.float64)
    expected = features @ w + np.asarray(fitted.b, np.float64)
    for (first, second), row in zip(pairs, expected, strict=True):
        n, m = len(first), len(second)
        padded = np.full((9, 3), 4, np.int32), np.full((8, 3), 5, np.int32)
        for whole, ids in zip(padded, (first, second), strict=True):
            whole[: len(ids)] = ids
        found = _pair_logits(fitted, padded[0], jnp.array(n), padded[1], jnp.array(m))
        np.testing.assert_allclose(found, row, atol=1e-4)
    p = np.exp(expected) / np.exp(expected).sum(1, keepdims=True)
    assert np.abs(0.5 * features.T @ likely).max() > 1
    np.testing.assert_allclose(0.5 * features.T @ (p - likely) + w, 0, atol=0.02)
    assert np.ptp(expected, axis=1).max() > 0.5


_pair_logits = jax.jit(bag.pair_logits)


def test_pairs_of_words_alone(pairs):
    pairs, targets = pairs
    words = [tuple(ids[:, 0] for ids in pair) for pair in pairs]
    none = [tuple(np.concatenate([ids[:, :1], 0 * ids[:, 1:]], 1) for ids in pair) for pair in pairs]
    one, two = (bag.fit_pairs(given, targets, 9, CLASSES) for given in (words, none))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(("target", "head"), [("label", "align"), ("score", "compare")])
def test_a_matcher_with_a_linear_part_is_measured_saved_and_loaded_with_it(tmp_path, target, head):
    names = ("ann", "bob", "eve", "joe", "kim")
    outcome = {"label": ("yes", "no"), "score": (5.0, 1.0)}[target]
    records = [(f"{a} came", f"{b} came", outcome[a != b]) for a in names for b in names]
    recipe = Recipe(
        members=2,
        embedding=4,
        hidden=(4,),
        width=4,
        epochs=2,
        buckets=1,
        linear_part=True,
        pieces=16,
        overlap=True,
        head=head,
        target=target,
        pooling="max",
    )
    model, fitted = match.fit(records, records, recipe)
    measured = match.evaluate(model, records)[match.measure(model)]
    np.testing.assert_allclose(measured, max(row[f"dev_{match.measure(model)}"] for row in fitted.history), rtol=1e-6)
    assert measured > 0.99
    texts = [record[:2] for record in records]
    found = match.predict(model, texts)
    alone = model._replace(params=model.params._replace(bag=None))
    assert np.abs(found - match.predict(alone, texts)).max() > 0.05
    own = compare.baseline_scores(tasks.TASKS["match"], model, records, records, records)[compare.PART]
    pair = [*map(jnp.asarray, match.ids_of(model, *texts[0]))]
    part = jax.tree.map(lambda a: a[0], model.params.bag)
    p = jax.nn.softmax(_pair_logits(part, pair[0], jnp.array(2), pair[1], jnp.array(2)))
    of_part = match.predict(model._replace(params=members.linear_alone(model.params)), texts[:1])[0]
    np.testing.assert_allclose(of_part, p if target == "label" else matcher.expected_score(p), rtol=1e-4)
    assert own > 0.99
    match.save(model, tmp_path / "m")
    np.testing.assert_array_equal(match.predict(match.load(tmp_path / "m"), texts), found)
    if target == "label":
        return  # a sweep of one is enough
    swept, _ = match.sweep(records, records, {"seed": [0, 1]}, recipe)
    assert min(match.evaluate(one, records)[match.measure(one)] for one in swept) > 0.99


def test_no_linear_part_beside_a_similarity():
    with pytest.raises(ValueError, match='words should be 0 for head = "manhattan"'):
        matcher.init(jax.random.key(0), 9, 1, head="manhattan", words=9)
    records = [("a b", "a b", 5.0), ("a b", "c d", 1.0)]
    with pytest.raises(ValueError, match='head = "manhattan" has none'):
        match.fit(records, records, Recipe(linear_part=True, head="manhattan", target="score"))


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
    assert compare.baseline_scores(tasks.TASKS["classify"], model, records, records, records)[compare.PART] == 1
    classify.save(model, tmp_path / "m")
    np.testing.assert_array_equal(classify.predict(classify.load(tmp_path / "m"), texts), found)
    swept, _ = classify.sweep(records, records, {"seed": [0, 1]}, recipe)
    assert [classify.evaluate(one, records)["accuracy"] for one in swept] == [1, 1]
