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

from lstmjax.backends import nvcc
from lstmjax.cells.products import biased, dot

SHARED = 227 * 1024  # bytes of shared memory that a thread block may have
REGISTERS = 100  # of a thread that may have weights
CLUSTER = 16  # thread blocks in a cluster at most

ROWS, UNITS = 16, 8  # of a tile of the matrix units; of a block of units


class Plan(NamedTuple):
    """How a kernel is cut: as `persistent.cu` has these words."""

    units: int  # blocks of 8 units in a thread block
    rows: int  # tiles of 16 rows that it multiplies at once
    team: int  # thread blocks that have all units
    cluster: bool  # whether a team hands over through its shared memory; else through the L2 cache
    warps: int  # that do a pass together
    squads: int  # of so many warps in a thread block, each with passes of its own
    groups: int  # teams, each with sequences of its own
    passes: int  # times a thread block goes over its rows in a step
    exchange: int  # bytes


# The kinds of kernels that are tried: units, rows, cluster, warps and squads of a plan. Others lose
# (benchmarks/README.md).
KINDS = [
    *[(units, rows, False, 8, 1) for units in (1, 2) for rows in (1, 2)],
    (2, 1, False, 4, 1),  # where the weights leave no room for the sums of eight
    *[(2, 1, False, 4, 2), (2, 1, False, 4, 3), (1, 1, False, 4, 3)],
    *[(1, 1, True, warps, 1) for warps in (4, 8)],
]


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
    """The quickest cut by a reckoning, or None where no cut has the weights fit in."""
    cuts = (cut(B, H, dtype, back, *kind) for kind in KINDS)
    return min((found for found in cuts if found is not None), key=lambda found: found[1], default=(None, 0))[0]


