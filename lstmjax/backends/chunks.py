"""What chunks of time are made of: which rows one has, rows of a buffer, the gates, and the products of weights."""

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


class Chunks:
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
        low = self.low(m)
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
            return (jnp.asarray(t, self.lengths.dtype) < self.lengths[lane])[:, None]
        return None if self.mask is None else row(self.mask, t, lane)[:, None]

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

    def put(self, m, xs, rows, at=0):
        """`xs` with the rows that chunk m owns replaced, from sequence `at` on."""
        first, old = self.rows(m, xs)
        rows = rows.astype(xs.dtype)
        if self.ragged:
            rows = jnp.where(self._owned(m), rows, lax.dynamic_slice_in_dim(old, at, rows.shape[1], 1))
        return lax.dynamic_update_slice(xs, rows, (first, at, *[0] * (xs.ndim - 2)))

    def _owned(self, m):
        return lax.broadcasted_iota(jnp.int32, (self.K, 1, 1), 0) >= self.low(m)

    def low(self, m):
        """The first row that chunk m owns."""
        return m * self.K - jnp.minimum(m * self.K, self.T - self.K) if self.ragged else 0


def empty(shape, dtype, like, mark):
    """A buffer whose every row will be written. What it has until then is a number of its own: XLA takes two buffers of
    the same for one, which it fills, and copies."""
    return varying.over(varying.axes(like), lax.full(shape, mark, dtype))


def lanes_of(B, lanes):
    """The lanes of a batch, as slices."""
    size = -(-B // lanes)
    return [slice(low, min(low + size, B)) for low in range(0, B, size)] if lanes > 1 else [ALL]


def joined(lanes):
    return lanes[0] if len(lanes) == 1 else jnp.concatenate(lanes)


# An index that may be negative is looked at by an operation of its own, at every step.
_COUNTED = dict(allow_negative_indices=False)


def row(rows, t, lane=ALL, columns=ALL):
    """Row t of rows [T, B, ...], of a lane of its batch and of some columns."""
    if lane == ALL == columns:
        return lax.dynamic_index_in_dim(rows, t, 0, keepdims=False, **_COUNTED)
    parts = [part.indices(size) for part, size in zip((lane, columns), rows.shape[1:], strict=False)]
    size = (1, *(stop - start for start, stop, _ in parts))
    return lax.squeeze(lax.dynamic_slice(rows, (t, *(start for start, *_ in parts)), size, **_COUNTED), (0,))


def put(rows, new, t, lane=ALL, columns=ALL):
    """`rows` with the row t replaced, or what a lane has of it in some columns."""
    new = new.astype(rows.dtype)
    if lane == ALL == columns:
        return lax.dynamic_update_index_in_dim(rows, new, t, 0, **_COUNTED)
    starts = (part.start or 0 for part, _ in zip((lane, columns), rows.shape[1:], strict=False))
    return lax.dynamic_update_slice(rows, new[None], (t, *starts), **_COUNTED)


def activate(a):
    """i, f, g, o from the four tanh [..., 4H]."""
    i, f, g, o = jnp.split(a, 4, axis=-1)
    return i * 0.5 + 0.5, f * 0.5 + 0.5, g, o * 0.5 + 0.5


def halves(H, dtype):
    """[4H], what z is multiplied by before the one tanh."""
    return jnp.repeat(jnp.array([0.5, 0.5, 1, 0.5], dtype), H)


def halved(w_x, w_h, b, rows, dtype):
    """The weights with that 1/2 in them, and None, where they are small beside what they multiply; else as they are,
    and what z is multiplied by."""
    half = halves(w_h.shape[0], dtype)
    if 2 * (len(w_x) + len(w_h)) > rows:
        return w_x, w_h, b, half
    return *(w * lax.expand_dims(half.astype(w.dtype), range(w.ndim - 1)) for w in (w_x, w_h, b)), None


def project(x, w, b, config, wide):
    """x w + b for a chunk: [K, B, D] to [K, B, 4H]."""
    return dot(x, w, config, wide) + b[None, None]


def dot(x, w, config, wide, widen=False):
    """[..., B, M] times [M, N], summed in `wide` or wider."""
    return product(held(x, config, wide, widen), w, config, wide)


def product(x, w, config, wide):
    """The same of operands that are held already; w may have more axes after its first."""
    kind = dict(precision=config.precision, preferred_element_type=wider(wide, config.dtype))
    return jnp.tensordot(x, w, 1, **kind).astype(wide)


def held(x, config, wide, widen):
    """An operand of a product: as `config.dtype`, or if `widen`, with the values of that but in `wide`."""
    if not widen:
        return x.astype(config.dtype)
    # Not by a cast and a cast back, which XLA may take to be none.
    kind = jnp.finfo(config.dtype)
    return lax.reduce_precision(x.astype(wide), kind.nexp, kind.nmant)


def times(x, first, second, config, wide, widen):
    """x [B, M] times `second` [M, N], or if that is None, times the transpose of `first` [N, M]: by vectors where B is
    1."""
    if second is not None:
        return dot(x, second, config, wide, widen)
    x = held(x, config, wide, widen)
    if len(x) == 1:
        return product(first, x[0], config, wide)[None]
    return untransposed(x, first, config, wide)


def untransposed(x, w, config, wide):
    """x [..., M] times the transpose of w [N, M], which is read as it lies."""
    if isinstance(config.precision, tuple):  # one for each operand
        config = config._replace(precision=config.precision[::-1])
    # Behind barriers, else XLA turns the product round again. No axis of x is merged with another: a batch that is
    # sharded over devices stays where it is.
    x = lax.optimization_barrier(jnp.moveaxis(x.astype(config.dtype), -1, 0))
    return jnp.moveaxis(lax.optimization_barrier(product(w, x, config, wide)), 0, -1)


def outer(x, dz, config, wide):
    """The sum over time and batch of x^T dz: [K, B, M], [K, B, N] to [M, N]."""
    # Two contracting axes, not one reshaped: a batch that is sharded over devices stays where it is.
    kind = dict(precision=config.precision, preferred_element_type=wider(wide, config.dtype))
    x, dz = x.astype(config.dtype), dz.astype(config.dtype)
    return lax.dot_general(x, dz, (((0, 1), (0, 1)), ((), ())), **kind).astype(wide)
