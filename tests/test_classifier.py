"""The classifier: one sequence at a time equals the batch, padding counts for nothing, and it learns."""

from functools import partial

import chex
import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lstmjax import Bidirectional, layers, run, train
from lstmjax.models import bag, classifier, language_model, matcher, seq2seq, tagger
from lstmjax.models.classifier import Batch, Options
from tests.problems import QUICK

IDS = np.random.default_rng(0).integers(2, 20, (4, 7)).astype(np.int32)
LENGTHS = np.array([7, 0, 3, 5], np.int32)


def _params(pooling="max", **kwargs):
    return classifier.init(jax.random.key(0), 20, 3, embedding=5, hidden=(6, 4), pooling=pooling, **kwargs)


@pytest.mark.parametrize("pooling", [*classifier.POOLINGS, "words+last+max"])
@pytest.mark.parametrize(("cell", "bidirectional"), [("lstm", True), ("gru", False)])
def test_batch_is_each_sequence_alone_cut_to_its_length(pooling, cell, bidirectional):
    params = _params(pooling, cell=cell, bidirectional=bidirectional)
    options = Options(pooling)
    whole = jax.jit(partial(classifier.apply, options=options))(params, IDS, LENGTHS)
    for row, n, logits in zip(IDS, LENGTHS, whole, strict=True):
        encode = jax.jit(partial(classifier.encode, options=options), compiler_options=QUICK)
        alone = layers.linear(params.head, encode(params, jnp.array(row[:n]), jnp.array(n)))
        chex.assert_trees_all_close(alone, logits, atol=1e-6)


@pytest.mark.parametrize("pooling", classifier.POOLINGS)
def test_what_stands_in_the_padding_does_not_matter(pooling):
    options = Options(pooling)
    params, labels, weights = _params(pooling), jnp.array([0, 1, 2, 0]), jnp.ones(4)
    step = jax.jit(jax.value_and_grad(partial(classifier.loss, options=options)))
    padded = np.arange(7) >= LENGTHS[:, None]
    one = step(params, Batch(np.where(padded, 0, IDS), LENGTHS, labels, weights))
    two = step(params, Batch(np.where(padded, 19, IDS), LENGTHS, labels, weights))
    chex.assert_trees_all_equal(one, two)
    chex.assert_tree_all_finite(one)


def test_grad_of_the_vmapped_loss_is_that_of_the_explicit_batch():
    """Values, and the structure: one weight gradient for all examples, not one for each."""
    params, labels = _params(), jnp.array([0, 1, 2, 0])

    def explicit(params):
        xs = layers.embed(params.embedding, IDS.T)
        for layer in params.layers:
            _, xs = run(layer, xs, lengths=jnp.array(LENGTHS))
        valid = (np.arange(7)[:, None] < LENGTHS)[..., None]
        pooled = jnp.where(valid, xs, -jnp.inf).max(0, initial=-jnp.inf)
        pooled = jnp.where((LENGTHS > 0)[:, None], pooled, 0)
        logits = layers.linear(params.head, pooled)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    batch = Batch(IDS, LENGTHS, labels, jnp.ones(4))
    ours = jax.grad(classifier.loss)
    quick = (jax.jit(gradient, compiler_options=QUICK) for gradient in (ours, jax.grad(explicit)))
    chex.assert_trees_all_close(next(quick)(params, batch), next(quick)(params), atol=1e-6)
    shapes = [v.aval.shape for eqn in _equations(jax.make_jaxpr(ours)(params, batch)) for v in eqn.outvars]
    w_x = params.layers[0].forward.w_x.shape
    assert (1, *w_x) in shapes  # the gradient of a group of one
    assert (4, *w_x) not in shapes


@pytest.mark.parametrize("pieces", [False, True])
def test_logits_are_the_mean_with_those_of_a_linear_part(pieces):
    params = _params(words=15)
    assert not params.bag.w.any()
    keys = jax.random.split(jax.random.key(1), 3)
    drawn = (jax.random.uniform(k, leaf.shape) for k, leaf in zip(keys, params.bag, strict=True))
    params = params._replace(bag=bag.Bag(*drawn))
    ids = np.stack([IDS, np.where(IDS % 2, IDS, 0), 0 * IDS], -1) if pieces else IDS
    found = classifier.apply(params, ids, LENGTHS)
    deep = classifier.apply(params._replace(bag=None), ids, LENGTHS)
    for row, n, logits, other in zip(IDS, LENGTHS, found, deep, strict=True):
        np.testing.assert_allclose(logits, (other + bag.logits(params.bag, row, n)) / 2, atol=1e-5)
    batch = Batch(ids, LENGTHS, jnp.array([0, 1, 2, 0]), jnp.ones(4))
    nothing = params._replace(bag=bag.init(15, 3))
    both, alone = classifier.loss(nothing, batch), classifier.loss(params._replace(bag=None), batch)
    np.testing.assert_allclose(both, (alone + np.log(3)) / 2, rtol=1e-6)  # each part has a loss of its own


