"""The arithmetic of `chunked` with a loop of steps for each half of the batch, for a CPU to run both at the same time.

XLA runs a product of few weights on one thread, and with it all of a step; two loops that know nothing of each other
can have a thread each. What that takes is promised nowhere, and was found by looking (benchmarks/README.md). Where any
of it is missing the loops take turns, and the result is the same:

- No number of one loop may lie where the other has one, and what only one of them needs gets the same memory as what
  only the other needs. So all that a step makes is carried to the next, whether that reads it or not, and is read once
  more when both loops are over (`_zero`).
- What the carry has no place for must not be made: a copy of the counter, since it is read after the next one is made
  (so that one waits for all who read it), and the condition (so it is carried too).
- Each has to begin on a thread of its own. What can run is run by one thread, piece by piece; but a product that would
  be shared among threads is handed to another while there is more to do. So each loop waits for one of its own.
"""

import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lstmjax.backends.chunks import (
    Chunks,
    activate,
    dot,
    empty,
    halved,
    joined,
    lanes_of,
    outer,
    put,
    row,
    times,
)

# Of a product [ROWS, INNER] times [INNER, COLUMNS], which is small, and which XLA would yet share among threads.
ROWS, INNER, COLUMNS = 8, 128, 544


def usable(config, keep=True) -> bool:
    """Whether a run of this kind can be done so."""
    return (config.residuals == "gates" or not keep) and set(config.rest) <= {"lengths", "mask"}


def forward(w_x, w_h, b, xs, h0, c0, *rest, config, keep):
    """As `chunked.forward`, where `usable`."""
    chunks = Chunks(config, len(xs), *rest)
    (T, B, _), H, wide, K = xs.shape, w_h.shape[0], c0.dtype, chunks.K
    w_x, w_h, b, scale = halved(w_x, w_h, b, T * B, wide)
    w_x, w_h, b = w_x.astype(config.dtype), w_h.astype(config.dtype), b.astype(wide)
    cut, rounds = lanes_of(B, 2), config.dtype != wide

    def chunk_body(m, carry):
        halves, hs, kept = carry
        start, x = chunks.rows(m, xs)
        zx = dot(chunks.clean(start, x), w_x, config, wide)

        def step(j, lane, carry, rows):
            (h, c), (ys, *own) = carry, rows
            seen = h.astype(config.dtype)
            zh = times(seen, None, w_h, config, wide, False)
            z = row(zx, j, lane) + b[None] + zh
            a = jnp.tanh(z if scale is None else z * scale[None])
            i, f, g, o = activate(a)
            valid = chunks.valid(start + j, lane)
            c = f * c + i * g if valid is None else jnp.where(valid, f * c + i * g, c)
            h = o * jnp.tanh(c) if valid is None else jnp.where(valid, o * jnp.tanh(c), h)
            y = h if chunks.lengths is None else jnp.where(valid, h, 0)
            own = [put(rows, new, j) for rows, new in zip(own, (a, c), strict=False)]
            return [h, c], [put(ys, y, j), *own], [zh, a, *[seen] * rounds]

        halves, starts = _side_by_side(chunks, m, step, cut, halves, zx, down=config.reverse)
        for start, half in zip(starts, halves, strict=True):
            hs, *kept = (chunks.put(m, *pair, start) for pair in zip([hs, *kept], half.rows, strict=True))
        return halves, hs, kept

    kept = [empty((T, B, 4 * H), wide, xs, 1), empty((T, B, H), wide, xs, 2)] if keep else []
    halves = []
    for k, lane in enumerate(cut):
        n, new = lane.stop - lane.start, _room(xs, k)
        rows = [new((K, n, H), wide), *([new((K, n, 4 * H), wide), new((K, n, H), wide)] if keep else [])]
        made = [new((n, 4 * H), wide), new((n, 4 * H), wide), *(new((n, H), config.dtype) for _ in range(rounds))]
        halves.append(_Half([h0[lane], c0[lane]], rows, made, new((ROWS, INNER), wide)))
    carry = (halves, empty((T, B, H), config.stored, xs, 0), kept)
    halves, hs, kept = chunks.loop(chunk_body, carry, down=config.reverse)
    return [hs, *(joined([half.carry[k] for half in halves]) for k in range(2)), *kept]


