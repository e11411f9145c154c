"""The arithmetic of persistent: forward and backward as `chunked` has them, all of time in one CUDA kernel.

    forward:  xw = x w_x + b in one product, then the kernel for all steps: z_t = xw_t + h_{t-1} w_h, the cell, h_t
    backward: the kernel for all steps, dz_t from dz_{t+1} w_h^T; then dw_x, dw_h, db and dx, one product each

The kernel (`persistent.cu`) never multiplies by the initial state: h0 w_h is added to the first step of a sequence
here, and dh0 gets its product here. So h0 may be any number, and what the steps hand over lies within 1.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lstmjax.cells.products import biased, dot

# Of an H100 and an H200; a GPU that has fewer or less refuses the launch.
MULTIPROCESSORS = 132
SHARED = 227 * 1024

WARPS, ROWS, UNITS = 8, 16, 8  # of a block of threads; of a tile of the matrix units; of a block of units


class Plan(NamedTuple):
    """How a kernel is cut: as `persistent.cu` has these words."""

    units: int  # blocks of 8 units in a thread block
    rows: int  # tiles of 16 rows that it multiplies at once
    groups: int  # of thread blocks, each with sequences of its own
    team: int  # thread blocks in a group
    passes: int  # times it goes over its rows in a step
    buffers: int  # for sums: with two, a barrier less
    exchange: int  # bytes


def precise(dtype, precision) -> str | None:
    """Why the matrix units are not precise enough for what is asked, or None."""
    if jnp.dtype(dtype) != jnp.float32:
        return None
    if precision is None:
        precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    asked = precision if isinstance(precision, tuple) else (precision,)
    # As XLA reads them for a GPU: TF32 unless the highest is asked for.
    known = (None, "default", "fastest", "high", "bfloat16", "tensorfloat32", lax.Precision.DEFAULT, lax.Precision.HIGH)
    if all(any(p is k or p == k for k in known) for p in asked):
        return None
    return f"its float32 products are TF32, and precision={precision!r} asks for more"


@functools.cache
def plan(B: int, H: int, dtype, *, back: bool) -> Plan | None:
    """The quickest cut by a rough reckoning in cycles, or None where no cut has the weights fit in."""
    wide = jnp.dtype(dtype).itemsize == 4
    best, least = None, float("inf")
    for units in (1, 2):
        for rows in (1, 2):
            found = _cut(B, H, wide, back, units, rows)
            if found is not None and found[1] < least:
                best, least = found
    return best


def _cut(B, H, wide, back, units, rows):
    """A plan and its cycles for a step."""
    lattice = np.lcm(1 if wide else 2, units)
    blocks = int(-(-H // (UNITS * lattice)) * lattice)
    team = blocks // units
    tiles_of_rows = -(-B // ROWS)
    if team > MULTIPROCESSORS:
        return None
    groups = min(MULTIPROCESSORS // team, -(-tiles_of_rows // rows))
    passes = -(-tiles_of_rows // (rows * groups))
    groups = -(-tiles_of_rows // (rows * passes))
    tiles = blocks * (4 if wide else 2) if back else blocks if wide else blocks // 2
    columns = units if back else 4 * units
    fixed = tiles * columns * 256 + 3 * passes * rows * units * 512
    sums = WARPS * rows * columns * 512
    if fixed + sums > SHARED:
        return None
    buffers = 2 if fixed + 2 * sums <= SHARED else 1
    # Reading the weights, multiplying, and what comes in by the L2 cache; then the way of a step there and back.
    one = tiles * columns * (2 + 2 * rows) + tiles * rows * 8
    cycles = max(1800 + one, passes * (one + 300))
    return Plan(units, rows, groups, team, passes, buffers, 2 * groups * passes * tiles * rows * 512), cycles


def usable(config, B, H, *, back: bool) -> bool:
    """Whether the kernel does this run."""
    return config.persistent and config.residuals == "gates" and plan(B, H, config.dtype, back=back) is not None


def forward(w_x, w_h, b, xs, h0, c0, *rest, config, keep):
    """As `chunked.forward`, where `usable`."""
    T, B, _ = xs.shape
    H, dtype = len(w_h), config.dtype
    valid, restart = _steps(T, B, config, rest)
    cut = plan(B, H, dtype, back=False)
    xw = biased(dot(_clean(xs, valid), w_x, dtype, jnp.float32, config.precision), b)
    w_h = w_h.astype(dtype)
    kept = (T, B) if keep else (0, 0)
    results = [
        jax.ShapeDtypeStruct((T, B, H), config.stored),
        *[jax.ShapeDtypeStruct((B, H), jnp.float32)] * 2,
        jax.ShapeDtypeStruct((*kept, 4 * H), jnp.float32),
        jax.ShapeDtypeStruct((*kept, H), jnp.float32),
        jax.ShapeDtypeStruct((cut.exchange,), jnp.uint8),
    ]
    call = jax.ffi.ffi_call("lstmjax_forward", results, vmap_method="sequential")
    zh0 = dot(h0, w_h, dtype, jnp.float32, config.precision)
    options = _attributes(cut, config) | {"hold": np.int32("mask" in config.rest)}
    hs, h, c, *kept, _ = call(xw, zh0, w_h, h0, c0, _flags(valid, restart), **options)
    return [hs, h, c, *kept] if keep else [hs, h, c]


def backward(dhs, dh, dc, w_x, w_h, b, xs, h0, c0, *rest, config, wrt):
    """As `chunked.backward`, where `usable`."""
    n = len(config.rest)
    rest, hs, a, cs = rest[:n], *rest[n:]
    T, B, _ = xs.shape
    H, dtype = len(w_h), config.dtype
    valid, restart = _steps(T, B, config, rest)
    cut = plan(B, H, dtype, back=True)
    w_h = w_h.astype(dtype)
    results = [
        jax.ShapeDtypeStruct((T, B, 4 * H), dtype),
        *[jax.ShapeDtypeStruct((B, H), jnp.float32)] * 2,
        jax.ShapeDtypeStruct((cut.exchange,), jnp.uint8),
    ]
    call = jax.ffi.ffi_call("lstmjax_backward", results, vmap_method="sequential")
    dhs = dhs.astype(jnp.float32)
    dz, dh, dc, _ = call(dhs, dh, dc, w_h, c0, a, cs, _flags(valid, restart), **_attributes(cut, config))
    want_wx, want_wh, want_b, want_x, want_h0, want_c0 = wrt
    found = []
    if want_wx:
        found.append(_outer(_clean(xs, valid), dz, config).astype(w_x.dtype))
    if want_wh:
        found.append(_outer_before(hs, h0, dz, restart, config).astype(w_x.dtype))
    if want_b:
        found.append(dz.astype(jnp.float32).sum((0, 1)).astype(b.dtype))
    if want_x:
        found.append(dot(dz, w_x.T, dtype, jnp.float32, config.precision).astype(xs.dtype))
    if want_h0:
        first = dz[-1 if config.reverse else 0] if restart is None else jnp.where(restart[..., None], dz, 0)
        first = first if restart is None else first.astype(jnp.float32).sum(0)
        found.append(dh + dot(first, w_h.T, dtype, jnp.float32, config.precision))
    if want_c0:
        found.append(dc)
    return found


def _steps(T, B, config, rest):
    """Which steps count, and before which the state starts anew, [T, B] each; None: all, and the first."""
    given = dict(zip(config.rest, rest, strict=True))
    if not given:
        return None, None
    valid = jnp.ones((T, B), bool)
    if "lengths" in given:
        valid = lax.broadcasted_iota(jnp.int32, (T, B), 0) < given["lengths"][None]
    if "mask" in given:
        valid = given["mask"]
    count = lax.cumsum(valid.astype(jnp.int32), reverse=config.reverse)
    restart = valid & (count == 1)
    if "reset" in given:
        restart = restart | (valid & given["reset"])
    return valid, restart


def _flags(valid, restart):
    if valid is None:
        return jnp.zeros((0, 0), jnp.uint8)
    return valid.astype(jnp.uint8) + jnp.uint8(2) * restart.astype(jnp.uint8)


def _attributes(cut, config):
    names = ("units", "rows", "groups", "team", "passes", "buffers")
    return {name: np.int32(getattr(cut, name)) for name in names} | {"reverse": np.int32(config.reverse)}


def _clean(xs, valid):
    """Padding is 0 before any product sees it."""
    return xs if valid is None else jnp.where(valid[..., None], xs, 0)


def _outer(x, dz, config):
    """The sum over time and batch of x^T dz."""
    kind = dict(precision=config.precision, preferred_element_type=jnp.float32)
    return lax.dot_general(x.astype(config.dtype), dz.astype(config.dtype), (((0, 1), (0, 1)), ((), ())), **kind)


def _outer_before(hs, h0, dz, restart, config):
    """The same of the h that each step began with."""
    hs, h0 = hs.astype(config.dtype), h0.astype(config.dtype)
    if restart is None:
        # In two products, so that no sequence is copied to be moved by a step.
        first, rest, before = (dz[-1:], dz[:-1], hs[1:]) if config.reverse else (dz[:1], dz[1:], hs[:-1])
        return _outer(before, rest, config) + _outer(h0[None], first, config)
    before = jnp.concatenate([hs[1:], h0[None]]) if config.reverse else jnp.concatenate([h0[None], hs[:-1]])
    return _outer(jnp.where(restart[..., None], h0[None], before), dz, config)
