"""Models of pairs of texts: how near two are in meaning, and whether one follows from the other.

Both texts go through one encoder (siamese), written for one pair and batched with `jax.vmap`. Three heads:

- "manhattan": exp(-|u - v|_1) of the two encodings, a similarity in (0, 1] (Mueller and Thyagarajan 2016, eq. 4);
- "compare": a layer over u * v and |u - v| (Tai et al. 2015, section 4.2);
- "align": each word beside the words of the other text that it attends to, read by a second recurrent layer (ESIM: Chen
  et al. 2017, section 3).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lstmjax import checks
from lstmjax.layers import Linear, check_ids, dropout, init_embedding, init_linear, linear
from lstmjax.losses import cross_entropy
from lstmjax.models import bag, encoder
from lstmjax.models.bag import Pairs
from lstmjax.models.encoder import Options
from lstmjax.sequence import run

Array = jax.Array

HEADS = ("manhattan", "compare", "align")


class Params(NamedTuple):
    """Weights of a matcher of V words and K outputs."""

    embedding: Array  # [V, E]
    layers: tuple  # layers or Bidirectional pairs, from E features to H
    query: Array | None = None  # [H], for attention pooling
    project: Linear | None = None  # "align": [4H, F], of a word and what it is aligned with
    compose: tuple | None = None  # "align": layers from F features
    hidden: Linear | None = None  # of the head
    head: Linear | None = None  # [F, K]
    bag: Pairs | None = None  # a linear model of the words without their order, beside


class Text(NamedTuple):
    """A padded batch of sequences."""

    ids: Any  # int [B, T], or [B, T, F] as in `encoder.lookup`
    lengths: Any  # int [B]


class Batch(NamedTuple):
    """A padded batch of pairs. A label is a class, or for K = 1 a similarity in [0, 1]."""

    first: Text
    second: Text
    labels: Any  # int [B]; for targets as probabilities float [B, K]; for "manhattan" float [B]
    weights: Any  # float [B]; 0 leaves a pair out, 1 counts it


def init(
    key: Array,
    vocabulary: int,
    classes: int,
    *,
    head: str = "align",
    embedding: int = 64,
    hidden: int | tuple[int, ...] = 64,
    width: int = 64,
    bidirectional: bool = True,
    cell: str = "lstm",
    pooling: str = "max",
    words: int = 0,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Draw the weights.

    Args:
      key: PRNG key.
      vocabulary: V, padding (id 0) included.
      classes: K; 1 for "manhattan", whose similarity has no weights of its own.
      head: one of `HEADS`.
      embedding: E, features of a word.
      hidden: units of each layer of the encoder, and of each direction.
      width: F, units of the head, and of the second layer of "align".
      bidirectional, cell: of all layers, as in `encoder.init_layers`.
      pooling: as it will be in `Options`, for "manhattan" and "compare".
      words: if not 0, a linear model of the words without their order stands beside, of the ids below this; it begins
        with zeros, and `bag.fit_pairs` finds its weights. Not for "manhattan".

    Raises:
      TypeError, ValueError: naming the argument.

    >>> init(jax.random.key(0), vocabulary=100, classes=3, embedding=8, hidden=16, width=12).head.w.shape
    (12, 3)
    """
    checks.one_of("head", head, HEADS)
    parts = encoder.check_pooling("pooling", pooling)
    checks.key("key", key)
    classes, width = checks.size("classes", classes), checks.size("width", width)
    embedding = checks.size("embedding", embedding)
    if head == "manhattan" and classes != 1:
        raise ValueError(f'classes should be 1 for head = "manhattan", which gives one similarity, got {classes}')
    if checks.size("words", words, least=0) and head == "manhattan":
        raise ValueError(f'words should be 0 for head = "manhattan", whose similarity is no logit, got {words}')
    keys = jax.random.split(key, 7)
    how: dict[str, Any] = dict(bidirectional=bidirectional, cell=cell, dtype=dtype)
    layers, features = encoder.init_layers(
        jax.random.split(keys[1], len(encoder.widths_of(hidden))), embedding, hidden, **how
    )
    beside = bag.init_pairs(words, classes, dtype) if words else None
    params = Params(init_embedding(keys[0], vocabulary, embedding, dtype), layers, bag=beside)
    if head != "align":
        if "attention" in parts:
            params = params._replace(query=jax.random.normal(keys[2], (features,), dtype) * features**-0.5)
        features = encoder.pooled_features(pooling, features, embedding)
    if head == "manhattan":
        return params
    if head == "align":
        project = init_linear(keys[3], 4 * features, width, dtype)
        compose, composed = encoder.init_layers(keys[4:5], width, width, **how)
        params, features = params._replace(project=project, compose=compose), 2 * composed
    return params._replace(
        hidden=init_linear(keys[5], 2 * features, width, dtype), head=init_linear(keys[6], width, classes, dtype)
    )


