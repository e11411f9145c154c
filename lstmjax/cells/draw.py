"""What the weights of a layer are drawn from."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jax.typing import DTypeLike

from lstmjax import checks
from lstmjax.cells.products import state_dtype

Array = jax.Array

INITS = ("glorot", "keras", "torch")
_KEYS = 3


def draw(
    key: Any, inputs: int, hidden: int, blocks: int, init: str, bias: bool, dtype: DTypeLike, outputs: int | None = None
) -> tuple[Array, Array, Array | None]:
    """w_x [D, kH], w_h [P, kH] and b [kH] of a layer of k blocks of columns; P is `outputs`, or H."""
    checks.key("key", key)
    inputs, hidden = checks.size("inputs", inputs), checks.size("hidden", hidden)
    checks.one_of("init", init, INITS)
    dtype = checks.float_dtype("dtype", dtype)
    bias = checks.flag("bias", bias)
    outputs = hidden if outputs is None else outputs
    wide, columns = state_dtype(dtype), blocks * hidden  # LAPACK, behind orthogonal, has no half precision
    k_x, k_h, k_b = jax.random.split(key, _KEYS)
    if init == "torch":
        bound = hidden**-0.5
        w_x = jax.random.uniform(k_x, (inputs, columns), wide, -bound, bound)
        w_h = jax.random.uniform(k_h, (outputs, columns), wide, -bound, bound)
        b = jax.random.uniform(k_b, (2, columns), wide, -bound, bound).sum(0)
    else:
        # The block a variance is computed over is one gate, or in Keras all gates together.
        draws = 1 if init == "keras" else blocks
        width = columns // draws
        glorot = jax.nn.initializers.glorot_uniform()
        w_x = jnp.concatenate([glorot(k, (inputs, width), wide) for k in jax.random.split(k_x, draws)], 1)
        w_h = jnp.concatenate([_orthogonal(k, (outputs, width), wide) for k in jax.random.split(k_h, draws)], 1)
        b = jnp.zeros(columns, wide)
    return w_x.astype(dtype), w_h.astype(dtype), b.astype(dtype) if bias else None


@partial(jax.jit, static_argnames=("shape", "dtype"))  # or each draw of a vmap would be compiled by itself
def _orthogonal(key, shape, dtype):
    """A matrix with orthonormal rows or columns; under vmap, of many draws, one after the other.

    On a CPU a batch of QR decompositions is shared out to the threads that run the program, and waited for by one of
    them: with a few such batches in one compiled program all of them wait, and it never ends.
    """
    return sequential_vmap(lambda key: jax.nn.initializers.orthogonal()(key, shape, dtype))(key)


def fresh_key(key: Array, n: int) -> Array:
    """A key that `draw` has not: what it splits `key` into are `fold_in(key, 0)` and so on."""
    return jax.random.fold_in(key, _KEYS + n)


def chrono_key(key: Array, init: str) -> Array:
    """That of `chrono`: the key of the biases, where `draw` draws none."""
    return fresh_key(key, 1) if init == "torch" else jax.random.fold_in(key, 2)


def chrono(key: Array, b: Array | None, hidden: int, steps: Any, signs: dict[int, int]) -> Array:
    """`b` [kH] with log u, u uniform in [1, T - 1] for each unit, in the blocks that have a sign, times it.

    sigmoid(log u) = 1 - 1 / (1 + u): what such a gate keeps fades by e in about 1 + u steps, so that every lag below T,
    here `steps`, has its units.
    """
    steps = checks.size("chrono", steps, least=2)
    if b is None:
        raise ValueError("chrono is given, but bias is False: there is no bias to draw")
    drawn = jnp.log(jax.random.uniform(key, (hidden,), state_dtype(b.dtype), 1, steps - 1)).astype(b.dtype)
    for block, sign in signs.items():
        b = b.at[block * hidden : (block + 1) * hidden].set(sign * drawn)
    return b
