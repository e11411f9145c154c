"""All of time in one CUDA kernel that keeps the recurrent weights on the chip: `kernel`, by the primitives of fused.

It is fused, with its derivatives and its `vmap`, in which an NVIDIA GPU takes the kernel where the shapes let it: a run
lowered for another device, for several, or with other shapes after `vmap` takes the arithmetic of fused.
"""

import math

import jax.numpy as jnp

from lstmjax.backends import fused, kernel, nvcc
from lstmjax.cells.products import matmul_dtype, state_dtype
from lstmjax.regularise import QUIET

# The products for which backend=None may take it: those in which every row of the benchmark has been right on a card,
# outputs and all gradients, against float64.
PROVEN = ("float32", "bfloat16", "float16")

# Steps from which backend=None takes it: fewer are not worth building a kernel for.
STEPS = 5


def supports(
    params,
    xs,
    *,
    residuals=None,
    chunk=None,
    remat=False,
    noise=QUIET,
    compute_dtype=None,
    precision=None,
    insist=True,
    **_,
):
    """Why persistent cannot do this, or None; `insist` is whether it was asked for by name."""
    reason = fused.supports(params, xs, residuals=residuals, chunk=chunk, remat=remat, noise=noise)
    if reason is not None:
        return reason
    if residuals == "outputs" or remat is not False:
        return "it keeps the gates of every step"
    if chunk is not None:
        return "it goes over all of time at once, so it has no chunk"
    if noise.recurrent is not None:
        return "it has no recurrent dropout"
    dtype = matmul_dtype(params, xs, compute_dtype)
    if state_dtype(xs.dtype) != jnp.float32 or dtype == jnp.float64:
        return f"it sums in float32, and {state_dtype(xs.dtype)} inputs with {dtype} products ask for more"
    if not insist and jnp.dtype(dtype).name not in PROVEN:
        return f"with {dtype} products it is there by name only"
    if not insist and xs.shape[0] < STEPS:
        return f"it is there by name only for fewer than {STEPS} steps"
    reason = kernel.precise(dtype, precision)
    if reason is not None:
        return reason
    H = len(params.w_h)
    if kernel.plan(max(1, math.prod(xs.shape[1:-1])), H, dtype, back=False) is None:
        return f"the {dtype} weights of {H} units do not fit on the chip"
    return nvcc.missing()


def run(params, xs, state, **options):
    """A layer over time; arguments and results are those of `fused.run`."""
    return fused.run(params, xs, state, **options, persistent=True)
