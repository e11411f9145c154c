"""The LSTM with its own derivative: whole-chunk matrix products, one tanh for four gates, nothing recomputed by scan.

Time goes in chunks. A chunk's input projection is one GEMM before its steps; in the backward pass a chunk's weight
gradients and dx are one GEMM each after its steps, so that a step's loop holds one small product and little else.
Chunks rather than the whole sequence, because a [T, B, 4H] buffer is fresh memory whose page faults cost a CPU more
than the larger product saves.

The gates i, f, o are sigmoid(z) = tanh(z / 2) / 2 + 1/2, and 1/2 is exact, so it is folded into the weights once and
a step takes one tanh over all 4H columns.

Three primitives carry it: the run, its tangent (linear; only ever transposed, unless someone asks for forward mode)
and its transpose. A `custom_vjp` would not do: under `vmap` it forms the weight gradients of each example and sums
them afterwards. Here the tangent is batched before it is transposed, as JAX does with its own products, so `grad` of
`vmap` folds the mapped axis into the batch, and `vmap` of `grad` still gives each example its own gradient.

Inside, arrays have a group axis G beside the batch: sequences of one group share weights. `vmap` over data grows B,
`vmap` over weights grows G.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from lstmjax.backends import scan
from lstmjax.cells import LSTMParams, LSTMState, matmul_dtype, state_dtype, wider

RESIDUALS = ("gates", "outputs")


def supports(params, xs, *, residuals=None, chunk=None, **_):
    """Why fused cannot do this, or None."""
    if type(params) is not LSTMParams:
        return f"it knows LSTMParams only, not {type(params).__name__}"
    return None


def run(
    params,
    xs,
    state,
    *,
    lengths,
    reset,
    reverse,
    compute_dtype,
    precision,
    residuals=None,
    chunk=None,
    insist=False,
    **_,
):
    """A layer over time; arguments and results are those of `scan.run`, and beside them:

    residuals: what is kept for the backward pass: "gates" (fastest), or "outputs" (leanest: little more than the
      outputs; the gates of a chunk come back in one GEMM).
    chunk: steps in a chunk.
    insist: whether fused was asked for by name; forward mode and second derivatives are then an error, not left to
      scan.
    """
    T, *batch, D = xs.shape
    dtype, wide = matmul_dtype(params, xs, compute_dtype), state_dtype(xs.dtype)
    if xs.size == 0:  # T = 0 or an empty batch: nothing to fuse
        return scan.run(
            params,
            xs,
            state,
            lengths=lengths,
            reset=reset,
            reverse=reverse,
            compute_dtype=compute_dtype,
            precision=precision,
        )
    config = Config(
        reverse=reverse,
        dtype=dtype,
        # The outputs double as what the recurrent product saw, so they are stored so that nothing of it is lost.
        stored=xs.dtype if xs.dtype in (wide, dtype) else wider(dtype, xs.dtype),
        chunk=min(T, chunk or _chunk(T)),
        residuals=residuals or "gates",
        precision=precision,
        lengths=lengths is not None,
        reset=reset is not None,
        insist=insist,
    )
    b = jnp.zeros(params.w_h.shape[1], params.w_h.dtype) if params.b is None else params.b
    operands = [
        *(w[None] for w in (params.w_x, params.w_h, b)),
        xs.reshape(T, 1, -1, D),
        *(s.reshape(1, -1, s.shape[-1]) for s in state),
    ]
    if lengths is not None:
        operands.append(lengths.reshape(1, -1))
    if reset is not None:
        operands.append(reset.reshape(T, 1, -1))
    ys, h, c = run_p.bind(*operands, config=config, keep=False)
    shape = (*batch, ys.shape[-1])
    return LSTMState(h.reshape(shape), c.reshape(shape)), ys.reshape(T, *shape).astype(xs.dtype)


class Config(NamedTuple):
    """The static side of a run."""

    reverse: bool
    dtype: Any  # of the products
    stored: Any  # of the outputs
    chunk: int
    residuals: str
    precision: Any
    lengths: bool
    reset: bool
    insist: bool


def _chunk(T):
    """Steps in a chunk: about 10, and if it can be a divisor of T, which spares the last chunk its overlap."""
    divisors = [k for k in range(5, 21) if T % k == 0]
    return min(divisors, key=lambda k: abs(k - 10), default=10)


# --- forward ---------------------------------------------------------------------------------------------------------


def forward(w_x, w_h, b, xs, h0, c0, *rest, config, keep):
    """The recurrence, a chunk at a time.

    Args:
      w_x, w_h, b: [G, D, 4H], [G, H, 4H], [G, 4H].
      xs, h0, c0: [T, G, B, D], [G, B, H], [G, B, H].
      rest: lengths int32 [G, B] and reset bool [T, G, B], as far as `config` has them.
      keep: whether to return the residuals too.

    Returns:
      hs [T, G, B, H], h and c [G, B, H], and with `keep` the residuals: for "gates" the four tanh of each step
      [T, G, B, 4, H] and c after each step [T, G, B, H]; for "outputs" the c before each chunk [n, G, B, H].
    """
    chunks = _Chunks(config, xs, *rest)
    T, G, B, _ = xs.shape
    H, wide = w_h.shape[1], c0.dtype
    w_x, w_h, b = _halved(w_x, config.dtype), _halved(w_h, config.dtype), _halved(b, wide)
    gates = keep and config.residuals == "gates"
    outputs = keep and config.residuals == "outputs"

    def chunk_body(m, carry):
        h, c, hs, *kept = carry
        if outputs:
            kept = [lax.dynamic_update_index_in_dim(kept[0], c, m, 0)]
        first, x = chunks.rows(m, xs)
        zx = _project(chunks.clean(first, x), w_x, b, config, wide)

        def step(j, carry):
            h, c, hs, *kept = carry
            t = first + j
            h_before, c_before = h, c
            if config.reset:
                restart = lax.dynamic_index_in_dim(chunks.reset, t, 0, False)[..., None]
                h_before, c_before = jnp.where(restart, h0, h), jnp.where(restart, c0, c)
            z = lax.dynamic_index_in_dim(zx, j, 0, False) + _dot(h_before, w_h, config, wide)
            a = jnp.tanh(z).reshape(G, B, 4, H)
            i, f, g, o = _activate(a)
            c_after = f * c_before + i * g
            h_after = o * jnp.tanh(c_after)
            y = h_after
            if config.lengths:
                valid = (t < chunks.lengths)[..., None]
                y = jnp.where(valid, h_after, 0)
                h_after, c_after = jnp.where(valid, h_after, h), jnp.where(valid, c_after, c)
            hs = lax.dynamic_update_index_in_dim(hs, y.astype(hs.dtype), t, 0)
            if gates:
                kept = [
                    lax.dynamic_update_index_in_dim(buffer, row, t, 0)
                    for buffer, row in zip(kept, (a, c_after), strict=True)
                ]
            return h_after, c_after, hs, *kept

        return chunks.steps(m, step, (h, c, hs, *kept), down=config.reverse)

    kept = []
    if gates:
        kept = [jnp.zeros((T, G, B, 4, H), wide), jnp.zeros((T, G, B, H), wide)]
    if outputs:
        kept = [jnp.zeros((chunks.n, G, B, H), wide)]
    carry = (h0, c0, jnp.zeros((T, G, B, H), config.stored), *kept)
    h, c, hs, *kept = chunks.loop(chunk_body, carry, down=config.reverse)
    return [hs, h, c, *kept]


# --- backward --------------------------------------------------------------------------------------------------------


def backward(dhs, dh, dc, w_x, w_h, b, xs, h0, c0, *rest, config, wrt):
    """The transpose of the derivative of `forward`, a chunk at a time, from the last step to the first.

    Args:
      dhs, dh, dc: cotangents of hs, h and c.
      w_x ... c0, rest: the operands of `forward`, then its hs and its residuals.
      wrt: for each of w_x, w_h, b, xs, h0, c0 whether its gradient is asked for.

    Returns:
      The gradients asked for, in the shapes and dtypes of the operands.
    """
    *rest, hs, kept = _split_rest(rest, config)
    chunks = _Chunks(config, xs, *rest)
    T, G, B, D = xs.shape
    H, wide, K = w_h.shape[1], c0.dtype, chunks.K
    half_x, half_h, half_b = _halved(w_x, config.dtype), _halved(w_h, config.dtype), _halved(b, wide)
    half_x_T, half_h_T = jnp.swapaxes(half_x, 1, 2), jnp.swapaxes(half_h, 1, 2)
    want_wx, want_wh, want_b, want_x, *_ = wrt

    def chunk_body(m, carry):
        dh, dc, dz, sums, dxs, d0 = carry
        first, x = chunks.rows(m, xs)
        x = chunks.clean(first, x)
        h_before = chunks.before(first, hs, h0.astype(config.dtype)).astype(config.dtype)
        if config.residuals == "gates":
            a = lax.dynamic_slice_in_dim(kept[0], first, K)
            c_after = lax.dynamic_slice_in_dim(kept[1], first, K)
            c_before = chunks.before(first, kept[1], c0)
        else:
            z = _project(x, half_x, half_b, config, wide) + _dot(h_before, half_h, config, wide)
            a = jnp.tanh(z).reshape(K, G, B, 4, H)
            c_before, c_after = _cells(chunks, m, first, a, lax.dynamic_index_in_dim(kept[0], m, 0, False), c0)
        i, f, g, o = _activate(a)
        tanh_c = jnp.tanh(c_after)
        # d(half z) of a gate = slope * (dc or dh): all that needs no carry is formed for the whole chunk here.
        slope = (1 - a * a) * jnp.stack([g * 0.5, c_before * 0.5, i, tanh_c * 0.5], axis=-2)
        c_slope = o * (1 - tanh_c * tanh_c)
        dy = lax.dynamic_slice_in_dim(dhs, first, K).astype(wide)

        def step(j, carry):
            dh, dc, dz, d0 = carry
            t = first + j
            row = partial(lax.dynamic_index_in_dim, index=j, axis=0, keepdims=False)
            dh_t = row(dy) + dh
            dc_t = dc + dh_t * row(c_slope)
            is_o = lax.broadcasted_iota(jnp.int32, (1, 1, 4, 1), 2) == 3
            dz_t = jnp.where(is_o, dh_t[..., None, :], dc_t[..., None, :]) * row(slope)
            dc_t = dc_t * row(f)
            if config.lengths:
                valid = (t < chunks.lengths)[..., None]
                dz_t = jnp.where(valid[..., None], dz_t, 0)
            dz_t = dz_t.reshape(G, B, 4 * H).astype(dz.dtype)
            dh_t = _dot(dz_t, half_h_T, config, wide)
            if config.lengths:
                dh_t, dc_t = jnp.where(valid, dh_t, dh), jnp.where(valid, dc_t, dc)
            if config.reset:
                restart = lax.dynamic_index_in_dim(chunks.reset, t, 0, False)[..., None]
                d0 = [d + jnp.where(restart, d_t, 0) for d, d_t in zip(d0, (dh_t, dc_t), strict=True)]
                dh_t, dc_t = jnp.where(restart, 0, dh_t), jnp.where(restart, 0, dc_t)
            return dh_t, dc_t, lax.dynamic_update_index_in_dim(dz, dz_t, j, 0), d0

        dh, dc, dz, d0 = chunks.steps(m, step, (dh, dc, dz, d0), down=not config.reverse)
        dz_own = chunks.own(m, dz)
        sums = [
            total + term()
            for total, term in zip(
                sums,
                [lambda: _outer(x, dz_own, config, wide)] * want_wx
                + [lambda: _outer(h_before, dz_own, config, wide)] * want_wh
                + [lambda: dz_own.astype(wide).sum((0, 2))] * want_b,
                strict=True,
            )
        ]
        if want_x:
            dx = _dot(dz_own, half_x_T, config, wide).astype(xs.dtype)
            dxs = [chunks.put(m, dxs[0], dx)]
        return dh, dc, dz, sums, dxs, d0

    sums = [jnp.zeros(w.shape, wide) for w, wanted in zip((w_x, w_h, b), wrt, strict=False) if wanted]
    dxs = [jnp.zeros(xs.shape, xs.dtype)] if want_x else []
    d0 = [jnp.zeros_like(h0), jnp.zeros_like(c0)] if config.reset else []
    dz = jnp.zeros((K, G, B, 4 * H), config.dtype)
    carry = (dh, dc, dz, sums, dxs, d0)
    dh, dc, _, sums, dxs, d0 = chunks.loop(chunk_body, carry, down=not config.reverse)
    if config.reset:
        dh, dc = dh + d0[0], dc + d0[1]
    weights = [w for w, wanted in zip((w_x, w_h, b), wrt, strict=False) if wanted]
    sums = [_halved(total, w.dtype) for total, w in zip(sums, weights, strict=True)]
    return sums + dxs + [dh] * wrt[4] + [dc] * wrt[5]


def _cells(chunks, m, first, a, c, c0):
    """c before and after each step of a chunk, from its gates and the c it began with."""
    config = chunks.config
    i, f, g, _ = _activate(a)
    ig = i * g

    def step(j, carry):
        c, before, after = carry
        t = first + j
        c_before = c
        if config.reset:
            c_before = jnp.where(lax.dynamic_index_in_dim(chunks.reset, t, 0, False)[..., None], c0, c)
        c_after = lax.dynamic_index_in_dim(f, j, 0, False) * c_before + lax.dynamic_index_in_dim(ig, j, 0, False)
        if config.lengths:
            c_after = jnp.where((t < chunks.lengths)[..., None], c_after, c)
        before = lax.dynamic_update_index_in_dim(before, c_before, j, 0)
        return c_after, before, lax.dynamic_update_index_in_dim(after, c_after, j, 0)

    zeros = jnp.zeros_like(ig)
    _, before, after = chunks.steps(m, step, (c, zeros, zeros), down=config.reverse)
    return before, after


# --- chunks and products ---------------------------------------------------------------------------------------------


class _Chunks:
    """Time cut into n chunks of K rows. Where K does not divide T, the last chunk overlaps the one before it, and
    the rows it owns begin at `low`; so every chunk has one shape and is traced once."""

    def __init__(self, config, xs, *rest):
        self.config, self.T, self.K = config, len(xs), config.chunk
        self.n = -(-self.T // self.K)
        self.ragged = self.T % self.K != 0
        rest = list(rest)
        self.lengths = rest.pop(0) if config.lengths else None
        self.reset = rest.pop(0) if config.reset else None
        if config.lengths and config.reset:  # a reset in the padding is none: the state there is held
            self.reset = self.reset & (lax.broadcasted_iota(jnp.int32, self.reset.shape, 0) < self.lengths[None])

    def loop(self, body, carry, down):
        """`body(m, carry)` over all chunks, from the last to the first if `down`."""
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

    def clean(self, first, x):
        """The rows of a chunk with padding set to 0, before any product sees it."""
        if not self.config.lengths:
            return x
        t = first + lax.broadcasted_iota(jnp.int32, (self.K, 1, 1), 0)
        return jnp.where((t < self.lengths[None])[..., None], x, 0)

    def before(self, first, rows, initial):
        """For each step of a chunk, the row of the step processed before it, or `initial` where a sequence begins."""
        T, K = self.T, self.K
        t = first + lax.broadcasted_iota(jnp.int32, (K, 1, 1, 1), 0)
        inside = lax.dynamic_slice_in_dim(rows, first, K)
        if self.config.reverse:
            edge = lax.dynamic_slice_in_dim(rows, jnp.minimum(first + K, T - 1), 1)
            shifted = jnp.concatenate([inside[1:], edge])
            start = t == (T - 1 if self.lengths is None else self.lengths[None, ..., None] - 1)
        else:
            edge = lax.dynamic_slice_in_dim(rows, jnp.maximum(first - 1, 0), 1)
            shifted = jnp.concatenate([edge, inside[:-1]])
            start = t == 0
        if self.config.reset:
            start = start | lax.dynamic_slice_in_dim(self.reset, first, K)[..., None]
        return jnp.where(start, initial.astype(rows.dtype)[None], shifted)

    def own(self, m, rows):
        """`rows` of a chunk with those that chunk m does not own set to 0."""
        if not self.ragged:
            return rows
        j = lax.broadcasted_iota(jnp.int32, (self.K, *(1,) * (rows.ndim - 1)), 0)
        return jnp.where(j >= self._low(m), rows, 0)

    def put(self, m, xs, rows):
        """`xs` with chunk m's own rows replaced."""
        first, old = self.rows(m, xs)
        if self.ragged:
            j = lax.broadcasted_iota(jnp.int32, (self.K, *(1,) * (rows.ndim - 1)), 0)
            rows = jnp.where(j >= self._low(m), rows, old)
        return lax.dynamic_update_slice_in_dim(xs, rows, first, 0)

    def _low(self, m):
        return m * self.K - jnp.minimum(m * self.K, self.T - self.K) if self.ragged else 0