def align(first: Array, second: Array, n: Array, m: Array) -> tuple[Array, Array, Array]:
    """What each word of one text attends to in the other.

        e_ij = a_i . b_j,   a~_i = sum_j softmax_j(e_ij) b_j,   b~_j = sum_i softmax_i(e_ij) a_i

    Args:
      first, second: outputs a [T, H] and b [S, H].
      n, m: int scalars, their lengths; what stands beyond is not read.

    Returns:
      a~ [T, H], b~ [S, H], and the weights softmax_j(e_ij) [T, S]; zeros where either text is empty.

    Raises:
      TypeError, ValueError: naming the argument.

    Reference: Chen et al. 2017, eqs. 11 to 13.

    >>> a, b = jnp.array([[2.0, 0]]), jnp.array([[1.0, 0], [1, 0], [9, 9]])
    >>> align(a, b, jnp.array(1), jnp.array(2))[0].tolist()
    [[1.0, 0.0]]
    """
    first, second = checks.as_float_array("first", first), checks.as_float_array("second", second)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"first and second should be [T, H] and [S, H] with one H, got shapes {first.shape} and {second.shape}"
        )
    rows, columns = jnp.arange(len(first)) < n, jnp.arange(len(second)) < m
    # Padding before the products: 0 * NaN in the backward pass would spoil the rest.
    first, second = jnp.where(rows[:, None], first, 0), jnp.where(columns[:, None], second, 0)
    scores = first @ second.T
    valid = rows[:, None] & columns[None]
    along, across = (_softmax(scores, valid, axis) for axis in (1, 0))
    return along @ second, across.T @ first, along


def _softmax(scores, valid, axis):
    """The softmax over the valid scores along an axis; zeros where none is."""
    scores = jnp.where(valid, scores, -jnp.inf)
    highest = jax.lax.stop_gradient(scores.max(axis, keepdims=True, initial=-1e30))
    weights = jnp.exp(scores - highest)
    return weights / jnp.maximum(weights.sum(axis, keepdims=True), jnp.finfo(weights.dtype).tiny)


def apply(
    params: Params, first: Text, second: Text, options: Options = Options(), key: Array | None = None, **how: Any
) -> Array:
    """The logits of a batch of pairs, [B, K]; for "manhattan" the similarities, [B, 1].

    With a linear part beside, the mean of its logits (`bag.pair_logits`) and those of the head.

    Args:
      first, second: ids int [B, T] or [B, T, F] and lengths int [B]; T may differ.
      options: pooling, and dropout if there is a key.
      key: PRNG key; None is deterministic.
      how: `backend` and `compute_dtype` for `run`.

    Raises:
      TypeError, ValueError: ids or lengths of another shape, dtype or range; a rate or pooling that is none.

    >>> params = init(jax.random.key(0), 100, 3)
    >>> one, two = Text(jnp.array([[5, 7, 0]]), jnp.array([2])), Text(jnp.array([[5, 9]]), jnp.array([2]))
    >>> apply(params, one, two).shape
    (1, 3)
    """
    parts = _outputs(params, first, second, options, key, **how)
    return parts[0] if len(parts) == 1 else (parts[0] + parts[1]) / 2


def _outputs(params, first, second, options, key, **how):
    """[B, K] of the head and, if there is one, of the linear part."""
    _check(params, first, second, options)
    if key is not None:
        checks.key("key", key)

    def one(a, n, b, m, key=None):
        return _pair(params, a, n, b, m, options, key, how)

    # Time first before the words are looked up, so that the core has its layout without moving [B, T, E] about.
    batch = (jnp.swapaxes(first.ids, 0, 1), first.lengths, jnp.swapaxes(second.ids, 0, 1), second.lengths)
    if key is None:
        found = jax.vmap(one, (1, 0, 1, 0))(*batch)
    else:
        found = jax.vmap(one, (1, 0, 1, 0, 0))(*batch, jax.random.split(key, len(first.ids)))
    if params.bag is None:
        return (found,)
    return found, jax.vmap(partial(bag.pair_logits, params.bag))(first.ids, first.lengths, second.ids, second.lengths)


def encode(params: Params, text: Text, options: Options = Options(), **how: Any) -> Array:
    """A batch of texts as vectors [B, H], for search.

    >>> params = init(jax.random.key(0), 100, 1, head="manhattan", hidden=16)
    >>> encode(params, Text(jnp.array([[5, 7, 0]]), jnp.array([2]))).shape
    (1, 32)
    """

    def one(ids, length):
        return encoder.encode(params.embedding, params.layers, params.query, ids, length, options, None, **how)

    return jax.vmap(one, (1, 0))(jnp.swapaxes(text.ids, 0, 1), text.lengths)


def similarity(u: Array, v: Array) -> Array:
    """exp(-|u - v|_1) over the last axis (Mueller and Thyagarajan 2016, eq. 4).

    >>> float(similarity(jnp.array([1.0, 2.0]), jnp.array([1.0, 2.0])))
    1.0
    """
    return jnp.exp(-jnp.abs(u - v).sum(-1))


