"""ONNX as a referee: random LSTM, GRU and RNN nodes through onnx's own evaluator and through lstmjax.

The evaluator gets each node as a graph of primitive operators (`onnx_nodes.expand`), and the node itself where its own
LSTM, GRU or RNN reads all that the node has. It computes in float64 and ours in float32, so that 1e-5 judges ours.
onnxruntime, which reads everything, confirms the graphs where it is installed.
"""

import itertools
import random
from typing import NamedTuple

import jax
import numpy as np
import pytest
from hypothesis import assume, currently_in_test_context, given, settings
from hypothesis import strategies as st

import lstmjax
from tests import onnx_nodes
from tests.onnx_nodes import ACTIVATIONS, DEFAULTS, Node, evaluate, expand, is_evaluated_whole, model, wide

TOLERANCE = dict(rtol=1e-5, atol=1e-5)
SHAPES = [(4, 3, 2, 5), (3, 2, 1, 4)]  # T, B, D, H
DIRECTIONS = ("forward", "reverse", "bidirectional")
OPTIONAL = {op: names[3:] for op, names in onnx_nodes.INPUTS.items()}
GATES = {op: len(letters) for op, letters in onnx_nodes.GATES.items()}

# Two values each of alpha and beta, exact in float32. None of alpha is a bound of clip: there the text of LSTM
# (x >= alpha) and the operator ThresholdedRelu (x > alpha) differ.
NUMBERS = {
    "LeakyRelu": {"alpha": (0.125, 0.5)},
    "ThresholdedRelu": {"alpha": (0.25, 0.5)},
    "Elu": {"alpha": (0.5, 1.5)},
    "HardSigmoid": {"alpha": (0.25, 0.5), "beta": (0.375, 0.625)},
    "Affine": {"alpha": (0.5, -0.75), "beta": (0.125, 0.25)},
    "ScaledTanh": {"alpha": (0.75, 1.25), "beta": (0.5, 1.5)},
}
CLIPS = (0.375, 0.8125)

# The attribute of 0 or 1 that an operator has for itself.
SWITCHES = {"LSTM": "input_forget", "GRU": "linear_before_reset"}


class Recipe(NamedTuple):
    """A node in short: what of it is optional, and a seed of its numbers."""

    op: str = "LSTM"
    attributes: dict = {}  # noqa: RUF012
    given: tuple = ()  # names of optional inputs
    shape: tuple = SHAPES[0]
    seed: int = 0


def cook(recipe: Recipe) -> Node:
    """The node of a recipe, in float32."""
    T, B, D, H = recipe.shape
    rng = np.random.default_rng(recipe.seed)
    dirs, blocks = 1 + (recipe.attributes.get("direction") == "bidirectional"), GATES[recipe.op]
    # All are drawn, given or not: what is given does not depend on what else is.
    drawn = {
        "X": rng.normal(size=(T, B, D)),
        "W": rng.normal(size=(dirs, blocks * H, D)) * 0.5,
        "R": rng.normal(size=(dirs, blocks * H, H)) * 0.25,
        "B": rng.normal(size=(dirs, 2 * blocks * H)) * 0.25,
        "P": rng.normal(size=(dirs, 3 * H)) * 0.25,
        "initial_h": rng.normal(size=(dirs, B, H)) * 0.5,
        "initial_c": rng.normal(size=(dirs, B, H)) * 0.5,
    }
    drawn = {name: a.astype(np.float32) for name, a in drawn.items()}
    # One of each batch is empty and one is full.
    drawn["sequence_lens"] = rng.permutation([0, T, *rng.integers(0, T + 1, B - 2)]).astype(np.int32)
    if recipe.attributes.get("layout"):
        drawn |= {name: drawn[name].swapaxes(0, 1) for name in ("X", "initial_h", "initial_c")}
    names = [name for name in onnx_nodes.INPUTS[recipe.op] if name in ("X", "W", "R", *recipe.given)]
    return Node(recipe.op, recipe.attributes, {name: np.ascontiguousarray(drawn[name]) for name in names})


def roles(op, direction):
    """How many activations a node names."""
    return len(DEFAULTS[op]) * (2 if direction == "bidirectional" else 1)