def _activate(a):
    """i, f, g, o from the four tanh [..., 4, H]."""
    i, f, g, o = (a[..., k, :] for k in range(4))
    return i * 0.5 + 0.5, f * 0.5 + 0.5, g, o * 0.5 + 0.5


def _halved(w, dtype):
    """`w` with the columns of i, f and o halved: exact, and its own transpose."""
    H = w.shape[-1] // 4
    scale = jnp.repeat(jnp.array([0.5, 0.5, 1, 0.5], w.dtype), H)
    return (w * scale.reshape((1,) * (w.ndim - 1) + (-1,))).astype(dtype)


def _project(x, w, b, config, wide):
    """x w + b for a chunk: [K, G, B, D] to [K, G, B, 4H]."""
    return _dot(x, w, config, wide) + b[None, :, None, :]


def _dot(x, w, config, wide):
    """[..., G, B, M] times [G, M, N], summed in `wide` or what the products themselves are."""
    x = x.astype(config.dtype)
    kind = dict(precision=config.precision, preferred_element_type=wider(wide, config.dtype))
    if len(w) == 1:
        return lax.dot_general(x, w[0], (((x.ndim - 1,), (0,)), ((), ())), **kind).astype(wide)
    g = x.ndim - 3
    out = lax.dot_general(x, w, (((x.ndim - 1,), (1,)), ((g,), (0,))), **kind)  # [G, ..., B, N]
    return jnp.moveaxis(out, 0, g).astype(wide)


