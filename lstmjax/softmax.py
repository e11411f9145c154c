"""The last layer over a large vocabulary: what a target costs in nats, by all words, by a sample of them, or by a tree
that is two levels deep.

Words are numbered by falling frequency, as `text.Vocabulary.count` does it: the sample and the tree count on that.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lstmjax import checks, varying
from lstmjax.layers import Linear, check_ids, init_linear, linear

Array = jax.Array

ROWS = 128  # rows of a tail that are computed at once


class Negatives(NamedTuple):
    """Words that stand for all the others, drawn once for a whole batch."""

    ids: Array  # int32 [S], each once
    log_counts: Array  # [V], of each word: log of how often it is expected among them


class Tail(NamedTuple):
    """Weights of rare words: a product of two matrices, the narrower the rarer they are."""

    narrow: Array  # [H, N]
    words: Array  # [N, V_i]


class Adaptive(NamedTuple):
    """Weights of an adaptive softmax over V words in n tails and a head."""

    head: Linear  # [H, V_0 + n]: the frequent words, then one column for each tail
    tails: tuple  # of `Tail`, n


def surprisal(logits: Array, targets: Array) -> Array:
    """-log p of each target.

        log sum over w of exp(logits_w) - logits_target

    Args:
      logits: [..., V].
      targets: int [...].

    Returns:
      [...], in nats.

    Raises:
      TypeError, ValueError: naming the argument; under tracing a target outside [0, V) gives NaN.

    >>> surprisal(jnp.zeros((2, 4)), jnp.array([0, 3])).round(4)
    Array([1.3863, 1.3863], dtype=float32)
    """
    logits = checks.as_float_array("logits", logits)
    targets = _checked_targets(targets, logits.shape[:-1], logits.shape[-1])
    return jax.nn.logsumexp(logits, -1) - _at(logits, targets)


def draw_negatives(key: Array, classes: int, samples: int) -> Negatives:
    """S of V words, drawn without putting back from a log-uniform distribution, which is near that of words by rank.

        p_k = log((k + 2) / (k + 1)) / log(V + 1),   a_k = e_k / p_k with e_k ~ Exp(1)

    The words with the S least a_k are taken. Given the next one, a, word k is among them with 1 - exp(-p_k a), which is
    its expected count; so a sum over them, each divided by its count, is the sum over all words in the mean.

    Args:
      key: PRNG key.
      classes: V.
      samples: S; from V on all words are taken, each with a count of 1.

    Raises:
      TypeError, ValueError: naming the argument.

    References: Jean et al. 2015, section 3 (a sample for the softmax); Cohen and Kaplan 2008, section 3 (the counts).

    >>> negatives = draw_negatives(jax.random.key(0), 1000, 10)
    >>> negatives.ids.shape, negatives.log_counts.shape
    ((10,), (1000,))
    """
    checks.key("key", key)
    classes, samples = checks.size("classes", classes), checks.size("samples", samples)
    if samples >= classes:
        return Negatives(jnp.arange(classes, dtype=jnp.int32), jnp.zeros(classes))
    rank = jnp.arange(classes, dtype=jnp.float32)
    p = jnp.log1p(1 / (rank + 1)) / jnp.log(jnp.float32(classes + 1))
    arrival = jax.random.exponential(key, (classes,), jnp.float32) / p
    least, ids = jax.lax.top_k(-arrival, samples + 1)
    return Negatives(ids[:-1].astype(jnp.int32), jnp.log(-jnp.expm1(least[-1] * p)))


def sampled_surprisal(h: Array, w: Array, b: Array, targets: Array, negatives: Negatives) -> Array:
    """An estimate of -log p of each target, from a sample of the other words.

        s_k = w_k . h + b_k - log count_k,   -s_target + log(exp(s_target) + sum over negatives k != target of exp(s_k))

    The target is corrected as the others are: it would be too likely among those that stand here by chance. So its
    least value over a text is near the logits whose softmax is right, also with few negatives; with all words as
    negatives it is `surprisal`.

    Args:
      h: [..., H].
      w, b: [V, H] and [V].
      targets: int [...].
      negatives: see `draw_negatives`; one that is the target of a row is left out in that row.

    Returns:
      [...], in nats. For training only: its value depends on the sample.

    Raises:
      TypeError, ValueError: naming the argument; under tracing a target outside [0, V) gives NaN.

    Reference: Jean et al. 2015, eqs. 6 to 9.

    >>> all_four = draw_negatives(jax.random.key(0), 4, 4)
    >>> sampled_surprisal(jnp.ones((1, 2)), jnp.zeros((4, 2)), jnp.zeros(4), jnp.array([3]), all_four).round(4)
    Array([1.3863], dtype=float32)
    """
    h, w, b = (checks.as_float_array(name, array) for name, array in (("h", h), ("w", w), ("b", b)))
    if w.ndim != 2 or h.shape[-1:] != w.shape[1:] or b.shape != w.shape[:1]:
        raise ValueError(
            f"h, w and b should be [..., H], [V, H] and [V], got shapes {h.shape}, {w.shape} and {b.shape}"
        )
    if type(negatives) is not Negatives or negatives.log_counts.shape != b.shape:
        raise TypeError(f"negatives should be Negatives of {len(w)} words, got {checks.show(negatives)}")
    check_ids("negatives.ids", negatives.ids, len(w))
    targets = _checked_targets(targets, h.shape[:-1], len(w))
    bias = b - negatives.log_counts.astype(b.dtype)
    true = (h * w[targets]).sum(-1) + bias[targets]
    others = h @ w[negatives.ids].T + jnp.expand_dims(bias[negatives.ids], range(h.ndim - 1))
    hit = targets[..., None] == jnp.expand_dims(negatives.ids.astype(targets.dtype), range(targets.ndim))
    others = jnp.where(hit, -jnp.inf, others)
    # Not `logsumexp` of both side by side, which would copy the widest array there is.
    top = jax.lax.stop_gradient(jnp.maximum(true, others.max(-1)))
    found = jnp.log(jnp.exp(true - top) + jnp.exp(others - top[..., None]).sum(-1)) + top - true
    return jnp.where((targets < 0) | (targets >= len(w)), jnp.nan, found)


def init_adaptive(
    key: Array, inputs: int, classes: int, cutoffs: Sequence[int], dtype: DTypeLike = jnp.float32
) -> Adaptive:
    """Glorot-uniform weights; tail i, counted from 1, is H / 4**i wide.

    Args:
      inputs: H.
      classes: V.
      cutoffs: rising, in (0, V): the words before the first have columns of the head, and each begins a tail.

    Raises:
      TypeError, ValueError: naming the argument.

    >>> params = init_adaptive(jax.random.key(0), 16, 1000, (100, 400))
    >>> params.head.w.shape, [tail.words.shape for tail in params.tails]
    ((16, 102), [(4, 300), (1, 600)])
    """
    checks.key("key", key)
    inputs, classes = checks.size("inputs", inputs), checks.size("classes", classes)
    given = tuple(checks.size("cutoffs", cut) for cut in cutoffs)
    bounds = (*given, classes)
    if not given or any(low >= high for low, high in pairwise(bounds)):
        raise ValueError(f"cutoffs should rise and lie in (0, {classes}), got {list(cutoffs)}")
    dtype, draw = checks.float_dtype("dtype", dtype), jax.nn.initializers.glorot_uniform()
    k_head, *keys = jax.random.split(key, 1 + len(given))
    tails = []
    for i, (k_tail, (low, high)) in enumerate(zip(keys, pairwise(bounds), strict=True), start=1):
        width, (one, two) = max(1, inputs // 4**i), jax.random.split(k_tail)
        tails.append(Tail(draw(one, (inputs, width), dtype), draw(two, (width, high - low), dtype)))
    return Adaptive(init_linear(k_head, inputs, given[0] + len(given), dtype), tuple(tails))


def adaptive_log_p(params: Adaptive, h: Array) -> Array:
    """log p of all words: of those in a tail, that of the tail plus that within it.

    Args:
      h: [..., H].

    Returns:
      [..., V].

    Reference: Grave et al. 2017 (Efficient softmax approximation for GPUs), section 4.

    >>> params = init_adaptive(jax.random.key(0), 16, 1000, (100, 400))
    >>> float(jnp.exp(adaptive_log_p(params, jnp.ones(16))).sum().round(3))
    1.0
    """
    frequent, first = _frequent(params), jax.nn.log_softmax(linear(params.head, h))
    parts = [first[..., :frequent]]
    for i, tail in enumerate(params.tails):
        parts.append(first[..., frequent + i, None] + jax.nn.log_softmax(h @ tail.narrow @ tail.words))
    return jnp.concatenate(parts, -1)


def adaptive_surprisal(params: Adaptive, h: Array, targets: Array) -> Array:
    """-log p of each target, where a tail is computed for the rows with a target in it and no others.

    Args:
      h: [..., H].
      targets: int [...].

    Returns:
      [...], in nats; exactly those of `adaptive_log_p`.

    Raises:
      TypeError, ValueError: naming the argument.

    >>> params = init_adaptive(jax.random.key(0), 16, 1000, (100, 400))
    >>> adaptive_surprisal(params, jnp.ones((3, 16)), jnp.array([5, 300, 999])).shape
    (3,)
    """
    h, frequent = checks.as_float_array("h", h), _frequent(params)
    if h.ndim == 0 or h.shape[-1] != len(params.head.w):
        raise ValueError(f"h should be [..., H] with H = {len(params.head.w)}, as params has it, got shape {h.shape}")
    classes = frequent + sum(tail.words.shape[1] for tail in params.tails)
    targets = _checked_targets(targets, h.shape[:-1], classes)
    rows, flat = h.reshape(-1, h.shape[-1]), targets.reshape(-1)
    if not len(flat):
        return jnp.zeros(targets.shape, h.dtype)
    column, low, costs = flat, frequent, []
    for i, tail in enumerate(params.tails):
        high = low + tail.words.shape[1]
        inside = (flat >= low) & (flat < high)
        column = jnp.where(inside, frequent + i, column)
        costs.append(_within(tail, rows, flat - low, inside))
        low = high
    return (surprisal(linear(params.head, rows), column) + sum(costs)).reshape(targets.shape)


def _within(tail, rows, targets, inside):
    """-log p within a tail of the rows that are `inside`, 0 of the others."""
    n, dtype = len(rows), jnp.result_type(rows, tail.narrow, tail.words)
    none = varying.over(varying.axes(tail, rows, targets, inside), jnp.zeros(ROWS, dtype))
    order = jnp.argsort(~inside, stable=True)  # those inside come first, so that whole blocks have none
    full = jnp.concatenate([order, jnp.full(-n % ROWS, n, order.dtype)])

    def block(places):
        there = inside.at[places].get(mode="fill", fill_value=False)
        held = jnp.where(there, targets.at[places].get(mode="fill", fill_value=0), 0)

        # What a block needs for its derivative is computed anew: else room is kept for the logits of all of them.
        @jax.checkpoint
        def cost(tail, rows):
            found = rows.at[places].get(mode="fill", fill_value=0)
            return jnp.where(there, surprisal(found @ tail.narrow @ tail.words, held), 0)

        return jax.lax.cond(there.any(), cost, lambda tail, rows: none, tail, rows)

    costs = jax.lax.map(block, full.reshape(-1, ROWS)).reshape(-1)[:n]
    return jnp.zeros(n, costs.dtype).at[order].set(costs)


def _frequent(params):
    """How many words have columns of the head."""
    if type(params) is not Adaptive:
        raise TypeError(f"params should be Adaptive(head, tails), got {checks.show(params)}")
    return params.head.w.shape[1] - len(params.tails)


def _at(logits, targets):
    # Negative ones would count from the end: they are sent past it, where NaN is filled in.
    places = jnp.where(targets < 0, logits.shape[-1], targets)
    return jnp.take_along_axis(logits, places[..., None], -1, mode="fill", fill_value=jnp.nan)[..., 0]


def _checked_targets(targets: Any, shape: tuple[int, ...], classes: int) -> Array:
    """Targets in int32, which holds all classes where a narrower one would not."""
    check_ids("targets", targets, classes)
    if targets.shape != shape:
        raise ValueError(f"targets should have the shape {shape}, got {targets.shape}")
    return jnp.asarray(targets, jnp.int32)