def backward(dhs, dh, dc, w_x, w_h, b, xs, h0, c0, *rest, config, wrt):
    """As `chunked.backward`, where `usable`. The slopes of a step are formed in the step, not for a chunk before its
    steps: there are two threads for them."""
    n = len(config.rest)
    rest, hs, (gates, cells) = rest[:n], rest[n], rest[n + 1 :]
    chunks = Chunks(config, len(xs), *rest)
    (T, B, _), H, wide, K = xs.shape, w_h.shape[0], c0.dtype, chunks.K
    cut, padded = lanes_of(B, 2), bool(config.rest)
    x_back, h_back = (lax.optimization_barrier(w.astype(config.dtype).T) for w in (w_x, w_h))
    want_wx, want_wh, want_b, want_x, want_h0, want_c0 = wrt
    # Where the step before is, of which c is wanted, and the step that has none.
    back, edge = (1, T - 1) if config.reverse else (-1, 0)

    def chunk_body(m, carry):
        halves, sums, dxs = carry
        first, x = chunks.rows(m, xs)
        x = chunks.clean(first, x)
        h_before = chunks.before(first, hs, h0.astype(config.dtype))

        def step(j, lane, carry, rows):
            (dh, dc), (dz,) = carry, rows
            t = first + j
            a_i, a_f, a_g, a_o = (row(gates, t, lane, slice(k * H, k * H + H)) for k in range(4))
            c_before = jnp.where(t == edge, c0[lane], row(cells, jnp.clip(t + back, 0, T - 1), lane))
            tanh_c = jnp.tanh(row(cells, t, lane))
            dh_t = row(dhs, t, lane).astype(wide) + dh
            dc_t = dc + dh_t * ((a_o * 0.5 + 0.5) * (1 - tanh_c * tanh_c))
            valid = chunks.valid(t, lane)
            # The slope of a sigmoid is (1 - a^2) / 4. Each gate is written to its columns, which glues them.
            for k, dz_k in enumerate(
                [
                    dc_t * (a_g * ((1 - a_i * a_i) * 0.25)),
                    dc_t * (c_before * ((1 - a_f * a_f) * 0.25)),
                    dc_t * ((a_i * 0.5 + 0.5) * (1 - a_g * a_g)),
                    dh_t * (tanh_c * ((1 - a_o * a_o) * 0.25)),
                ]
            ):
                dz = put(dz, dz_k if valid is None else jnp.where(valid, dz_k, 0), j, columns=slice(k * H, k * H + H))
            dz_t = row(dz, j).astype(config.dtype)
            dh_before = product = times(dz_t, None, h_back, config, wide, False)
            dc_before = dc_t * (a_f * 0.5 + 0.5)
            if valid is not None:
                dh_before, dc_before = jnp.where(valid, product, dh), jnp.where(valid, dc_before, dc)
            return [dh_before, dc_before], [dz], [dz_t, tanh_c, dc_t, *([product] if padded else [])]

        halves, starts = _side_by_side(
            chunks, m, step, cut, halves, (jnp.asarray(first), dhs, gates, cells), down=not config.reverse
        )
        terms = []
        for start, half in zip(starts, halves, strict=True):
            dz = chunks.own(m, *half.rows)
            pairs = [(x, want_wx), (h_before.astype(config.dtype), want_wh)]
            seen = [lax.dynamic_slice_in_dim(rows, start, dz.shape[1], 1) for rows, wanted in pairs if wanted]
            terms.append([outer(rows, dz, config, wide) for rows in seen] + [dz.sum((0, 1))] * want_b)
            if want_x:
                dxs = [chunks.put(m, dxs[0], dot(dz, x_back, config, wide), start)]
        terms = [functools.reduce(operator.add, of_each) for of_each in zip(*terms, strict=True)]
        sums = [total + term for total, term in zip(sums, terms, strict=True)] if chunks.n > 1 else terms
        return halves, sums, dxs

    weights = [w for w, wanted in zip((w_x, w_h, b), wrt, strict=False) if wanted]
    sums = [empty(w.shape, wide, xs, 0) for w in weights if chunks.n > 1]
    dxs = [empty(xs.shape, xs.dtype, xs, 4)] * want_x
    halves = []
    for k, lane in enumerate(cut):
        n, new = lane.stop - lane.start, _room(xs, k)
        made = [new((n, 4 * H), config.dtype), *(new((n, H), wide) for _ in range(3 if padded else 2))]
        halves.append(_Half([dh[lane], dc[lane]], [new((K, n, 4 * H), wide)], made, new((ROWS, INNER), wide)))
    halves, sums, dxs = chunks.loop(chunk_body, (halves, sums, dxs), down=not config.reverse)
    dh, dc = (joined([half.carry[k] for half in halves]) for k in range(2))
    sums = [total.astype(w.dtype) for total, w in zip(sums, weights, strict=True)]
    return sums + dxs + [dh] * want_h0 + [dc] * want_c0


