"""cuDNN's LSTM through `jax.experimental.rnn`: float32, one sequence length each, its own derivative.

It is here to be compared with, and never what backend=None takes: at every call it copies the lengths to the host and
waits for them, and its algorithm is cuDNN's standard one.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from lstmjax.backends import kernel, scan
from lstmjax.cells.lstm import LSTMParams, LSTMState, variant
from lstmjax.cells.products import matmul_dtype
from lstmjax.regularise import QUIET


def supports(
    params,
    xs,
    *,
    residuals=None,
    chunk=None,
    remat=False,
    noise=QUIET,
    compute_dtype=None,
    lengths=None,
    mask=None,
    reset=None,
    reverse=False,
    **_,
):
    """Why cuDNN cannot do this, or None."""
    if type(params) is not LSTMParams:
        return f"it knows LSTMParams only, not {type(params).__name__}"
    changed = variant(params)
    if changed is not None:
        return f"it knows the plain LSTM only, and {changed}"
    if noise.zoneout or noise.expected or noise.recurrent is not None:
        return "it has neither zoneout nor recurrent dropout"
    if residuals is not None or chunk is not None or remat is not False:
        return "it keeps what cuDNN keeps, so residuals, chunk and remat cannot be chosen"
    if mask is not None:
        return "it has lengths, but no mask"
    if reset is not None:
        return "it has no reset"
    if reverse and lengths is not None:
        return "it has no reverse beside lengths"
    dtype = matmul_dtype(params, xs, compute_dtype)
    if not dtype == xs.dtype == params.w_x.dtype == jnp.float32:
        return (
            f"it is float32 only, and the inputs are {xs.dtype}, the weights {params.w_x.dtype}, the products {dtype}"
        )
    if jax.default_backend() != "gpu":
        return f"it needs an NVIDIA GPU, and JAX runs on {jax.default_backend()}"
    return None


@custom_vmap
def _unmapped(first, *rest):
    """The first of arrays of which none is mapped: `jax.experimental.rnn` has no rule for it, and JAX's own error would
    not say whose fault it is."""
    return first


@_unmapped.def_vmap
def _mapped(axis_size, in_batched, *args):
    raise ValueError('backend="cudnn" cannot be mapped by vmap: give the batch as an axis of xs')


def run(params, xs, state, *, lengths, mask, reset, reverse, compute_dtype, precision, **_):
    """A layer over time; arguments and results are those of `scan.run`."""
    if xs.size == 0:
        options = dict(lengths=lengths, mask=mask, reset=reset, reverse=reverse)
        return scan.run(params, xs, state, **options, compute_dtype=compute_dtype, precision=precision)
    from jax.experimental import rnn

    T, *batch, D = xs.shape
    H = len(params.w_h)
    flat = xs.reshape(T, -1, D)
    h0, c0 = (s.reshape(-1, H) for s in state)
    B = len(h0)
    steps = jnp.full(B, T, jnp.int32) if lengths is None else lengths.reshape(B)
    valid = lax.broadcasted_iota(jnp.int32, (T, B, 1), 0) < steps[None, :, None]
    if lengths is not None:
        flat = jnp.where(valid, flat, 0)
    if reverse:
        flat = flat[::-1]
    b = jnp.zeros(4 * H, jnp.float32) if params.b is None else params.b
    # [4H, D] and [4H, H] laid out row after row, gates i, f, g, o; of two biases the sum counts.
    steps = _unmapped(steps, *map(lax.stop_gradient, (flat, h0, c0, params.w_x, params.w_h, b)))
    weights = jnp.concatenate([params.w_x.T.ravel(), params.w_h.T.ravel(), b, jnp.zeros_like(b)])
    sizes = dict(input_size=D, hidden_size=H, num_layers=1, dropout=0.0, bidirectional=False)
    # HIGH is TF32; it knows no other, and DEFAULT it refuses.
    exact = kernel.precise(jnp.float32, precision) is not None
    ys, h, c = rnn.lstm(
        flat.swapaxes(0, 1),
        h0[None],
        c0[None],
        weights,
        # cuDNN takes no length of 0; what comes of 1 in its place is not used.
        jnp.maximum(steps, 1),
        **sizes,
        precision=lax.Precision.HIGHEST if exact else lax.Precision.HIGH,
    )
    ys, h, c = ys.swapaxes(0, 1), h[0], c[0]
    if reverse:
        ys = ys[::-1]
    if lengths is not None:
        some = steps[:, None] > 0
        ys, h, c = jnp.where(valid, ys, 0), jnp.where(some, h, h0), jnp.where(some, c, c0)
    return LSTMState(h.reshape(*batch, H), c.reshape(*batch, H)), ys.reshape(T, *batch, H)
