"""LSTM, GRU and RNN nodes of ONNX: into lstmjax and back, and into graphs of primitive operators.

`convert` and `results` are the way through lstmjax. `expand` writes the equations of the operator's own text
(`onnx.defs.get_schema("LSTM").doc`) as a graph of MatMul, Add, Clip, Sigmoid and so on under a Scan, since the LSTM of
onnx's reference evaluator does not read sequence_lens, activations, clip and input_forget (`is_evaluated_whole`).

The names inside are those of ONNX: X [T, B, D]; W [dirs, blocks*H, D], R [dirs, blocks*H, H], B [dirs, 2*blocks*H] with
the gates of an LSTM in the order i, o, f, c and of a GRU in the order z, r, h; P [dirs, 3*H] in the order i, o, f.
"""

from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from lstmjax import (
    Bidirectional,
    GRUForm,
    GRUParams,
    GRUState,
    LSTMForm,
    LSTMParams,
    LSTMState,
    RNNForm,
    RNNParams,
    RNNState,
)

# opset 22 brought the three operators as they are now; IR 10 is the one that came with it.
OPSET, IR = 22, 10

# The inputs and outputs of each operator, in their order.
INPUTS = {
    "LSTM": ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"),
    "GRU": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
    "RNN": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
}
OUTPUTS = {"LSTM": ("Y", "Y_h", "Y_c"), "GRU": ("Y", "Y_h"), "RNN": ("Y", "Y_h")}

# The blocks of W, R and each half of B, and the activations of a direction where the node names none.
GATES = {"LSTM": "iofc", "GRU": "zrh", "RNN": "i"}
DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}

# Of each activation: its name in lstmjax, and which of alpha and beta it takes from the node's lists.
ACTIVATIONS = {
    "Sigmoid": ("sigmoid", ()),
    "Tanh": ("tanh", ()),
    "Relu": ("relu", ()),
    "Softsign": ("softsign", ()),
    "Softplus": ("softplus", ()),
    "LeakyRelu": ("leaky_relu", ("alpha",)),
    "ThresholdedRelu": ("thresholded_relu", ("alpha",)),
    "Elu": ("elu", ("alpha",)),
    "HardSigmoid": ("hard_sigmoid", ("alpha", "beta")),
    "Affine": ("affine", ("alpha", "beta")),
    "ScaledTanh": ("scaled_tanh", ("alpha", "beta")),
}


