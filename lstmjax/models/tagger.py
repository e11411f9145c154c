"""A tagger: a label for every word, by recurrent layers and a chain of tags over them; of a predicate, or not.

A sentence with many predicates is read once by the layers below, and by those above once more for each predicate.

S sentences and B predicates of a batch (B = S where there are none), T words, E features of a word, H of the last layer
that reads a sentence once, M of a word before it is read for a predicate, K tags. Time first inside, since the chain of
tags wants all sequences of a batch at once.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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


class Frames(NamedTuple):
    """Weights that read a sentence for one of its predicates."""

    word: Linear  # [H, M]
    predicate: Array  # [H, M]
    marks: Array  # [2 R + 2, M]: how far a word is from the predicate, -R to R; row 0 where there is none
    layers: tuple  # layers or Bidirectional pairs, from M features
    highways: tuple | None = None  # one for each layer


class Params(NamedTuple):
    """Weights of a tagger of V words and K tags."""

    embedding: Array  # [V, E]
    layers: tuple  # layers or Bidirectional pairs, from E features to H
    head: Linear  # [H, K]; with `frames`, from what their last layer gives
    crf: CRF  # of K tags
    highways: tuple | None = None  # one for each layer
    frames: Frames | None = None  # None: there are no predicates


class Batch(NamedTuple):
    """A padded batch of tagged sequences."""

    ids: Any  # int [S, T], or [S, T, F] as in `encoder.lookup`; all jax or NumPy arrays
    lengths: Any  # int [S]
    predicates: Any  # int [B]: the word that is the predicate; -1 where none is marked
    tags: Any  # int [B, T]
    weights: Any  # float [B]; 0 leaves a row out, 1 counts it
    sentences: Any = None  # int [B]: whose predicate it is, in [0, S); None: each of its own


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
    above: int | tuple[int, ...] = 64,
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
      above: with predicates, units of each layer that reads for one of them, and of each direction; M is the first.

    Raises:
      TypeError, ValueError: naming the argument.

    >>> params = init(jax.random.key(0), vocabulary=100, tags=5, embedding=8, hidden=(16, 16), reach=3, above=12)
    >>> params.frames.marks.shape, params.head.w.shape
    ((8, 12), (24, 5))
    """
    checks.key("key", key)
    checks.one_of("directions", directions, DIRECTIONS)
    checks.flag("highway", highway)
    tags, reach = checks.size("tags", tags), checks.size("reach", reach, least=0)
    embedding = checks.size("embedding", embedding)
    k_embedding, k_head, k_crf, k_round, k_frames, k_above, *k_layers = jax.random.split(
        key, 6 + len(encoder.widths_of(hidden))
    )
    how = dict(directions=directions, cell=cell, highway=highway, dtype=dtype)
    layers, highways, features = _init_stack(k_layers, k_round, embedding, hidden, **how)
    frames = None
    if reach:
        width, *_ = widths = encoder.widths_of(above, "above")
        k_word, k_predicate, k_marks, k_round = jax.random.split(k_frames, 4)
        word = init_linear(k_word, features, width, dtype)
        predicate = init_linear(k_predicate, features, width, dtype).w
        marks = init_embedding(k_marks, 2 * reach + 2, width, dtype)
        *stack, features = _init_stack(jax.random.split(k_above, len(widths)), k_round, width, above, **how)
        frames = Frames(word, predicate, marks, *stack)
    return Params(
        init_embedding(k_embedding, vocabulary, embedding, dtype),
        layers,
        init_linear(k_head, features, tags, dtype),
        crf.init_crf(k_crf, tags, dtype),
        highways,
        frames,
    )


