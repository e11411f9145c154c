"""A tagger: a label for every word, by recurrent layers and a chain of tags over them; aware of a predicate, or not.

B batch, T words, E features of a word, H of the last layer, K tags. Time first inside, since the chain of tags wants
all sequences of a batch at once.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lstmjax import checks, crf
from lstmjax.crf import CRF, Allowed
from lstmjax.layers import Linear, check_ids, dropout, init_embedding, init_linear, linear
from lstmjax.models import encoder
from lstmjax.regularise import Regularisers
from lstmjax.sequence import run

Array = jax.Array

DIRECTIONS = ("both", "alternating")


class Options(NamedTuple):
    """What is not in the weights: which way layers read, and what is dropped in training (when a key is given)."""

    directions: str = "both"  # or "alternating": layers of one direction, the second backward, the third forward
    dropout: float = 0.0  # of the embedded words, between layers, and of what the head sees; the same at every word
    word_dropout: float = 0.0  # of whole words, which become unknown
    recurrent: float = 0.0  # of h where it meets w_h, the same features at every step


class Highway(NamedTuple):
    """A way round a layer of D inputs and H outputs."""

    gate: Linear  # [D + H, H]
    carry: Linear  # [D, H]


class Params(NamedTuple):
    """Weights of a tagger of V words and K tags."""

    embedding: Array  # [V, E]
    layers: tuple  # layers or Bidirectional pairs, from E features to H
    head: Linear  # [H, K]; with `marks`, [M, K]
    crf: CRF  # of K tags
    highways: tuple | None = None  # one for each layer
    marks: Array | None = None  # [2 R + 2, E]: how far a word is from the predicate, -R to R; row 0 where there is none
    join: Linear | None = None  # [2 H, M], with `marks`: a word and the predicate


class Batch(NamedTuple):
    """A padded batch of tagged sequences."""

    ids: Any  # int [B, T], or [B, T, F] as in `encoder.lookup`; all jax or NumPy arrays
    lengths: Any  # int [B]
    predicates: Any  # int [B]: the word that is the predicate; -1 where none is marked
    tags: Any  # int [B, T]
    weights: Any  # float [B]; 0 leaves a row out, 1 counts it


def init(
    key: Array,
    vocabulary: int,
    tags: int,
    *,
    embedding: int = 64,
    hidden: int | tuple[int, ...] = 64,
    directions: str = "both",
    cell: str = "lstm",
    highway: bool = False,
    reach: int = 0,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Draw the weights.

    Args:
      key: PRNG key.
      vocabulary: V, padding (id 0) included.
      tags: K.
      embedding: E, features of a word.
      hidden: units of each layer, and of each direction.
      directions: "both", or "alternating" as in `Options`.
      cell: "lstm", "gru" or "rnn".
      highway: whether each layer has a way round it.
      reach: R; 0 is a tagger without predicates. Words further from the predicate than R count as R away.

    Raises:
      TypeError, ValueError: naming the argument.

    >>> params = init(jax.random.key(0), vocabulary=100, tags=5, embedding=8, hidden=(16, 16), reach=3)
    >>> params.marks.shape, params.head.w.shape
    ((8, 8), (32, 5))
    """
    checks.key("key", key)
    checks.one_of("directions", directions, DIRECTIONS)
    checks.flag("highway", highway)
    tags, reach = checks.size("tags", tags), checks.size("reach", reach, least=0)
    embedding = checks.size("embedding", embedding)
    k_embedding, k_head, k_crf, k_round, k_marks, k_join, *k_layers = jax.random.split(
        key, 6 + len(encoder.widths_of(hidden))
    )
    pairs = directions == "both"
    layers, features = encoder.init_layers(k_layers, embedding, hidden, bidirectional=pairs, cell=cell, dtype=dtype)
    outputs = [(2 if pairs else 1) * width for width in encoder.widths_of(hidden)]
    highways = None
    if highway:
        inputs = [embedding, *outputs]
        drawn = []
        for k, d, h in zip(jax.random.split(k_round, len(outputs)), inputs[:-1], outputs, strict=True):
            k_gate, k_carry = jax.random.split(k)
            drawn.append(Highway(init_linear(k_gate, d + h, h, dtype), init_linear(k_carry, d, h, dtype)))
        highways = tuple(drawn)
    return Params(
        init_embedding(k_embedding, vocabulary, embedding, dtype),
        layers,
        init_linear(k_head, features, tags, dtype),
        crf.init_crf(k_crf, tags, dtype),
        highways,
        init_embedding(k_marks, 2 * reach + 2, embedding, dtype) if reach else None,
        init_linear(k_join, 2 * features, features, dtype) if reach else None,
    )