class Node(NamedTuple):
    """A node and what it is run on."""

    op: str  # LSTM, GRU or RNN
    attributes: dict[str, Any]  # as in ONNX; hidden_size is read from R
    inputs: dict[str, np.ndarray]  # by name; an optional one that is not given is not there

    @property
    def reversals(self) -> tuple[bool, ...]:
        """For each direction, whether it goes from the end of time."""
        return {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[
            self.attributes.get("direction", "forward")
        ]

    @property
    def batch_first(self) -> bool:
        return bool(self.attributes.get("layout", 0))


class Call(NamedTuple):
    """The arguments of `lstmjax.run`."""

    params: Any
    xs: np.ndarray
    state: Any
    options: dict[str, Any]


def convert(node: Node) -> Call:
    """The call of `lstmjax.run` that computes a node."""
    X, lengths = _time_first(node, "X"), node.inputs.get("sequence_lens")
    to_params, kind, states = {
        "LSTM": (_lstm_params, LSTMState, ("initial_h", "initial_c")),
        "GRU": (_gru_params, GRUState, ("initial_h",)),
        "RNN": (_rnn_params, RNNState, ("initial_h",)),
    }[node.op]
    named = activations(node)
    params = [to_params(node, k, named[k]) for k in range(len(node.reversals))]
    state = None
    if any(name in node.inputs for name in states):
        zeros = np.zeros((len(params), X.shape[1], node.inputs["R"].shape[-1]), X.dtype)
        given = [_time_first(node, name) if name in node.inputs else zeros for name in states]
        state = [kind(*arrays) for arrays in zip(*given, strict=True)]
    options = dict(lengths=lengths, reverse=node.reversals == (True,))
    if len(params) == 2:
        return Call(Bidirectional(*params), X, state and Bidirectional(*state), options)
    return Call(params[0], X, state and state[0], options)


def results(node: Node, state: Any, ys: Any) -> dict[str, np.ndarray]:
    """The outputs of the node, from what `lstmjax.run` gave."""
    states = state if len(node.reversals) == 2 else (state,)
    Y = np.stack(np.split(np.asarray(ys), len(states), axis=-1), axis=1)  # [T, dirs, B, H]
    finals = {"Y_h": np.stack([state.h for state in states])}  # [dirs, B, H]
    if node.op == "LSTM":
        finals["Y_c"] = np.stack([state.c for state in states])
    if node.batch_first:
        Y, finals = Y.transpose(2, 0, 1, 3), {name: a.swapaxes(0, 1) for name, a in finals.items()}
    return {"Y": Y, **finals}


def activations(node: Node) -> list[list[tuple]]:
    """For each direction the activations of its roles, each as (name, alpha, beta) as far as it has and is given them.

    The lists of alpha and beta hold a value for each activation that takes one, in order, as far as they go.
    """
    roles = len(DEFAULTS[node.op])
    names = node.attributes.get("activations", DEFAULTS[node.op] * len(node.reversals))
    lists = {kind: iter(node.attributes.get(f"activation_{kind}", ())) for kind in ("alpha", "beta")}
    given = []
    for name in names:
        numbers = {kind: next(lists[kind], None) for kind in ACTIVATIONS[name][1]}
        while numbers and list(numbers.values())[-1] is None:
            numbers.popitem()
        given.append((name, *(_default(name, kind) if n is None else n for kind, n in numbers.items())))
    return [given[k * roles : (k + 1) * roles] for k in range(len(node.reversals))]


def is_evaluated_whole(node: Node) -> bool:
    """Whether the operator in onnx's reference evaluator reads everything that this node has."""
    unread = {"clip", "activations"} & set(node.attributes) or node.attributes.get("input_forget")
    return not unread and "sequence_lens" not in node.inputs


def model(node: Node) -> onnx.ModelProto:
    """The node itself, as a model."""
    proto = helper.make_node(
        node.op,
        [name if name in node.inputs else "" for name in INPUTS[node.op]],
        OUTPUTS[node.op],
        hidden_size=node.inputs["R"].shape[-1],
        **node.attributes,
    )
    return _model(node, [proto])


def wide(node: Node) -> Node:
    """The same node in float64."""
    inputs = {name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in node.inputs.items()}
    return node._replace(inputs=inputs)


def evaluate(proto: onnx.ModelProto, node: Node) -> dict[str, np.ndarray]:
    """What onnx's reference evaluator makes of a model of the node."""
    with np.errstate(over="ignore", invalid="ignore"):  # its Elu and Sigmoid take exp of all, and then choose
        outputs = ReferenceEvaluator(proto).run(None, node.inputs)
    return dict(zip(OUTPUTS[node.op], outputs, strict=True))


def expand(node: Node, clip_cell: bool = True) -> onnx.ModelProto:
    """The node as a model of primitive operators.

    The text has the input of every activation clipped. Without `clip_cell`, that of the cell (h in the text) is not.
    """
    emit = _Lines("outer")
    X = emit("Transpose", "X", perm=[1, 0, 2]) if node.batch_first else "X"
    valid = None
    if "sequence_lens" in node.inputs:
        times = emit.constant(np.arange(_time_first(node, "X").shape[0], dtype=np.int32)[:, None])
        valid = emit("Less", times, emit("Unsqueeze", "sequence_lens", emit.constant([0])))  # [T, B]
        valid = emit("Unsqueeze", valid, emit.constant([2]))  # [T, B, 1]
    directions = [_direction(emit, node, k, X, valid, clip_cell) for k in range(len(node.reversals))]
    for name, *parts in zip(OUTPUTS[node.op], *directions, strict=True):
        axis, batch_first = (1, [2, 0, 1, 3]) if name == "Y" else (0, [1, 0, 2])
        whole = emit("Concat", *(emit("Unsqueeze", part, emit.constant([axis])) for part in parts), axis=axis)
        perm = batch_first if node.batch_first else list(range(len(batch_first)))
        emit.nodes.append(helper.make_node("Transpose", [whole], [name], perm=perm))
    return _model(node, emit.nodes)


def _direction(outer, node, k, X, valid, clip_cell):
    """A Scan over one direction. Returns the names of its outputs, in the order of the operator: [T, B, H], [B, H]."""
    dtype, states = node.inputs["X"].dtype, OUTPUTS[node.op][1:]

    def of_direction(name):
        return outer("Gather", name, outer.constant(k), axis=0)

    weights = {}
    for name in ("W", "R", "P"):
        if name in node.inputs:
            letters = "iof" if name == "P" else GATES[node.op]
            for letter, block in zip(letters, outer.split(of_direction(name), len(letters)), strict=True):
                weights[name, letter] = block if name == "P" else outer("Transpose", block, perm=[1, 0])
    if "B" in node.inputs:
        for half, whole in zip(("Wb", "Rb"), outer.split(of_direction("B"), 2), strict=True):
            for letter, block in zip(GATES[node.op], outer.split(whole, len(GATES[node.op])), strict=True):
                weights[half, letter] = block

    def initial(name):
        if name not in node.inputs:
            B, H = _time_first(node, "X").shape[1], node.inputs["R"].shape[-1]
            return outer.constant(np.zeros((B, H), dtype))
        return of_direction(outer("Transpose", name, perm=[1, 0, 2]) if node.batch_first else name)

    def in_order(sequence):
        """From the end of time if the direction goes so: at padding, which then comes first, the state stays."""
        if not node.reversals[k]:
            return sequence
        numbers = ([-1], [np.iinfo(np.int64).min], [0], [-1])
        return outer("Slice", sequence, *(outer.constant(n) for n in numbers))

    body = _Lines(f"direction{k}")
    old, x, real = [body.name() for _ in states], body.name(), body.name()
    bounds = [node.attributes.get("clip")] * len(DEFAULTS[node.op])
    if node.op == "LSTM" and not clip_cell:
        bounds[2] = None
    roles = [partial(_activate, body, dtype, *pair) for pair in zip(bounds, activations(node)[k], strict=True)]
    new = _STEPS[node.op](body, node, roles, weights, x, *old)
    if valid is not None:
        new = [body("Where", real, *pair) for pair in zip(new, old, strict=True)]
        y = body("Where", real, new[0], body.constant(np.zeros((), dtype)))
    else:
        y = body("Identity", new[0])
    given = [*old, x] if valid is None else [*old, x, real]
    graph = helper.make_graph(
        body.nodes,
        f"direction{k}",
        [helper.make_empty_tensor_value_info(name) for name in given],
        [helper.make_empty_tensor_value_info(name) for name in (*new, y)],
    )
    sequences = [in_order(sequence) for sequence in (X, valid) if sequence is not None]
    *finals, ys = outer(
        "Scan",
        *(initial(f"initial_{name[-1]}") for name in states),
        *sequences,
        outputs=len(states) + 1,
        body=graph,
        num_scan_inputs=len(sequences),
    )
    return [in_order(ys), *finals]


def _lstm_step(emit, node, roles, w, x, h, c):
    """it = f(Xt*(Wi^T) + Ht-1*(Ri^T) + Pi (.) Ct-1 + Wbi + Rbi)
    ft = f(Xt*(Wf^T) + Ht-1*(Rf^T) + Pf (.) Ct-1 + Wbf + Rbf), or 1 - it if they are coupled
    ct = g(Xt*(Wc^T) + Ht-1*(Rc^T) + Wbc + Rbc)
    Ct = ft (.) Ct-1 + it (.) ct
    ot = f(Xt*(Wo^T) + Ht-1*(Ro^T) + Po (.) Ct + Wbo + Rbo)
    Ht = ot (.) h(Ct)
    """
    act_f, act_g, act_h = roles

    def gate(letter, peeped=None):
        terms = [emit("MatMul", x, w["W", letter]), emit("MatMul", h, w["R", letter])]
        if peeped is not None and ("P", letter) in w:
            terms.append(emit("Mul", w["P", letter], peeped))
        return _sum(emit, *terms, w.get(("Wb", letter)), w.get(("Rb", letter)))

    i_t = act_f(gate("i", c))
    f_t = _one_minus(emit, node, i_t) if node.attributes.get("input_forget") else act_f(gate("f", c))
    c_t = act_g(gate("c"))
    C_t = emit("Add", emit("Mul", f_t, c), emit("Mul", i_t, c_t))
    o_t = act_f(gate("o", C_t))
    return emit("Mul", o_t, act_h(C_t)), C_t


def _gru_step(emit, node, roles, w, x, h):
    """zt = f(Xt*(Wz^T) + Ht-1*(Rz^T) + Wbz + Rbz)
    rt = f(Xt*(Wr^T) + Ht-1*(Rr^T) + Wbr + Rbr)
    ht = g(Xt*(Wh^T) + (rt (.) Ht-1)*(Rh^T) + Rbh + Wbh) if linear_before_reset is 0
    ht = g(Xt*(Wh^T) + (rt (.) (Ht-1*(Rh^T) + Rbh)) + Wbh) if it is not
    Ht = (1 - zt) (.) ht + zt (.) Ht-1
    """
    act_f, act_g = roles

    def from_x(letter):
        return _sum(emit, emit("MatMul", x, w["W", letter]), w.get(("Wb", letter)))

    def from_h(letter, h):
        return _sum(emit, emit("MatMul", h, w["R", letter]), w.get(("Rb", letter)))

    z_t, r_t = (act_f(emit("Add", from_x(letter), from_h(letter, h))) for letter in "zr")
    if node.attributes.get("linear_before_reset"):
        recurrent = emit("Mul", r_t, from_h("h", h))
    else:
        recurrent = from_h("h", emit("Mul", r_t, h))
    h_t = act_g(emit("Add", from_x("h"), recurrent))
    return (emit("Add", emit("Mul", _one_minus(emit, node, z_t), h_t), emit("Mul", z_t, h)),)


def _rnn_step(emit, node, roles, w, x, h):
    """Ht = f(Xt*(Wi^T) + Ht-1*(Ri^T) + Wbi + Rbi)"""
    (act_f,) = roles
    products = emit("MatMul", x, w["W", "i"]), emit("MatMul", h, w["R", "i"])
    return (act_f(_sum(emit, *products, w.get(("Wb", "i")), w.get(("Rb", "i")))),)


_STEPS = {"LSTM": _lstm_step, "GRU": _gru_step, "RNN": _rnn_step}


def _activate(emit, dtype, bound, spec, z):
    """An activation, its input clipped if there is a bound: "applied to the input of activations"."""
    if bound is not None:
        z = emit("Clip", z, emit.constant(dtype.type(-bound)), emit.constant(dtype.type(bound)))
    name, *numbers = spec
    if name in ("Affine", "ScaledTanh"):  # no operators of their own
        alpha, beta = (emit.constant(dtype.type(n)) for n in numbers)
        if name == "Affine":  # alpha*x + beta
            return emit("Add", emit("Mul", alpha, z), beta)
        return emit("Mul", alpha, emit("Tanh", emit("Mul", beta, z)))  # alpha*Tanh(beta*x)
    return emit(name, z, **dict(zip(("alpha", "beta"), numbers, strict=False)))


def _one_minus(emit, node, a):
    return emit("Sub", emit.constant(node.inputs["X"].dtype.type(1)), a)


def _sum(emit, *terms):
    return reduce(partial(emit, "Add"), [term for term in terms if term is not None])


class _Lines:
    """Nodes of a graph, one line at a time. A call appends one and gives the name of its output, or their names."""

    def __init__(self, prefix):
        self.prefix, self.names, self.nodes = prefix, 0, []

    def __call__(self, op, *inputs, outputs=None, **attributes):
        names = [self.name() for _ in range(outputs or 1)]
        self.nodes.append(helper.make_node(op, inputs, names, **attributes))
        return names[0] if outputs is None else names

    def name(self):
        self.names += 1
        return f"{self.prefix}_{self.names}"

    def constant(self, value):
        return self("Constant", value=numpy_helper.from_array(np.asarray(value)))

    def split(self, name, parts):
        return self("Split", name, outputs=parts, axis=0, num_outputs=parts)


def _model(node, nodes):
    """A checked model over the inputs and outputs of a node."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in node.inputs.items()
    ]
    dtype = helper.np_dtype_to_tensor_dtype(node.inputs["X"].dtype)
    ranks = [4 if name == "Y" else 3 for name in OUTPUTS[node.op]]
    outputs = [
        helper.make_tensor_value_info(name, dtype, [None] * rank)
        for name, rank in zip(OUTPUTS[node.op], ranks, strict=True)
    ]
    graph = helper.make_graph(nodes, node.op, inputs, outputs)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    onnx.checker.check_model(proto)
    return proto


def _lstm_params(node, k, named):
    """One direction of an LSTM: i, o, f, c become i, f, g, o, or i, g, o if f is 1 - i."""
    coupled = bool(node.attributes.get("input_forget"))
    letters = "ico" if coupled else "ifco"
    form = None
    if {"activations", "clip", "input_forget"} & set(node.attributes):
        form = LSTMForm(
            coupling="f=1-i" if coupled else None,
            activations=tuple(map(_activation, named)),
            clip=node.attributes.get("clip"),
        )
    peephole = None
    if "P" in node.inputs:
        blocks = dict(zip("iof", np.split(node.inputs["P"][k], 3), strict=True))
        peephole = np.concatenate([blocks[letter] for letter in ("io" if coupled else "ifo")])
    return LSTMParams(*_weights(node, k, letters), peephole=peephole, form=form)


def _gru_params(node, k, named):
    """One direction of a GRU: z, r, h become r, z, n; with the reset after the product, h has two biases."""
    if "clip" in node.attributes:
        raise ValueError("lstmjax has no GRU that clips")
    after = bool(node.attributes.get("linear_before_reset"))
    w_x, w_h, b = _weights(node, k, "rzh")
    b_n = None
    if b is not None and after:
        H = w_h.shape[0]
        b_n = node.inputs["B"][k, -H:]
        b = np.concatenate([b[: 2 * H], node.inputs["B"][k, 2 * H : 3 * H]])
    return GRUParams(
        w_x,
        w_h,
        b,
        b_n,
        form=GRUForm(reset="after" if after else "before", activations=tuple(map(_activation, named))),
    )


def _rnn_params(node, k, named):
    if "clip" in node.attributes:
        raise ValueError("lstmjax has no RNN that clips")
    return RNNParams(*_weights(node, k, "i"), form=RNNForm(activation=_activation(named[0])))


def _weights(node, k, letters):
    """w_x, w_h and the sum of the two biases, the gates in the order of `letters`."""

    def ordered(whole):
        blocks = dict(zip(GATES[node.op], np.split(whole, len(GATES[node.op])), strict=True))
        return np.concatenate([blocks[letter] for letter in letters])

    b = node.inputs.get("B")
    b = None if b is None else ordered(np.add(*np.split(b[k], 2)))
    return ordered(node.inputs["W"][k]).T, ordered(node.inputs["R"][k]).T, b


def _activation(spec):
    """An activation as lstmjax names it: what the node does not give is left to lstmjax too."""
    name, *numbers = spec
    return (ACTIVATIONS[name][0], *numbers) if numbers else ACTIVATIONS[name][0]


def _default(name, kind):
    """The alpha or beta of an activation where the node's list has ended: that of the operator of this name."""
    return onnx.defs.get_schema(name).attributes[kind].default_value.f


def _time_first(node, name):
    """An input whose first two axes a layout of 1 exchanges."""
    return node.inputs[name].swapaxes(0, 1) if node.batch_first else node.inputs[name]