def emissions(
    params: Params,
    ids: Array,
    lengths: Array,
    predicates: Array | None = None,
    options: Options = Options(),
    key: Array | None = None,
    *,
    sentences: Array | None = None,
    **how: Any,
) -> Array:
    """The scores of the tags of each word, before the chain.

        x_t = embedding[id_t]
        y = layer(x);   with a highway  y = r o layer(x) + (1 - r) o W x,   r = sigmoid(W_r [x; layer(x)] + b_r)
        e_t = W y_t + b;   for a predicate p  e_t = W z_t + b,
        z = the layers above of tanh(W_1 y_t + W_2 y_p + marks[t - p] + b_1)

    The gate of a highway reads the layer's output, and not the h of the step before as in He et al. 2017, so that it
    stands outside the loop over time. The layers below are those of He et al. 2018, whom a predicate does not concern:
    they read a sentence once, however many it has.

    Args:
      ids: int [S, T], padded with anything in [0, V); or [S, T, F].
      lengths: int [S].
      predicates: int [B], the words p in [0, length) that are predicates, -1 where none is marked: then there is no
        y_p, and no distance. None where params have no frames.
      options: which way layers read, and dropout if there is a key.
      key: PRNG key; None is deterministic.
      sentences: int [B], the sentence in [0, S) of each predicate; None: each is of its own, and B = S.
      how: `backend` and `compute_dtype` for `run`.

    Returns:
      [T, B, K]; what stands past a length is of no account.

    Raises:
      TypeError, ValueError: naming the argument; concrete predicates outside [-1, length), which are as -1 when
        traced.

    References: Zhou and Xu 2015, section 3 (marks, alternating layers); He et al. 2017, section 2.2 (highways);
    Marcheggiani et al. 2017, section 3.2 (a word beside the predicate); He et al. 2018, section 3 (a sentence read
    once for all predicates).

    >>> params = init(jax.random.key(0), 100, 5)
    >>> emissions(params, jnp.array([[5, 7, 0], [8, 0, 0]]), jnp.array([2, 1])).shape
    (3, 2, 5)
    """
    _check(params, ids, lengths, predicates, options, key, sentences)
    k_words, k_inputs, k_layers, k_head = [None] * 4 if key is None else jax.random.split(key, 4)
    # Time first before the words are looked up, so that the core has its layout without moving [S, T, E] about.
    xs = _words(params.embedding, jnp.swapaxes(jnp.asarray(ids), 0, 1), options.word_dropout, k_words)
    lengths = jnp.asarray(lengths)
    drop = partial(dropout, rate=options.dropout, shared=(0,))
    ys = _stack(params, drop(k_inputs, x=xs), lengths, options, k_layers, **how)
    ys = drop(k_head, x=ys)
    if params.frames is not None:
        k_inputs, k_layers, k_head = [None] * 3 if key is None else jax.random.split(jax.random.fold_in(key, 4), 3)
        p = jnp.asarray(predicates).astype(jnp.int32)
        whose = jnp.arange(len(p), dtype=jnp.int32) if sentences is None else jnp.asarray(sentences)
        lengths = lengths[whose]
        zs = drop(k_inputs, x=_beside(params.frames, ys, p, whose, lengths))
        ys = _stack(params.frames, zs, lengths, options, k_layers, below=len(params.layers), **how)
        ys = drop(k_head, x=ys)
    return linear(params.head, ys)


def loss(
    params: Params,
    batch: Batch,
    key: Array | None = None,
    *,
    allowed: Allowed | None = None,
    options: Options = Options(),
    **how: Any,
) -> Array:
    """The mean over the rows of tags of a batch, by its weights, of -log p(tags); dropout if there is a key.

    Args:
      allowed: which tags may follow which (`crf.bio`); None: any.

    >>> params = init(jax.random.key(0), 100, 3)
    >>> batch = Batch(jnp.array([[5, 7]]), jnp.array([2]), jnp.array([-1]), jnp.array([[1, 2]]), jnp.ones(1))
    >>> loss(params, batch).shape
    ()
    """
    marked = None if params.frames is None else batch.predicates
    scores = emissions(params, batch.ids, batch.lengths, marked, options, key, sentences=batch.sentences, **how)
    tags, weights = jnp.swapaxes(jnp.asarray(batch.tags), 0, 1), checks.as_float_array("batch.weights", batch.weights)
    if weights.shape != scores.shape[1:2]:
        raise ValueError(f"batch.weights should be [B] with B = {scores.shape[1]}, got shape {weights.shape}")
    lengths = lengths_of(jnp.asarray(batch.lengths), batch.sentences)
    log_p = crf.log_likelihood(chain(params, allowed), scores, tags, lengths)
    # A row that does not count may hold what is not allowed.
    counts = weights > 0
    log_p, weights = jnp.where(counts, log_p, 0), jnp.where(counts, weights, 0)
    return -(weights * log_p).sum() / jnp.where(counts.any(), weights.sum(), 1)


def predict(
    params: Params,
    ids: Array,
    lengths: Array,
    predicates: Array | None = None,
    *,
    allowed: Allowed | None = None,
    options: Options = Options(),
    sentences: Array | None = None,
    **how: Any,
) -> Array:
    """The likeliest tags of each sequence, or of each predicate: arguments as of `emissions`.

    Returns:
      int32 [B, T], -1 past the length.

    >>> params = init(jax.random.key(0), 100, 3)
    >>> predict(params, jnp.array([[5, 7]]), jnp.array([1])).shape
    (1, 2)
    """
    scores = emissions(params, ids, lengths, predicates, options, sentences=sentences, **how)
    return jnp.swapaxes(
        crf.viterbi(chain(params, allowed), scores, lengths_of(jnp.asarray(lengths), sentences))[0], 0, 1
    )


def chain(params: Params, allowed: Allowed | None) -> CRF:
    """The chain of tags, with what is not allowed forbidden."""
    return params.crf if allowed is None else crf.constrain(params.crf, allowed)


def lengths_of(lengths: Any, sentences: Any = None) -> Any:
    """The length of each row of tags [B], of the lengths [S] of sentences."""
    return lengths if sentences is None else lengths[sentences]


def _init_stack(keys, k_round, inputs, hidden, *, directions, cell, highway, dtype):
    """Layers, their highways or None, and how many features come out."""
    pairs = directions == "both"
    layers, features = encoder.init_layers(keys, inputs, hidden, bidirectional=pairs, cell=cell, dtype=dtype)
    if not highway:
        return layers, None, features
    outputs = [(2 if pairs else 1) * width for width in encoder.widths_of(hidden)]
    drawn = []
    for k, d, h in zip(jax.random.split(k_round, len(outputs)), [inputs, *outputs[:-1]], outputs, strict=True):
        k_gate, k_carry = jax.random.split(k)
        drawn.append(Highway(init_linear(k_gate, d + h, h, dtype), init_linear(k_carry, d, h, dtype)))
    return layers, tuple(drawn), features