def emissions(
    params: Params,
    ids: Array,
    lengths: Array,
    predicates: Array | None = None,
    options: Options = Options(),
    key: Array | None = None,
    **how: Any,
) -> Array:
    """The scores of the tags of each word, before the chain.

        x_t = embedding[id_t] + marks[t - p]
        y = layer(x);   with a highway  y = r o layer(x) + (1 - r) o W x,   r = sigmoid(W_r [x; layer(x)] + b_r)
        e_t = W tanh(W_j [y_t; y_p] + b_j) + b;   without predicates  e_t = W y_t + b

    The gate of a highway reads the layer's output, and not the h of the step before as in He et al. 2017, so that it
    stands outside the loop over time.

    Args:
      ids: int [B, T], padded with anything in [0, V); or [B, T, F].
      lengths: int [B].
      predicates: int [B], the word p of each sequence that is its predicate, -1 where none is marked: then there is no
        y_p, and no mark. None where params have no marks.
      options: which way layers read, and dropout if there is a key.
      key: PRNG key; None is deterministic.
      how: `backend` and `compute_dtype` for `run`.

    Returns:
      [T, B, K]; what stands past a length is of no account.

    Raises:
      TypeError, ValueError: naming the argument.

    References: Zhou and Xu 2015, section 3 (marks, alternating layers); He et al. 2017, section 2.2 (highways);
    Marcheggiani et al. 2017, section 3.2 (a word beside the predicate).

    >>> params = init(jax.random.key(0), 100, 5)
    >>> emissions(params, jnp.array([[5, 7, 0], [8, 0, 0]]), jnp.array([2, 1])).shape
    (3, 2, 5)
    """
    _check(params, ids, lengths, predicates, options, key)
    keys: Any = [None] * 4 if key is None else jax.random.split(key, 4)
    k_words, k_marks, k_layers, k_head = keys
    # Time first before the words are looked up, so that the core has its layout without moving [B, T, E] about.
    xs = _words(params.embedding, jnp.swapaxes(jnp.asarray(ids), 0, 1), options.word_dropout, k_words)
    lengths = jnp.asarray(lengths)
    if params.marks is not None:
        p = jnp.asarray(predicates).astype(jnp.int32)
        there = (p >= 0) & (p < lengths.astype(jnp.int32))
        far = len(params.marks) // 2 - 1
        t = jnp.arange(len(xs), dtype=jnp.int32)[:, None]
        rows = jnp.where(there[None], jnp.clip(t - p[None], -far, far) + far + 1, 0)
        xs = xs + params.marks[rows]
    drop = partial(dropout, rate=options.dropout, shared=(0,))
    xs = drop(k_marks, x=xs)
    regularisers = None if key is None else Regularisers(recurrent=options.recurrent)
    for n, layer in enumerate(params.layers):
        k_between, k_within = (None, None) if k_layers is None else jax.random.split(jax.random.fold_in(k_layers, n))
        if n:
            xs = drop(k_between, x=xs)
        back = options.directions == "alternating" and n % 2 == 1
        _, ys = run(layer, xs, lengths=lengths, reverse=back, regularisers=regularisers, key=k_within, **how)
        if params.highways is not None:
            gate, carry = params.highways[n]
            r = jax.nn.sigmoid(linear(gate, jnp.concatenate([xs, ys], -1)))
            ys = r * ys + (1 - r) * linear(carry, xs)
        xs = ys
    xs = drop(k_head, x=xs)
    if params.join is not None:
        at = xs[jnp.where(there, p, 0), jnp.arange(xs.shape[1])]
        at = jnp.where(there[:, None], at, 0)
        # W [y_t; y_p] in its two halves: the second is one product a sequence, not one a word.
        h = xs.shape[-1]
        both = xs @ params.join.w[:h] + (at @ params.join.w[h:] + params.join.b[None])[None]
        xs = jnp.tanh(both)
    return linear(params.head, xs)


