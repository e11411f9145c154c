"""Sequences to sequences, such as translation: an encoder, and a decoder that attends to what the encoder gave.

    h_t = LSTM([e_t; h~_{t-1}], h_{t-1}),   e_t the vector of token t - 1 of the target, h~ only where it is fed
    a_t = softmax_s(score(h_t, m_s)),   c_t = sum_s a_ts m_s,   m_s what the encoder gave at word s
    h~_t = tanh(W_c [c_t; h_t]),   p(token t) = softmax(W_s h~_t + b)

The id 0, which is padding elsewhere, stands before and behind a target: `END`. A batch trains time first, with its axis
within the loop over time; `encode` and `step` are written for one sequence, as `lstmjax.decoding` wants them.

References: Luong et al. 2015, sections 3.1 (scores "dot" and "general") and 3.3 (input feeding); Bahdanau et al. 2015,
section A.1.2 ("additive").
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lstmjax import checks, sequence
from lstmjax.cells.lstm import LSTMState
from lstmjax.cells.products import biased, state_dtype
from lstmjax.layers import check_ids, dropout, embed, init_embedding, init_linear, linear
from lstmjax.losses import cross_entropy
from lstmjax.models import attend, encoder
from lstmjax.models.attend import ATTENTIONS as ATTENTIONS
from lstmjax.models.attend import Attention as Attention
from lstmjax.models.attend import Memory as Memory
from lstmjax.models.encoder import Options

Array = jax.Array

END = 0


class Lexical(NamedTuple):
    """Weights of a shortcut from the source words attended to, to the target words (Nguyen and Chiang 2018, section 4):

    l_t = tanh(sum_s a_ts e_s),   logits_t += (tanh(l_t W) + l_t) W_l
    """

    hidden: Array  # W [E, E]
    out: Array  # W_l [E, V]


class Params(NamedTuple):
    """Weights of a model that reads U words and writes V. The first layer of the decoder has E inputs, or E + H where
    h~ is fed."""

    embedding: Array  # [U, E], of the source
    target: Array | None  # [V, E]; None: the source's
    encoder: tuple  # layers or Bidirectional pairs, from E features to F
    bridge: tuple  # of each layer of the decoder a Linear [F, 2H]: the state that it begins with
    decoder: tuple  # LSTMParams, the last of H units
    attention: Attention
    combine: Array  # W_c [F + H, H]
    bias: Array  # [V]
    out: Array | None = None  # W_s [H, V]; None: the vectors of the target words
    project: Array | None = None  # [H, E], before these where H is not E
    lexical: Lexical | None = None


class Batch(NamedTuple):
    """A padded batch of pairs. A target ends with `END`, which counts in its length; a length of 0 leaves it out."""

    source: Any  # int [B, S]
    source_lengths: Any  # int [B]
    target: Any  # int [B, T]
    target_lengths: Any  # int [B]


class State(NamedTuple):
    """Of the decoder, after a step."""

    layers: tuple  # LSTMState of each, in float32 or wider
    fed: Array  # h~ [H]; 0 before the first step
    attention: Array  # [S], that each word got so far, in float32 or wider


def init(
    key: Array,
    source: int,
    target: int | None,
    *,
    embedding: int = 64,
    hidden: int | tuple[int, ...] = 64,
    decoder: int | tuple[int, ...] = 64,
    attention: str = "general",
    feeding: bool = True,
    tied: bool = True,
    lexical: bool = False,
    bidirectional: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Draw the weights.

    Args:
      key: PRNG key.
      source: U, words that are read, padding (id 0) included.
      target: V, words that are written, `END` (id 0) included; None: those of the source, one table for both.
      embedding: E, features of a word.
      hidden: units of each layer of the encoder, and of each direction.
      decoder: units of each layer of the decoder.
      attention: one of `ATTENTIONS`; "dot" needs a last layer of the decoder as wide as the encoder's outputs.
      feeding: whether h~ goes into the next step.
      tied: whether the softmax has the vectors of the target words, by a projection where widths differ (Press and Wolf
        2017).
      lexical: whether there is a shortcut from source words to target words.
      bidirectional: whether each layer of the encoder is a pair of directions.

    Raises:
      TypeError, ValueError: naming the argument.

    >>> params = init(jax.random.key(0), 100, 80, embedding=8, hidden=16, decoder=(16, 24))
    >>> params.combine.shape, params.decoder[0].w_x.shape, params.project.shape
    ((56, 24), (32, 64), (24, 8))
    """
    checks.key("key", key)
    checks.one_of("attention", attention, ATTENTIONS)
    embedding = checks.size("embedding", embedding)
    source, target = checks.size("source", source), None if target is None else checks.size("target", target)
    flags = {"feeding": feeding, "tied": tied, "lexical": lexical, "bidirectional": bidirectional}
    feeding, tied, lexical, bidirectional = (checks.flag(name, given) for name, given in flags.items())
    keys, widths = jax.random.split(key, 12), encoder.widths_of(decoder, "decoder")
    last, dtype = widths[-1], checks.float_dtype("dtype", dtype)
    layers, features = encoder.init_layers(
        jax.random.split(keys[0], len(encoder.widths_of(hidden))),
        embedding,
        hidden,
        bidirectional=bidirectional,
        dtype=dtype,
    )
    if attention == "dot" and features != last:
        raise ValueError(
            f'attention = "dot" needs a decoder as wide as the outputs of the encoder, {features}, got {last}'
        )
    draw = partial(jax.nn.initializers.glorot_uniform(), dtype=dtype)
    of_scores = Attention()
    if attention != "dot":
        of_scores = of_scores._replace(keys=draw(keys[1], (features, last)))
    if attention == "additive":
        of_scores = of_scores._replace(query=draw(keys[2], (last, last)), v=draw(keys[3], (last, 1))[:, 0])
    stack, _ = encoder.init_layers(
        jax.random.split(keys[4], len(widths)),
        embedding + (last if feeding else 0),
        widths,
        bidirectional=False,
        dtype=dtype,
    )
    words = source if target is None else target
    return Params(
        init_embedding(keys[5], source, embedding, dtype),
        None if target is None else init_embedding(keys[6], target, embedding, dtype),
        layers,
        tuple(
            init_linear(k, features, 2 * width, dtype)
            for k, width in zip(jax.random.split(keys[7], len(widths)), widths, strict=True)
        ),
        stack,
        of_scores,
        draw(keys[8], (features + last, last)),
        jnp.zeros(words, dtype),
        None if tied else draw(keys[9], (last, words)),
        draw(keys[10], (last, embedding)) if tied and last != embedding else None,
        Lexical(*(draw(k, (embedding, n)) for k, n in zip(jax.random.split(keys[11]), (embedding, words), strict=True)))
        if lexical
        else None,
    )