def activations(chance, count, needy=("Affine", "ScaledTanh")):
    """Attributes that name `count` activations, with as many values of alpha and beta as chance gives.

    A list may end early and leave the rest to the defaults, but not before the last of the needy: ONNX has no default
    for these two.
    """
    names = [chance.choice(sorted(ACTIVATIONS)) for _ in range(count)]
    attributes = {"activations": names}
    for kind in ("alpha", "beta"):
        takers = [name for name in names if kind in NUMBERS.get(name, ())]
        least = max((k + 1 for k, name in enumerate(takers) if name in needy), default=0)
        if takers := takers[: chance.randint(least, len(takers))]:
            attributes[f"activation_{kind}"] = [chance.choice(NUMBERS[name][kind]) for name in takers]
    return attributes


@st.composite
def recipes(draw, op="LSTM", layouts=(0, 1), clips=(None, *CLIPS), **needy):
    attributes = {"direction": draw(st.sampled_from(DIRECTIONS)), "layout": draw(st.sampled_from(layouts))}
    if (clip := draw(st.sampled_from(clips))) is not None:
        attributes["clip"] = clip
    if op in SWITCHES:
        attributes[SWITCHES[op]] = draw(st.integers(0, 1))
    if draw(st.booleans()):
        attributes |= activations(draw(st.randoms()), roles(op, attributes["direction"]), **needy)
    given = tuple(name for name in OPTIONAL[op] if draw(st.booleans()))
    return Recipe(op, attributes, given, draw(st.sampled_from(SHAPES)), draw(st.integers(0, 2**32 - 1)))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_combination_of_the_options_of_an_lstm(direction):
    """Each with the activations of the default, and with others."""
    binary = itertools.product((0, 1), (None, CLIPS[0]), (0, 1), (0, 1), (0, 1), (0, 1))
    for seed, (coupled, clip, other, peephole, lengths, state) in enumerate(binary):
        attributes = {"direction": direction, "input_forget": coupled}
        if clip is not None:
            attributes["clip"] = clip
        if other:
            attributes |= activations(random.Random(seed), roles("LSTM", direction))
        names = ["B"] + ["P"] * peephole + ["sequence_lens"] * lengths + ["initial_h", "initial_c"] * state
        judge(Recipe("LSTM", attributes, tuple(names), seed=seed))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_in_every_role(name):
    """With numbers of its own, with the defaults, and clipped."""
    kinds = NUMBERS.get(name, {})
    own = {f"activation_{kind}": [values[1]] for kind, values in kinds.items()}
    for role, more in itertools.product(range(3), (own, own | {"clip": CLIPS[1]}, {})):
        if name in ("Affine", "ScaledTanh") and not more:
            continue
        names = list(DEFAULTS["LSTM"])
        names[role] = name
        judge(Recipe("LSTM", {"activations": names, **more}, ("B", "P", "initial_c"), seed=role))


@settings(max_examples=200)
@given(recipes())
def test_random_lstm_nodes(recipe):
    judge(recipe)


@settings(max_examples=20)
@given(recipes())
def test_random_lstm_nodes_compiled(recipe):
    judge(recipe, COMPILED)


@settings(max_examples=60)
@given(recipes("GRU", clips=(None,)))
def test_random_gru_nodes(recipe):
    judge(recipe)


@settings(max_examples=40)
@given(recipes("RNN", clips=(None,)))
def test_random_rnn_nodes(recipe):
    judge(recipe)


@pytest.mark.parametrize("op", ["GRU", "RNN"])
def test_no_gru_or_rnn_clips(op):
    with pytest.raises(ValueError, match="clips"):
        onnx_nodes.convert(cook(Recipe(op, {"clip": 1.0})))


@pytest.mark.parametrize("op", OPTIONAL)
def test_nodes_that_the_evaluator_reads_whole(op):
    """The graphs are the operators to the last digits, and ours agrees with both."""
    readable = [name for name in OPTIONAL[op] if name != "sequence_lens"]
    subsets = itertools.chain.from_iterable(itertools.combinations(readable, n) for n in range(len(readable) + 1))
    switches = [{"linear_before_reset": value} for value in (0, 1)] if op == "GRU" else [{}]
    for direction, layout, switch, names in itertools.product(DIRECTIONS, (0, 1), switches, subsets):
        attributes = {"direction": direction, "layout": layout, **switch}
        recipe = Recipe(op, attributes, names, seed=len(names))
        node = wide(cook(recipe))
        compare(evaluate(expand(node), node), evaluate(model(node), node), recipe, rtol=1e-13, atol=1e-13)
        assert is_evaluated_whole(node)
        judge(recipe)


@pytest.fixture(scope="module")
def runtime():
    # Older ones abort in their RNN, or give what lies beside the outputs for the state of an empty sequence.
    return pytest.importorskip("onnxruntime", minversion="1.30", reason="onnxruntime 1.30 or newer is not installed")