def loss(
    params: Params,
    batch: Batch,
    key: Array | None = None,
    *,
    allowed: Allowed | None = None,
    options: Options = Options(),
    **how: Any,
) -> Array:
    """The mean over the sequences of a batch, by its weights, of -log p(tags); dropout if there is a key.

    Args:
      allowed: which tags may follow which (`crf.bio`); None: any.

    >>> params = init(jax.random.key(0), 100, 3)
    >>> batch = Batch(jnp.array([[5, 7]]), jnp.array([2]), jnp.array([-1]), jnp.array([[1, 2]]), jnp.ones(1))
    >>> loss(params, batch).shape
    ()
    """
    marked = None if params.marks is None else batch.predicates
    scores = emissions(params, batch.ids, batch.lengths, marked, options, key, **how)
    tags, weights = jnp.swapaxes(jnp.asarray(batch.tags), 0, 1), jnp.asarray(batch.weights)
    log_p = crf.log_likelihood(chain(params, allowed), scores, tags, batch.lengths)
    # A row that does not count may hold what is not allowed.
    log_p = jnp.where(weights > 0, log_p, 0)
    return -(weights * log_p).sum() / jnp.maximum(weights.sum(), 1e-9)


def predict(
    params: Params,
    ids: Array,
    lengths: Array,
    predicates: Array | None = None,
    *,
    allowed: Allowed | None = None,
    options: Options = Options(),
    **how: Any,
) -> Array:
    """The likeliest tags of each sequence.

    Returns:
      int32 [B, T], -1 past the length.

    >>> params = init(jax.random.key(0), 100, 3)
    >>> predict(params, jnp.array([[5, 7]]), jnp.array([1])).shape
    (1, 2)
    """
    scores = emissions(params, ids, lengths, predicates, options, **how)
    return jnp.swapaxes(crf.viterbi(chain(params, allowed), scores, lengths)[0], 0, 1)


def chain(params: Params, allowed: Allowed | None) -> CRF:
    """The chain of tags, with what is not allowed forbidden."""
    return params.crf if allowed is None else crf.constrain(params.crf, allowed)


def _words(embedding, ids, rate, key):
    """The vectors [T, B, E] of words [T, B] or [T, B, F], some of them unknown if there is a key."""
    if key is not None and rate > 0:
        gone = jax.random.bernoulli(key, rate, ids.shape[:2])
        unknown = jnp.full_like(ids, encoder.UNK) if ids.ndim == 2 else jnp.zeros_like(ids).at[..., 0].set(encoder.UNK)
        ids = jnp.where(gone.reshape(gone.shape + (1,) * (ids.ndim - 2)), unknown, ids)
    return jax.vmap(partial(encoder.lookup, embedding))(ids)


def _check(params, ids, lengths, predicates, options, key):
    checks.one_of("options.directions", options.directions, DIRECTIONS)
    for name in ("dropout", "word_dropout", "recurrent"):
        checks.rate(f"options.{name}", getattr(options, name))
    if key is not None:
        checks.key("key", key)
    check_ids("ids", ids, len(params.embedding))
    if ids.ndim not in (2, 3):
        raise ValueError(f"ids should be [B, T] or [B, T, F], got shape {ids.shape}")
    checks.lengths("lengths", lengths, ids.shape[:1], ids.shape[1])
    if (params.marks is None) != (predicates is None):
        has = "no marks for" if params.marks is None else "marks for"
        raise ValueError(f"predicates are {checks.show(predicates)}, but params have {has} them: see reach of init")
    if predicates is not None:
        if not checks.is_array(predicates) or not jnp.issubdtype(predicates.dtype, jnp.integer):
            raise TypeError(f"predicates should be an array of ints, got {checks.show(predicates)}")
        if predicates.shape != ids.shape[:1]:
            raise ValueError(f"predicates should be [B] = {ids.shape[:1]}, got shape {predicates.shape}")