def test_several_labels_are_a_question_each():
    params, labels = _params(), np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], np.float32)
    weights = jnp.array([1.0, 2.0, 0.0, 1.0])
    logits = np.asarray(classifier.apply(params, IDS, LENGTHS), np.float64)
    each = np.logaddexp(0, np.where(labels == 1, -logits, logits)).sum(1)
    found = classifier.loss(params, Batch(IDS, LENGTHS, jnp.array(labels), weights))
    np.testing.assert_allclose(found, (each * np.asarray(weights)).sum() / 4, rtol=1e-5)
    several = classifier.predict(params, IDS, LENGTHS, several=True)
    np.testing.assert_allclose(several, 1 / (1 + np.exp(-logits)), rtol=1e-5)


def test_dropout_is_keyed():
    params, options = _params(), Options(dropout=0.5, word_dropout=0.2)
    logits = [classifier.apply(params, IDS, LENGTHS, options, k) for k in (None, jax.random.key(1), jax.random.key(1))]
    chex.assert_trees_all_equal(logits[1], logits[2])
    assert not jnp.allclose(logits[0], logits[1])
    chex.assert_trees_all_equal(logits[0], classifier.apply(params, IDS, LENGTHS))


def test_predict_is_the_softmax():
    params = _params()
    found = classifier.predict(params, IDS, LENGTHS)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)
    chex.assert_trees_all_close(found, jax.nn.softmax(classifier.apply(params, IDS, LENGTHS)))


def test_it_learns_which_word_came_first():
    """The label is the first of 20 words: only the state carries it to the end."""
    rng = np.random.default_rng(0)
    ids = rng.integers(2, 10, (256, 20)).astype(np.int32)
    batch = Batch(ids, np.full(256, 20, np.int32), (ids[:, 0] % 2).astype(np.int32), np.ones(256, np.float32))
    options = Options("last")
    params = classifier.init(jax.random.key(0), 10, 2, embedding=8, hidden=16, bidirectional=False, pooling="last")
    optimizer = optax.adam(1e-2)
    state = train.init_state(params, optimizer, jax.random.key(0))

    step = jax.jit(
        train.make_step(lambda params, batch, key: classifier.loss(params, batch, options=options), optimizer)
    )
    for _ in range(300):
        state, report = step(state, batch)
    assert report.loss < 0.05


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda p: classifier.init(jax.random.key(0), 20, 3, pooling="sum"), ValueError, "pooling should be one of"),
        (lambda p: classifier.init(jax.random.key(0), 20, 3, cell="mgu"), ValueError, "cell should be one of"),
        (lambda p: classifier.init(jax.random.key(0), 20, 3, hidden=()), ValueError, "hidden"),
        (lambda p: classifier.init(jax.random.key(0), 0, 3), ValueError, "vocabulary"),
        (lambda p: classifier.init(jax.random.key(0), 20, 0), ValueError, "classes"),
        (lambda p: classifier.apply(p, IDS, LENGTHS, Options("attention")), ValueError, "no query"),
        (lambda p: classifier.apply(p, IDS, LENGTHS, Options("sum")), ValueError, "options.pooling"),
        (lambda p: classifier.apply(p, IDS, LENGTHS, Options(dropout=1.5)), ValueError, "options.dropout"),
        (lambda p: classifier.apply(p, IDS + 20, LENGTHS), ValueError, r"ids should lie in \[0, 20\)"),
        (lambda p: classifier.apply(p, IDS * 1.0, LENGTHS), TypeError, "ids should be an array of ints"),
        (lambda p: classifier.apply(p, IDS[0], LENGTHS), ValueError, r"ids should be \[B, T\]"),
        (lambda p: classifier.apply(p, IDS, LENGTHS + 1), ValueError, "lengths should lie in"),
        (lambda p: classifier.apply(p, IDS, LENGTHS[:2]), ValueError, "lengths should have"),
    ],
)
def test_refusals(call, kind, says):
    with pytest.raises(kind, match=says):
        call(_params())


def test_a_stack_of_pairs_is_what_init_says():
    params = _params()
    assert [type(layer) for layer in params.layers] == [Bidirectional, Bidirectional]
    assert params.layers[1].forward.w_x.shape == (12, 16)


def _equations(jaxpr):
    """All equations of a jaxpr, nested ones too."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            yield from _equations(inner)


@pytest.mark.parametrize(
    ("module", "sizes"),
    [(classifier, (9, 2)), (matcher, (9, 2)), (tagger, (9, 2)), (seq2seq, (9, 9)), (language_model, (9,))],
)
def test_a_width_of_words_that_is_none_is_named(module, sizes):
    with pytest.raises(TypeError, match="embedding should be an int of at least 1, got str '4'"):
        module.init(jax.random.key(0), *sizes, embedding="4")
