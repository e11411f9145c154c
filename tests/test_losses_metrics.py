"""Losses against NumPy in float64, metrics against scikit-learn, layers at their edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstmjax import layers, losses, metrics

LOGITS = np.random.default_rng(0).normal(size=(5, 3))
LABELS = np.array([0, 2, 1, 1, 0])
WEIGHTS = np.array([1.0, 0.0, 2.0, 1.0, 0.5])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_the_weighted_mean(smoothing):
    log_p = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    targets = np.eye(3)[LABELS] * (1 - smoothing) + smoothing / 3
    expected = (-(targets * log_p).sum(-1) * WEIGHTS).sum() / WEIGHTS.sum()
    got = losses.cross_entropy(
        *map(jnp.asarray, (LOGITS.astype("f4"), LABELS, WEIGHTS.astype("f4"))), smoothing=smoothing
    )
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_binary_cross_entropy():
    x, y = LOGITS[:, 0], np.array([0, 1, 1, 0, 1])
    expected = np.mean(np.log1p(np.exp(x)) - y * x)
    np.testing.assert_allclose(losses.binary_cross_entropy(jnp.asarray(x, "f4"), jnp.asarray(y)), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_losses_add_up_in_float32(dtype):
    """Of more examples than a sum in their own dtype can hold."""
    n = 70_000
    x, weights = jnp.full(n, 3.0, dtype), jnp.ones(n, dtype)
    large = jnp.full(n, 600.0, dtype).at[64:].set(0)
    for given in (None, weights):
        for found, expected in (
            (losses.cross_entropy(jnp.zeros((n, 3), dtype), jnp.ones(n, int), given), np.log(3)),
            (losses.binary_cross_entropy(x, jnp.zeros(n), given), np.log1p(np.exp(3))),
            (losses.squared_error(large, jnp.zeros(n), given), 600**2 * 64 / n),
        ):
            assert found.dtype == dtype
            np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=0.005)
    gradient = jax.grad(losses.cross_entropy)(jnp.zeros((n, 3), dtype), jnp.ones(n, int))
    np.testing.assert_allclose(gradient[0].astype(jnp.float32), np.array([1, -2, 1]) / 3 / n, rtol=0.02)


def test_labels_of_a_narrow_dtype_have_their_classes():
    logits = jax.random.normal(jax.random.key(0), (3, 300))
    narrow = jax.jit(losses.cross_entropy)(logits, jnp.array([1, 2, 255], jnp.uint8))
    np.testing.assert_array_equal(narrow, losses.cross_entropy(logits, jnp.array([1, 2, 255])))


def test_a_class_that_is_ruled_out_costs_nothing():
    """A logit of -inf, as `decoding.likeliest` makes them, where another class is asked for."""
    logits = jnp.array([[0.0, 1.0, -jnp.inf]])
    value, gradient = jax.value_and_grad(losses.cross_entropy)(logits, jnp.array([0]))
    np.testing.assert_allclose(value, np.log(1 + np.e), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-np.e / (1 + np.e), np.e / (1 + np.e), 0]], rtol=1e-6)
    assert losses.cross_entropy(logits, jnp.array([2])) == jnp.inf


def test_weight_zero_shuts_out_nan_in_value_and_gradient():
    logits = jnp.asarray(LOGITS, "f4").at[1].set(jnp.nan)
    value, gradient = jax.value_and_grad(losses.cross_entropy)(logits, jnp.asarray(LABELS), jnp.asarray(WEIGHTS, "f4"))
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient[np.array([0, 2, 3, 4])]).all()


def test_all_left_out_is_zero_with_finite_gradient():
    none = jnp.zeros(5)
    value, gradient = jax.value_and_grad(losses.cross_entropy)(jnp.asarray(LOGITS, "f4"), jnp.asarray(LABELS), none)
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("label", [-1, 3])
def test_label_out_of_range(label):
    labels = jnp.asarray(LABELS).at[0].set(label)
    with pytest.raises(ValueError, match=r"labels should lie in \[0, 3\)"):
        losses.cross_entropy(jnp.asarray(LOGITS, "f4"), labels)
    assert jnp.isnan(jax.jit(losses.cross_entropy)(jnp.asarray(LOGITS, "f4"), labels))


def test_label_type_and_shape():
    logits = jnp.asarray(LOGITS, "f4")
    with pytest.raises(TypeError, match="labels should be an array of ints"):
        losses.cross_entropy(logits, jnp.ones(5))
    with pytest.raises(ValueError, match=r"labels should have shape \(5,\)"):
        jax.eval_shape(losses.cross_entropy, logits, jnp.ones(4, int))
    with pytest.raises(ValueError, match="weights"):
        losses.cross_entropy(logits, jnp.asarray(LABELS), jnp.ones(4))


def test_metrics_are_those_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = np.random.default_rng(0)
    found, labels = rng.integers(0, 4, 50), rng.integers(0, 3, 50)  # class 3 is predicted but never right
    assert metrics.accuracy(found, labels) == sklearn.accuracy_score(labels, found)
    assert (metrics.confusion(found, labels, 4) == sklearn.confusion_matrix(labels, found, labels=range(4))).all()
    expected = sklearn.f1_score(labels, found, labels=range(4), average=None, zero_division=0)
    np.testing.assert_allclose(metrics.f1_by_class(found, labels, 4), expected)


def test_metrics_refuse_nothing_and_mismatch():
    with pytest.raises(ValueError, match="got none"):
        metrics.accuracy([], [])
    with pytest.raises(ValueError, match="one length"):
        metrics.accuracy([1], [1, 2])


def test_embed_never_wraps_or_clamps():
    table = jnp.ones((4, 2))
    for bad in (-1, 4):
        with pytest.raises(ValueError, match=r"ids should lie in \[0, 4\)"):
            layers.embed(table, jnp.array([0, bad]))
        rows = jax.jit(layers.embed)(table, jnp.array([0, bad]))
        assert jnp.isnan(rows[1]).all()
        assert (rows[0] == 1).all()
    with pytest.raises(TypeError, match="ints"):
        layers.embed(table, jnp.array([0.0]))


def test_dropout_keeps_the_mean_and_needs_a_key():
    x = jnp.ones(20000)
    y = layers.dropout(jax.random.key(0), 0.3, x)
    assert abs(float(y.mean()) - 1) < 0.02
    assert set(np.unique(np.asarray(y)).round(4)) == {0, np.float32(1 / 0.7).round(4)}
    assert (layers.dropout(jax.random.key(0), 0.3, x) == y).all()
    assert (layers.dropout(jax.random.key(1), 0.3, x) != y).any()
    for rate in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="rate"):
            layers.dropout(None, rate, x)


def test_attention_ignores_padding_and_survives_nothing():
    xs = jax.random.normal(jax.random.key(0), (4, 3))
    query, valid = jnp.ones(3), jnp.array([True, True, False, False])
    y, weights = layers.attend(query, xs, valid)
    scores = np.exp(np.tanh(xs[:2]) @ np.ones(3))
    np.testing.assert_allclose(weights[:2], scores / scores.sum(), rtol=1e-5)
    assert (weights[2:] == 0).all()
    np.testing.assert_allclose(y, weights[:2] @ xs[:2], rtol=1e-5)
    none = jnp.zeros(4, bool)
    value, gradient = jax.value_and_grad(lambda xs: layers.attend(query, xs, none)[0].sum())(xs)
    assert value == 0
    assert (gradient == 0).all()


def test_f1_of_labels_and_thresholds_against_every_threshold():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    labels = rng.random((200, 4)) < [0.05, 0.3, 0.6, 0.0]
    scores = np.round(rng.random((200, 4)) + 0.4 * labels, 2)  # rounded, so that many are equal
    found = metrics.best_thresholds(scores, labels)
    assert found[3] == np.inf
    best = metrics.f1_of_labels(scores > found, labels)
    tried = [metrics.f1_of_labels(scores > at, labels) for at in np.arange(-0.005, 1.5, 0.01)]
    np.testing.assert_allclose(best[:3], np.max(tried, 0)[:3])
    np.testing.assert_allclose(best, sklearn.f1_score(labels, scores > found, average=None, zero_division=0.0))
    assert metrics.best_thresholds(np.array([[0.3], [0.3]]), np.array([[True], [False]])) < 0.3
    with pytest.raises(ValueError, match="scores should be finite"):
        metrics.best_thresholds([[np.nan]], [[True]])
    with pytest.raises(TypeError, match="should be bools"):
        metrics.f1_of_labels([[1]], [[1]])
    with pytest.raises(ValueError, match=r"should be \[N, K\]"):
        metrics.f1_of_labels([[True]], [[True, False]])


def test_correlations():
    rng = np.random.default_rng(1)
    a = rng.integers(0, 20, 100).astype(float)  # with ties
    b = a + rng.normal(0, 4, 100)
    np.testing.assert_allclose(metrics.pearson(a, b), np.corrcoef(a, b)[0, 1])
    stats = pytest.importorskip("scipy.stats")
    np.testing.assert_allclose(metrics.spearman(a, b), stats.spearmanr(a, b).statistic)
    assert np.isnan(metrics.pearson([1.0, 1.0], [1.0, 2.0]))
    with pytest.raises(ValueError, match="of one length"):
        metrics.spearman([1.0], [1.0, 2.0])
