"""Models of pairs: against NumPy, blind to padding, and able to learn what they are for."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lstmjax
from lstmjax import train
from lstmjax.models import matcher
from lstmjax.models.encoder import Options
from lstmjax.models.matcher import Batch, Text
from tests.problems import QUICK

FIRST = Text(jnp.array([[5, 7, 3, 0], [2, 0, 0, 0], [4, 4, 9, 8]]), jnp.array([3, 1, 4]))
SECOND = Text(jnp.array([[6, 7], [2, 0], [3, 0]]), jnp.array([2, 1, 0]))


def _params(head, classes=3, **options):
    classes = 1 if head == "manhattan" else classes
    return matcher.init(jax.random.key(0), 12, classes, head=head, embedding=5, hidden=4, width=6, **options)


def _apply_with(options):
    return jax.jit(partial(matcher.apply, options=options), compiler_options=QUICK)


@pytest.mark.parametrize(
    ("head", "pooling"),
    [
        ("manhattan", "last"),
        ("manhattan", "words+max"),
        ("compare", "attention"),
        ("compare", "mean"),
        ("align", "max"),
    ],
)
def test_padding_changes_nothing(head, pooling):
    params, options = _params(head, pooling=pooling), Options(pooling)
    apply = _apply_with(options)
    found = apply(params, FIRST, SECOND)
    longer = [Text(jnp.pad(text.ids, ((0, 0), (0, 3)), constant_values=11), text.lengths) for text in (FIRST, SECOND)]
    np.testing.assert_allclose(apply(params, *longer), found, atol=1e-6)
    for row, (n, m) in enumerate(zip(FIRST.lengths.tolist(), SECOND.lengths.tolist(), strict=True)):
        alone = [
            Text(text.ids[row : row + 1, :k], text.lengths[row : row + 1]) for text, k in ((FIRST, n), (SECOND, m))
        ]
        np.testing.assert_allclose(apply(params, *alone)[0], found[row], atol=1e-6)
    assert jnp.isfinite(found).all()


@pytest.mark.parametrize("head", ["manhattan", "compare"])
def test_siamese_heads_do_not_ask_which_text_is_first(head):
    params = _params(head)
    np.testing.assert_allclose(
        matcher.apply(params, FIRST, SECOND), matcher.apply(params, SECOND, FIRST), atol=1e-6, rtol=1e-6
    )


def test_a_text_is_as_similar_to_itself_as_can_be():
    params = _params("manhattan")
    assert matcher.apply(params, FIRST, FIRST)[:, 0].tolist() == [1, 1, 1]
    assert (matcher.apply(params, FIRST, SECOND)[:, 0] < 1).tolist() == [True, False, True]


def test_heads_are_their_equations():
    """In float64 NumPy, from the encodings on."""
    for head in ("manhattan", "compare"):
        params = _params(head)
        u, v = (np.asarray(matcher.encode(params, text), np.float64) for text in (FIRST, SECOND))
        if head == "manhattan":
            expected = np.exp(-np.abs(u - v).sum(-1))[:, None]
        else:
            hidden, last = jax.tree.map(lambda w: np.asarray(w, np.float64), (params.hidden, params.head))
            inside = np.concatenate([u * v, np.abs(u - v)], -1) @ hidden.w + hidden.b
            expected = 1 / (1 + np.exp(-inside)) @ last.w + last.b
        np.testing.assert_allclose(matcher.apply(params, FIRST, SECOND), expected, atol=1e-6)


def _rows(texts, k):
    return np.asarray(texts.ids[k, : int(texts.lengths[k])])


def test_the_head_that_aligns_is_its_equations():
    params = _params("align")
    wide = jax.tree.map(lambda w: np.asarray(w, np.float64), params)
    found = matcher.apply(params, FIRST, SECOND)

    def outputs(layers, xs):
        for layer in layers:
            _, xs = lstmjax.run(layer, jnp.asarray(xs, jnp.float32))
        return np.asarray(xs, np.float64)

    for k in (0, 1):
        a, b = (outputs(params.layers, wide.embedding[_rows(texts, k)]) for texts in (FIRST, SECOND))
        scores = np.exp(a @ b.T)
        a_aligned = scores / scores.sum(1, keepdims=True) @ b
        b_aligned = (scores / scores.sum(0, keepdims=True)).T @ a
        pooled = []
        for own, aligned in ((a, a_aligned), (b, b_aligned)):
            both = np.concatenate([own, aligned, own - aligned, own * aligned], -1)
            xs = outputs(params.compose, np.maximum(both @ wide.project.w + wide.project.b, 0))
            pooled += [xs.mean(0), xs.max(0)]
        inside = np.tanh(np.concatenate(pooled) @ wide.hidden.w + wide.hidden.b)
        np.testing.assert_allclose(found[k], inside @ wide.head.w + wide.head.b, atol=1e-5)


def test_alignment_reads_no_padding_and_spoils_no_gradient():
    a, b = jax.random.normal(jax.random.key(0), (5, 3)), jax.random.normal(jax.random.key(1), (4, 3))
    n, m = jnp.array(3), jnp.array(2)
    spoilt = a.at[3:].set(jnp.nan), b.at[2:].set(jnp.inf)
    align = jax.jit(matcher.align, compiler_options=QUICK)
    chex.assert_trees_all_close(align(*spoilt, n, m), align(a.at[3:].set(0), b.at[2:].set(7), n, m))

    def total(a, b):
        return sum((part[:k] ** 2).sum() for part, k in zip(matcher.align(a, b, n, m)[:2], (3, 2), strict=True))

    chex.assert_tree_all_finite(jax.jit(jax.grad(total, (0, 1)), compiler_options=QUICK)(*spoilt))
    weights = align(a, b, n, m)[2]
    np.testing.assert_allclose(weights[:3].sum(1), 1, rtol=1e-6)
    assert (weights[:, 2:] == 0).all()
    assert (weights[3:] == 0).all()
    for part in align(a, b, jnp.array(0), m):
        assert (part == 0).all()


def test_scores_and_probabilities():
    scores = np.array([1.0, 2.25, 4.5, 5.0])
    spread = matcher.spread_score(scores, 5)
    np.testing.assert_allclose(spread.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(spread[1], [0, 0.75, 0.25, 0, 0], atol=1e-6)
    np.testing.assert_allclose(matcher.expected_score(spread), scores, atol=1e-6)


def test_loss():
    params, weights = _params("align"), jnp.array([1.0, 0, 1])
    classes = Batch(FIRST, SECOND, jnp.array([0, 1, 2]), weights)
    hot = classes._replace(labels=jax.nn.one_hot(classes.labels, 3))
    np.testing.assert_allclose(matcher.loss(params, classes), matcher.loss(params, hot), rtol=1e-6)
    other = classes._replace(labels=jnp.array([0, 2, 2]))  # of the pair that does not count
    assert matcher.loss(params, other) == matcher.loss(params, classes)
    params = _params("manhattan")
    similar = matcher.apply(params, FIRST, SECOND)[:, 0]
    pairs = Batch(FIRST, SECOND, jnp.array([0.5, 0.1, 0.9]), weights)
    expected = ((similar[0] - 0.5) ** 2 + (similar[2] - 0.9) ** 2) / 2
    np.testing.assert_allclose(matcher.loss(params, pairs), expected, rtol=1e-6)


@pytest.mark.parametrize("head", matcher.HEADS)
def test_mapped_over_models_under_jit_and_grad(head):
    labels = jnp.array([0.2, 0.5, 0.7]) if head == "manhattan" else jnp.array([0, 1, 2])
    batch = Batch(FIRST, SECOND, labels, jnp.ones(3))
    options, keys = Options(dropout=0.3, word_dropout=0.1), jax.random.split(jax.random.key(1), 2)
    classes = 1 if head == "manhattan" else 3
    draw = partial(matcher.init, vocabulary=12, classes=classes, head=head, embedding=5, hidden=4, width=6)
    both = jax.jit(jax.vmap(draw), compiler_options=QUICK)(keys)
    gradient = jax.grad(lambda params, key: matcher.loss(params, batch, key, options=options))
    together = jax.jit(jax.vmap(gradient, (0, None)), compiler_options=QUICK)(both, keys[0])
    alone = jax.jit(gradient, compiler_options=QUICK)(jax.tree.map(lambda w: w[1], both), keys[0])
    chex.assert_trees_all_close(jax.tree.map(lambda w: w[1], together), alone, atol=1e-5)


@pytest.mark.parametrize("head", matcher.HEADS)
def test_it_learns_whether_two_texts_share_a_word(head):
    """Which cannot be told from either text alone."""
    rng = np.random.default_rng(0)
    first, second = rng.integers(2, 12, (2, 256, 3)).astype(np.int32)
    shared = (first[:, :, None] == second[:, None]).any((1, 2))
    lengths = np.full(256, 3, np.int32)
    labels = shared.astype(np.float32 if head == "manhattan" else np.int32)
    batch = Batch(Text(first, lengths), Text(second, lengths), labels, np.ones(256, np.float32))
    classes = 1 if head == "manhattan" else 2
    params = matcher.init(jax.random.key(0), 12, classes, head=head, embedding=16, hidden=16, width=16)
    fitted = train.fit(
        matcher.loss, params, optax.adam(1e-2), lambda epoch: [batch] * 20, key=jax.random.key(1), epochs=8
    )
    found = matcher.apply(fitted.params, batch.first, batch.second)
    said = found[:, 0] > 0.5 if head == "manhattan" else found.argmax(-1) == 1
    assert np.mean(np.asarray(said) == shared) > 0.9
    assert 0.5 < max(shared.mean(), 1 - shared.mean()) < 0.7


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: _params("cosine"), ValueError, "head should be one of"),
        (lambda: matcher.init(jax.random.key(0), 9, 2, head="manhattan"), ValueError, "classes should be 1 for head"),
        (lambda: _params("align", pooling="sum"), ValueError, "pooling should be one of"),
        (lambda: _params("compare", cell="cnn"), ValueError, "cell should be one of"),
        (lambda: _apply(first=FIRST._replace(ids=FIRST.ids + 9)), ValueError, "first.ids should"),
        (lambda: _apply(second=SECOND._replace(lengths=SECOND.lengths + 1)), ValueError, "second.lengths should"),
        (lambda: _apply(second=jax.tree.map(lambda a: a[:2], SECOND)), ValueError, "as many texts, got 3 and 2"),
        (lambda: _apply(first=FIRST._replace(ids=FIRST.ids[0])), ValueError, r"first.ids should be \[B, T\]"),
        (lambda: _apply(options=Options("attention")), ValueError, "but params have no query"),
        (lambda: _apply(key=3), TypeError, "key should be"),
        (lambda: matcher.align(jnp.ones((2, 3)), jnp.ones((2, 4)), 1, 1), ValueError, "with one H"),
        (lambda: matcher.align([1], jnp.ones((2, 4)), 1, 1), TypeError, "first should be"),
    ],
)
def test_refusals(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def _apply(first=FIRST, second=SECOND, options=Options(), key=None):
    return matcher.apply(_params("compare"), first, second, options, key)