def encode(
    params: Params, ids: Array, length: Array, options: Options = Options(), key: Array | None = None
) -> tuple[Memory, State]:
    """Read a source: what a decoder attends to, and the state that it begins with.

        h_0, c_0 = tanh(x_h), x_c,   [x_h; x_c] = B m + b,   m the last outputs of both directions

    Args:
      ids: int [S].
      length: int scalar, the words before padding.
      options: what is dropped, if there is a key.
      key: PRNG key; None is deterministic.

    Raises:
      TypeError, ValueError: naming the argument.

    >>> params = init(jax.random.key(0), 100, 80, hidden=16)
    >>> memory, state = encode(params, jnp.array([5, 7, 0]), jnp.array(2))
    >>> memory.values.shape, state.layers[0].h.shape
    ((3, 32), (64,))
    """
    _check_params(params, options)
    check_ids("ids", ids, len(params.embedding))
    if ids.ndim != 1:
        raise ValueError(f"ids should be [S], got shape {ids.shape}; map over a batch with vmap")
    length = checks.lengths("length", length, (), len(ids))
    if key is not None:
        checks.key("key", key)
    k_layers, k_values = (None, None) if key is None else jax.random.split(key)
    words = encoder.words(params.embedding, ids, options, k_layers)
    values, last = encoder.through(params.encoder, words, length, options, k_layers)
    end = encoder.pool(None, "last", values, last, length)
    begin, wide = [], state_dtype(values.dtype)
    for bridge in params.bridge:
        h, c = jnp.split(linear(bridge, end).astype(wide), 2)
        begin.append(LSTMState(jnp.tanh(h), c))
    values = dropout(k_values, options.dropout, values, shared=encoder.shared(options))
    keys = values if params.attention.keys is None else values @ params.attention.keys
    there = jnp.arange(len(ids), dtype=length.dtype) < length
    # Not -inf, of which the softmax of a source without words would be NaN.
    hidden = jnp.where(there, 0, jnp.finfo(values.dtype).min / 2).astype(values.dtype)
    state = State(tuple(begin), jnp.zeros(params.combine.shape[1], values.dtype), jnp.zeros(len(ids), wide))
    # What stands at padding is looked at where there are no words, and 0 * NaN would spoil the rest.
    named = None if params.lexical is None else jnp.where(there[:, None], words, 0)
    return Memory(values, keys, hidden, named), state