def _outer(x, dz, config, wide):
    """The sum over time and batch of x^T dz: [K, G, B, M], [K, G, B, N] to [G, M, N]."""
    x, dz = x.astype(config.dtype), dz.astype(config.dtype)
    kind = dict(precision=config.precision, preferred_element_type=wider(wide, config.dtype))
    if x.shape[1] == 1:
        x, dz = (v.reshape(-1, v.shape[-1]) for v in (x, dz))
        return lax.dot_general(x, dz, (((0,), (0,)), ((), ())), **kind).astype(wide)[None]
    return lax.dot_general(x, dz, (((0, 2), (0, 2)), ((1,), (1,))), **kind).astype(wide)


def _split_rest(rest, config):
    """What follows the six linear operands in `backward`: [lengths], [reset], hs, residuals."""
    n = config.lengths + config.reset
    return *rest[:n], rest[n], rest[n + 1 :]


# --- primitives ------------------------------------------------------------------------------------------------------


def tangent(*operands, config, wrt):
    """Tangents of hs, h and c. Reached only in forward mode, which scan does."""
    if config.insist:
        raise TypeError(_ORDER)
    n = sum(wrt)
    given, primals = list(operands[:n]), list(operands[n:])
    linear, rest = primals[:6], primals[6:]
    rest = rest[: config.lengths + config.reset]
    tangents = [given.pop(0) if wanted else jnp.zeros_like(p) for p, wanted in zip(linear, wrt, strict=True)]
    return jax.jvp(lambda *linear: _by_scan(config, rest, *linear), linear, tangents)[1]


