"""The LSTM: params, state, init, step and gates, in all its classic forms.

The letters of the axes, here and everywhere: B batch, T time, D input, H hidden, P output (H, where nothing projects
it). `*batch` is any number of batch axes, none included. A step is a scan body, `(params, state, x) -> (state, y)`.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lstmjax import checks
from lstmjax.activations import Activation, activation, check_activation
from lstmjax.cells import cell
from lstmjax.cells.cell import Cell, check_arrays, check_columns, check_shape
from lstmjax.cells.draw import chrono as draw_chrono
from lstmjax.cells.draw import chrono_key, draw, fresh_key
from lstmjax.cells.norm import LayerNorm, Norm, check_norm, check_norm_shapes, init_norm, normed
from lstmjax.cells.products import along, biased, bounded, dot, matmul_dtype, state_dtype

Array = jax.Array

# The blocks of columns by coupling: a gate that is one minus another has no weights.
GATES = {None: "ifgo", "f=1-i": "igo", "i=1-f": "fgo"}
LAYER_NORMS = (None, "gates", "gates+cell", "inputs+cell")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class LSTMForm:
    """What kind of LSTM the weights belong to, beside what their shapes tell. It is a part of the tree, not a leaf.

    Args:
      coupling: "f=1-i" (ONNX, nGraph) or "i=1-f" (TensorFlow, Lite): the gate on the left has no weights of its own.
      activations: of the gates i, f and o, of the candidate g, and of the cell on its way out (see `activation`).
      clip: bound of what goes into every activation (ONNX), above 0; None: no bound.
      clip_cell: bound of the cell (TensorFlow, Lite); None: no bound.
      clip_projection: bound of the projected output; None: no bound.
      epsilon: what layer norm adds to a variance, above 0.
      normed_cell: "state": the normed cell is the cell that goes on (TensorFlow, Addons); "output": only what h is made
        of is normed (Ba et al. 2016).

    Raises:
      TypeError, ValueError: naming the argument.

    >>> LSTMForm(coupling="f=1-i", clip_cell=6.0).clip is None
    True
    """

    coupling: str | None = None
    activations: tuple[Activation, Activation, Activation] = ("sigmoid", "tanh", "tanh")
    clip: float | None = None
    clip_cell: float | None = None
    clip_projection: float | None = None
    epsilon: float = 1e-5
    normed_cell: str = "state"

    def __post_init__(self):
        checks.one_of("coupling", self.coupling, tuple(GATES))
        if not isinstance(self.activations, tuple) or len(self.activations) != 3:
            raise TypeError(
                "activations should be a tuple of three, of the gates, the candidate and the output, "
                f"got {self.activations!r}"
            )
        for n, given in enumerate(self.activations):
            check_activation(f"activations[{n}]", given)
        for name in ("clip", "clip_cell", "clip_projection", "epsilon"):
            bound = getattr(self, name)
            if bound is not None or name == "epsilon":
                object.__setattr__(self, name, checks.positive(name, bound))
        checks.one_of("normed_cell", self.normed_cell, ("state", "output"))


PLAIN, NO_NORM = LSTMForm(), LayerNorm()


class LSTMParams(NamedTuple):
    """Weights of one LSTM layer. The 4H columns are the gates i, f, g, o in this order, H each; with coupled gates 3H
    columns, i, g, o or f, g, o."""

    w_x: Array  # [D, 4H]
    w_h: Array  # [P, 4H]
    b: Array | None = None  # [4H]; None: no bias
    peephole: Array | None = None  # [3H]: how i, f and o see the cell ([2H] with coupled gates); None: they do not
    projection: Array | None = None  # [H, P]; None: the output is as wide as the cell
    projection_b: Array | None = None  # [P]
    norm: LayerNorm | None = None
    form: LSTMForm | None = None  # None: `LSTMForm()`


class LSTMState(NamedTuple):
    """State of an LSTM layer: the hidden state, which is also the output, and the cell."""

    h: Array  # [*batch, P]
    c: Array  # [*batch, H]


class LSTMGates(NamedTuple):
    """The activated gates of a step: input, forget, candidate, output."""

    i: Array  # [*batch, H], in (0, 1)
    f: Array  # [*batch, H], in (0, 1)
    g: Array  # [*batch, H], in (-1, 1)
    o: Array  # [*batch, H], in (0, 1)


def init_lstm(
    key: Array,
    inputs: int,
    hidden: int,
    *,
    init: str = "glorot",
    forget_bias: float = 1.0,
    chrono: int | None = None,
    bias: bool = True,
    dtype: DTypeLike = jnp.float32,
    peephole: bool = False,
    projection: int | None = None,
    projection_bias: bool = False,
    layer_norm: str | None = None,
    coupling: str | None = None,
    activations: tuple[Activation, Activation, Activation] = ("sigmoid", "tanh", "tanh"),
    clip: float | None = None,
    clip_cell: float | None = None,
    clip_projection: float | None = None,
    epsilon: float = 1e-5,
    normed_cell: str = "state",
) -> LSTMParams:
    """Draw the weights of one LSTM layer.

    Args:
      key: PRNG key.
      inputs: D, features of an input step.
      hidden: H, units of the layer.
      init: "glorot" draws each gate of `w_x` Glorot-uniform and each gate of `w_h` orthogonal; "keras" is
        `keras.layers.LSTM` (Glorot over all 4H columns, one orthogonal [H, 4H]); "torch" is `torch.nn.LSTM`
        (all uniform in +-H**-0.5, the bias the sum of torch's two, no forget bias).
      forget_bias: the bias of the forget gate; it is stored in `b`, nothing is added at run time. Where f = 1 - i, the
        input gate has its negative. Not used by "torch".
      chrono: T, the longest lag to be bridged, at least 2. Each unit draws u uniform in [1, T - 1]; the bias of its
        forget gate is log u and that of its input gate -log u, whatever else they would be. None: no such thing.
      bias: False leaves `b` as None.
      dtype: of the weights.
      peephole: whether the gates see the cell; these weights begin at 0.
      projection: P, features of the output, at least 1; it may be wider than H. None: no projection.
      projection_bias: whether the projection has a bias.
      layer_norm: "gates" (each gate, a scale and the layer's bias), "gates+cell" (each gate and the cell, with scale
        and shift) or "inputs+cell" (all of x W_x, all of h W_h, and the cell); see `LayerNorm`.
      coupling, activations, clip, clip_cell, clip_projection, epsilon, normed_cell: see `LSTMForm`.

    Returns:
      `LSTMParams` with `w_x` [D, 4H], `w_h` [P, 4H], `b` [4H], and what was asked for beside these.

    Raises:
      TypeError, ValueError: a size that is no positive int, an unknown name, a dtype that is not floating, a bound that
        is not above 0, options that clash.

    References: Glorot and Bengio 2010, eq. 16; Saxe et al. 2014, section 3 (orthogonal); Jozefowicz et al. 2015,
    section 2.2 (forget bias 1); Tallec and Ollivier 2018, section 2 (chrono).

    >>> params = init_lstm(jax.random.key(0), inputs=3, hidden=5)
    >>> params.w_x.shape, params.w_h.shape, params.b.shape
    ((3, 20), (5, 20), (20,))
    >>> init_lstm(jax.random.key(0), 3, 5, peephole=True, projection=2).w_h.shape
    (2, 20)
    """
    checks.finite("forget_bias", forget_bias)
    checks.one_of("layer_norm", layer_norm, LAYER_NORMS)
    form = LSTMForm(coupling, activations, clip, clip_cell, clip_projection, epsilon, normed_cell)
    if projection is not None:
        projection = checks.size("projection", projection)
    if checks.flag("projection_bias", projection_bias) and projection is None:
        raise ValueError("projection_bias is True, but projection is None: there is nothing to add it to")
    peephole, names = checks.flag("peephole", peephole), GATES[coupling]
    hidden = checks.size("hidden", hidden)
    w_x, w_h, b = draw(key, inputs, hidden, len(names), init, bias, dtype, projection)
    if b is not None and init != "torch":
        sign = 1 if "f" in names else -1
        start = max(names.find("f"), 0) * hidden
        b = b.at[start : start + hidden].set(sign * forget_bias)
    if chrono is not None:
        signs = {names.index(gate): sign for gate, sign in (("f", 1), ("i", -1)) if gate in names}
        b = draw_chrono(chrono_key(key, init), b, hidden, chrono, signs)
    weights = None
    if projection is not None:
        if init == "torch":
            bound, wide = hidden**-0.5, state_dtype(w_x.dtype)
            weights = jax.random.uniform(fresh_key(key, 0), (hidden, projection), wide, -bound, bound).astype(w_x.dtype)
        else:  # draw splits this key once more before it draws
            weights = jax.nn.initializers.glorot_uniform()(jax.random.fold_in(key, 1), (hidden, projection), w_x.dtype)
    columns, dtype = w_x.shape[1], w_x.dtype
    norms = {
        None: None,
        "gates": LayerNorm(gates=init_norm(columns, dtype, shift=False)),
        "gates+cell": LayerNorm(gates=init_norm(columns, dtype), cell=init_norm(hidden, dtype)),
        "inputs+cell": LayerNorm(
            x=init_norm(columns, dtype), h=init_norm(columns, dtype), cell=init_norm(hidden, dtype)
        ),
    }
    params = LSTMParams(
        w_x,
        w_h,
        b,
        peephole=jnp.zeros((len(names) - 1) * hidden, dtype) if peephole else None,
        projection=weights,
        projection_b=jnp.zeros(projection, dtype) if projection_bias and projection is not None else None,
        norm=norms[layer_norm],
        form=None if form == PLAIN else form,
    )
    return _check("params", params)


def lstm_step(
    params: LSTMParams,
    state: LSTMState,
    x: Array,
    *,
    compute_dtype: DTypeLike | None = None,
    precision: Any = None,
) -> tuple[LSTMState, Array]:
    """One step of an LSTM layer.

        i, f, g, o = split(x W_x + h W_h + b)
        c' = sigmoid(f) c + sigmoid(i) tanh(g)
        h' = sigmoid(o) tanh(c')

    and with everything that params may hold, [] where there is such a thing:

        z = [norm](x W_x) + [norm](h W_h)
        i = act(clip([norm](z_i [+ p_i c]) + b_i)),  f likewise,  g = act_g(clip([norm](z_g) + b_g))
        i = 1 - f or f = 1 - i, if coupled
        c' = clip_cell(f c + i g)
        o = act(clip([norm](z_o [+ p_o c']) + b_o))
        c' = [norm](c')
        h' = o act_c(clip(c')),  [h' = clip_projection(h' W_p + b_p)]

    Args:
      params: `LSTMParams` of D inputs and H units.
      state: `LSTMState`, h [*batch, P] and c [*batch, H], float32 or wider (see `init_state`).
      x: [*batch, D].
      compute_dtype: dtype of the matrix products, which sum in float32 or wider; None: that of x and the weights.
      precision: as in `jax.lax.dot`; None leaves it to the device (TF32 on NVIDIA, bfloat16 passes on TPU).

    Returns:
      The next state, and the output y = h', [*batch, P], in the dtype of `x`.

    Raises:
      TypeError, ValueError: params, state or x of another kind, dtype or shape; the message names which.

    References: Hochreiter and Schmidhuber 1997; Gers et al. 2000 (forget gate); Gers and Schmidhuber 2000 (peepholes);
    Graves 2013, eqs. 7 to 11; Sak et al. 2014, section 2 (projection); Greff et al. 2017, section 3 (coupled gates);
    Ba et al. 2016, section 3.1 (layer norm).

    >>> params = init_lstm(jax.random.key(0), 3, 5)
    >>> state, y = lstm_step(params, LSTMState(jnp.zeros(5), jnp.zeros(5)), jnp.ones(3))
    >>> y.shape
    (5,)
    """
    return cell.step(LSTM, "lstm_step", params, state, x, compute_dtype, precision)


def lstm_gates(params: LSTMParams, state: LSTMState, x: Array) -> LSTMGates:
    """The four activated gates of the step that `lstm_step` would take: `LSTMGates`, [*batch, H] each.

    The arguments and the errors are those of `lstm_step`.

    >>> params = init_lstm(jax.random.key(0), 3, 5)
    >>> bool((lstm_gates(params, LSTMState(jnp.zeros(5), jnp.zeros(5)), jnp.zeros(3)).f > 0.7).all())
    True
    """
    return cell.gates(LSTM, "lstm_gates", params, state, x)


def variant(params: LSTMParams) -> str | None:
    """Which variant of the LSTM this is, in a few words; None for the plain one, with or without bias."""
    for field in ("peephole", "projection", "norm"):
        if getattr(params, field) is not None:
            return f"params.{field} is given"
    form = params.form or PLAIN
    changed = [f.name for f in dataclasses.fields(form) if getattr(form, f.name) != getattr(PLAIN, f.name)]
    # epsilon and the like say nothing where there is no layer norm.
    changed = [name for name in changed if name not in ("epsilon", "normed_cell")]
    return f"params.form.{changed[0]} is {getattr(form, changed[0])!r}" if changed else None


def _advance(params, state, x, how):
    form, norm = params.form or PLAIN, params.norm or NO_NORM
    names, (act, act_g, act_c) = GATES[form.coupling], map(activation, form.activations)
    dtype, wide = matmul_dtype(params, x, how.compute_dtype), state.c.dtype
    from_x = dot(x, params.w_x, dtype, wide, how.precision)
    from_h = dot(cell.recurrent(state, how), params.w_h, dtype, wide, how.precision)
    if norm.x is not None:
        from_x = normed(norm.x, from_x, form.epsilon)
    if norm.h is not None:
        from_h = normed(norm.h, from_h, form.epsilon)
    z = from_x + from_h
    if norm.gates is None:
        z = biased(z, params.b)
    zs = _blocks(names, z)
    peepholes = _blocks(names.replace("g", ""), params.peephole)
    scales, shifts = (_blocks(names, array) for array in norm.gates or (None, None))
    biases = _blocks(names, params.b if norm.gates is not None else None)

    def gate(k, act, c):
        z = zs[k]
        if k in peepholes:
            z = z + along(peepholes[k], z) * c
        if k in scales:
            z = biased(normed(Norm(scales[k], shifts.get(k)), z, form.epsilon), biases.get(k))
        return act(bounded(z, form.clip))

    if form.coupling == "i=1-f":
        f = gate("f", act, state.c)
        i = 1 - f
    else:
        i = gate("i", act, state.c)
        f = gate("f", act, state.c) if form.coupling is None else 1 - i
    g = gate("g", act_g, None)
    o = gate("o", act, None) if params.peephole is None else None
    c = bounded(f * state.c + i * g, form.clip_cell)
    o = gate("o", act, c) if o is None else o
    c_out = c if norm.cell is None else normed(norm.cell, c, form.epsilon)
    c = c_out if form.normed_cell == "state" else c
    h = o * act_c(bounded(c_out, form.clip))
    if params.projection is not None:
        h = biased(dot(h, params.projection, dtype, wide, how.precision), params.projection_b)
        h = bounded(h, form.clip_projection)
    return LSTMState(h, c), LSTMGates(i, f, g, o)


def _blocks(names, array):
    """The blocks of an array's last axis by the names of their gates; none of none."""
    return {} if array is None else dict(zip(names, jnp.split(array, len(names), axis=-1), strict=True))