def loss(params: Params, batch: Batch, key: Array | None = None, *, options: Options = Options(), **how: Any) -> Array:
    """The mean loss of a batch, by its weights; dropout if there is a key.

    The cross-entropy of the classes; of labels [B, K], probabilities, it is their cross-entropy too (Tai et al. 2015,
    eq. 17, but for a constant); of "manhattan" the squared error of the similarity. With a linear part, the mean of the
    losses of both.

    >>> params = init(jax.random.key(0), 100, 3)
    >>> text = Text(jnp.array([[5, 7]]), jnp.array([2]))
    >>> loss(params, Batch(text, text, jnp.array([1]), jnp.ones(1))).shape
    ()
    """
    parts = _outputs(params, batch.first, batch.second, options, key, **how)
    losses = [_loss(params, found, batch, options.smoothing) for found in parts]
    return losses[0] if len(losses) == 1 else (losses[0] + losses[1]) / 2


def _loss(params, found, batch, smoothing):
    if params.head is None:
        squares = (found[:, 0] - batch.labels) ** 2
        return (squares * batch.weights).sum() / jnp.maximum(batch.weights.sum(), 1)
    if jnp.ndim(batch.labels) == 2:
        losses = -(batch.labels * jax.nn.log_softmax(found)).sum(-1)
        return (losses * batch.weights).sum() / jnp.maximum(batch.weights.sum(), 1)
    return cross_entropy(found, batch.labels, batch.weights, smoothing=smoothing)


def spread_score(score: Any, classes: int, low: float = 1.0) -> Array:
    """A score as probabilities of the whole numbers low, low + 1, ... whose mean it is.

        p_i = score - floor(score) at i = floor(score) + 1,   1 - that at i = floor(score),   0 elsewhere

    Reference: Tai et al. 2015, eq. 16.

    >>> [round(float(p), 2) for p in spread_score(3.6, 5)]
    [0.0, 0.0, 0.4, 0.6, 0.0]
    """
    score = jnp.asarray(score, float)
    apart = score[..., None] - low - jnp.arange(classes, dtype=score.dtype).reshape((1,) * score.ndim + (-1,))
    return jnp.maximum(0, 1 - jnp.abs(apart))


def expected_score(probabilities: Array, low: float = 1.0) -> Array:
    """The mean of the whole numbers low, low + 1, ... under `probabilities` [..., K] (Tai et al. 2015, eq. 15).

    >>> round(float(expected_score(jnp.array([0.0, 0.0, 0.4, 0.6, 0.0]))), 4)
    3.6
    """
    probabilities = checks.as_float_array("probabilities", probabilities)
    return probabilities @ (low + jnp.arange(probabilities.shape[-1], dtype=probabilities.dtype))


def _pair(params, a, n, b, m, options, key, how):
    """The logits of one pair, [K]."""
    keys = [None] * 6 if key is None else jax.random.split(key, 6)
    if params.compose is None:
        u, v = (
            encoder.encode(params.embedding, params.layers, params.query, *text, options, k, **how)
            for text, k in (((a, n), keys[0]), ((b, m), keys[1]))
        )
        if params.head is None:
            return similarity(u, v)[None]
        return _head(params, jnp.concatenate([u * v, jnp.abs(u - v)]), jax.nn.sigmoid, options, keys[2])
    (a, _), (b, _) = (
        encoder.states(params.embedding, params.layers, *text, options, k, **how)
        for text, k in (((a, n), keys[0]), ((b, m), keys[1]))
    )
    a_aligned, b_aligned, _ = align(a, b, n, m)
    pooled = []
    for own, aligned, length, k in ((a, a_aligned, n, keys[3]), (b, b_aligned, m, keys[4])):
        both = jnp.concatenate([own, aligned, own - aligned, own * aligned], axis=-1)
        xs = dropout(k, options.dropout, jax.nn.relu(linear(params.project, both)))
        for layer in params.compose:
            _, xs = run(layer, xs, lengths=length, **how)
        pooled += [encoder.pool(None, pooling, xs, None, length) for pooling in ("mean", "max")]
    return _head(params, jnp.concatenate(pooled), jnp.tanh, options, keys[2])


def _head(params, features, activation, options, key):
    keys = (None, None) if key is None else jax.random.split(key)
    inside = activation(linear(params.hidden, dropout(keys[0], options.dropout, features)))
    return linear(params.head, dropout(keys[1], options.dropout, inside))


def _check(params, first, second, options):
    encoder.check_options(options, params.query)
    for name, text in (("first", first), ("second", second)):
        check_ids(f"{name}.ids", text.ids, len(params.embedding))
        if text.ids.ndim not in (2, 3):
            raise ValueError(f"{name}.ids should be [B, T] or [B, T, F], got shape {text.ids.shape}")
        checks.lengths(f"{name}.lengths", text.lengths, text.ids.shape[:1], text.ids.shape[1])
    if len(first.ids) != len(second.ids):
        raise ValueError(f"first and second should hold as many texts, got {len(first.ids)} and {len(second.ids)}")
