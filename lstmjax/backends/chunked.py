"""The arithmetic of fused: the LSTM and the transpose of its derivative over plain arrays, a chunk of time at a time.

A chunk's input projection is one GEMM before its steps; in the backward pass a chunk's weight gradients and dx are one
GEMM each after its steps, so that a step's loop holds one small product and little else. Chunks rather than the whole
sequence, because a [T, B, 4H] buffer is fresh memory whose page faults cost a CPU more than the larger product saves.

The gates i, f, o are sigmoid(z) = tanh(z / 2) / 2 + 1/2, so a step takes one tanh over all 4H columns, of z times
[1/2, 1/2, 1, 1/2]; that 1/2 is exact.
"""

import jax.numpy as jnp
from jax import lax

from lstmjax import varying
from lstmjax.backends.chunks import (
    Chunks,
    activate,
    dot,
    empty,
    halved,
    halves,
    held,
    joined,
    lanes_of,
    outer,
    project,
    put,
    row,
    times,
    untransposed,
)


def forward(w_x, w_h, b, xs, h0, c0, *rest, config, keep, lanes=1, weights_first=False, widen=False):
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

    Returns:
      hs [T, B, H], h and c [B, H], and with `keep` the residuals: for "gates" the four tanh of each step [T, B, 4H]
      and c after each step [T, B, H]; for "outputs" the c before each chunk [n, B, H]. At padding hs is 0; at masked
      steps it is the h that is held there, for the backward pass to read, and the caller puts 0 in its place.
    """
    chunks = Chunks(config, len(xs), *rest)
    T, B, _ = xs.shape
    H, wide = w_h.shape[0], c0.dtype
    w_x, w_h, b, half = halved(w_x, w_h, b, T * B, wide)
    w_x, w_h, b = w_x.astype(config.dtype), held(w_h, config, wide, widen), b.astype(wide)
    # Behind a barrier, which keeps XLA from undoing it.
    first, second = (lax.optimization_barrier(w_h.T), None) if weights_first else (None, w_h)
    gates = keep and config.residuals == "gates"
    outputs = keep and config.residuals == "outputs"

    cut = lanes_of(B, lanes)

    def chunk_body(m, carry):
        h, c, hs, *kept = carry
        if outputs:
            for lane, c_lane in zip(cut, c, strict=True):
                kept = [put(kept[0], c_lane, m, lane)]
        start, x = chunks.rows(m, xs)
        zx = dot(chunks.clean(start, x), w_x, config, wide)
        if B == 1:
            zx += b[None, None]

        def step(j, carry):
            h_lanes, c_lanes, hs, *kept = carry
            t, after = start + j, []
            for lane, h, c in zip(cut, h_lanes, c_lanes, strict=True):
                h_before, c_before = h, c
                if chunks.reset is not None:
                    restart = row(chunks.reset, t, lane)[:, None]
                    h_before, c_before = jnp.where(restart, h0[lane], h), jnp.where(restart, c0[lane], c)
                zh = times(chunks.dropped(h_before, lane), first, second, config, wide, widen)
                z = row(zx, j, lane) + zh if B == 1 else row(zx, j, lane) + b[None] + zh
                a = jnp.tanh(z if half is None else z * half[None])
                i, f, g, o = activate(a)
                c_after = f * c_before + i * g
                h_after = o * jnp.tanh(c_after)
                y, valid = h_after, chunks.valid(t, lane)
                if valid is not None:
                    y = jnp.where(valid, h_after, 0 if chunks.mask is None else h)
                    h_after, c_after = jnp.where(valid, h_after, h), jnp.where(valid, c_after, c)
                if gates:
                    kept = [put(kept[0], a, t, lane), put(kept[1], c_after, t, lane)]
                hs = put(hs, y, t, lane)
                after.append((h_after, c_after))
            h, c = (list(s) for s in zip(*after, strict=True))
            return h, c, hs, *kept

        return chunks.steps(m, step, (h, c, hs, *kept), down=config.reverse)

    kept = []
    if gates:
        kept = [empty((T, B, 4 * H), wide, xs, 1), empty((T, B, H), wide, xs, 2)]
    if outputs:
        kept = [empty((chunks.n, B, H), wide, xs, 2)]
    state = ([s[lane] for lane in cut] for s in (h0, c0))
    carry = (*state, empty((T, B, H), config.stored, xs, 0), *kept)
    h, c, hs, *kept = chunks.loop(chunk_body, carry, down=config.reverse)
    return [hs, joined(h), joined(c), *kept]


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
    chunks = Chunks(config, len(xs), *rest)
    B, H, wide, K = xs.shape[1], w_h.shape[0], c0.dtype, chunks.K
    cast_x, cast_h, half = w_x.astype(config.dtype), w_h.astype(config.dtype), halves(H, wide)
    # Transposed once, and the barrier keeps XLA from undoing it: on a CPU it multiplies by a transpose at half the
    # speed, or transposes anew at every step. None where a product takes the weights as they are.
    x_back = None if x_first and chunks.n == 1 else lax.optimization_barrier(cast_x.T)
    held_h = held(w_h, config, wide, widen)
    h_back = None if weights_first or B == 1 else lax.optimization_barrier(held_h.T)
    want_wx, want_wh, want_b, want_x, want_h0, want_c0 = wrt
    cut = lanes_of(B, lanes)

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
            z = project(x, cast_x, b.astype(wide), config, wide) + dot(h_before, cast_h, config, wide)
            a = jnp.tanh(z * half[None, None])
            c_before, c_after = _cells(chunks, m, first, a, row(kept[0], m), c0)
        i, f, g, o = activate(a)
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
                dh_t = row(dy, j, lane) + dh
                dc_t = dc + dh_t * row(c_slope, j, lane)
                dz_t = jnp.concatenate([dc_t, dc_t, dc_t, dh_t], axis=-1) * row(slope, j, lane)
                dc_t = dc_t * row(f, j, lane)
                valid = chunks.valid(t, lane)
                if valid is not None:
                    dz_t = jnp.where(valid, dz_t, 0)
                dh_t = chunks.dropped(times(dz_t, held_h, h_back, config, wide, widen), lane)
                if valid is not None:
                    dh_t, dc_t = jnp.where(valid, dh_t, dh), jnp.where(valid, dc_t, dc)
                if chunks.reset is not None:
                    restart = row(chunks.reset, t, lane)[:, None]
                    d0_after.append(
                        [d + jnp.where(restart, d_t, 0) for d, d_t in zip(d0[k], (dh_t, dc_t), strict=True)]
                    )
                    dh_t, dc_t = jnp.where(restart, 0, dh_t), jnp.where(restart, 0, dc_t)
                dz = put(dz, dz_t, j, lane)
                before.append((dh_t, dc_t))
            dh, dc = (list(s) for s in zip(*before, strict=True))
            return dh, dc, dz, d0_after

        dh, dc, dz, d0 = chunks.steps(m, step, (dh, dc, dz, d0), down=not config.reverse)
        dz_own = chunks.own(m, dz)
        terms = [(x, want_wx), (h_before, want_wh)]
        terms = [outer(rows, dz_own, config, wide) for rows, wanted in terms if wanted]
        terms += [dz_own.astype(wide).sum((0, 1))] * want_b
        sums = [total + term for total, term in zip(sums, terms, strict=True)] if chunks.n > 1 else terms
        if want_x:
            dx = untransposed(dz_own, cast_x, config, wide) if x_back is None else dot(dz_own, x_back, config, wide)
            dxs = [chunks.put(m, dxs[0], dx)]
        return dh, dc, dz, sums, dxs, d0

    weights = [w for w, wanted in zip((w_x, w_h, b), wrt, strict=False) if wanted]
    sums = varying.over(varying.axes(xs), [jnp.zeros(w.shape, wide) for w in weights if chunks.n > 1])
    dxs = [empty(xs.shape, xs.dtype, xs, 4)] * want_x
    dh, dc = ([s[lane] for lane in cut] for s in (dh, dc))
    d0 = [[jnp.zeros_like(s) for s in pair] for pair in zip(dh, dc, strict=True) if chunks.reset is not None]
    # dz is kept in `wide` and rounded where it is multiplied: XLA for a CPU has no bfloat16, and writes all of such a
    # buffer anew for a row of it.
    carry = (dh, dc, empty((K, B, 4 * H), wide, xs, 3), sums, dxs, d0)
    dh, dc, _, sums, dxs, d0 = chunks.loop(chunk_body, carry, down=not config.reverse)
    dh, dc = joined(dh), joined(dc)
    if d0:
        dh, dc = (d + joined(d_lanes) for d, d_lanes in zip((dh, dc), zip(*d0, strict=True), strict=True))
    sums = [total.astype(w.dtype) for total, w in zip(sums, weights, strict=True)]
    return sums + dxs + [dh] * want_h0 + [dc] * want_c0


def _cells(chunks, m, first, a, c, c0):
    """c before and after each step of a chunk, from its gates and the c it began with."""
    config = chunks.config
    i, f, g, _ = activate(a)
    ig = i * g

    def step(j, carry):
        c, before, after = carry
        t = first + j
        c_before = c
        if chunks.reset is not None:
            c_before = jnp.where(row(chunks.reset, t)[:, None], c0, c)
        c_after = row(f, j) * c_before + row(ig, j)
        valid = chunks.valid(t)
        if valid is not None:
            c_after = jnp.where(valid, c_after, c)
        return c_after, put(before, c_before, j), put(after, c_after, j)

    zeros = jnp.zeros_like(ig)
    _, before, after = chunks.steps(m, step, (c, zeros, zeros), down=config.reverse)
    return before, after