def step(params: Params, memory: Memory, state: State, token: Array) -> tuple[State, Array]:
    """One token of the target: the step of `lstmjax.decoding`, given `partial(step, params, memory)`.

    Args:
      memory, state: from `encode`, the state later from here.
      token: int scalar, the one before: `END` at the beginning.

    Returns:
      The state, and the logits [V] of the next token.

    Raises:
      TypeError, ValueError: params that are none, a token that is no int, or a concrete one outside [0, V); under
        tracing such a token gives NaN.

    >>> from lstmjax import decoding
    >>> params = init(jax.random.key(0), 100, 80, hidden=16)
    >>> memory, state = encode(params, jnp.array([5, 7, 0]), jnp.array(2))
    >>> decoding.greedy(partial(step, params, memory), state, start=END, end=END, steps=9).tokens.shape
    (9,)
    """
    _check_params(params)
    check_ids("token", token, len(_target(params)))
    if token.ndim:
        raise ValueError(f"token should be one int, got shape {token.shape}; map over a batch with vmap")
    x = embed(_target(params), token)
    if attend.feeds(params):
        layers, h, attention = attend.step(params, memory, state.layers, state.fed, x)
    else:
        layers, y = sequence.step(params.decoder, state.layers, x)
        h, attention = attend.look(params, memory, y)
    named = None if memory.words is None else attention @ memory.words
    attention = attention.astype(state.attention.dtype)
    return State(layers, h, state.attention + attention), _logits(params, h, named)


def apply(
    params: Params, batch: Batch, options: Options = Options(), key: Array | None = None, *, sampling: Any = 0.0
) -> Array:
    """The logits [B, T, V] of the target's tokens, each after those before it (teacher forcing).

    Args:
      batch: `Batch`.
      options: what is dropped, if there is a key; `pooling` is not used.
      key: PRNG key; None is deterministic.
      sampling: with a key, the share of tokens put in that are drawn from the model's own p, of a run before this one
        in which all are the target's; no gradient goes through the draw. 0 is teacher forcing.

    Raises:
      TypeError, ValueError: params, batch or options that are none; ids or lengths of another shape, dtype or range; a
        rate that is none.

    References: Bengio et al. 2015, section 2.4 (sampling); Duckworth et al. 2019, section 3 (of all steps at once, so
    that the softmax stays out of the loop).

    >>> params = init(jax.random.key(0), 100, 80)
    >>> apply(params, Batch(jnp.array([[5, 7]]), jnp.array([2]), jnp.array([[4, 9, END]]), jnp.array([3]))).shape
    (1, 3, 80)
    """
    return jnp.swapaxes(_teach(params, batch, options, key, sampling)[0], 0, 1)


def loss(
    params: Params, batch: Batch, key: Array | None = None, *, options: Options = Options(), sampling: Any = 0.0
) -> Array:
    """The mean of -log p over the tokens of all targets, `END` among them; arguments as in `apply`.

    Raises:
      TypeError, ValueError: as `apply`. TypeError: forward mode (`jax.jvp`) where h~ is fed, since the backward pass is
        written by hand.

    >>> params = init(jax.random.key(0), 100, 80)
    >>> loss(params, Batch(jnp.array([[5, 7]]), jnp.array([2]), jnp.array([[4, 9, END]]), jnp.array([3]))).shape
    ()
    """
    logits = _teach(params, batch, options, key, sampling)[0]
    labels, weights = jnp.swapaxes(batch.target, 0, 1), _there(batch).astype(logits.dtype)
    return cross_entropy(logits, labels, weights, smoothing=options.smoothing)


def log_p(params: Params, batch: Batch) -> Array:
    """log p [B] of each target, `END` included; under tracing a token out of range gives NaN.

    >>> params = init(jax.random.key(0), 100, 80)
    >>> log_p(params, Batch(jnp.array([[5, 7]]), jnp.array([2]), jnp.array([[4, END]]), jnp.array([2]))).shape
    (1,)
    """
    found = jax.nn.log_softmax(_teach(params, batch, Options(), None, 0.0)[0])
    labels = jnp.swapaxes(jnp.asarray(batch.target), 0, 1).astype(jnp.int32)
    of_tokens = jnp.take_along_axis(found, labels[..., None], -1)[..., 0]
    of_tokens = jnp.where((labels < 0) | (labels >= found.shape[-1]), jnp.nan, of_tokens)
    return jnp.where(_there(batch), of_tokens, 0).sum(0)


def attention(params: Params, batch: Batch) -> Array:
    """How much each token of the targets looks at each word of its source, [B, T, S]; arguments as in `apply`.

    >>> params = init(jax.random.key(0), 100, 80)
    >>> attention(params, Batch(jnp.array([[5, 7]]), jnp.array([2]), jnp.array([[4, END]]), jnp.array([2]))).shape
    (1, 2, 2)
    """
    return jnp.swapaxes(_teach(params, batch, Options(), None, 0.0)[1], 0, 1)