@pytest.mark.parametrize("op", OPTIONAL)
@settings(max_examples=100)
@given(st.data())
def test_the_graphs_are_the_nodes_of_onnxruntime(runtime, op, data):
    """But for what onnxruntime 1.32 has otherwise: no layout of 1, another default of ThresholdedRelu's alpha, no clip
    of what the last activation of an LSTM is given, and final states of 0 after a sequence of length 0."""
    needy = ("Affine", "ScaledTanh", "ThresholdedRelu")
    recipe = data.draw(recipes(op, layouts=(0,), needy=needy))
    node = cook(recipe)
    session = runtime.InferenceSession(model(node).SerializeToString(), providers=["CPUExecutionProvider"])
    got = dict(zip(onnx_nodes.OUTPUTS[op], session.run(None, node.inputs), strict=True))
    want = evaluate(expand(wide(node), clip_cell=False), wide(node))
    assume(bounded(want))
    if "sequence_lens" in node.inputs:
        for name in onnx_nodes.OUTPUTS[op][1:]:
            want[name][:, node.inputs["sequence_lens"] == 0] = 0
    compare(got, want, recipe, **TOLERANCE)


RICH = Recipe(
    "LSTM",
    {
        "direction": "bidirectional",
        "clip": CLIPS[1],
        "activations": ["HardSigmoid", "LeakyRelu", "ScaledTanh"] * 2,
        "activation_alpha": [0.25, 0.125, 0.75] * 2,
        "activation_beta": [0.375, 0.5] * 2,
    },
    OPTIONAL["LSTM"],
)
PLAIN = Recipe("GRU", {"direction": "forward"}, OPTIONAL["GRU"])
CHANGES = {
    "clip": (RICH, {"clip": CLIPS[0]}),
    "input_forget": (RICH, {"input_forget": 1}),
    "activations": (
        RICH,
        {"activations": ["HardSigmoid", "LeakyRelu", "ScaledTanh", "HardSigmoid", "Elu", "ScaledTanh"]},
    ),
    "activation_alpha": (RICH, {"activation_alpha": [0.25, 0.125, 0.75, 0.25, 0.125, 1.25]}),
    "activation_beta": (RICH, {"activation_beta": [0.375, 0.5, 0.375, 1.5]}),
    "direction": (PLAIN, {"direction": "reverse"}),
    "linear_before_reset": (PLAIN, {"linear_before_reset": 1}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_graphs_read_every_attribute(change):
    recipe, attributes = CHANGES[change]
    altered = recipe._replace(attributes=recipe.attributes | attributes)
    assert distance(recipe, altered) > 1e-3


@pytest.mark.parametrize("recipe", [RICH, PLAIN], ids=lambda recipe: recipe.op)
def test_the_graphs_read_every_input(recipe):
    for name in recipe.given:
        without = recipe._replace(given=tuple(other for other in recipe.given if other != name))
        assert distance(recipe, without) > 1e-3, name


def distance(recipe, other):
    """How far the outputs of two recipes are apart."""
    (a, b) = (evaluate(expand(node), node) for node in map(wide, map(cook, (recipe, other))))
    return max(np.abs(a[name] - b[name]).max() for name in a)


def judge(recipe, run=None):
    """Ours against the evaluator. Without a `run`, op by op: a compilation for each node would take minutes."""
    node = cook(recipe)
    want = evaluate(expand(wide(node)), wide(node))
    if currently_in_test_context():
        assume(bounded(want))
    assert bounded(want), recipe
    call = onnx_nodes.convert(node)
    with jax.disable_jit(run is None):
        state, ys = (run or lstmjax.run)(call.params, call.xs, call.state, precision="highest", **call.options)
    got = onnx_nodes.results(node, state, ys)
    assert all(a.dtype == np.float32 for a in got.values())
    compare(got, want, recipe, **TOLERANCE)
    if is_evaluated_whole(node):
        compare(got, evaluate(model(wide(node)), wide(node)), recipe, **TOLERANCE)


def bounded(outputs):
    """Whether nothing explodes, as it rarely does where no activation of a node has a bound: of such outputs float32
    has fewer digits than are to be judged."""
    return all(np.abs(a).max() < 20 for a in outputs.values())


def compare(got, want, recipe, **tolerance):
    assert got.keys() == want.keys()
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, err_msg=f"{name} of {recipe}", **tolerance)


COMPILED = jax.jit(lstmjax.run, static_argnames=("reverse", "precision"))
