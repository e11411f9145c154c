"""The LSTM with its own derivative, `chunked`, as three primitives: the run, its tangent and its transpose.

The tangent is linear and only ever transposed, unless someone asks for forward mode. A `custom_vjp` would not do:
under `vmap` it forms the weight gradients of each example and sums them afterwards. Here the tangent is batched before
it is transposed, as JAX does with its own products, so `grad` of `vmap` folds the mapped axis into the batch, and
`vmap` of `grad` still gives each example its own gradient.

The operands have a group axis G beside the batch: sequences of one group share weights. `vmap` over data grows B,
`vmap` over weights grows G.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from lstmjax import checks, varying
from lstmjax.backends import abreast, kernel, scan, tuning
from lstmjax.backends.chunked import backward, forward
from lstmjax.backends.chunks import Config
from lstmjax.cells.lstm import LSTMParams, LSTMState, variant
from lstmjax.cells.products import matmul_dtype, state_dtype, wider
from lstmjax.regularise import QUIET

RESIDUALS = ("gates", "outputs")


def supports(params, xs, *, residuals=None, chunk=None, remat=False, noise=QUIET, **_):
    """Why fused cannot do this, or None."""
    if type(params) is not LSTMParams:
        return f"it knows LSTMParams only, not {type(params).__name__}"
    if any(jax.typeof(a).sharding.mesh.explicit_axes for a in jax.tree.leaves((params, xs)) if checks.is_array(a)):
        return "it knows no mesh with Explicit axes: give the mesh axis_types of AxisType.Auto"
    changed = variant(params)
    if changed is not None:
        return f"it knows the plain LSTM only, and {changed}"
    if noise.zoneout or noise.expected:
        return "it has no zoneout"
    if remat is not False and residuals == "gates":
        return 'residuals="gates" keeps every step, which remat is there to avoid'
    if type(remat) is int and chunk is not None:
        return "its checkpoints are the ends of chunks: give chunk, or remat as a number of steps, but not both"
    return None


def run(
    params,
    xs,
    state,
    *,
    lengths,
    mask,
    reset,
    reverse,
    compute_dtype,
    precision,
    residuals=None,
    chunk=None,
    remat=False,
    noise=QUIET,
    insist=False,
    persistent=False,
    **_,
):
    """A layer over time; arguments and results are those of `scan.run`, and beside them:

    residuals: what is kept for the backward pass: "gates" (fastest), or "outputs" (leanest: little more than the
      outputs; the gates of a chunk come back in one GEMM).
    chunk: steps in a chunk.
    remat: asks for "outputs"; a number is the steps in a chunk, at whose ends the cell is kept.
    insist: whether fused was asked for by name; forward mode and second derivatives are then an error, not left to
      scan.
    persistent: whether a GPU takes its kernel for it (see `persistent`).
    """
    T, *batch, D = xs.shape
    dtype, wide = matmul_dtype(params, xs, compute_dtype), state_dtype(xs.dtype)
    if xs.size == 0:  # T = 0 or an empty batch: nothing to fuse
        return scan.run(
            params,
            xs,
            state,
            lengths=lengths,
            mask=mask,
            reset=reset,
            reverse=reverse,
            compute_dtype=compute_dtype,
            precision=precision,
            noise=noise,
        )
    given = dict(lengths=lengths, mask=mask, reset=reset, recurrent=noise.recurrent)
    given = {name: array for name, array in given.items() if array is not None}
    if type(remat) is int:
        chunk = remat
    residuals = residuals or ("gates" if remat is False else "outputs")
    lean = residuals == "outputs"
    config = Config(
        reverse=reverse,
        dtype=dtype,
        # The outputs double as what the recurrent product saw, so they are stored so that nothing of it is lost.
        stored=xs.dtype if xs.dtype in (wide, dtype) else wider(dtype, xs.dtype),
        # Where what is kept has no part for each chunk, 0: it is chosen when the program is built, and it is known how
        # many sequences a vmap has brought together.
        chunk=min(T, chunk or (tuning.lean_chunk(T, xs.size // (T * D), params.w_x, params.w_h) if lean else 0)),
        residuals=residuals,
        precision=precision,
        rest=tuple(given),
        insist=insist,
        persistent=persistent,
    )
    b = params.b
    if b is None:
        b = varying.over(varying.axes(xs), jnp.zeros(params.w_h.shape[1], params.w_h.dtype))
    operands = [
        *(w[None] for w in (params.w_x, params.w_h, b)),
        xs.reshape(T, 1, -1, D),
        *(s.reshape(1, -1, s.shape[-1]) for s in state),
    ]
    shapes = dict(lengths=(1, -1), mask=(T, 1, -1), reset=(T, 1, -1), recurrent=(1, -1, state.h.shape[-1]))
    operands += [array.reshape(shapes[name]) for name, array in given.items()]
    ys, h, c = run_p.bind(*operands, config=config, keep=False)
    shape = (*batch, ys.shape[-1])
    state = LSTMState(h.reshape(shape), c.reshape(shape))
    ys = ys.reshape(T, *shape).astype(xs.dtype)
    return state, ys if mask is None else jnp.where(mask[..., None], ys, 0)


def tangent(*operands, config, wrt):
    """Tangents of hs, h and c. Reached only in forward mode, which scan does."""
    if config.insist:
        raise _refusal(config)
    given, primals = list(operands[: sum(wrt)]), operands[sum(wrt) :]
    linear, rest = primals[:6], primals[6 : 6 + len(config.rest)]
    tangents = [given.pop(0) if wanted else jnp.zeros_like(p) for p, wanted in zip(linear, wrt, strict=True)]
    return list(jax.jvp(lambda *linear: _by_scan(config, linear, rest), linear, tuple(tangents))[1])


def _by_scan(config, linear, rest):
    """`forward` without residuals, by the scan backend."""
    w_x, w_h, b, xs, h0, c0 = linear
    given = dict(zip(config.rest, rest, strict=True))
    recurrent = given.pop("recurrent", None)
    state, ys = scan.run(
        LSTMParams(w_x, w_h, b),
        xs,
        LSTMState(h0, c0),
        **{"lengths": None, "mask": None, "reset": None} | given,
        noise=QUIET._replace(recurrent=recurrent),
        reverse=config.reverse,
        compute_dtype=config.dtype,
        precision=config.precision,
    )
    return ys.astype(config.stored), *state


def _refusal(config):
    name = "persistent" if config.persistent else "fused"
    return TypeError(
        f'backend="{name}" has no forward-mode or second derivatives; ask for backend="scan", or leave backend=None, '
        "which takes scan for them"
    )


def _run_jvp(primals, tangents, *, config, keep):
    if keep and config.insist:
        raise _refusal(config)
    primals = list(primals)
    out = run_p.bind(*primals, config=config, keep=True)
    linear = list(zip(primals[:6], tangents[:6], strict=True))
    wrt = tuple(type(d) is not ad.Zero for _, d in linear)
    given = [d for (_, d), wanted in zip(linear, wrt, strict=True) if wanted]
    d_out = tangent_p.bind(*given, *primals, out[0], *out[3:], config=config, wrt=wrt)
    # The residuals are read by our own primitives only, and those differentiate through the operands they came from.
    zeros = [ad.Zero(jax.typeof(r)) for r in out[3:]]
    return (out, d_out + zeros) if keep else (out[:3], d_out)


def _tangent_jvp(primals, tangents, *, config, wrt):
    if config.insist:
        raise _refusal(config)
    n, end = sum(wrt) + 6, sum(wrt) + 6 + len(config.rest)
    given, results = _tangent_layouts(config, wrt)
    function = _grouped(partial(tangent, config=config, wrt=wrt), given[:end], results)
    tangents = [ad.instantiate_zeros(d) for d in tangents[:n]]
    return jax.jvp(lambda *linear: function(*linear, *primals[n:end]), tuple(primals[:n]), tuple(tangents))


def _tangent_transpose(cotangents, *operands, config, wrt):
    n = sum(wrt)
    primals = operands[n:]
    hs, (h, c) = primals[6 + len(config.rest)], primals[4:6]
    dhs, dh, dc = (jnp.zeros_like(p) if type(d) is ad.Zero else d for d, p in zip(cotangents, (hs, h, c), strict=True))
    found = vjp_p.bind(dhs, dh, dc, *primals, config=config, wrt=wrt)
    return [d if ad.is_undefined_primal(x) else None for d, x in zip(found, operands[:n], strict=True)] + [None] * len(
        primals
    )


def _vjp_jvp(primals, tangents, *, config, wrt):
    if config.insist:
        raise _refusal(config)
    n = 9 + len(config.rest)
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
_REST = dict(lengths=_STATE, mask=_ROWS, reset=_ROWS, recurrent=_STATE)


def _run_layouts(config, keep):
    """Of what goes into a run, and of what comes out."""
    return [*_LINEAR, *(_REST[name] for name in config.rest)], [
        *_OUT,
        *_residual_layouts(config) * keep,
    ]


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
    folded, inner = _fold(args, axes, given, grouped, size)
    return _unfold(primitive.bind(*folded, **params), results, grouped, (size, inner))


def _fold(args, axes, layouts, grouped, size):
    """The args with their mapped axis folded away, into G if `grouped`, else into B; and that G or B as it was."""
    folded, inner = [], 0
    for a, axis, layout in zip(args, axes, layouts, strict=True):
        place = layout.place(grouped)
        if place is not None:
            if axis is None:
                a = jnp.broadcast_to(jnp.expand_dims(a, place), (*a.shape[:place], size, *a.shape[place:]))
            else:
                a = jnp.moveaxis(a, axis, place)
            inner = a.shape[place + 1]
            a = a.reshape(*a.shape[:place], size * inner, *a.shape[place + 2 :])
        folded.append(a)
    return folded, inner


def _unfold(results, layouts, grouped, sizes):
    """The results with the mapped axis apart again, and where it is in each."""
    unfolded, axes = [], []
    for a, layout in zip(results, layouts, strict=True):
        place = layout.place(grouped)
        if place is not None:
            a = a.reshape(*a.shape[:place], *sizes, *a.shape[place + 1 :])
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
    return [primals[6 + len(config.rest)], *primals[4:6]]


def _vjp_avals(*operands, config, wrt):
    return [aval for aval, wanted in zip(operands[3:9], wrt, strict=True) if wanted]


def _primitive(name, function, static, layouts, avals, xs=None, tuned=None, in_halves=None, on_gpu=None):
    """A primitive that lowers to `function` over groups; outside of jit it is jitted once per static parameters.

    xs: which operand the sequence is, w_h being two before it.
    tuned: T, B, H, dtype of the products, devices, and keep or the inputs and whether memory counts -> options of
      `function` for a CPU.
    in_halves: what does the same in two loops, where `abreast.usable` and tuned so.
    on_gpu: what does the same in one kernel, where `kernel.usable`.
    """

    def chosen(args, params, times=1):
        """The params with a number of steps in a chunk."""
        config = params["config"]
        if config.chunk or xs is None:
            return params
        T, _, B = args[xs].shape[:3]
        w_x, w_h = (jax.ShapeDtypeStruct(w.shape[1:], w.dtype) for w in args[xs - 3 : xs - 1])
        return params | {"config": config._replace(chunk=min(T, tuning.chunk(T, B, w_x, w_h, times)))}

    def lowered(*args, **params):
        params = chosen(args, params)
        return _grouped(partial(function, **params), *layouts(**params))(*args)

    def on_cpu(*args, devices, **params):
        (T, groups, B), H = args[xs].shape[:3], args[xs - 2].shape[1]
        run, options, times = function, {}, 1
        if groups == 1:
            lean = params["config"].residuals == "outputs"
            more = {"keep": params["keep"]} if "keep" in params else {"inputs": args[xs].shape[-1], "lean": lean}
            options = tuned(T, -(-B // devices), H, params["config"].dtype, devices=devices, **more)
            halves = options.pop("abreast")
            if halves and abreast.usable(params["config"], params.get("keep", True)):
                run, options, times = in_halves, {}, halves
        params = chosen(args, params, times)
        return _grouped(partial(run, **params, **options), *layouts(**params))(*args)

    def on_cuda(*args, devices, **params):
        if devices > 1:
            return lowered(*args, **params)
        params = chosen(args, params)
        (T, groups, B), H, config = args[xs].shape[:3], args[xs - 2].shape[1], params["config"]
        # Groups would take turns at the kernel; who asked for it by name gets that, else they run side by side.
        can = (groups == 1 or config.insist) and kernel.usable(config, B, H, back=function is backward)
        if not can and config.residuals == "gates":
            # One loop: a GPU has no cache that a chunk would have to fit in, and a loop in a loop costs it twice.
            params = params | {"config": config._replace(chunk=T)}
        return _grouped(partial(on_gpu if can else function, **params), *layouts(**params))(*args)

    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_abstract_eval(avals)
    jitted = jax.jit(primitive.bind, static_argnames=("config", static))

    def eager(*args, **params):
        # Where jit is disabled it would end here again.
        return (lowered if jax.config.jax_disable_jit else jitted)(*args, **params)  # type: ignore[attr-defined]

    primitive.def_impl(eager)
    mlir.register_lowering(primitive, mlir.lower_fun(lowered, multiple_results=True))
    for platform, special in (("cpu", on_cpu), ("cuda", on_cuda)) if tuned is not None else ():

        def rule(ctx, *args, special=special, **params):
            devices = _devices(ctx.module_context.axis_context)
            function = lowered if devices is None else partial(special, devices=devices)
            return mlir.lower_fun(function, multiple_results=True)(ctx, *args, **params)

        mlir.register_lowering(primitive, rule, platform=platform)
    batching.primitive_batchers[primitive] = partial(_batch, primitive, layouts)
    return primitive


def _devices(context):
    """How many devices a program of this context runs on, one where `shard_map` has taken each of them apart; None
    where that is not known."""
    manual = getattr(context, "manual_axes", None)
    if manual:
        return 1 if manual == frozenset(context.mesh.axis_names) else None
    return getattr(context, "num_devices", None)


run_p = _primitive(
    "lstm",
    forward,
    "keep",
    _run_layouts,
    _run_avals,
    xs=3,
    tuned=tuning.forward,
    in_halves=abreast.forward,
    on_gpu=kernel.forward,
)
tangent_p = _primitive("lstm_tangent", tangent, "wrt", _tangent_layouts, _tangent_avals)
vjp_p = _primitive(
    "lstm_vjp",
    backward,
    "wrt",
    _vjp_layouts,
    _vjp_avals,
    xs=6,
    tuned=tuning.backward,
    in_halves=abreast.backward,
    on_gpu=kernel.backward,
)
ad.primitive_jvps[run_p] = _run_jvp
ad.primitive_jvps[tangent_p] = _tangent_jvp
ad.primitive_jvps[vjp_p] = _vjp_jvp
ad.primitive_transposes[tangent_p] = _tangent_transpose