def _by_scan(config, rest, w_x, w_h, b, xs, h0, c0):
    """`forward` without residuals, by the scan backend."""
    rest = list(rest)
    lengths = rest.pop(0) if config.lengths else None
    reset = rest.pop(0) if config.reset else None

    def group(w_x, w_h, b, xs, h0, c0, lengths, reset):
        options = dict(compute_dtype=config.dtype, precision=config.precision, reverse=config.reverse)
        params, state = LSTMParams(w_x, w_h, b), LSTMState(h0, c0)
        state, ys = scan.run(params, xs, state, lengths=lengths, reset=reset, **options)
        return ys.astype(config.stored), *state

    axes = (0, 0, 0, 1, 0, 0, None if lengths is None else 0, None if reset is None else 1)
    return jax.vmap(group, axes, (1, 0, 0))(w_x, w_h, b, xs, h0, c0, lengths, reset)


_ORDER = (
    'backend="fused" has no forward-mode or second derivatives; ask for backend="scan", or leave backend=None, '
    "which takes scan for them"
)


def _run_jvp(primals, tangents, *, config, keep):
    if keep and config.insist:
        raise TypeError(_ORDER)
    primals = list(primals)
    out = run_p.bind(*primals, config=config, keep=True)
    linear = list(zip(primals[:6], tangents[:6], strict=True))
    wrt = tuple(type(d) is not ad.Zero for _, d in linear)
    given = [d for (_, d), wanted in zip(linear, wrt, strict=True) if wanted]
    d_out = tangent_p.bind(*given, *primals, out[0], *out[3:], config=config, wrt=wrt)
    # The residuals are read by our own primitives only, and those differentiate through the operands they came from.
    zeros = [ad.Zero(jax.typeof(r)) for r in out[3:]]
    return (out, d_out + zeros) if keep else (out[:3], d_out)


