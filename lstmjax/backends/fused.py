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
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from lstmjax import varying
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
    b = params.b
    if b is None:
        b = varying.over(varying.axes(xs), jnp.zeros(params.w_h.shape[1], params.w_h.dtype))
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
      w_x, w_h, b: [D, 4H], [H, 4H], [4H].
      xs, h0, c0: [T, B, D], [B, H], [B, H].
      rest: lengths int32 [B] and reset bool [T, B], as far as `config` has them.
      keep: whether to return the residuals too.

    Returns:
      hs [T, B, H], h and c [B, H], and with `keep` the residuals: for "gates" the four tanh of each step [T, B, 4H]
      and c after each step [T, B, H]; for "outputs" the c before each chunk [n, B, H].
    """
    chunks = _Chunks(config, len(xs), *rest)
    T, B, _ = xs.shape
    H, wide = w_h.shape[0], c0.dtype
    w_x, w_h, b = _halved(w_x, config.dtype), _halved(w_h, config.dtype), _halved(b, wide)
    gates = keep and config.residuals == "gates"
    outputs = keep and config.residuals == "outputs"

    def chunk_body(m, carry):
        h, c, hs, *kept = carry
        if outputs:
            kept = [_put(kept[0], c, m)]
        first, x = chunks.rows(m, xs)
        zx = _project(chunks.clean(first, x), w_x, b, config, wide)

        def step(j, carry):
            h, c, hs, *kept = carry
            t = first + j
            h_before, c_before = h, c
            if config.reset:
                restart = _row(chunks.reset, t)[:, None]
                h_before, c_before = jnp.where(restart, h0, h), jnp.where(restart, c0, c)
            a = jnp.tanh(_row(zx, j) + _dot(h_before, w_h, config, wide))
            i, f, g, o = _activate(a)
            c_after = f * c_before + i * g
            h_after = o * jnp.tanh(c_after)
            y = h_after
            if config.lengths:
                valid = (t < chunks.lengths)[:, None]
                y = jnp.where(valid, h_after, 0)
                h_after, c_after = jnp.where(valid, h_after, h), jnp.where(valid, c_after, c)
            if gates:
                kept = [_put(kept[0], a, t), _put(kept[1], c_after, t)]
            return h_after, c_after, _put(hs, y, t), *kept

        return chunks.steps(m, step, (h, c, hs, *kept), down=config.reverse)

    kept = []
    if gates:
        kept = [_empty((T, B, 4 * H), wide, xs), _empty((T, B, H), wide, xs)]
    if outputs:
        kept = [_empty((chunks.n, B, H), wide, xs)]
    carry = (h0, c0, _empty((T, B, H), config.stored, xs), *kept)
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
    n_rest = config.lengths + config.reset
    rest, hs, kept = rest[:n_rest], rest[n_rest], rest[n_rest + 1 :]
    chunks = _Chunks(config, len(xs), *rest)
    B, H, wide, K = xs.shape[1], w_h.shape[0], c0.dtype, chunks.K
    half_x, half_h, half_b = _halved(w_x, config.dtype), _halved(w_h, config.dtype), _halved(b, wide)
    want_wx, want_wh, want_b, want_x, want_h0, want_c0 = wrt

    def chunk_body(m, carry):
        dh, dc, dz, sums, dxs, d0 = carry
        first, x = chunks.rows(m, xs)
        x = chunks.clean(first, x)
        h_before = chunks.before(first, hs, h0.astype(config.dtype)).astype(config.dtype)
        if config.residuals == "gates":
            a, c_after = (lax.dynamic_slice_in_dim(rows, first, K) for rows in kept)
            c_before = chunks.before(first, kept[1], c0)
        else:
            a = jnp.tanh(_project(x, half_x, half_b, config, wide) + _dot(h_before, half_h, config, wide))
            c_before, c_after = _cells(chunks, m, first, a, _row(kept[0], m), c0)
        i, f, g, o = _activate(a)
        tanh_c = jnp.tanh(c_after)
        # d(half z) of a gate = slope * (dc or dh): all that needs no carry is formed for the whole chunk here.
        slope = (1 - a * a) * jnp.concatenate([g * 0.5, c_before * 0.5, i, tanh_c * 0.5], axis=-1)
        c_slope = o * (1 - tanh_c * tanh_c)
        dy = lax.dynamic_slice_in_dim(dhs, first, K).astype(wide)

        def step(j, carry):
            dh, dc, dz, d0 = carry
            t = first + j
            dh_t = _row(dy, j) + dh
            dc_t = dc + dh_t * _row(c_slope, j)
            dz_t = jnp.concatenate([dc_t, dc_t, dc_t, dh_t], axis=-1) * _row(slope, j)
            dc_t = dc_t * _row(f, j)
            if config.lengths:
                valid = (t < chunks.lengths)[:, None]
                dz_t = jnp.where(valid, dz_t, 0)
            dz_t = dz_t.astype(dz.dtype)
            dh_t = _dot(dz_t, half_h.T, config, wide)
            if config.lengths:
                dh_t, dc_t = jnp.where(valid, dh_t, dh), jnp.where(valid, dc_t, dc)
            if config.reset:
                restart = _row(chunks.reset, t)[:, None]
                d0 = [d + jnp.where(restart, d_t, 0) for d, d_t in zip(d0, (dh_t, dc_t), strict=True)]
                dh_t, dc_t = jnp.where(restart, 0, dh_t), jnp.where(restart, 0, dc_t)
            return dh_t, dc_t, _put(dz, dz_t, j), d0

        dh, dc, dz, d0 = chunks.steps(m, step, (dh, dc, dz, d0), down=not config.reverse)
        dz_own = chunks.own(m, dz)
        terms = [(x, want_wx), (h_before, want_wh)]
        terms = [_outer(rows, dz_own, config, wide) for rows, wanted in terms if wanted]
        terms += [dz_own.astype(wide).sum((0, 1))] * want_b
        sums = [total + term for total, term in zip(sums, terms, strict=True)]
        if want_x:
            dxs = [chunks.put(m, dxs[0], _dot(dz_own, half_x.T, config, wide).astype(xs.dtype))]
        return dh, dc, dz, sums, dxs, d0

    weights = [w for w, wanted in zip((w_x, w_h, b), wrt, strict=False) if wanted]
    sums = varying.over(varying.axes(xs), [jnp.zeros(w.shape, wide) for w in weights])
    dxs = [_empty(xs.shape, xs.dtype, xs)] * want_x
    d0 = [jnp.zeros_like(h0), jnp.zeros_like(c0)] * config.reset
    carry = (dh, dc, _empty((K, B, 4 * H), config.dtype, xs), sums, dxs, d0)
    dh, dc, _, sums, dxs, d0 = chunks.loop(chunk_body, carry, down=not config.reverse)
    if config.reset:
        dh, dc = dh + d0[0], dc + d0[1]
    sums = [_halved(total, w.dtype) for total, w in zip(sums, weights, strict=True)]
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
        if config.reset:
            c_before = jnp.where(_row(chunks.reset, t)[:, None], c0, c)
        c_after = _row(f, j) * c_before + _row(ig, j)
        if config.lengths:
            c_after = jnp.where((t < chunks.lengths)[:, None], c_after, c)
        return c_after, _put(before, c_before, j), _put(after, c_after, j)

    zeros = jnp.zeros_like(ig)
    _, before, after = chunks.steps(m, step, (c, zeros, zeros), down=config.reverse)
    return before, after


# --- chunks and products ---------------------------------------------------------------------------------------------


class _Chunks:
    """Time cut into n chunks of K rows. Where K does not divide T, the last chunk overlaps the one before it, and
    the rows it owns begin at `low`; so every chunk has one shape and is traced once."""

    def __init__(self, config, T, *rest):
        self.config, self.T, self.K = config, T, config.chunk
        self.n = -(-T // self.K)
        self.ragged = T % self.K != 0
        self.lengths = rest[0] if config.lengths else None
        self.reset = rest[-1] if config.reset else None
        if config.lengths and config.reset:  # a reset in the padding is none: the state there is held
            self.reset = rest[-1] & (lax.broadcasted_iota(jnp.int32, rest[-1].shape, 0) < rest[0][None])

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


def _empty(shape, dtype, like):
    """A buffer whose every row will be written."""
    return varying.over(varying.axes(like), lax.empty(shape, dtype))


def _row(rows, t):
    return lax.dynamic_index_in_dim(rows, t, 0, keepdims=False)


def _put(rows, row, t):
    return lax.dynamic_update_index_in_dim(rows, row.astype(rows.dtype), t, 0)


def _activate(a):
    """i, f, g, o from the four tanh [..., 4H]."""
    i, f, g, o = jnp.split(a, 4, axis=-1)
    return i * 0.5 + 0.5, f * 0.5 + 0.5, g, o * 0.5 + 0.5


def _halved(w, dtype):
    """`w` with the columns of i, f and o halved: exact, and its own transpose."""
    H = w.shape[-1] // 4
    scale = jnp.repeat(jnp.array([0.5, 0.5, 1, 0.5], w.dtype), H)
    return (w * lax.expand_dims(scale, range(w.ndim - 1))).astype(dtype)


def _project(x, w, b, config, wide):
    """x w + b for a chunk: [K, B, D] to [K, B, 4H]."""
    return _dot(x, w, config, wide) + b[None, None]


def _dot(x, w, config, wide):
    """[..., B, M] times [M, N], summed in `wide` or wider."""
    kind = dict(precision=config.precision, preferred_element_type=wider(wide, config.dtype))
    return jnp.dot(x.astype(config.dtype), w, **kind).astype(wide)


def _outer(x, dz, config, wide):
    """The sum over time and batch of x^T dz: [K, B, M], [K, B, N] to [M, N]."""
    # Two contracting axes, not one reshaped: a batch that is sharded over devices stays where it is.
    kind = dict(precision=config.precision, preferred_element_type=wider(wide, config.dtype))
    x, dz = x.astype(config.dtype), dz.astype(config.dtype)
    return lax.dot_general(x, dz, (((0, 1), (0, 1)), ((), ())), **kind).astype(wide)


# --- primitives ------------------------------------------------------------------------------------------------------


def tangent(*operands, config, wrt):
    """Tangents of hs, h and c. Reached only in forward mode, which scan does."""
    if config.insist:
        raise TypeError(_ORDER)
    given, primals = list(operands[: sum(wrt)]), operands[sum(wrt) :]
    linear, rest = primals[:6], primals[6 : 6 + config.lengths + config.reset]
    tangents = [given.pop(0) if wanted else jnp.zeros_like(p) for p, wanted in zip(linear, wrt, strict=True)]
    return list(jax.jvp(lambda *linear: _by_scan(config, linear, rest), linear, tuple(tangents))[1])


def _by_scan(config, linear, rest):
    """`forward` without residuals, by the scan backend."""
    w_x, w_h, b, xs, h0, c0 = linear
    state, ys = scan.run(
        LSTMParams(w_x, w_h, b),
        xs,
        LSTMState(h0, c0),
        lengths=rest[0] if config.lengths else None,
        reset=rest[-1] if config.reset else None,
        reverse=config.reverse,
        compute_dtype=config.dtype,
        precision=config.precision,
    )
    return ys.astype(config.stored), *state


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
    n = 9 + config.lengths + config.reset
    tangents = [ad.instantiate_zeros(d) for d in tangents[:9]]
    gradients = _grouped(partial(_gradients_by_scan, config=config, wrt=wrt), *_vjp_layouts(config, wrt, by_scan=True))
    return jax.jvp(lambda *linear: gradients(*linear, *primals[9:n]), tuple(primals[:9]), tuple(tangents))


def _gradients_by_scan(dhs, dh, dc, *operands, config, wrt):
    """`backward` by the scan backend: it can be differentiated again."""
    linear, rest = operands[:6], operands[6:]

    def run(*picked):
        remaining = list(picked)
        filled = [remaining.pop(0) if wanted else p for p, wanted in zip(linear, wrt, strict=True)]
        return _by_scan(config, filled, rest)

    picked = [p for p, wanted in zip(linear, wrt, strict=True) if wanted]
    return list(jax.vjp(run, *picked)[1]((dhs, dh, dc)))


class _Layout(NamedTuple):
    """Where an array has its group axis, and whether a batch axis follows it (weights have none)."""

    group: int
    batch: bool

    def place(self, grouped):
        """Where a mapped axis goes: before G or before B; None if the array has no B to take it."""
        return self.group if grouped else self.group + 1 if self.batch else None


_WEIGHT, _STATE, _ROWS = _Layout(0, False), _Layout(0, True), _Layout(1, True)
_LINEAR = [_WEIGHT, _WEIGHT, _WEIGHT, _ROWS, _STATE, _STATE]  # w_x, w_h, b, xs, h0, c0
_OUT = [_ROWS, _STATE, _STATE]  # hs, h, c


def _run_layouts(config, keep):
    """Of what goes into a run, and of what comes out."""
    return [*_LINEAR, *[_STATE] * config.lengths, *[_ROWS] * config.reset], [*_OUT, *_residual_layouts(config) * keep]


def _tangent_layouts(config, wrt):
    return [*_picked(wrt), *_run_layouts(config, False)[0], _ROWS, *_residual_layouts(config)], _OUT


def _vjp_layouts(config, wrt, by_scan=False):
    residuals = [] if by_scan else [_ROWS, *_residual_layouts(config)]
    return [*_OUT, *_run_layouts(config, False)[0], *residuals], _picked(wrt)


def _residual_layouts(config):
    return [_ROWS] * (2 if config.residuals == "gates" else 1)


def _picked(wrt):
    return [layout for layout, wanted in zip(_LINEAR, wrt, strict=True) if wanted]


def _grouped(function, given, results):
    """`function`, which knows no group axis, over arrays that have one. A group of one is dropped, not mapped: an
    axis of size 1 costs XLA layout copies."""

    def over_groups(*args):
        if args[0].shape[given[0].group] > 1:
            return jax.vmap(function, [layout.group for layout in given], [layout.group for layout in results])(*args)
        out = function(*(lax.squeeze(a, (layout.group,)) for a, layout in zip(args, given, strict=True)))
        return [lax.expand_dims(a, (layout.group,)) for a, layout in zip(out, results, strict=True)]

    return over_groups


def _batch(primitive, layouts, args, axes, **params):
    """Bind `primitive` with the mapped axis folded away: into B, or where weights have it, into G."""
    given, results = layouts(**params)
    mapped = [(a.shape[axis], layout) for a, axis, layout in zip(args, axes, given, strict=True) if axis is not None]
    size = mapped[0][0]
    # A vjp is asked for one weight gradient per example: who wants their sum is batched before it is transposed.
    per_example = primitive is vjp_p and _WEIGHT in results
    grouped = per_example or any(layout is _WEIGHT for _, layout in mapped)
    out = primitive.bind(*_fold(args, axes, given, grouped, size), **params)
    return _unfold(out, results, grouped, size)


def _fold(args, axes, layouts, grouped, size):
    """The args with their mapped axis folded away: into G if `grouped`, else into B."""
    folded = []
    for a, axis, layout in zip(args, axes, layouts, strict=True):
        place = layout.place(grouped)
        if place is not None:
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
        axes.append(place)
    return unfolded, axes


def _run_avals(*operands, config, keep):
    w_h, xs, h0, c0 = operands[1], *operands[3:6]
    (T, G, B, _), H, wide = xs.shape, w_h.shape[1], c0.dtype
    out = [((T, G, B, H), config.stored)]
    if keep and config.residuals == "gates":
        out += [((T, G, B, 4 * H), wide), ((T, G, B, H), wide)]
    if keep and config.residuals == "outputs":
        out += [((-(-T // config.chunk), G, B, H), wide)]
    # By update, so that what else a type says (over which mesh axes it varies) is handed on.
    hs, *kept = (xs.update(shape=shape, dtype=dtype) for shape, dtype in out)
    return [hs, h0, c0, *kept]


def _tangent_avals(*operands, config, wrt):
    primals = operands[sum(wrt) :]
    return [primals[6 + config.lengths + config.reset], *primals[4:6]]


def _vjp_avals(*operands, config, wrt):
    return [aval for aval, wanted in zip(operands[3:9], wrt, strict=True) if wanted]


def _primitive(name, function, static, layouts, avals):
    """A primitive that lowers to `function` over groups; outside of jit it is jitted once per static parameters."""

    def lowered(*args, **params):
        return _grouped(partial(function, **params), *layouts(**params))(*args)

    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_abstract_eval(avals)
    primitive.def_impl(jax.jit(lowered, static_argnames=("config", static)))
    mlir.register_lowering(primitive, mlir.lower_fun(lowered, multiple_results=True))
    batching.primitive_batchers[primitive] = partial(_batch, primitive, layouts)
    return primitive


run_p = _primitive("lstm", forward, "keep", _run_layouts, _run_avals)
tangent_p = _primitive("lstm_tangent", tangent, "wrt", _tangent_layouts, _tangent_avals)
vjp_p = _primitive("lstm_vjp", backward, "wrt", _vjp_layouts, _vjp_avals)
ad.primitive_jvps[run_p] = _run_jvp
ad.primitive_jvps[vjp_p] = _vjp_jvp
ad.primitive_transposes[tangent_p] = _tangent_transpose
