"""A linear-chain conditional random field over K tags: likelihood, best tags, marginals, what may follow what.

Time first, any batch axes or none, as in `run`: emissions [T, *batch, K], tags [T, *batch], lengths [*batch].
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from lstmjax import checks, varying

Array = jax.Array


class CRF(NamedTuple):
    """Scores of tags beside each other. -inf forbids (`constrain`)."""

    transitions: Array  # [K, K], from the row to the column
    start: Array  # [K], of the first tag
    end: Array  # [K], of the last


class Allowed(NamedTuple):
    """Which tags may begin a sequence, and which may follow which."""

    transitions: np.ndarray  # bool [K, K]
    start: np.ndarray  # bool [K]


def init_crf(key: Array, tags: int, dtype: DTypeLike = jnp.float32) -> CRF:
    """Scores drawn between -0.1 and 0.1.

    Raises:
      TypeError, ValueError: naming the argument.

    >>> init_crf(jax.random.key(0), 4).transitions.shape
    (4, 4)
    """
    checks.key("key", key)
    k, dtype = checks.size("tags", tags), checks.float_dtype("dtype", dtype)
    keys = zip(jax.random.split(key, 3), (2, 1, 1), strict=True)
    drawn = (jax.random.uniform(one, (k,) * axes, dtype, -0.1, 0.1) for one, axes in keys)
    return CRF(*drawn)


def log_likelihood(params: CRF, emissions: Array, tags: Array, lengths: Array | None = None) -> Array:
    """How likely the tags of each sequence are.

        log p(y) = s(y) - log_partition,   s(y) = start[y_1] + sum_t e_t[y_t] + sum_t transitions[y_t, y_t+1] + end[y_n]

    Args:
      emissions: [T, *batch, K], scores of the tags of each step; what stands past the length is not read.
      tags: int [T, *batch]; what stands past the length is not read.
      lengths: int [*batch], n of each sequence; None: all T. The one path of no steps has likelihood 1.

    Returns:
      [*batch], float32 or wider; -inf where the path is forbidden.

    Raises:
      TypeError, ValueError: naming the argument; concrete tags outside [0, K). Under tracing these give NaN, and
        lengths are clipped to [0, T].

    Reference: Lafferty et al. 2001, section 3; Lample et al. 2016, section 2.2.

    >>> crf = CRF(jnp.zeros((2, 2)), jnp.zeros(2), jnp.zeros(2))
    >>> round(float(jnp.exp(log_likelihood(crf, jnp.zeros((3, 2)), jnp.array([0, 1, 1])))), 4)
    0.125
    """
    problem = _problem(params, emissions, lengths)
    params, emissions, valid, n, batch = problem
    if not checks.is_array(tags) or not jnp.issubdtype(tags.dtype, jnp.integer):
        raise TypeError(f"tags should be an array of ints, got {checks.show(tags)}")
    shape = (len(emissions), *batch)
    if tags.shape != shape:
        raise ValueError(f"tags should have the shape [T, *batch] = {shape} of emissions, got {tags.shape}")
    tags = jnp.where(valid, jnp.reshape(jnp.asarray(tags, jnp.int32), valid.shape), 0)
    k = len(params.start)
    checks.within("tags", tags, k)
    bad = ((tags < 0) | (tags >= k)).any(0)
    score = _score(params, emissions, tags, valid, n)
    # Of a forbidden path -inf too where all paths are, whose partition is -inf.
    found = jnp.where(score == -jnp.inf, -jnp.inf, score - _log_partition(*problem[:4]))
    return jnp.where(bad, jnp.nan, found).reshape(batch)


def log_partition(params: CRF, emissions: Array, lengths: Array | None = None) -> Array:
    """The log of the sum of exp s(y) over all tags y, by the forward algorithm.

        a_1 = start + e_1,   a_t[j] = e_t[j] + log sum_i exp(a_t-1[i] + transitions[i, j])
        log Z = log sum exp(a_n + end)

    A step is a product of [batch, K] by [K, K] after the greatest of each row is taken out. Sums that underflow there,
    such as those of tags that only unlikely tags lead to, are taken from a second product, of terms raised as far as
    floats go; where that loses one too, all of the step is done once more, entry by entry.

    Args, Raises: as `log_likelihood`.

    Returns:
      [*batch], 0 for no steps; -inf where every path is forbidden.

    Reference: Lafferty et al. 2001, section 3.

    >>> crf = CRF(jnp.zeros((2, 2)), jnp.zeros(2), jnp.zeros(2))
    >>> round(float(jnp.exp(log_partition(crf, jnp.zeros((3, 2))))), 3)
    8.0
    """
    *problem, batch = _problem(params, emissions, lengths)
    return _log_partition(*problem).reshape(batch)


def marginals(params: CRF, emissions: Array, lengths: Array | None = None) -> Array:
    """How likely each tag is at each step, whatever the others are: the gradient of `log_partition` by the emissions.

    Args, Raises: as `log_likelihood`.

    Returns:
      [T, *batch, K]; each step sums to 1, or to 0 past the length and where every path is forbidden.

    Reference: Wainwright and Jordan 2008, section 3.4 (the gradient of log Z is the mean).

    >>> crf = CRF(jnp.zeros((2, 2)), jnp.zeros(2), jnp.zeros(2))
    >>> marginals(crf, jnp.zeros((3, 2)))[0].tolist()
    [0.5, 0.5]
    """
    params, emissions, valid, n, batch = _problem(params, emissions, lengths)
    found = jax.grad(lambda e: _log_partition(params, e, valid, n).sum())(emissions)
    return found.reshape(len(found), *batch, found.shape[-1])


def viterbi(params: CRF, emissions: Array, lengths: Array | None = None) -> tuple[Array, Array]:
    """The tags of the highest score.

    Args, Raises: as `log_likelihood`.

    Returns:
      tags: int32 [T, *batch]; the lowest of equals (seen from the end), -1 past the length.
      score: [*batch], s(y) of these; 0 for no steps, -inf where every path is forbidden.

    Reference: Viterbi 1967; Lample et al. 2016, section 2.2.

    >>> crf = CRF(jnp.array([[0.0, -9], [-9, 0]]), jnp.zeros(2), jnp.zeros(2))
    >>> viterbi(crf, jnp.array([[3.0, 0], [0, 1], [0, 1]]))[0].tolist()
    [0, 0, 0]
    """
    *problem, batch = _problem(params, emissions, lengths)
    tags, score = _viterbi(*problem)
    return tags.reshape(len(tags), *batch), score.reshape(batch)


@partial(jax.jit, inline=True)
def _viterbi(params, emissions, valid, n):
    t, rows = valid.shape
    if t == 0:
        return jnp.zeros((0, rows), jnp.int32), jnp.zeros(rows, emissions.dtype)

    def forward(best, now):
        emission, there = now
        after = (best[:, :, None] + params.transitions[None]).max(1) + emission
        best = jnp.where(there[:, None], after, best)
        return best, best

    first = params.start[None] + emissions[0]
    last, rest = jax.lax.scan(forward, first, (emissions[1:], valid[1:]))
    ends = last + params.end[None]

    def backward(tag, now):
        best, there, more = now
        before = jnp.where(more[:, None], best + params.transitions[:, jnp.maximum(tag, 0)].T, ends)
        tag = jnp.where(there, before.argmax(-1).astype(jnp.int32), -1)
        return tag, tag

    more = jnp.concatenate([valid[1:], jnp.zeros((1, rows), bool)])
    steps = jnp.concatenate([first[None], rest]), valid, more
    none = varying.over(varying.axes(steps, n), jnp.full_like(n, -1))
    _, tags = jax.lax.scan(backward, none, steps, reverse=True)
    return tags, jnp.where(n > 0, ends.max(-1), 0)


def bio(labels: Sequence[str]) -> Allowed:
    """What the tags of spans allow: I-X follows B-X or I-X alone, and begins nothing.

    Args:
      labels: the name of each tag: "O", or "B-" or "I-" and the name of a span.

    Raises:
      ValueError: another name, or one that comes twice.

    Reference: Ramshaw and Marcus 1995, section 4 (there B is written between two spans only; here always, as IOB2).

    >>> bio(["O", "B-PER", "I-PER"]).transitions[0].tolist()
    [True, True, False]
    """
    for label in labels:
        if not isinstance(label, str) or not (label == "O" or (label[:2] in ("B-", "I-") and len(label) > 2)):
            raise ValueError(f"labels should be 'O', 'B-NAME' or 'I-NAME', got {label!r}")
        if list(labels).count(label) > 1:
            raise ValueError(f"labels should differ, got {label!r} twice")
    inside = np.array([label.startswith("I-") for label in labels], bool)
    names = np.array([label[2:] for label in labels], object)
    return Allowed(~inside[None] | (names[:, None] == names[None]), ~inside)


def constrain(params: CRF, allowed: Allowed) -> CRF:
    """`params` in which what is not allowed scores -inf, and gets no gradient.

    Raises:
      TypeError, ValueError: naming the argument.

    >>> crf = constrain(init_crf(jax.random.key(0), 3), bio(["O", "B-PER", "I-PER"]))
    >>> viterbi(crf, jnp.array([[0.0, 0, 9], [0, 0, 9]]))[0].tolist()
    [1, 2]
    """
    _check(params)
    if type(allowed) is not Allowed:
        raise TypeError(f"allowed should be Allowed(transitions, start), got {checks.show(allowed)}")
    k = len(params.start)
    may = checks.bools("allowed.transitions", allowed.transitions, (k, k), "[K, K]")
    begin = checks.bools("allowed.start", allowed.start, (k,), "[K]")
    return params._replace(
        transitions=jnp.where(may, params.transitions, -jnp.inf), start=jnp.where(begin, params.start, -jnp.inf)
    )


def _score(params, emissions, tags, valid, n):
    """s(y) [N]."""
    if not len(tags):
        return jnp.zeros(n.shape, emissions.dtype)
    own = jnp.take_along_axis(emissions, tags[..., None], -1)[..., 0]
    pairs = jnp.where(valid[1:], params.transitions[tags[:-1], tags[1:]], 0)
    last = jnp.take_along_axis(tags, jnp.maximum(n - 1, 0)[None], 0)[0]
    ends = params.start[tags[0]] + params.end[last]
    return jnp.where(valid, own, 0).sum(0) + pairs.sum(0) + jnp.where(n > 0, ends, 0)


@partial(jax.jit, inline=True)  # else it would be compiled at every call outside of jit
def _log_partition(params, emissions, valid, n):
    """log Z [N]."""
    if not len(emissions):
        return jnp.zeros(n.shape, emissions.dtype)
    limits, k = jnp.finfo(emissions.dtype), len(params.start)
    highest = _finite(params.transitions.max(0))  # of each column; a constant, since what it adds it takes away
    weights = jnp.exp(params.transitions - highest[None])
    least = limits.tiny / limits.eps**2  # of a sum below it, terms were lost that would show in the last digit
    shift = float(np.log(limits.max) - np.log(k) - 2)  # a sum of K terms that are raised so far is just finite

    def summed(a, weights, raised, least):
        """The logarithms of sums whose terms are raised, and which of them are lost, and stand for nothing."""
        taken = _finite(a.max(-1, keepdims=True)) - raised
        sums = jnp.matmul(jnp.exp(a - taken), weights, precision="highest")
        lost = sums < least
        return jnp.log(jnp.where(lost, 1, sums)) + taken + highest[None], lost

    def entry_by_entry(a):
        return _log_sum_exp(a[:, :, None] + params.transitions[None], 1)

    # Computed again for the gradient: else [T, N, K, K] would be kept of it, zeros where it was not taken.
    @partial(jax.checkpoint, prevent_cse=False)
    def far(a, product, low):
        # Weights that are small are left out of raised sums, or the gradient would meet infinity times nothing; a sum
        # is good if they would not show in it.
        ratios = params.transitions - highest[None]
        small = ratios < -20
        rest = jnp.exp(jnp.where(small, ratios, -jnp.inf).max(0) + shift) * k / limits.eps
        raised, lost = summed(a, jnp.where(small, 0, jnp.exp(ratios)), shift, jnp.maximum(least, rest)[None])
        return jax.lax.cond((low & lost).any(), entry_by_entry, lambda _: jnp.where(low, raised, product), a)

    def step(a, now):
        emission, there = now
        product, low = summed(a, weights, 0, least)
        after = jax.lax.cond(low.any(), far, lambda a, product, low: product, a, product, low) + emission
        return jnp.where(there[:, None], after, a), None

    last, _ = jax.lax.scan(step, params.start[None] + emissions[0], (emissions[1:], valid[1:]))
    return jnp.where(n > 0, _log_sum_exp(last + params.end[None], -1), 0)


def _log_sum_exp(x, axis):
    """With a gradient of 0, not NaN, where all of x is -inf."""
    top = _finite(x.max(axis, keepdims=True))
    total = jnp.exp(x - top).sum(axis)
    return jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1)) + top.squeeze(axis), -jnp.inf)


def _finite(x):
    """A constant, 0 for -inf."""
    x = jax.lax.stop_gradient(x)
    return jnp.where(x == -jnp.inf, 0, x)


def _problem(params, emissions, lengths):
    """All of it checked: params, emissions [T, N, K] of one dtype, which steps are there [T, N], n [N], the batch."""
    _check(params)
    emissions, k = checks.as_float_array("emissions", emissions), len(params.start)
    if emissions.ndim < 2 or emissions.shape[-1] != k:
        raise ValueError(f"emissions should be [T, *batch, K] with the K = {k} of params, got shape {emissions.shape}")
    time, *batch = emissions.shape[:-1]
    batch = tuple(batch)
    n = jnp.full(batch, time, jnp.int32) if lengths is None else checks.lengths("lengths", lengths, batch, time)
    wide = any(x.dtype == jnp.float64 for x in (emissions, *params))
    dtype = jnp.float64 if wide else jnp.float32
    params = CRF(*(jnp.asarray(x, dtype) for x in params))
    n = n.reshape(-1)
    valid = jnp.arange(time, dtype=n.dtype)[:, None] < n[None]
    emissions = jnp.where(valid[..., None], emissions.reshape(time, len(n), k).astype(dtype), 0)
    return params, emissions, valid, n, batch


def _check(params):
    if type(params) is not CRF:
        raise TypeError(f"params should be CRF(transitions, start, end), got {checks.show(params)}")
    for name, x in params._asdict().items():
        checks.as_float_array(f"params.{name}", x)
    k = params.start.shape[0] if params.start.ndim == 1 else 0
    if k == 0 or params.transitions.shape != (k, k) or params.end.shape != (k,):
        shapes = ", ".join(str(x.shape) for x in params)
        raise ValueError(f"params should be transitions [K, K], start [K] and end [K], got shapes {shapes}")