def cut(B, H, dtype, back, units, rows, cluster, warps, squads):
    """A plan and its microseconds a step, or None where it does not fit."""
    wide = jnp.dtype(dtype).itemsize == 4
    lattice = int(np.lcm(1 if wide else 2, units))
    team = -(-H // (UNITS * lattice)) * lattice // units
    if cluster:
        team = 1 << (team - 1).bit_length()
        team *= 2 if team * units % lattice else 1
    most = nvcc.multiprocessors()
    if team > (CLUSTER if cluster else most):
        return None
    of_rows = -(-B // ROWS)
    # A cluster of 16 finds room seven times only, since it has to lie within one part of the chip.
    groups = min((most - 12 * (cluster and team == CLUSTER)) // team, -(-of_rows // rows))
    passes = -(-of_rows // (rows * groups))
    if passes < squads:
        return None
    groups = -(-of_rows // (rows * passes))
    blocks = team * units
    tiles = blocks * (4 if wide else 2) if back else blocks if wide else blocks // 2
    columns = units if back else 4 * units
    share, slot = -(-tiles // warps), tiles * rows * 512
    # As `Cut` has it: what a warp holds in registers of its weights, and what is left to shared memory.
    fit = (SHARED - 16384 - 1024 * squads * warps * rows * columns) // (warps * columns * 256)
    few = 40 if squads * warps > 8 else REGISTERS
    held = share if 2 * share * columns <= few else max(0, share - fit)
    if 2 * held * columns > REGISTERS:
        return None
    shared = (
        256 * columns * max(0, tiles - held * warps)
        + 2 * squads * warps * rows * columns * 512
        + (0 if passes == squads else 12 * passes * rows * units * 128)
        + (2 * passes * slot if cluster else 0)
    )
    if shared > SHARED:
        return None
    # Fitted to 800 times on an H200, and off by a sixth; what it chooses takes 2 % more than the best of a shape. A
    # pass is its products, what comes in by the L2 cache, and what is too much for the registers; a step is one way
    # there and back more, which other passes hide.
    products, incoming = tiles * rows * columns, tiles * rows
    room = 250 - 84 - 4 * rows * columns - (2 * held * columns if held == share else 16)
    one = 0.76 + 0.0027 * products + 0.0039 * incoming
    one += 0.0005 * incoming if units == rows == 2 or (rows == 2 and 4 * rows * share > room) else 0
    way = 0.66
    if cluster:
        # Shorter through shared memory, but for the four words of a cell in TF32; forward, fewer warps add up sooner.
        way = 0.9 if back and wide else 0.4 + 0.1 * ((warps == 8) != back)
    elif squads > 1:
        one *= _shared_pass(units, back, passes, H, squads)
    elif warps == 4:
        one *= 1.3
    elif units == rows == 2:
        one *= 1.35 if back and H > 768 else 1.08
    time = max(way + one, passes * one)
    exchange = 0 if cluster else 2 * groups * passes * slot
    return Plan(units, rows, team, cluster, warps, squads, groups, passes, exchange), time


def _shared_pass(units, back, passes, H, squads):
    """What a pass takes where squads share a block, as a multiple of one by eight warps that have the block alone.

    More passes leave fewer squads without work; backward, four warps have little room for the weights of 16 units.
    """
    if squads == 3:
        worth = passes >= (12 if units == 1 else 8) and (back or units == 1)
        return 1.3 if not worth else 0.85 if back else 0.72
    return 0.84 if not back else 0.9 if H <= 512 else 1.2


def source(how: Plan, H: int, dtype, *, back: bool) -> str:
    """The line of `persistent.cu` that is this kernel."""
    kind = {"bfloat16": "BF16, BFloat16", "float16": "F16, Float16", "float32": "F32, TF32"}[jnp.dtype(dtype).name]
    said = [back, kind, H, how.units, how.rows, how.team, how.cluster, how.passes == how.squads, how.warps, how.squads]
    return f"LSTMJAX_KERNEL({', '.join(str(x).lower() if isinstance(x, bool) else str(x) for x in said)})"


def usable(config, B, H, *, back: bool) -> bool:
    """Whether the kernel does this run: built, if it has not been. RuntimeError where it was asked for by name, and
    cannot be built."""
    if not config.persistent or config.residuals != "gates":
        return False
    how = plan(B, H, config.dtype, back=back)
    if how is None:
        return False
    problem = nvcc.failure(source(how, H, config.dtype, back=back))
    if problem is not None and config.insist:
        raise RuntimeError(f'backend="persistent" has no kernel for this: {problem}')
    return problem is None


def _plan(B, H, dtype, back) -> Plan:
    found = plan(B, H, dtype, back=back)
    assert found is not None, "usable comes first"
    return found


def _target(name, how, H, config, back):
    return name + nvcc.suffix(source(how, H, config.dtype, back=back))


def forward(w_x, w_h, b, xs, h0, c0, *rest, config, keep):
    """As `chunked.forward`, where `usable`."""
    T, B, _ = xs.shape
    valid, restart = _steps(T, B, config, rest)
    xw = biased(dot(_clean(xs, valid), w_x, config.dtype, jnp.float32, config.precision), b)
    w_h = w_h.astype(config.dtype)
    zh0 = dot(h0, w_h, config.dtype, jnp.float32, config.precision)
    how = _plan(B, len(w_h), config.dtype, False)
    return steps_forward(how, xw, zh0, w_h, h0, c0, _flags(valid, restart), config=config, keep=keep)


def steps_forward(how, xw, zh0, w_h, h0, c0, flags, *, config, keep):
    """The kernel alone: hs, h, c, and if `keep` the tanh of the gates and the cells of all steps."""
    (T, B, _), H = xw.shape, len(w_h)
    steps = (T, B) if keep else (0, 0)
    results = [
        jax.ShapeDtypeStruct((T, B, H), config.stored),
        *[jax.ShapeDtypeStruct((B, H), jnp.float32)] * 2,
        jax.ShapeDtypeStruct((*steps, 4 * H), jnp.float32),
        jax.ShapeDtypeStruct((*steps, H), jnp.float32),
        jax.ShapeDtypeStruct((how.exchange,), jnp.uint8),
    ]
    call = jax.ffi.ffi_call(_target("lstmjax_forward", how, H, config, False), results, vmap_method="sequential")
    options = _attributes(how, config) | {"hold": np.int32("mask" in config.rest)}
    hs, h, c, *kept, _ = call(xw, zh0, w_h, h0, c0, flags, **options)
    return [hs, h, c, *kept] if keep else [hs, h, c]


def backward(dhs, dh, dc, w_x, w_h, b, xs, h0, c0, *rest, config, wrt):
    """As `chunked.backward`, where `usable`."""
    n = len(config.rest)
    rest, hs, a, cs = rest[:n], *rest[n:]
    T, B, _ = xs.shape
    dtype = config.dtype
    valid, restart = _steps(T, B, config, rest)
    w_h = w_h.astype(dtype)
    how = _plan(B, len(w_h), dtype, True)
    dhs = dhs.astype(jnp.float32)
    dz, dh, dc = steps_backward(how, dhs, dh, dc, w_h, c0, a, cs, _flags(valid, restart), config=config)
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


def steps_backward(how, dhs, dh, dc, w_h, c0, a, cs, flags, *, config):
    """The kernel alone: dz, and the gradients of h0, without what goes through a product of a first step, and c0."""
    T, B, H = dhs.shape
    results = [
        jax.ShapeDtypeStruct((T, B, 4 * H), config.dtype),
        *[jax.ShapeDtypeStruct((B, H), jnp.float32)] * 2,
        jax.ShapeDtypeStruct((how.exchange,), jnp.uint8),
    ]
    call = jax.ffi.ffi_call(_target("lstmjax_backward", how, H, config, True), results, vmap_method="sequential")
    return call(dhs, dh, dc, w_h, c0, a, cs, flags, **_attributes(how, config))[:3]


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


def _attributes(how, config):
    names = ("units", "rows", "team", "cluster", "warps", "squads", "groups", "passes")
    return {name: np.int32(getattr(how, name)) for name in names} | {"reverse": np.int32(config.reverse)}


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