def _teach(params, batch, options, key, sampling):
    """Logits [T, B, V] and attention [T, B, S]: time first, as the core has it."""
    _check(params, batch, options)
    sampling = checks.rate("sampling", sampling)
    k_sampling = None
    if key is not None:
        checks.key("key", key)
        if not (isinstance(sampling, float) and sampling == 0):
            key, k_sampling = jax.random.split(key)  # only here, so that without sampling a key draws what it drew
    keys = None if key is None else jax.random.split(key, (2, len(batch.source)))
    k_encoder, k_decoder = (None, None) if keys is None else keys
    read = jax.vmap(lambda ids, n, key: encode(params, ids, n, options, key), (1, 0, None if key is None else 0))
    memory, state = read(jnp.swapaxes(batch.source, 0, 1), batch.source_lengths, k_encoder)
    targets = jnp.swapaxes(batch.target, 0, 1)
    inputs = jnp.concatenate([jnp.full_like(targets[:1], END), targets[:-1]])

    def decode(inputs):
        h, weights = _decode(params, memory, state, inputs, batch.target_lengths, options, k_decoder)
        named = None if memory.words is None else jnp.einsum("tbs,bse->tbe", weights, memory.words)
        return _logits(params, h, named), weights

    if k_sampling is not None:
        k_which, k_drawn = jax.random.split(k_sampling)
        drawn = jax.random.categorical(k_drawn, jax.lax.stop_gradient(decode(inputs)[0])).astype(inputs.dtype)
        own = jax.random.bernoulli(k_which, sampling, inputs[1:].shape)
        inputs = inputs.at[1:].set(jnp.where(own, drawn[:-1], inputs[1:]))
    return decode(inputs)


def _decode(params, memory, state, inputs, lengths, options, keys):
    """h~ [T, B, H], with dropout, and attention [T, B, S] of the tokens that are put in, int [T, B].

    Args:
      memory, state: with a leading axis B.
      keys: [B], or None.
    """
    of_keys = None if keys is None else 0
    if keys is None:
        k_words = k_layers = k_out = None
    else:
        k_words, k_layers, k_out = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 3))(keys), 1, 0)
    words = jax.vmap(lambda ids, key: encoder.words(_target(params), ids, options, key), (1, of_keys), 1)
    xs = words(inputs, k_words)
    if attend.feeds(params):
        h, attention = attend.over_time(params, memory, state.layers, state.fed, xs, options, k_layers)
    else:

        def one(memory, begin, xs, n, key):
            ys, _ = encoder.through(params.decoder, xs, n, options, key, begin)
            return jax.vmap(partial(attend.look, params, memory))(ys)

        h, attention = jax.vmap(one, (0, 0, 1, 0, of_keys), 1)(memory, state.layers, xs, lengths, k_layers)
    drop = jax.vmap(lambda h, key: dropout(key, options.dropout, h, shared=encoder.shared(options)), (1, of_keys), 1)
    return drop(h, k_out), attention


def _logits(params, h, named):
    """The logits [..., V] of h~ [..., H]; `named` is the mean of the source words attended to, [..., E]."""
    if params.project is not None:
        h = h @ params.project
    logits = biased(h @ (_target(params).T if params.out is None else params.out), params.bias)
    if named is None:
        return logits
    lexical = jnp.tanh(named)
    return logits + (jnp.tanh(lexical @ params.lexical.hidden) + lexical) @ params.lexical.out


def _target(params):
    return params.embedding if params.target is None else params.target


def _there(batch):
    """bool [T, B]: which tokens of the targets are no padding."""
    steps = jax.lax.broadcasted_iota(jnp.int32, batch.target.shape[::-1], 0)
    return steps < jnp.asarray(batch.target_lengths, jnp.int32)[None]


def _check_params(params, options=Options()):
    for name, given, kind in (("params", params, Params), ("options", options, Options)):
        if not isinstance(given, kind):
            raise TypeError(f"{name} should be {kind.__name__}({', '.join(kind._fields)}), got {checks.show(given)}")


def _check(params, batch, options):
    _check_params(params, options)
    if not isinstance(batch, Batch):
        raise TypeError(f"batch should be Batch({', '.join(Batch._fields)}), got {checks.show(batch)}")
    for name, ids, lengths, table in (
        ("source", batch.source, batch.source_lengths, params.embedding),
        ("target", batch.target, batch.target_lengths, _target(params)),
    ):
        check_ids(f"batch.{name}", ids, len(table))
        if ids.ndim != 2:
            raise ValueError(f"batch.{name} should be [B, T], got shape {ids.shape}")
        checks.lengths(f"batch.{name}_lengths", lengths, ids.shape[:1], ids.shape[1])
    if len(batch.source) != len(batch.target):
        raise ValueError(
            f"batch should hold as many sources as targets, got {len(batch.source)} and {len(batch.target)}"
        )
    for name in ("dropout", "word_dropout", "smoothing", "recurrent"):
        checks.rate(f"options.{name}", getattr(options, name))
    checks.flag("options.variational", options.variational)
