"""The arithmetic of fused: the LSTM and the transpose of its derivative over plain arrays, a chunk of time at a time.

A chunk's input projection is one GEMM before its steps; in the backward pass a chunk's weight gradients and dx are one
GEMM each after its steps, so that a step's loop holds one small product and little else. Chunks rather than the whole
sequence, because a [T, B, 4H] buffer is fresh memory whose page faults cost a CPU more than the larger product saves.

The gates i, f, o are sigmoid(z) = tanh(z / 2) / 2 + 1/2, so a step takes one tanh over all 4H columns, of z times
[1/2, 1/2, 1, 1/2]; that 1/2 is exact.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from lstmjax import varying
from lstmjax.cells.products import wider

ALL = slice(None)  # the batch as one lane


class Config(NamedTuple):
    """The static side of a run."""

    reverse: bool
    dtype: Any  # of the products
    stored: Any  # of the outputs
    chunk: int
    residuals: str
    precision: Any
    rest: tuple[str, ...]  # the operands after the six linear ones, of "lengths", "mask", "reset" and "recurrent"
    insist: bool
    persistent: bool = False  # whether a GPU may run it in one kernel


def forward(w_x, w_h, b, xs, h0, c0, *rest, config, keep, lanes=1, weights_first=False, widen=False, spare=0):
    """The recurrence, a chunk at a time.

    Args:
      w_x, w_h, b: [D, 4H], [H, 4H], [4H].
      xs, h0, c0: [T, B, D], [B, H], [B, H].
      rest: lengths int32 [B] or mask bool [T, B], reset bool [T, B], and recurrent [B, H], what h is multiplied by
        before it meets w_h, as far as `config` has them.
      keep: whether to return the residuals too.
      lanes: the parts of the batch that a step takes one beside the other, which a CPU has two threads for.
      weights_first: whether a step forms w_h^T h^T, transposed, rather than h w_h. A CPU packs the second operand of a
        product anew at every step, and large weights take longer to pack than to multiply.
      widen: whether a step's operands are rounded to `config.dtype` but multiplied as `wide`: a CPU is slow at products
        of few rows in bfloat16.
      spare: columns of zeros beside w_h. A CPU runs the products of two lanes one after the other where it takes each
        for too small to be shared among threads.

    Returns:
      hs [T, B, H], h and c [B, H], and with `keep` the residuals: for "gates" the four tanh of each step [T, B, 4H]
      and c after each step [T, B, H]; for "outputs" the c before each chunk [n, B, H]. At padding hs is 0; at masked
      steps it is the h that is held there, for the backward pass to read, and the caller puts 0 in its place.
    """
    chunks = _Chunks(config, len(xs), *rest)
    T, B, _ = xs.shape
    H, wide = w_h.shape[0], c0.dtype
    half = _half(H, wide)
    # The 1/2 goes into the weights where they are small beside what they multiply.
    if 2 * (len(w_x) + H) <= T * B:
        w_x, w_h, b = (w * lax.expand_dims(half.astype(w.dtype), range(w.ndim - 1)) for w in (w_x, w_h, b))
        half = None
    w_x, w_h, b = w_x.astype(config.dtype), _held(w_h, config, wide, widen), b.astype(wide)
    # Behind barriers, which keep XLA from undoing it.
    if spare:
        w_h = lax.optimization_barrier(jnp.concatenate([w_h, jnp.zeros((H, spare), w_h.dtype)], -1))
    first, second = (lax.optimization_barrier(w_h.T), None) if weights_first else (None, w_h)
    gates = keep and config.residuals == "gates"
    outputs = keep and config.residuals == "outputs"

    cut = _cut(B, lanes)

    def chunk_body(m, carry):
        h, c, hs, *kept = carry
        if outputs:
            for lane, c_lane in zip(cut, c, strict=True):
                kept = [_put(kept[0], c_lane, m, lane)]
        start, x = chunks.rows(m, xs)
        zx = _project(chunks.clean(start, x), w_x, b, config, wide)

        def step(j, carry):
            h_lanes, c_lanes, hs, *kept = carry
            t, after = start + j, []
            for lane, h, c in zip(cut, h_lanes, c_lanes, strict=True):
                h_before, c_before = h, c
                if chunks.reset is not None:
                    restart = _row(chunks.reset, t, lane)[:, None]
                    h_before, c_before = jnp.where(restart, h0[lane], h), jnp.where(restart, c0[lane], c)
                zh = _times(chunks.dropped(h_before, lane), first, second, config, wide, widen)
                if spare:
                    zh = lax.optimization_barrier(zh)[:, : 4 * H]
                z = _row(zx, j, lane) + zh
                a = jnp.tanh(z if half is None else z * half[None])
                i, f, g, o = _activate(a)
                c_after = f * c_before + i * g
                h_after = o * jnp.tanh(c_after)
                y, valid = h_after, chunks.valid(t, lane)
                if valid is not None:
                    y = jnp.where(valid, h_after, 0 if chunks.mask is None else h)
                    h_after, c_after = jnp.where(valid, h_after, h), jnp.where(valid, c_after, c)
                if gates:
                    kept = [_put(kept[0], a, t, lane), _put(kept[1], c_after, t, lane)]
                hs = _put(hs, y, t, lane)
                after.append((h_after, c_after))
            h, c = (list(s) for s in zip(*after, strict=True))
            return h, c, hs, *kept

        return chunks.steps(m, step, (h, c, hs, *kept), down=config.reverse)

    kept = []
    if gates:
        kept = [_empty((T, B, 4 * H), wide, xs, 1), _empty((T, B, H), wide, xs, 2)]
    if outputs:
        kept = [_empty((chunks.n, B, H), wide, xs, 2)]
    state = ([s[lane] for lane in cut] for s in (h0, c0))
    carry = (*state, _empty((T, B, H), config.stored, xs, 0), *kept)
    h, c, hs, *kept = chunks.loop(chunk_body, carry, down=config.reverse)
    return [hs, _joined(h), _joined(c), *kept]


def backward(
    dhs, dh, dc, w_x, w_h, b, xs, h0, c0, *rest, config, wrt, lanes=1, weights_first=False, widen=False, x_first=False
):
    """The transpose of the derivative of `forward`, a chunk at a time, from the last step to the first.

    Args:
      dhs, dh, dc: cotangents of hs, h and c.
      w_x ... c0, rest: the operands of `forward`, then its hs and its residuals.
      wrt: for each of w_x, w_h, b, xs, h0, c0 whether its gradient is asked for.
      lanes, widen: as in `forward`.
      weights_first: as in `forward`: whether a step forms w_h dz^T rather than dz w_h^T.
      x_first: whether dx is w_x dz^T, transposed, where there is one chunk: w_x is not transposed then, which takes
        as long as many rows of the product, and has its size.

    Returns:
      The gradients asked for, in the shapes and dtypes of the operands.
    """
    n = len(config.rest)
    rest, hs, kept = rest[:n], rest[n], rest[n + 1 :]
    chunks = _Chunks(config, len(xs), *rest)
    B, H, wide, K = xs.shape[1], w_h.shape[0], c0.dtype, chunks.K
    cast_x, cast_h, half = w_x.astype(config.dtype), w_h.astype(config.dtype), _half(H, wide)
    # Transposed once, and the barrier keeps XLA from undoing it: on a CPU it multiplies by a transpose at half the
    # speed, or transposes anew at every step. None where a product takes the weights as they are.
    x_back = None if x_first and chunks.n == 1 else lax.optimization_barrier(cast_x.T)
    held_h = _held(w_h, config, wide, widen)
    h_back = None if weights_first or B == 1 else lax.optimization_barrier(held_h.T)
    want_wx, want_wh, want_b, want_x, want_h0, want_c0 = wrt
    cut = _cut(B, lanes)

    def chunk_body(m, carry):
        dh, dc, dz, sums, dxs, d0 = carry
        first, x = chunks.rows(m, xs)
        x = chunks.clean(first, x)
        h_before = chunks.before(first, hs, h0.astype(config.dtype))
        h_before = chunks.dropped(h_before).astype(config.dtype)
        if config.residuals == "gates":
            a, c_after = (lax.dynamic_slice_in_dim(rows, first, K) for rows in kept)
            c_before = chunks.before(first, kept[1], c0)
        else:
            z = _project(x, cast_x, b.astype(wide), config, wide) + _dot(h_before, cast_h, config, wide)
            a = jnp.tanh(z * half[None, None])
            c_before, c_after = _cells(chunks, m, first, a, _row(kept[0], m), c0)
        i, f, g, o = _activate(a)
        tanh_c = jnp.tanh(c_after)
        # dz of a gate = slope * (dc or dh): all that needs no carry is formed for the whole chunk here. The slope of a
        # sigmoid is (1 - a^2) / 4.
        slope = (1 - a * a) * jnp.concatenate([g * 0.25, c_before * 0.25, i, tanh_c * 0.25], axis=-1)
        c_slope = o * (1 - tanh_c * tanh_c)
        dy = lax.dynamic_slice_in_dim(dhs, first, K).astype(wide)

        def step(j, carry):
            *states, dz, d0 = carry
            t, before, d0_after = first + j, [], []
            for k, (lane, dh, dc) in enumerate(zip(cut, *states, strict=True)):
                dh_t = _row(dy, j, lane) + dh
                dc_t = dc + dh_t * _row(c_slope, j, lane)
                dz_t = jnp.concatenate([dc_t, dc_t, dc_t, dh_t], axis=-1) * _row(slope, j, lane)
                dc_t = dc_t * _row(f, j, lane)
                valid = chunks.valid(t, lane)
                if valid is not None:
                    dz_t = jnp.where(valid, dz_t, 0)
                dh_t = chunks.dropped(_times(dz_t, held_h, h_back, config, wide, widen), lane)
                if valid is not None:
                    dh_t, dc_t = jnp.where(valid, dh_t, dh), jnp.where(valid, dc_t, dc)
                if chunks.reset is not None:
                    restart = _row(chunks.reset, t, lane)[:, None]
                    d0_after.append(
                        [d + jnp.where(restart, d_t, 0) for d, d_t in zip(d0[k], (dh_t, dc_t), strict=True)]
                    )
                    dh_t, dc_t = jnp.where(restart, 0, dh_t), jnp.where(restart, 0, dc_t)
                dz = _put(dz, dz_t, j, lane)
                before.append((dh_t, dc_t))
            dh, dc = (list(s) for s in zip(*before, strict=True))
            return dh, dc, dz, d0_after

        dh, dc, dz, d0 = chunks.steps(m, step, (dh, dc, dz, d0), down=not config.reverse)
        dz_own = chunks.own(m, dz)
        terms = [(x, want_wx), (h_before, want_wh)]
        terms = [_outer(rows, dz_own, config, wide) for rows, wanted in terms if wanted]
        terms += [dz_own.astype(wide).sum((0, 1))] * want_b
        sums = [total + term for total, term in zip(sums, terms, strict=True)] if chunks.n > 1 else terms
        if want_x:
            dx = _untransposed(dz_own, cast_x, config, wide) if x_back is None else _dot(dz_own, x_back, config, wide)
            dxs = [chunks.put(m, dxs[0], dx.astype(xs.dtype))]
        return dh, dc, dz, sums, dxs, d0

    weights = [w for w, wanted in zip((w_x, w_h, b), wrt, strict=False) if wanted]
    sums = varying.over(varying.axes(xs), [jnp.zeros(w.shape, wide) for w in weights if chunks.n > 1])
    dxs = [_empty(xs.shape, xs.dtype, xs, 4)] * want_x
    dh, dc = ([s[lane] for lane in cut] for s in (dh, dc))
    d0 = [[jnp.zeros_like(s) for s in pair] for pair in zip(dh, dc, strict=True) if chunks.reset is not None]
    # dz is kept in `wide` and rounded where it is multiplied: XLA for a CPU has no bfloat16, and writes all of such a
    # buffer anew for a row of it.
    carry = (dh, dc, _empty((K, B, 4 * H), wide, xs, 3), sums, dxs, d0)
    dh, dc, _, sums, dxs, d0 = chunks.loop(chunk_body, carry, down=not config.reverse)
    dh, dc = _joined(dh), _joined(dc)
    if d0:
        dh, dc = (d + _joined(d_lanes) for d, d_lanes in zip((dh, dc), zip(*d0, strict=True), strict=True))
    sums = [total.astype(w.dtype) for total, w in zip(sums, weights, strict=True)]
    return sums + dxs + [dh] * want_h0 + [dc] * want_c0


def _cells(chunks, m, first, a, c, c0):
    """c before and after each step of a chunk, from its gates and the c it began with."""
    config = chunks.config
    i, f, g, _ = _activate(a)
    ig = i * g

    def step(j, carry):
        c, before, after = carry
        t = first + j
        c_before = c
        if chunks.reset is not None:
            c_before = jnp.where(_row(chunks.reset, t)[:, None], c0, c)
        c_after = _row(f, j) * c_before + _row(ig, j)
        valid = chunks.valid(t)
        if valid is not None:
            c_after = jnp.where(valid, c_after, c)
        return c_after, _put(before, c_before, j), _put(after, c_after, j)

    zeros = jnp.zeros_like(ig)
    _, before, after = chunks.steps(m, step, (c, zeros, zeros), down=config.reverse)
    return before, after


class _Chunks:
    """Time cut into n chunks of K rows. Where K does not divide T, the last chunk overlaps the one before it, and
    the rows it owns begin at `low`; so every chunk has one shape and is traced once."""

    def __init__(self, config, T, *rest):
        self.config, self.T, self.K = config, T, config.chunk
        self.n = -(-T // self.K)
        self.ragged = T % self.K != 0
        given = dict(zip(config.rest, rest, strict=True))
        self.lengths, self.mask, self.recurrent = (given.get(name) for name in ("lengths", "mask", "recurrent"))
        self.reset = given.get("reset")
        # A reset in the padding is none: the state there is held.
        if self.reset is not None and self.lengths is not None:
            self.reset &= lax.broadcasted_iota(jnp.int32, self.reset.shape, 0) < self.lengths[None]
        if self.reset is not None and self.mask is not None:
            self.reset &= self.mask

    def loop(self, body, carry, down):
        """`body(m, carry)` over all chunks, from the last to the first if `down`; a single one need not hand on what it
        was given."""
        if self.n == 1:
            return body(0, carry)
        return lax.fori_loop(0, self.n, lambda k, carry: body(self.n - 1 - k if down else k, carry), carry)

    def steps(self, m, body, carry, down):
        """`body(j, carry)` over the rows j that chunk m owns."""
        low = self._low(m)
        return lax.fori_loop(low, self.K, lambda k, carry: body(self.K - 1 + low - k if down else k, carry), carry)

    def rows(self, m, xs):
        """The first row of chunk m, and its K rows of `xs`."""
        first = m * self.K
        if self.ragged:
            first = jnp.minimum(first, self.T - self.K)
        return first, lax.dynamic_slice_in_dim(xs, first, self.K)

    def valid(self, t, lane=ALL):
        """Which sequences of a lane have a step t, [B, 1]; None if all have."""
        if self.lengths is not None:
            return (t < self.lengths[lane])[:, None]
        return None if self.mask is None else _row(self.mask, t, lane)[:, None]

    def dropped(self, h, lane=ALL):
        """What is left of a lane's h [..., B, H] by recurrent dropout; its own transpose."""
        if self.recurrent is None:
            return h
        return h * lax.expand_dims(self.recurrent[lane].astype(h.dtype), range(h.ndim - self.recurrent.ndim))

    def clean(self, first, x):
        """The rows of a chunk with padding set to 0, before any product sees it."""
        if self.mask is not None:
            return jnp.where(lax.dynamic_slice_in_dim(self.mask, first, self.K)[..., None], x, 0)
        if self.lengths is None:
            return x
        t = first + lax.broadcasted_iota(jnp.int32, (self.K, 1), 0)
        return jnp.where((t < self.lengths[None])[..., None], x, 0)

    def before(self, first, rows, initial):
        """For each step of a chunk, the row of the step processed before it, or `initial` where a sequence begins."""
        T, K = self.T, self.K
        t = first + lax.broadcasted_iota(jnp.int32, (K, 1), 0)
        inside = lax.dynamic_slice_in_dim(rows, first, K)
        if self.config.reverse:
            edge = lax.dynamic_slice_in_dim(rows, jnp.minimum(first + K, T - 1), 1)
            shifted = jnp.concatenate([inside[1:], edge])
            start = t == (T if self.lengths is None else self.lengths[None]) - 1
        else:
            edge = lax.dynamic_slice_in_dim(rows, jnp.maximum(first - 1, 0), 1)
            shifted = jnp.concatenate([edge, inside[:-1]])
            start = t == 0
        if self.reset is not None:
            start = start | lax.dynamic_slice_in_dim(self.reset, first, K)
        return jnp.where(start[..., None], initial.astype(rows.dtype)[None], shifted)

    def own(self, m, rows):
        """`rows` of a chunk with those that chunk m does not own set to 0."""
        return jnp.where(self._owned(m), rows, 0) if self.ragged else rows

    def put(self, m, xs, rows):
        """`xs` with the rows that chunk m owns replaced."""
        first, old = self.rows(m, xs)
        rows = jnp.where(self._owned(m), rows, old) if self.ragged else rows
        return lax.dynamic_update_slice_in_dim(xs, rows, first, 0)

    def _owned(self, m):
        return lax.broadcasted_iota(jnp.int32, (self.K, 1, 1), 0) >= self._low(m)

    def _low(self, m):
        return m * self.K - jnp.minimum(m * self.K, self.T - self.K) if self.ragged else 0