def _tangent_transpose(cotangents, *operands, config, wrt):
    n = sum(wrt)
    primals = operands[n:]
    hs, (h, c) = primals[6 + config.lengths + config.reset], primals[4:6]
    dhs, dh, dc = (jnp.zeros_like(p) if type(d) is ad.Zero else d for d, p in zip(cotangents, (hs, h, c), strict=True))
    return vjp_p.bind(dhs, dh, dc, *primals, config=config, wrt=wrt) + [None] * len(primals)


def _vjp_jvp(primals, tangents, *, config, wrt):
    if config.insist:
        raise TypeError(_ORDER)
    n = 6 + config.lengths + config.reset
    cotangents, linear, rest = primals[:3], primals[3:9], primals[9 : 3 + n]

    def gradients(cotangents, linear):
        picked = [p for p, wanted in zip(linear, wrt, strict=True) if wanted]

        def picked_run(*picked):
            picked = list(picked)
            filled = [picked.pop(0) if wanted else p for p, wanted in zip(linear, wrt, strict=True)]
            return _by_scan(config, rest, *filled)

        return list(jax.vjp(picked_run, *picked)[1](tuple(cotangents)))

    tangents = [ad.instantiate_zeros(d) for d in tangents[:9]]
    return jax.jvp(gradients, (list(cotangents), list(linear)), (tangents[:3], tangents[3:]))


