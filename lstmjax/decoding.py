"""From steps to sequences: greedy, sampled, and by beam search.

All is written for one sequence and any step; `jax.vmap` makes a batch of it, `jax.jit` a program. A step is

    (state, token) -> (state, logits [V])

with a state that is any tree of arrays, and an int32 scalar for the token. What does not change from step to step, such
as the states of an encoder, is best closed over: the state is gathered anew for every step of a beam, that is not.

    def translate(memory, state):
        return beam(partial(decode, params, memory), state, start=1, end=1, steps=50, width=5)

    found = jax.vmap(translate)(memories, states)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstmjax import checks, varying

Array = jax.Array
Step = Callable[[Any, Array], tuple[Any, Array]]


class Decoded(NamedTuple):
    """A sequence; or W of a beam, the best first."""

    tokens: Array  # int32 [steps], or [W, steps]: without the end; 0 past the length
    length: Array  # int32 scalar, or [W]: the tokens before the end; the limit where the end did not come
    log_p: Array  # float scalar, or [W]: the sum of log p of the tokens, and of the end if it came
    score: Array  # what a beam is ordered by; elsewhere log_p


def greedy(
    step: Step, state: Any, *, start: int | Array, end: int, steps: int, limit: int | Array | None = None
) -> Decoded:
    """The likeliest token at each step, until the end.

    Args:
      step: as above.
      state: before the first step.
      start: the token that is put in first.
      end: the token that ends a sequence.
      steps: how many at most, the end included.
      limit: how many of these this sequence may take, at most `steps`, and all is as if `steps` were that; it need not
        be known when compiled, so that each sequence of a batch can have its own. None: `steps`.

    Raises:
      TypeError, ValueError: naming the argument; a concrete limit outside [0, steps], which under tracing is clipped to
        that; a step that gives a state of another kind, or no logits [V].

    >>> table = jnp.array([[0.0, 1, 2], [9, 0, 0], [0, 5, 0]])  # what follows what
    >>> found = greedy(lambda state, token: (state, table[token]), (), start=0, end=0, steps=5)
    >>> found.tokens.tolist(), int(found.length)
    ([2, 1, 0, 0, 0], 2)
    """
    return _follow(step, state, start, end, steps, limit, lambda logits, _: jnp.argmax(logits).astype(jnp.int32))


def sample(
    key: Array,
    step: Step,
    state: Any,
    *,
    start: int | Array,
    end: int,
    steps: int,
    limit: int | Array | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Decoded:
    """A token drawn at each step, until the end.

        p(token) ~ exp(logit / temperature), among those that `likeliest` leaves

    Args:
      key: PRNG key.
      step, state, start, end, steps, limit: as `greedy`.
      temperature: above 0, and what float32 can hold; below 1 the likely ones become likelier.
      top_k, top_p: as `likeliest`, after the temperature.

    Returns:
      As `greedy`; log_p is the model's own, at temperature 1 and with nothing left out.

    Raises:
      TypeError, ValueError: as `greedy`.

    Reference: Holtzman et al. 2020, section 3.1 (top_p).

    >>> step = lambda state, token: (state, jnp.array([0.0, 3, 3]))
    >>> sample(jax.random.key(1), step, (), start=0, end=0, steps=3, top_k=2).tokens.shape
    (3,)
    """
    checks.key("key", key)
    temperature = checks.positive("temperature", temperature)
    single = jnp.finfo(jnp.float32)
    if not float(single.tiny) <= temperature <= float(single.max):
        raise ValueError(
            f"temperature should be a number that float32 can hold, from 1.2e-38 to 3.4e38, got {temperature}"
        )

    def pick(logits, t):
        # Less the highest, which no temperature above 0 then makes infinite.
        left = likeliest((logits - logits.max()) / temperature, top_k=top_k, top_p=top_p)
        return jax.random.categorical(jax.random.fold_in(key, t), left).astype(jnp.int32)

    return _follow(step, state, start, end, steps, limit, pick)


def likeliest(logits: Array, *, top_k: int | None = None, top_p: float | None = None) -> Array:
    """Logits [..., V] with -inf for all but the likeliest.

    Args:
      logits: [..., V].
      top_k: how many stay, the lower token of equals; None: all.
      top_p: in (0, 1]: the fewest stay whose probabilities, of those that `top_k` left, add up to it; None: all.

    Raises:
      TypeError, ValueError: naming the argument.

    References: Fan et al. 2018, section 5.1 (top_k); Holtzman et al. 2020, section 3.1 (top_p).

    >>> likeliest(jnp.array([1.0, 4, 3]), top_p=0.8).tolist()
    [-inf, 4.0, 3.0]
    """
    logits = checks.as_float_array("logits", logits)
    if logits.ndim == 0 or not logits.shape[-1]:
        raise ValueError(f"logits should be [..., V] with V at least 1, got shape {logits.shape}")
    v = logits.shape[-1]
    k = v if top_k is None else min(checks.size("top_k", top_k), v)
    if top_p is not None:
        top_p = checks.positive("top_p", top_p)
        if top_p > 1:
            raise ValueError(f"top_p should be in (0, 1], got {top_p}")
    if top_p == 1:  # whose rounded sum might leave the last tokens out
        top_p = None
    if k == v and top_p is None:
        return logits
    falling, order = jax.vmap(lambda row: _highest(row, k))(logits.reshape(-1, v))
    if top_p is not None:
        p = jax.nn.softmax(falling.astype(_wide(falling)), -1)
        before = jnp.cumsum(p, -1) - p
        rank = jax.lax.broadcasted_iota(jnp.int32, p.shape, p.ndim - 1)
        falling = jnp.where((before < top_p) | (rank == 0), falling, -jnp.inf)
    rows = jnp.full((len(order), v), -jnp.inf, logits.dtype)
    return jnp.put_along_axis(rows, order, falling, -1, inplace=False).reshape(logits.shape)


def beam(
    step: Step,
    state: Any,
    *,
    start: int | Array,
    end: int,
    steps: int,
    limit: int | Array | None = None,
    width: int,
    length_penalty: float = 0.0,
    bonus: Callable[[Any], Array] | None = None,
) -> Decoded:
    """The W best sequences that a search W wide finds.

    At each step the 2 W best ways on from the W sequences that are alive are looked at. Those of the first W that end
    are done; the first W that do not end live on. It is over when W are done, or after `steps`. Of width 1 it is
    `greedy`, but for sums of log p, which are rounded: late in a long sequence the lower of two near equals may win. As
    wide as there are sequences it finds the best of all.

        score = log p / ((5 + n) / 6)**length_penalty + bonus(state),   n the tokens and the end

    Args:
      step, state, start, end, steps, limit: as `greedy`; the state is that of one sequence. Logits that are all -inf
        are a dead end: no sequence goes through it.
      width: W.
      length_penalty: at least 0; 0.6 to 1 is usual in translation, since a sum of log p prefers what is short.
      bonus: state -> scalar, of the state before a sequence's end was put in, such as `coverage` of the attention
        that a step adds up in its state.

    Returns:
      W sequences by falling score, those that did not end after all that did; a score of -inf where there are fewer.
      Where logits are NaN, so are log_p and score, before all others.

    Raises:
      TypeError, ValueError: as `greedy`.

    Reference: Wu et al. 2016, section 7 (score); Sutskever et al. 2014, section 3.2 (search).

    >>> table = jnp.log(jnp.array([[0.01, 0.5, 0.49], [0.4, 0.3, 0.3], [0.98, 0.01, 0.01]]))
    >>> found = beam(lambda state, token: (state, table[token]), (), start=0, end=0, steps=5, width=2)
    >>> found.tokens[0].tolist(), [round(p, 2) for p in jnp.exp(found.log_p).tolist()]
    ([2, 0, 0, 0, 0], [0.48, 0.2])
    """
    w = checks.size("width", width)
    checks.finite("length_penalty", length_penalty)
    if length_penalty < 0:
        raise ValueError(f"length_penalty should be at least 0, got {length_penalty}")
    if bonus is not None and not callable(bonus):
        raise TypeError(f"bonus should be a function of a state, got {checks.show(bonus)}")
    state, start, end, steps, limit, logits, names = _checked(step, state, start, end, steps, limit)
    v, dtype = logits.shape[0], _wide(logits)
    if bonus is not None:
        extra, more_names = _outline(bonus, state)
        if not isinstance(extra, jax.ShapeDtypeStruct) or extra.shape != ():
            raise ValueError(f"bonus should give a scalar, got {jax.tree.map(checks.show, extra)}")
        names |= more_names
    none = jnp.full(w, -jnp.inf, dtype)
    blank = Decoded(jnp.zeros((w, steps), jnp.int32), jnp.zeros(w, jnp.int32), none, none)

    def scored(log_p, n, states):
        """Of sequences of n tokens, the end among them."""
        score = log_p / ((5 + n) / 6) ** length_penalty
        return score if bonus is None else score + jax.vmap(bonus)(states).astype(dtype)

    def more(carry):
        t, ended, *_ = carry
        return (t < limit) & (ended < w)

    def on(carry):
        t, ended, done, tokens, last, log_p, states = carry
        states, logits = jax.vmap(step)(states, last)
        logits = logits.astype(dtype)
        nowhere = (log_p == -jnp.inf)[:, None] | (logits.max(-1, keepdims=True) == -jnp.inf)
        ways = jnp.where(nowhere, -jnp.inf, log_p[:, None] + jax.nn.log_softmax(logits))
        ways = jnp.where(jnp.isnan(ways), jnp.inf, ways)  # no log p is inf: what is NaN is marked, and comes first
        best, at = _highest(ways.reshape(-1), min(2 * w, w * v))
        parents, chosen = at // v, at % v
        ends = chosen == end
        # The first W that end are done.
        closing = jnp.where(ends[:w], best[:w], -jnp.inf)
        before = jax.tree.map(lambda x: x[parents[:w]], states)
        n = (t + 1).astype(dtype)
        score = jnp.where(closing == -jnp.inf, -jnp.inf, scored(closing, n, before))
        new = Decoded(tokens[parents[:w]], jnp.full(w, t, jnp.int32), closing, score)
        done = _best(w, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), done, new))
        ended += (score != -jnp.inf).sum(dtype=jnp.int32)
        # The first W that do not end live on.
        log_p, at = jax.lax.top_k(jnp.where(ends, -jnp.inf, best), w)
        parents, chosen = parents[at], chosen[at]
        tokens = tokens[parents].at[:, t].set(chosen)
        return t + 1, ended, done, tokens, chosen, log_p, jax.tree.map(lambda x: x[parents], states)

    many = jax.tree.map(lambda x: jnp.broadcast_to(x, (w, *jnp.shape(x))), state)
    zero = jnp.zeros((), jnp.int32)
    begin = (zero, zero, blank, blank.tokens, jnp.broadcast_to(start, (w,)), none.at[0].set(0), many)
    t, _, done, tokens, _, log_p, states = jax.lax.while_loop(more, on, varying.over(names, begin))
    # What is alive after the last step fills the places that are left; where all are taken, it is of no account.
    score = jnp.where(log_p == -jnp.inf, -jnp.inf, scored(log_p, t.astype(dtype), states))
    cut = _best(w, Decoded(tokens, jnp.full(w, t, jnp.int32), log_p, score))
    found = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), done, cut)
    first = jnp.argsort(found.score == -jnp.inf, stable=True)[:w]  # both are in order, but for the gaps
    found = jax.tree.map(lambda x: x[first], found)
    there, spoilt = found.score != -jnp.inf, found.log_p == jnp.inf
    return Decoded(
        jnp.where(there[:, None], found.tokens, 0),
        jnp.where(there, found.length, 0),
        jnp.where(spoilt, jnp.nan, jnp.where(there, found.log_p, -jnp.inf)),
        jnp.where(spoilt, jnp.nan, found.score),
    )


def coverage(attention: Array, length: Array, beta: float) -> Array:
    """A bonus of at most 0 for what of a source was not attended to.

        beta sum_s log min(a_s, 1),   a_s the attention that went to word s, over all steps

    Args:
      attention: [S].
      length: int scalar, the words of the source; attention past it is not read.
      beta: at least 0; 0.2 is usual.

    Returns:
      A scalar in float32 or wider; words that got less than e**-20 count as if they had got that.

    Reference: Wu et al. 2016, eq. 14.

    >>> round(float(coverage(jnp.array([2.0, 0.5, 0]), jnp.array(2), 0.2)), 4)
    -0.1386
    """
    attention = checks.as_float_array("attention", attention)
    if attention.ndim != 1:
        raise ValueError(f"attention should be [S], got shape {attention.shape}")
    checks.finite("beta", beta)
    if beta < 0:
        raise ValueError(f"beta should be at least 0, got {beta}")
    length = checks.lengths("length", length, (), len(attention))
    there = jnp.arange(len(attention), dtype=length.dtype) < length
    attention = attention.astype(_wide(attention))
    given = jnp.where(there, attention, 1)  # before the logarithm: 0 * NaN in the backward pass would spoil the rest
    return beta * jnp.log(jnp.clip(given, jnp.exp(-20.0), 1)).sum()


def _wide(logits):
    """In what logs and probabilities are added up: float32 or wider."""
    return jnp.float64 if logits.dtype == jnp.float64 else jnp.float32


def _highest(x, k, block=128):
    """`lax.top_k` of x [N], the lower of equals first. Of a long x the blocks with the highest maxima are found first,
    since a CPU is quicker at a maximum: what is sought lies in k of them, or in the rest that fills no block."""
    whole = len(x) // block
    if whole < 4 * k:
        return _top_k(x, k)
    cut, rest = x[: whole * block].reshape(whole, block), x[whole * block :]
    chosen = jnp.sort(_top_k(cut.max(-1), k)[1])  # in their own order, for equals
    places = chosen[:, None] * block + jnp.arange(block, dtype=jnp.int32)[None]
    places = jnp.concatenate([places.reshape(-1), jnp.arange(whole * block, len(x), dtype=jnp.int32)])
    best, at = _top_k(jnp.concatenate([cut[chosen].reshape(-1), rest]), k)
    return best, places[at]


def _top_k(x, k):
    """Behind a barrier, since XLA for a CPU sorts all of x where it sees that some of the k are cut off again: of
    40,000 numbers in ten times the time."""
    best, at = jax.lax.top_k(x, k)
    # One by one: of both together a program under shard_map cannot be compiled.
    return jax.lax.optimization_barrier(best), jax.lax.optimization_barrier(at)


def _best(w, found):
    """The w of highest score, in order; NaN comes first."""
    order = jnp.argsort(jnp.where(jnp.isnan(found.score), -jnp.inf, -found.score), stable=True)[:w]
    return jax.tree.map(lambda x: x[order], found)


def _follow(step, state, start, end, steps, limit, pick):
    """One sequence, each token picked from (logits, t)."""
    state, start, end, steps, limit, logits, names = _checked(step, state, start, end, steps, limit)
    dtype = _wide(logits)

    def more(carry):
        t, over, *_ = carry
        return (t < limit) & ~over

    def on(carry):
        t, _, tokens, last, log_p, state = carry
        state, logits = step(state, last)
        token = pick(logits.astype(dtype), t)
        log_p += jax.nn.log_softmax(logits.astype(dtype))[token]
        over = token == end
        return t + 1, over, tokens.at[t].set(jnp.where(over, 0, token)), token, log_p, state

    begin = (
        jnp.zeros((), jnp.int32),
        jnp.array(False),
        jnp.zeros(steps, jnp.int32),
        start,
        jnp.zeros((), dtype),
        state,
    )
    t, over, tokens, _, log_p, _ = jax.lax.while_loop(more, on, varying.over(names, begin))
    return Decoded(tokens, t - over.astype(jnp.int32), log_p, log_p)


def _outline(function, *args):
    """What a function gives, in shapes, and the mesh axes that it varies over."""
    names: list[frozenset] = []

    def outlined(*args):
        found = function(*args)
        names.append(varying.axes(found))
        return found

    return jax.eval_shape(outlined, *args), names[0]


def _checked(step, state, start, end, steps, limit):
    """The arguments that all share, what logits look like, and the mesh axes over which what is carried varies."""
    if not callable(step):
        raise TypeError(f"step should be a function (state, token) -> (state, logits), got {checks.show(step)}")
    steps, end = checks.size("steps", steps), checks.size("end", end, 0)
    start = np.asarray(checks.size("start", start, 0)) if isinstance(start, int) else start
    if not checks.is_array(start) or not jnp.issubdtype(start.dtype, jnp.integer) or start.shape != ():
        raise TypeError(f"start should be an int, or an array of ints of shape (), got {checks.show(start)}")
    limit = jnp.int32(steps) if limit is None else checks.lengths("limit", limit, (), steps)
    given = jax.tree.map(jnp.asarray, state)
    found, names = _outline(step, given, jax.ShapeDtypeStruct((), jnp.int32))
    if not isinstance(found, tuple) or len(found) != 2:
        raise TypeError(f"step should give (state, logits), got {jax.tree.map(checks.show, found)}")
    before, after = (jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", one) for one in (given, found[0]))
    if before != after:
        raise ValueError(f"step should give a state like the one it gets, {before}, got {after}")
    logits = found[1]
    if (
        not isinstance(logits, jax.ShapeDtypeStruct)
        or logits.ndim != 1
        or not jnp.issubdtype(logits.dtype, jnp.floating)
    ):
        raise ValueError(f"step should give logits [V], got {jax.tree.map(checks.show, logits)}")
    checks.within("end", np.asarray(end), logits.shape[0])
    checks.within("start", start, logits.shape[0])
    start = jnp.asarray(start, jnp.int32)
    return given, start, end, steps, limit, logits, names | varying.axes(given, start, limit)