def _check(name, params):
    params = check_arrays(name, params, LSTMForm, norm=check_norm)
    form = params.form or PLAIN
    blocks, w_h = len(GATES[form.coupling]), params.w_h
    rows = "H" if params.projection is None else "P"
    if w_h.ndim != 2 or w_h.shape[1] % blocks or 0 in w_h.shape or (rows == "H" and blocks * len(w_h) != w_h.shape[1]):
        hint = ""
        if form.coupling is not None:
            hint = f"; it is 3H since {name}.form.coupling is {form.coupling!r}"
        elif w_h.ndim == 2 and w_h.shape[1] == 3 * w_h.shape[0]:
            hint = f"; 3H columns are coupled gates, which {name}.form=LSTMForm(coupling=...) has to say"
        elif rows == "H":
            hint = f"; with other rows than H it needs {name}.projection"
        raise ValueError(f"{name}.w_h should have shape [{rows}, {blocks}H] with H at least 1, got {w_h.shape}{hint}")
    hidden = w_h.shape[1] // blocks
    fit = f"w_h {w_h.shape}"
    check_columns(name, params, w_h.shape[1], fit)
    check_shape(f"{name}.peephole", params.peephole, ((blocks - 1) * hidden,), fit)
    check_shape(f"{name}.projection", params.projection, (hidden, w_h.shape[0]), fit)
    check_shape(f"{name}.projection_b", params.projection_b, (w_h.shape[0],), fit)
    if params.projection is None:
        for field, given in (("projection_b", params.projection_b), ("form.clip_projection", form.clip_projection)):
            if given is not None:
                raise ValueError(
                    f"{name}.{field} is given, but {name}.projection is None: there is nothing to apply it to"
                )
    if params.norm is not None:
        check_norm_shapes(f"{name}.norm", params.norm, w_h.shape[1], hidden, fit)
    if form.normed_cell != "state" and (params.norm or NO_NORM).cell is None:
        raise ValueError(f"{name}.form.normed_cell is {form.normed_cell!r}, but {name}.norm has no cell to norm")
    return params


def _widths(params):
    form = params.form or PLAIN
    return params.w_h.shape[-2], params.w_h.shape[-1] // len(GATES[form.coupling])


LSTM = Cell("lstm", LSTMParams, LSTMState, _advance, _check, _widths, zoneout_c=True)