def _fold(args, axes, layouts, grouped, size):
    """The args with their mapped axis folded away: into G if `grouped`, else into B."""
    folded = []
    for a, axis, layout in zip(args, axes, layouts, strict=True):
        if layout.place(grouped) is not None:
            place = layout.place(grouped)
            if axis is None:
                a = jnp.broadcast_to(jnp.expand_dims(a, place), (*a.shape[:place], size, *a.shape[place:]))
            else:
                a = jnp.moveaxis(a, axis, place)
            a = a.reshape(*a.shape[:place], size * a.shape[place + 1], *a.shape[place + 2 :])
        folded.append(a)
    return folded


def _unfold(results, layouts, grouped, size):
    """The results with the mapped axis apart again, and where it is in each."""
    unfolded, axes = [], []
    for a, layout in zip(results, layouts, strict=True):
        place = layout.place(grouped)
        if place is not None:
            a = a.reshape(*a.shape[:place], size, a.shape[place] // size, *a.shape[place + 1 :])
        unfolded.append(a)
        axes.append(None if place is None else place)
    return unfolded, axes


class _Layout(NamedTuple):
    """Where an array has its group axis, and whether a batch axis follows it (weights have none)."""

    group: int
    batch: bool

    def place(self, grouped):
        """Where a mapped axis goes: before G or before B; None if the array has no B to take it."""
        return self.group if grouped else self.group + 1 if self.batch else None


_WEIGHT, _STATE, _ROWS = _Layout(0, False), _Layout(0, True), _Layout(1, True)
_LINEAR = (_WEIGHT, _WEIGHT, _WEIGHT, _ROWS, _STATE, _STATE)  # w_x, w_h, b, xs, h0, c0


def _layouts(config):
    """Of the operands of a run, and of its residuals."""
    return [*_LINEAR, *[_STATE] * config.lengths, *[_ROWS] * config.reset], [_ROWS] * (
        2 if config.residuals == "gates" else 1
    )


def _picked(wrt):
    return [layout for layout, wanted in zip(_LINEAR, wrt, strict=True) if wanted]


def _bind_batched(primitive, args, axes, given, results, grouped, params):
    mapped = [(a.shape[axis], layout) for a, axis, layout in zip(args, axes, given, strict=True) if axis is not None]
    grouped = grouped or any(layout is _WEIGHT for _, layout in mapped)
    size = mapped[0][0]
    out = primitive.bind(*_fold(args, axes, given, grouped, size), **params)
    return _unfold(out, results, grouped, size)


def _run_batch(args, axes, *, config, keep):
    operands, residuals = _layouts(config)
    results = [_ROWS, _STATE, _STATE, *residuals * keep]
    return _bind_batched(run_p, args, axes, operands, results, False, dict(config=config, keep=keep))


def _tangent_batch(args, axes, *, config, wrt):
    operands, residuals = _layouts(config)
    given = [*_picked(wrt), *operands, _ROWS, *residuals]
    return _bind_batched(tangent_p, args, axes, given, [_ROWS, _STATE, _STATE], False, dict(config=config, wrt=wrt))


def _vjp_batch(args, axes, *, config, wrt):
    operands, residuals = _layouts(config)
    given = [_ROWS, _STATE, _STATE, *operands, _ROWS, *residuals]
    # A weight gradient per example is asked for here: whoever wanted their sum was batched before the transpose.
    return _bind_batched(vjp_p, args, axes, given, _picked(wrt), any(wrt[:3]), dict(config=config, wrt=wrt))


def _run_avals(*operands, config, keep):
    w_h, xs, c0 = operands[1], operands[3], operands[5]
    (T, G, B, _), H, wide = xs.shape, w_h.shape[1], c0.dtype
    out = [((T, G, B, H), config.stored), (c0.shape, wide), (c0.shape, wide)]
    if keep and config.residuals == "gates":
        out += [((T, G, B, 4, H), wide), ((T, G, B, H), wide)]
    if keep and config.residuals == "outputs":
        out += [((-(-T // config.chunk), G, B, H), wide)]
    return [ShapedArray(shape, dtype) for shape, dtype in out]


def _tangent_avals(*operands, config, wrt):
    primals = operands[sum(wrt) :]
    hs = primals[6 + config.lengths + config.reset]
    return [ShapedArray(a.shape, a.dtype) for a in (hs, *primals[4:6])]


def _vjp_avals(*operands, config, wrt):
    return [ShapedArray(a.shape, a.dtype) for a, wanted in zip(operands[3:9], wrt, strict=True) if wanted]


def _primitive(name, function, static, avals, jvp, batch):
    """A primitive that lowers to `function`; run outside of jit, it is jitted once per `config`."""
    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_abstract_eval(avals)
    primitive.def_impl(jax.jit(function, static_argnames=("config", static)))
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=True))
    batching.primitive_batchers[primitive] = batch
    if jvp is not None:
        ad.primitive_jvps[primitive] = jvp
    return primitive


run_p = _primitive("lstm", forward, "keep", _run_avals, _run_jvp, _run_batch)
tangent_p = _primitive("lstm_tangent", tangent, "wrt", _tangent_avals, None, _tangent_batch)
vjp_p = _primitive("lstm_vjp", backward, "wrt", _vjp_avals, _vjp_jvp, _vjp_batch)
ad.primitive_transposes[tangent_p] = _tangent_transpose
