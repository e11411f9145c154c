"""What fused chooses from the shapes at hand, by rules that were measured on CPUs (benchmarks/README.md);
`benchmarks/bench_tuned.py` says what another choice would give on a machine."""

import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from lstmjax.devices import cores


def chunk(T, B, w_x, w_h, times=1):
    """Steps in a chunk, by a rule measured on a CPU (benchmarks/README.md), or so many times as many.

    One chunk of all steps is best where its [T, B, 4H] stays in the cache (1.3 MB) or is small beside the weights:
    their gradient is then one GEMM, never added up. Else so many that the [K, B, 4H] of a chunk stays in the cache, and
    where the weights are large, so many that a chunk's gradient of them weighs little beside its steps; at most 50.
    """
    step, weights = _sizes(B, w_x, w_h)
    if T * step <= max(1.3e6, 0.7 * weights):
        return T
    return _near(T, times * min(max(1.3e6 / step, weights / (2.5 * step), 5), 50))


def lean_chunk(T, B, w_x, w_h):
    """The same where what is held counts, rather than time: K steps hold 5 of their [K, B, 4H], a c [B, H] is kept for
    each chunk, and where there are several, the gradient of the weights is there twice.

    The least of that is at sqrt(T / 20) steps. More are taken, since few are slow, where they hold little beside the
    outputs, the weights or the cache; and all of them where they hold less than a second gradient.
    """
    step, weights = _sizes(B, w_x, w_h)
    K = _near(T, max(min(1.3e6 / step, max(10, min(T / 16, 20))), min(weights / (8 * step), 20), math.sqrt(T / 20), 5))
    return T if 4 * (T - K) * step <= weights else K


def _sizes(B, w_x, w_h):
    """The bytes of z [B, 4H] of a step, and of the weights."""
    return B * w_h.shape[1] * w_h.dtype.itemsize, (w_x.size + w_h.size) * w_h.dtype.itemsize


def _near(T, want):
    """About so many of T steps: a divisor of T if there is one, which spares the last chunk its overlap."""
    divisors = [k for k in range(1, T + 1) if T % k == 0 and 0.6 * want <= k <= 1.6 * want]
    return min(divisors, key=lambda k: abs(math.log(k / want)), default=min(T, round(want)))


def _lanes(B, H):
    """The parts of a batch that a step takes one beside the other on a CPU (measured: benchmarks/README.md).

    XLA gives a product to several threads where the weights have more than 2^16 numbers, and cuts the elementwise
    operations of a large batch in two, at the price of waking a thread for each. With two lanes these are small enough
    to stay whole, and run while the other lane multiplies. Not where the weights outgrow the caches, since each lane
    reads all of them, nor where the batch is so large that the halves are cut again.
    """
    return 2 if 8 <= B <= 64 and 2**16 < 4 * H * H <= 2**20 else 1


def _weights_first(B, H, units, numbers):
    """Whether a step on a CPU multiplies the weights by the state rather than the state by the weights (measured:
    benchmarks/README.md).

    XLA packs the second operand of a product anew at every step. Packing large weights takes longer than multiplying a
    few rows by them; a single row is not packed, and many rows are worth it.
    """
    return units <= H and 1 < B <= 64 and numbers <= B * H


@functools.cache
def _avx512():
    """Whether products take 16 numbers at a time on this processor: packing is less of them then."""
    known: Any = np.show_config(mode="dicts")
    simd = known.get("SIMD Extensions", {})  # without what is empty
    names = [name for part in ("baseline", "found") for name in simd.get(part, ())]
    return any(name == "X86_V4" or name.startswith("AVX512") for name in names)


def forward(T, B, H, dtype, *, keep=False, devices=1):
    """Options of forward for a CPU, or for each of several that the batch may be split over, where a lane would lie on
    one of them.

    To have the weights first it transposes them, which takes as long as some steps save. "abreast" is by how much a
    chunk is longer than `chunk` says where the halves of a batch have loops of their own, and 0 where they have none.
    """
    first = T >= 16 and _weights_first(B, H, units=768 if _avx512() else 129, numbers=2048)
    short = jnp.finfo(dtype).bits < 32
    larger = (H <= 256 or (B <= 64 and H <= 1024)) if short else not keep and B <= 64 and H <= 512
    halves = (2**18 if short else 2**17) <= B * H * H and _abreast(T, B, H, dtype, larger, devices)
    return {
        "lanes": _lanes(B, H) if devices == 1 else 1,
        "weights_first": first,
        "widen": _widen(B, dtype),
        "abreast": halves * (1 if keep or short or H <= 128 or B <= 16 else 2),
    }


def backward(T, B, H, dtype, *, inputs, lean=False, devices=1):
    """The same of backward, which has to transpose the weights where they are not first, and has more to do beside a
    product.

    The weights of the inputs are first where transposing these takes longer than transposing dz and dx does; and where
    memory counts, rather than time, since it takes theirs.
    """
    if _avx512():
        first = _weights_first(B, H, units=512, numbers=2**13)
        lanes = 2 if 32 <= B <= 64 and 512 < H <= 1024 else _lanes(B, H)
    else:
        first, lanes = _weights_first(B, H, units=129, numbers=2048), _lanes(B, H)
    if devices > 1:
        lanes = 1
    short = jnp.finfo(dtype).bits < 32
    larger = H <= 384 or (B >= 32 and H <= 1024 if short else B > 64 and H <= 512)
    few = inputs >= 256 and inputs >= T * B and jnp.finfo(dtype).bits >= 32
    return {
        "lanes": lanes,
        "weights_first": H >= 768 or first,
        "widen": _widen(B, dtype),
        "x_first": few or lean,
        # It holds less of each step then, and has more to do between chunks.
        "abreast": 2 * (B * H >= 768 and _abreast(T, B, H, dtype, larger, devices)),
    }


def _abreast(T, B, H, dtype, larger, devices):
    """Whether each half of a batch may have a loop of its own (measured: benchmarks/README.md).

    XLA gives a product of at most 2^16 weights one thread. Of more it depends: `larger` says so for a processor with
    AVX-512, others have not been measured.
    """
    small = 4 * H * H <= 2**16 or (larger and _avx512())
    known = dtype in (jnp.float32, jnp.bfloat16)
    return T >= 16 and B >= 8 and small and known and devices == 1 and cores() > 1


def _widen(B, dtype):
    """Whether a step multiplies float32: a row in bfloat16 takes three times as long. Not float16, whose numbers below
    6e-5 are lost where it is held in a wider one."""
    return B == 1 and jnp.finfo(dtype).bits < 32 and jnp.finfo(dtype).nexp == jnp.finfo(jnp.float32).nexp