class _Half(NamedTuple):
    """What the loop of a half has."""

    carry: Any  # what a step reads of the one before
    rows: Any  # what is kept of all steps of a chunk
    made: Any  # all else that a step makes
    begins: Any  # of the product that it waits for


def _room(like, k):
    """Makes the buffers of half k, of which no two are alike (`empty`)."""
    marks = iter(range(20 * (k + 1), 20 * (k + 2)))
    return lambda shape, dtype: empty(shape, dtype, like, next(marks))


def _side_by_side(chunks, m, step, cut, halves, after, down):
    """The steps of chunk m of all halves, from the last to the first if `down`, each half in a loop of its own.

    Args:
      step: of a row's number, a lane, and the carry and rows of its half: these anew, and all else that it makes.
      after: what is read by the steps, and has to be there before either loop begins.

    Returns:
      The halves, and where each begins in the batch: numbers that wait for both loops.
    """
    low, K = chunks.low(m), chunks.K
    shared = lax.optimization_barrier(lax.full((INNER, COLUMNS), 0.5, halves[0].begins.dtype))
    ends = []
    for lane, half in zip(cut, halves, strict=True):

        def body(state, lane=lane):
            j, _, half = state
            carry, rows, made = step(j, lane, half.carry, half.rows)
            j = (j - 1 if down else j + 1) + _zero(carry, rows)
            return j, more(j), half._replace(carry=carry, rows=rows, made=made)

        def more(j):
            return j >= low if down else j < K

        # That `begins` changes from chunk to chunk keeps the product where it is.
        begins = _row_of(half.begins, _zero(after))
        product = jnp.dot(begins, shared)
        j = (K - 1 if down else low) + _zero(product)
        ends.append(
            (*lax.while_loop(lambda state: state[1], body, (j, more(j), half._replace(begins=begins))), product)
        )
    zero = _zero(ends)
    if chunks.n == 1:
        # No chunk comes that needs `shared`, so that the loops would have its memory, and wait for both products.
        zero = _zero(jnp.dot(_row_of(ends[0][2].begins, zero), shared))
    halves = [half._replace(carry=[jnp.where(zero > 0, 0, s) for s in half.carry]) for _, _, half, _ in ends]
    return halves, [lane.start + zero for lane in cut]


def _row_of(begins, number):
    """`begins` with a row of this number."""
    return put(begins, jnp.full((INNER,), number.astype(begins.dtype)), 0)


def _zero(*arrays):
    """0, but XLA does not know that before it has formed all arrays."""
    some = (a[(0,) * a.ndim].astype(jnp.float32) > 0 for a in jax.tree.leaves(arrays))
    return functools.reduce(jnp.logical_or, some).astype(int) >> 1