def _empty(shape, dtype, like, mark):
    """A buffer whose every row will be written. What it has until then is a number of its own: XLA takes two buffers of
    the same for one, which it fills, and copies."""
    return varying.over(varying.axes(like), lax.full(shape, mark, dtype))


def _cut(B, lanes):
    """The lanes of a batch, as slices."""
    size = -(-B // lanes)
    return [slice(low, min(low + size, B)) for low in range(0, B, size)] if lanes > 1 else [ALL]


def _joined(lanes):
    return lanes[0] if len(lanes) == 1 else jnp.concatenate(lanes)


# An index that may be negative is looked at by an operation of its own, at every step.
_COUNTED = dict(allow_negative_indices=False)


def _row(rows, t, lane=ALL):
    """Row t of rows [T, B, ...], of a lane of its batch."""
    if lane == ALL:
        return lax.dynamic_index_in_dim(rows, t, 0, keepdims=False, **_COUNTED)
    start, size = (t, lane.start, *[0] * (rows.ndim - 2)), (1, lane.stop - lane.start, *rows.shape[2:])
    return lax.squeeze(lax.dynamic_slice(rows, start, size, **_COUNTED), (0,))


def _put(rows, row, t, lane=ALL):
    """`rows` with the row t of a lane replaced."""
    row = row.astype(rows.dtype)
    if lane == ALL:
        return lax.dynamic_update_index_in_dim(rows, row, t, 0, **_COUNTED)
    return lax.dynamic_update_slice(rows, row[None], (t, lane.start, *[0] * (rows.ndim - 2)), **_COUNTED)


def _activate(a):
    """i, f, g, o from the four tanh [..., 4H]."""
    i, f, g, o = jnp.split(a, 4, axis=-1)
    return i * 0.5 + 0.5, f * 0.5 + 0.5, g, o * 0.5 + 0.5


def _half(H, dtype):
    """[4H], what z is multiplied by before the one tanh."""
    return jnp.repeat(jnp.array([0.5, 0.5, 1, 0.5], dtype), H)


def _project(x, w, b, config, wide):
    """x w + b for a chunk: [K, B, D] to [K, B, 4H]."""
    return _dot(x, w, config, wide) + b[None, None]


def _dot(x, w, config, wide, widen=False):
    """[..., B, M] times [M, N], summed in `wide` or wider."""
    return _product(_held(x, config, wide, widen), w, config, wide)


def _product(x, w, config, wide):
    """The same of operands that are held already; w may have more axes after its first."""
    kind = dict(precision=config.precision, preferred_element_type=wider(wide, config.dtype))
    return jnp.tensordot(x, w, 1, **kind).astype(wide)


def _held(x, config, wide, widen):
    """An operand of a product: as `config.dtype`, or if `widen`, with the values of that but in `wide`."""
    if not widen:
        return x.astype(config.dtype)
    # Not by a cast and a cast back, which XLA may take to be none.
    kind = jnp.finfo(config.dtype)
    return lax.reduce_precision(x.astype(wide), kind.nexp, kind.nmant)


def _times(x, first, second, config, wide, widen):
    """x [B, M] times `second` [M, N], or if that is None, times the transpose of `first` [N, M]: by vectors where B is
    1."""
    if second is not None:
        return _dot(x, second, config, wide, widen)
    x = _held(x, config, wide, widen)
    if len(x) == 1:
        return _product(first, x[0], config, wide)[None]
    return _untransposed(x, first, config, wide)


def _untransposed(x, w, config, wide):
    """x [..., M] times the transpose of w [N, M], which is read as it lies."""
    if isinstance(config.precision, tuple):  # one for each operand
        config = config._replace(precision=config.precision[::-1])
    # Behind barriers, else XLA turns the product round again. No axis of x is merged with another: a batch that is
    # sharded over devices stays where it is.
    x = lax.optimization_barrier(jnp.moveaxis(x.astype(config.dtype), -1, 0))
    return jnp.moveaxis(lax.optimization_barrier(_product(w, x, config, wide)), 0, -1)


def _outer(x, dz, config, wide):
    """The sum over time and batch of x^T dz: [K, B, M], [K, B, N] to [M, N]."""
    # Two contracting axes, not one reshaped: a batch that is sharded over devices stays where it is.
    kind = dict(precision=config.precision, preferred_element_type=wider(wide, config.dtype))
    x, dz = x.astype(config.dtype), dz.astype(config.dtype)
    return lax.dot_general(x, dz, (((0, 1), (0, 1)), ((), ())), **kind).astype(wide)