def _stack(params, xs, lengths, options, key, *, below=0, **how):
    """What layers, with ways round them or without, make of [T, B, D]; so many layers are below the first."""
    regularisers = None if key is None else Regularisers(recurrent=options.recurrent)
    for n, layer in enumerate(params.layers):
        k_between, k_within = (None, None) if key is None else jax.random.split(jax.random.fold_in(key, n))
        if n:
            xs = dropout(k_between, options.dropout, xs, shared=(0,))
        back = options.directions == "alternating" and (below + n) % 2 == 1
        _, ys = run(layer, xs, lengths=lengths, reverse=back, regularisers=regularisers, key=k_within, **how)
        if params.highways is not None:
            gate, carry = params.highways[n]
            r = jax.nn.sigmoid(linear(gate, jnp.concatenate([xs, ys], -1)))
            ys = r * ys + (1 - r) * linear(carry, xs)
        xs = ys
    return xs


def _beside(frames, ys, p, whose, lengths):
    """Each word [T, S, H] of sentences beside a predicate p [B] of the sentence it is of: [T, B, M]."""
    there = (p >= 0) & (p < lengths.astype(jnp.int32))
    far = len(frames.marks) // 2 - 1
    t = jnp.arange(len(ys), dtype=jnp.int32)[:, None]
    rows = jnp.where(there[None], jnp.clip(t - p[None], -far, far) + far + 1, 0)
    at = jnp.where(there[:, None], ys[jnp.where(there, p, 0), whose] @ frames.predicate, 0)
    # The product of a word is one of its sentence, and that of a predicate one of the predicate.
    return jnp.tanh(linear(frames.word, ys)[:, whose] + at[None] + frames.marks[rows])


def _words(embedding, ids, rate, key):
    """The vectors [T, B, E] of words [T, B] or [T, B, F], some of them unknown if there is a key."""
    if key is not None and not (isinstance(rate, float | int) and rate == 0):
        gone = jax.random.bernoulli(key, rate, ids.shape[:2])
        unknown = jnp.full_like(ids, encoder.UNK) if ids.ndim == 2 else jnp.zeros_like(ids).at[..., 0].set(encoder.UNK)
        ids = jnp.where(gone.reshape(gone.shape + (1,) * (ids.ndim - 2)), unknown, ids)
    return jax.vmap(partial(encoder.lookup, embedding))(ids)


def _check(params, ids, lengths, predicates, options, key, sentences):
    for name, given, kind in (("params", params, Params), ("options", options, Options)):
        if type(given) is not kind:
            raise TypeError(f"{name} should be {kind.__name__}, got {checks.show(given)}")
    checks.one_of("options.directions", options.directions, DIRECTIONS)
    for name in ("dropout", "word_dropout", "recurrent"):
        checks.rate(f"options.{name}", getattr(options, name))
    if key is not None:
        checks.key("key", key)
    check_ids("ids", ids, len(params.embedding))
    if ids.ndim not in (2, 3):
        raise ValueError(f"ids should be [S, T] or [S, T, F], got shape {ids.shape}")
    checks.lengths("lengths", lengths, ids.shape[:1], ids.shape[1])
    if (params.frames is None) != (predicates is None):
        has = "no frames" if params.frames is None else "frames"
        raise ValueError(f"predicates are {checks.show(predicates)}, but params have {has}: see reach of init")
    if predicates is None:
        if sentences is not None:
            raise ValueError("sentences say whose predicates there are, and there are none: expected None")
        return
    for name, given in (("predicates", predicates), ("sentences", sentences)):
        if given is None:
            continue
        if not checks.is_array(given) or not jnp.issubdtype(given.dtype, jnp.integer):
            raise TypeError(f"{name} should be an array of ints, got {checks.show(given)}")
    if sentences is None:
        if predicates.shape != ids.shape[:1]:
            raise ValueError(
                f"predicates should be [B] = {ids.shape[:1]} where no sentences are given, got shape {predicates.shape}"
            )
    elif predicates.ndim != 1 or sentences.shape != predicates.shape:
        raise ValueError(
            f"predicates and sentences should both be [B], got shapes {predicates.shape} and {sentences.shape}"
        )
    else:
        check_ids("sentences", sentences, len(ids))
    if all(map(checks.is_concrete, (predicates, lengths, sentences if sentences is not None else 0))):
        most = np.asarray(lengths_of(np.asarray(lengths), None if sentences is None else np.asarray(sentences)))
        wrong = np.flatnonzero((np.asarray(predicates) < -1) | (np.asarray(predicates) >= np.maximum(most, 0)))
        if len(wrong):
            n = wrong[0]
            raise ValueError(
                f"predicates should be words of their sentences, or -1, got {predicates[n]} where there are {most[n]}"
            )
