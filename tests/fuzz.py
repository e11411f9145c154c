"""Random bad calls: each must end in an error of ours that names the argument at fault.

A call is drawn good (any public function, cell, variant, container and option), then damaged in one way or two from a
catalogue in which every damage knows that it is forbidden and what the message has to name. Part of the calls is made
under tracing, in `eval_shape`, `jit`, `vmap` or `grad`, with the arrays tracers: those whose damage is static.

    python -m tests.fuzz [--calls N] [--seed S]    # a summary; exits with 1 if a call was not refused as it should be
    python -m tests.fuzz --seed S --only K         # call K of that seed again, shown
    JAX_ENABLE_X64=1 python -m tests.fuzz          # with 64-bit types
"""

import argparse
import collections
import contextlib
import dataclasses
import dis
import inspect
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lstmjax
from lstmjax import Bidirectional, classify, layers, losses, metrics, text, train
from lstmjax.models import classifier
from tests.problems import cast

# Words from deep inside JAX, NumPy or Python, which no message of ours hands on ...
FROM_INSIDE = (
    "scan",
    "carry",
    "jaxpr",
    "tracer",
    "vmap",
    "broadcast",
    "dot_general",
    "shape mismatch",
    "shapes must be",
    "not supported between",
    "unsupported operand",
    "has no attribute",
    "truth value",
    "unhashable",
    "unexpected keyword",
    "positional argument",
    "not a valid jax",
)
# ... except in these words, which are ours.
OUR_WORDS = ('backend="scan"', "'scan'", "or use vmap", "with vmap")

KEY, OLD_KEY = jax.random.key(0), jax.random.PRNGKey(0)
LIBRARY = str(Path(lstmjax.__file__).parent)
TRACINGS = ("eval_shape", "jit", "vmap", "grad")
KINDS = ("lstm", "gru", "rnn", "minlstm", "slstm")


class Good(NamedTuple):
    """A call that is in order, and what a damage has to know of it."""

    name: str
    function: Callable
    arguments: dict[str, Any]
    accepts: dict[str, str]  # argument: the catalogue its damages are in
    about: dict[str, Any] = {}  # noqa: RUF012 - nobody writes to it
    traceable: bool = True  # whether arrays may be tracers


class Bad(NamedTuple):
    """A call that must be refused."""

    name: str
    function: Callable
    arguments: dict[str, Any]
    damages: tuple[str, ...]
    words: tuple[tuple, ...]  # for each damage: all of its words are in the message; of a tuple within, any
    mode: str  # eager, or one of TRACINGS


class Damage(NamedTuple):
    """A way to spoil an argument."""

    label: str
    make: Callable  # (rng, good, the argument as it was) -> the argument as it must not be, or Changes, or SKIP
    words: tuple  # of the message; none: the name of the argument
    values: bool  # whether only values are wrong, which nobody sees under tracing


class Changes(NamedTuple):
    """What a damage does, where it is more than to replace the argument."""

    arguments: dict[str, Any]
    words: tuple = ()


SKIP = object()  # for a damage that does not apply to a call
DAMAGES: dict[str, list[Damage]] = collections.defaultdict(list)


def forbid(catalogue: str, label: str, make: Callable, *words: Any, values: bool = False) -> None:
    DAMAGES[catalogue].append(Damage(label, make, words, values))


def forbid_values(catalogue: str, *bad: Any) -> None:
    """Each of these in the place of the argument."""
    for value in bad:
        label = show(value)
        forbid(catalogue, label, lambda rng, good, old, value=value: value)


def forbid_each(catalogue: str, bad: dict[str, Callable], *words: Any, values: bool = False) -> None:
    """Each of these functions of the argument as it was."""
    for label, make in bad.items():
        forbid(catalogue, label, lambda rng, good, old, make=make: make(old), *words, values=values)


def show(value: Any) -> str:
    if hasattr(value, "shape") and not isinstance(value, type):
        return f"{value.dtype}{list(value.shape)}"
    return f"{type(value).__name__} {value!r}"[:60]


def pick(rng: np.random.Generator, *choices: Any) -> Any:
    return choices[rng.integers(len(choices))]


def chance(rng: np.random.Generator, probability: float) -> bool:
    return bool(rng.random() < probability)


class Drawn(NamedTuple):
    """Params, a state for them, and the features of their outputs."""

    params: Any
    state: Any
    width: int


def draw_layer(rng, kind, D, batch, dtype) -> Drawn:
    def weights(*shape):
        return (rng.normal(size=shape) * 0.5).astype(dtype)

    def state(make, *widths):
        return make(*(rng.normal(size=(*batch, width)).astype(np.float32) for width in widths))

    H = pick(rng, 1, 2, 4)
    bias = chance(rng, 0.7)
    if kind == "lstm":
        params, P = _lstm(rng, weights, D, H, bias)
        return Drawn(params, state(lstmjax.LSTMState, P, H), P)
    if kind == "gru":
        before = chance(rng, 0.4)
        form = lstmjax.GRUForm(reset="before") if before else pick(rng, None, lstmjax.GRUForm())
        b_n = weights(H) if bias and not before else None
        params = lstmjax.GRUParams(weights(D, 3 * H), weights(H, 3 * H), weights(3 * H) if bias else None, b_n, form)
        return Drawn(params, state(lstmjax.GRUState, H), H)
    if kind == "rnn":
        form = pick(rng, None, lstmjax.RNNForm(activation="relu"))
        params = lstmjax.RNNParams(weights(D, H), weights(H, H), weights(H) if bias else None, form)
        return Drawn(params, state(lstmjax.RNNState, H), H)
    if kind == "minlstm":
        form = pick(rng, None, lstmjax.MinLSTMForm(candidate="tanh"))
        params = lstmjax.MinLSTMParams(weights(D, 3 * H), weights(3 * H) if bias else None, form)
        return Drawn(params, state(lstmjax.MinLSTMState, H), H)
    form = pick(rng, None, lstmjax.SLSTMForm(forget="exp"))
    if chance(rng, 0.5):
        heads, each = pick(rng, (1, 3), (2, 1), (2, 2), (3, 2))
        H, w_h = heads * each, weights(heads, each, 4 * each)
    else:
        w_h = weights(H, 4 * H)
    params = lstmjax.SLSTMParams(weights(D, 4 * H), w_h, weights(4 * H) if bias else None, form)
    h, c, n, m = state(lstmjax.SLSTMState, H, H, H, H)
    return Drawn(params, lstmjax.SLSTMState(h, c, np.abs(n), m), H)


def _lstm(rng, weights, D, H, bias):
    coupling = pick(rng, None, None, "f=1-i", "i=1-f")
    blocks = 3 if coupling else 4
    P, more = H, {}
    if chance(rng, 0.4):
        more["peephole"] = weights((blocks - 1) * H)
    if chance(rng, 0.4):
        P = pick(rng, 1, 3, 5)
        more["projection"] = weights(H, P)
        if chance(rng, 0.5):
            more["projection_b"] = weights(P)
    norm = pick(rng, None, None, "gates", "gates+cell", "inputs+cell")

    def scale_and_shift(n):
        return lstmjax.Norm(weights(n), weights(n))

    if norm == "gates":
        more["norm"] = lstmjax.LayerNorm(gates=lstmjax.Norm(weights(blocks * H)))
    if norm == "gates+cell":
        more["norm"] = lstmjax.LayerNorm(gates=scale_and_shift(blocks * H), cell=scale_and_shift(H))
    if norm == "inputs+cell":
        more["norm"] = lstmjax.LayerNorm(
            x=scale_and_shift(blocks * H), h=scale_and_shift(blocks * H), cell=scale_and_shift(H)
        )
    if coupling or chance(rng, 0.4):
        more["form"] = lstmjax.LSTMForm(
            coupling=coupling,
            activations=pick(
                rng, ("sigmoid", "tanh", "tanh"), (("hard_sigmoid", 0.2, 0.5), "relu", "identity"), (jnp.sin,) * 3
            ),
            clip=pick(rng, None, 3.0),
            clip_cell=pick(rng, None, 0.5),
        )
    w_x, w_h = weights(D, blocks * H), weights(P, blocks * H)
    return lstmjax.LSTMParams(w_x, w_h, weights(blocks * H) if bias else None, **more), P


def draw_tree(rng, D, batch, dtype, kinds=KINDS, pairs=True, depth=2) -> Drawn:
    """A layer, a pair or a stack, nested at most so deep."""
    container = pick(rng, "layer", "layer", *(["stack"] + ["pair"] * pairs) * (depth > 0))
    if container == "layer":
        return draw_layer(rng, pick(rng, *kinds), D, batch, dtype)
    if container == "pair":
        parts = [draw_tree(rng, D, batch, dtype, kinds, False, depth - 1) for _ in range(2)]
        return Drawn(
            Bidirectional(*(part.params for part in parts)),
            Bidirectional(*(part.state for part in parts)),
            sum(part.width for part in parts),
        )
    parts = []
    for _ in range(rng.integers(1, 4)):
        parts.append(draw_tree(rng, D, batch, dtype, kinds, pairs, depth - 1))
        D = parts[-1].width
    return Drawn(tuple(part.params for part in parts), tuple(part.state for part in parts), D)


def is_layer(x: Any) -> bool:
    return not (isinstance(x, Bidirectional) or type(x) is tuple)


def layers_in(tree: Any) -> list[tuple[str, Any]]:
    """(path, layer) of each layer in containers; the path is as messages have it: [1].forward."""
    found, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_layer)
    return [(jax.tree_util.keystr(path), layer) for path, layer in found]


def put_layer(tree: Any, n: int, layer: Any) -> Any:
    """The containers with another nth layer."""
    found, containers = jax.tree.flatten(tree, is_leaf=is_layer)
    return jax.tree.unflatten(containers, [*found[:n], layer, *found[n + 1 :]])


def kinds_in(tree: Any) -> set[str]:
    return {type(layer).__name__ for _, layer in layers_in(tree)}


def has_pair(tree: Any) -> bool:
    return any(".forward" in path for path, _ in layers_in(tree))


def is_plain(tree: Any) -> bool:
    """Whether there is nothing but LSTMs without any variant, which fused can run."""

    def plain(layer):
        if type(layer) is not lstmjax.LSTMParams:
            return False
        *_, form = layer
        return all(field is None for field in layer[3:-1]) and form in (None, lstmjax.LSTMForm())

    return all(plain(layer) for _, layer in layers_in(tree))


def accepted(function: Callable, /, **renamed: str) -> dict[str, str]:
    """The arguments of a function, each with its catalogue: its own name, unless `renamed`."""
    names = [p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    return {name: renamed.get(name, name) for name in names}


def rates(rng, params) -> dict[str, float]:
    """Rates that every layer has a use for."""
    fields = ["inputs", "between", "zoneout_h"]
    if not kinds_in(params) & {"MinLSTMParams"}:
        fields += ["recurrent", "weights"]
    if kinds_in(params) == {"LSTMParams"}:
        fields += ["zoneout_c"]
    return {field: float(rng.random() * 0.9) for field in fields if chance(rng, 0.4)}


def draw_sequence(rng, kinds=KINDS, pairs=True):
    """A tree, inputs for it [T, *batch, D], and what damages have to know."""
    T, D = pick(rng, 1, 4), pick(rng, 1, 3)
    batch = pick(rng, (), (1,), (2,), (3,), (2, 3))
    dtype = pick(rng, np.float32, np.float32, np.float16, jnp.bfloat16)
    tree = draw_tree(rng, D, batch, dtype, kinds, pairs)
    xs = rng.normal(size=(T, *batch, D)).astype(dtype)
    return tree, xs, dict(batch=batch, time=T, state=tree.state, tree=tree.params)


def draw_time(rng, T, batch):
    """lengths or mask or neither, and reset."""
    options = {}
    which = pick(rng, None, "lengths", "mask")
    if which == "lengths":
        options["lengths"] = rng.integers(0, T + 1, batch).astype(np.int32)
    if which == "mask":
        options["mask"] = rng.random((T, *batch)) < 0.7
    if chance(rng, 0.3):
        options["reset"] = rng.random((T, *batch)) < 0.3
    return options


def draw_how(rng):
    options = {}
    if chance(rng, 0.2):
        options["compute_dtype"] = pick(rng, "bfloat16", jnp.float32, np.float16)
    if chance(rng, 0.2):
        options["precision"] = pick(rng, "highest", jax.lax.Precision.HIGH, None)
    return options


def draw_run(rng) -> Good:
    kinds = pick(rng, KINDS, KINDS, ("lstm",))
    tree, xs, about = draw_sequence(rng, kinds)
    arguments = dict(params=tree.params, xs=xs) | draw_time(rng, about["time"], about["batch"]) | draw_how(rng)
    if chance(rng, 0.6):
        arguments["state"] = tree.state
    if chance(rng, 0.2):
        arguments["reverse"] = not has_pair(tree.params)
    if chance(rng, 0.2):
        arguments["padding"] = pick(rng, "zero", "hold")
    plain = is_plain(tree.params)
    if plain and chance(rng, 0.5):
        arguments["backend"] = "fused"
    if plain and chance(rng, 0.3):
        arguments |= dict(residuals=pick(rng, "gates", "outputs"), chunk=int(rng.integers(1, 9)))
    elif chance(rng, 0.3):
        arguments |= dict(backend="scan", remat=pick(rng, True, False, 2))
    elif chance(rng, 0.3):
        given = rates(rng, tree.params)
        arguments["backend"] = None
        arguments["regularisers"] = lstmjax.Regularisers(**given)
        arguments |= pick(rng, {}, dict(key=KEY), dict(key=KEY, training=True))
        arguments |= pick(rng, {}, dict(training=False))
    return Good("run", lstmjax.run, arguments, accepted(lstmjax.run), about)


def draw_trace(rng) -> Good:
    tree, xs, about = draw_sequence(rng)
    arguments = dict(params=tree.params, xs=xs) | draw_time(rng, about["time"], about["batch"]) | draw_how(rng)
    if chance(rng, 0.6):
        arguments["state"] = tree.state
    if chance(rng, 0.2):
        arguments["reverse"] = not has_pair(tree.params)
    if chance(rng, 0.3):
        arguments["regularisers"] = lstmjax.Regularisers(**rates(rng, tree.params))
    return Good("trace", lstmjax.trace, arguments, accepted(lstmjax.trace), about)


def draw_step(rng) -> Good:
    tree, xs, about = draw_sequence(rng, pairs=False)
    arguments = dict(params=tree.params, state=tree.state, x=xs[0]) | draw_how(rng)
    if chance(rng, 0.3):
        arguments["regularisers"] = lstmjax.Regularisers(**rates(rng, tree.params))
    return Good("step", lstmjax.step, arguments, accepted(lstmjax.step), about)


def draw_question(rng) -> Good:
    """choose or reasons."""
    tree, xs, about = draw_sequence(rng)
    arguments = dict(params=tree.params, xs=xs)
    if chance(rng, 0.3):
        arguments["remat"] = 2
    if chance(rng, 0.3):
        arguments["regularisers"] = lstmjax.Regularisers(**rates(rng, tree.params))
    name = pick(rng, "choose", "reasons")
    # They take the options of a run, whose data they do not look at.
    unseen = ("state", "lengths", "mask", "reset", "backend" if name == "reasons" else "")
    accepts = accepted(lstmjax.run, params="params of a question", xs="xs of a question") | {"options": "options"}
    accepts = {argument: catalogue for argument, catalogue in accepts.items() if argument not in unseen}
    return Good(name, getattr(lstmjax, name), arguments, accepts, about)


def draw_init_state(rng) -> Good:
    tree, _, about = draw_sequence(rng)
    arguments = dict(params=tree.params, batch=pick(rng, (), 2, (2, 3), 0), dtype=pick(rng, "float32", jnp.bfloat16))
    return Good("init_state", lstmjax.init_state, arguments, accepted(lstmjax.init_state), about)


def draw_cell_step(rng) -> Good:
    """A step or the gates of a cell by its own name."""
    kind = pick(rng, *KINDS)
    name = f"{kind}_{pick(rng, 'step', 'gates')}" if kind != "rnn" else "rnn_step"
    function = getattr(lstmjax, name)
    _, xs, about = draw_sequence(rng)
    layer = draw_layer(rng, kind, xs.shape[-1], about["batch"], xs.dtype)
    arguments = dict(params=layer.params, state=layer.state, x=xs[0])
    if name.endswith("step"):
        arguments |= draw_how(rng)
    about = about | dict(tree=layer.params, state=layer.state, own=name)
    return Good(name, function, arguments, accepted(function), about)


def draw_init(rng) -> Good:
    kind = pick(rng, *KINDS, "lstm")
    function = getattr(lstmjax, f"init_{kind}")
    accepts = accepted(function, activations=f"activations of {kind}", reset="reset of gru")
    arguments = dict(key=pick(rng, KEY, OLD_KEY), inputs=3, hidden=4)
    more = dict(
        init=("glorot", "keras", "torch"),
        bias=(True, False),
        dtype=("float32", jnp.bfloat16),
        forget_bias=(0.0, 2),
        peephole=(True, False),
        coupling=(None, "f=1-i", "i=1-f"),
        projection=(None, 2),
        layer_norm=(None, "gates", "gates+cell", "inputs+cell"),
        clip=(None, 1.0),
        clip_cell=(None, 1),
        epsilon=(1e-3,),
        reset=("before", "after"),
        heads=(1, 2),
        forget=("sigmoid", "exp"),
        candidate=("identity", "tanh"),
        activation=("tanh", "relu"),
    )
    arguments |= {name: pick(rng, *choices) for name, choices in more.items() if name in accepts and chance(rng, 0.2)}
    if arguments.get("layer_norm") == "gates+cell":
        arguments["normed_cell"] = pick(rng, "state", "output")
    if arguments.get("projection"):
        arguments["projection_bias"] = pick(rng, True, False)
    return Good(f"init_{kind}", function, arguments, accepts)


def draw_form(rng) -> Good:
    name, arguments = pick(
        rng,
        ("LSTMForm", dict(coupling="i=1-f", clip=1.0)),
        ("LSTMForm", dict(activations=("sigmoid", "relu", "identity"), clip_cell=2.0, clip_projection=1.0)),
        ("LSTMForm", dict(epsilon=1e-3, normed_cell="output")),
        ("GRUForm", dict(reset="before", activations=("hard_sigmoid", "tanh"))),
        ("RNNForm", dict(activation="relu")),
        ("MinLSTMForm", dict(candidate="tanh")),
        ("SLSTMForm", dict(forget="exp")),
    )
    function = getattr(lstmjax, name)
    kind = name.removesuffix("Form").lower()
    return Good(
        name, function, arguments, accepted(function, activations=f"activations of {kind}", reset="reset of gru")
    )


def draw_transformation(rng) -> Good:
    """What takes a function and gives another."""

    def loss(params, data, state):
        state, ys = lstmjax.run(params, data, state)
        return (ys * ys).mean(), state

    name, arguments = pick(
        rng,
        ("truncated_value_and_grad", dict(loss=loss, window=int(rng.integers(1, 9)))),
        ("checkify", dict(function=loss)),
    )
    function = getattr(lstmjax, name)
    return Good(name, function, arguments, accepted(function, function="loss"))


def draw_layers(rng) -> Good:
    T, D, V = 4, 3, 5
    x, ones = rng.normal(size=(T, D)).astype(np.float32), np.ones((V, D), np.float32)
    ids = rng.integers(0, V, (2, 3)).astype(np.int32)
    sizes = dict(inputs="size", outputs="size", vocabulary="size", features="size")
    name, arguments, renamed = pick(
        rng,
        ("init_linear", dict(key=KEY, inputs=D, outputs=2), sizes),
        ("linear", dict(params=layers.Linear(ones.T, ones[:, 0]), x=x), dict(params="linear layer")),
        ("init_embedding", dict(key=KEY, vocabulary=V, features=2), sizes),
        ("embed", dict(table=ones, ids=ids), dict(ids="ids below 5")),
        ("dropout", dict(key=pick(rng, None, KEY), rate=0.5, x=x), dict(x="floats")),
        ("attend", dict(query=ones[0], xs=x, valid=rng.random(T) < 0.8), dict(query="vector")),
    )
    function = getattr(layers, name)
    return Good(f"layers.{name}", function, arguments, accepted(function, **renamed), dict(batch=(), time=T))


def draw_losses(rng) -> Good:
    batch, K = pick(rng, (), (2,), (3, 2)), 4
    logits = rng.normal(size=(*batch, K)).astype(np.float32)
    weights = pick(rng, None, rng.random(batch).astype(np.float32))
    name, arguments, renamed = pick(
        rng,
        (
            "cross_entropy",
            dict(logits=logits, labels=rng.integers(0, K, batch).astype(np.int32), weights=weights),
            dict(labels="labels below 4", weights="weights of examples"),
        ),
        (
            "binary_cross_entropy",
            dict(logits=logits[..., 0], labels=np.ones(batch, np.float32), weights=weights),
            dict(labels="labels of 0 to 1", logits="floats", weights="weights of examples"),
        ),
    )
    function = getattr(losses, name)
    return Good(f"losses.{name}", function, arguments, accepted(function, **renamed), dict(batch=batch))


def draw_penalty(rng) -> Good:
    name = pick(rng, "activation_penalty", "temporal_activation_penalty")
    function, T, batch = getattr(losses, name), 4, pick(rng, (), (2,))
    arguments = dict(ys=rng.normal(size=(T, *batch, 3)).astype(pick(rng, np.float32, jnp.bfloat16)))
    if chance(rng, 0.5):
        arguments["valid"] = rng.random((T, *batch)) < 0.8
    return Good(f"losses.{name}", function, arguments, accepted(function), dict(batch=batch, time=T))


def draw_classifier(rng) -> Good:
    if chance(rng, 0.5):
        sizes = dict.fromkeys(("vocabulary", "classes", "embedding"), "size")
        arguments = dict(key=KEY, vocabulary=7, classes=2, embedding=3, hidden=pick(rng, 3, (3, 2)))
        accepts = accepted(classifier.init, hidden="hidden of a classifier", **sizes) | dict(bidirectional="unspoilt")
        return Good("classifier.init", classifier.init, arguments, accepts)
    params = _classifier()
    B, T = 2, 4
    arguments = dict(
        params=params,
        ids=rng.integers(0, 7, (B, T)).astype(np.int32),
        lengths=rng.integers(0, T + 1, B).astype(np.int32),
        options=classifier.Options("mean"),
    )
    renamed = dict(params="unspoilt", ids="ids below 7", options="options of a classifier")
    name = pick(rng, "apply", "predict")
    function = getattr(classifier, name)
    accepts = accepted(function, **renamed)
    return Good(f"classifier.{name}", function, arguments, accepts, dict(batch=(B,), time=T))


def _classifier():
    rng = np.random.default_rng(0)
    layer = draw_layer(rng, "rnn", 3, (), np.float32)
    table, head = np.ones((7, 3), np.float32), layers.Linear(np.ones((layer.width, 2), np.float32), np.zeros(2))
    return classifier.Params(table, (layer.params,), cast(head, np.float32))


def draw_text(rng) -> Good:
    key = KEY
    name, function, arguments, accepts = pick(
        rng,
        ("text.tokenise", text.tokenise, dict(text="a word"), dict(text="text")),
        ("text.Vocabulary", text.Vocabulary, dict(words=["a", "b"]), dict(words="words")),
        (
            "text.Vocabulary.count",
            text.Vocabulary.count,
            dict(texts=[["a"]]),
            dict(size="size of a vocabulary", min_count="size"),
        ),
        ("text.Vocabulary.decode", text.Vocabulary(["a"]).decode, dict(ids=[0, 2]), dict(ids="list of ids below 3")),
        ("text.pad", text.pad, dict(sequences=[np.array([3, 4])], length=3), dict(length="length to pad to")),
        (
            "text.bounds",
            text.bounds,
            dict(lengths=[3, 4], buckets=2),
            dict(lengths="lengths to bucket", buckets="size"),
        ),
        (
            "text.bucket",
            text.bucket,
            dict(lengths=[3, 4], batch_size=2, bounds=[2, 4]),
            dict(batch_size="size", bounds="bounds"),
        ),
        (
            "split_batch",
            lstmjax.split_batch,
            dict(tree=np.ones((2, 4, 3), np.float32), axis=1),
            dict(tree="tree to split", axis="axis of a batch", devices="devices"),
        ),
        ("metrics.accuracy", metrics.accuracy, dict(predicted=[0, 1], labels=[1, 1]), dict(predicted="predicted")),
        (
            "train.fit",
            train.fit,
            dict(
                loss=lambda w, batch, key: (w - batch) ** 2,
                params=jnp.float32(0),
                optimizer=optax.sgd(0.1),
                batches=lambda epoch: [jnp.float32(2)],
                key=key,
                epochs=1,
            ),
            dict(key="key", epochs="size", patience="size or None"),
        ),
        (
            "classify.fit",
            classify.fit,
            dict(training=[("a", "x"), ("b", "y")], dev=[("a", "x")], recipe=classify.Recipe(epochs=1)),
            dict(training="training data", dev="dev data", recipe="recipe"),
        ),
    )
    return Good(name, function, arguments, accepts, traceable=False)


# The core more often than what stands around it.
DRAWS = (
    *(draw_run,) * 10,
    *(draw_trace, draw_step, draw_cell_step, draw_init) * 3,
    *(draw_init_state, draw_question, draw_question, draw_form),
    *(draw_transformation, draw_layers, draw_losses, draw_penalty, draw_classifier),
    *(draw_text,) * 2,
)


NO_FLOATS: dict[str, Callable] = {
    "None": lambda a: None,
    "a list": lambda a: a.tolist() if a.ndim else [1.0],
    "a string": lambda a: "words",
    "a float": lambda a: 1.0,
    "a dict": lambda a: {},
    "an object": lambda a: object(),
    "ints": lambda a: np.ones(a.shape, np.int32),
    "bools": lambda a: np.ones(a.shape, bool),
    "complex": lambda a: np.ones(a.shape, np.complex64),
    "8 bits": lambda a: np.ones(a.shape, jnp.float8_e4m3fn),
    "128 bits": lambda a: np.ones(a.shape, np.longdouble),
    "objects": lambda a: np.full(a.shape, None),
    "strings": lambda a: np.full(a.shape, "1"),
    "a key": lambda a: KEY,
    "a masked array": lambda a: np.ma.ones(a.shape, np.float32),
    "a shape": lambda a: jax.ShapeDtypeStruct(a.shape, np.float32),
}
FEATURES: dict[str, Callable] = {
    "a feature more": lambda a: longer(a, 1),
    "no features": lambda a: a[..., :0],
}


def longer(a: np.ndarray, n: int, axis: int = -1) -> np.ndarray:
    """Zeros with n more of them along an axis."""
    shape = list(a.shape)
    shape[axis] += n
    return np.zeros(shape, a.dtype)


def shapes(a: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays of other shapes that cannot be meant in the place of a weight."""
    found = {"longer": longer(a, 1), "an axis more": a[None], "no axis": a.reshape(-1)[0], "empty": a[..., :0]}
    if a.shape[-1] > 1:
        found["shorter"] = a[..., :-1]
    if a.ndim > 1:
        found["flat"] = a.reshape(-1)
    if a.ndim == 2 and a.shape[0] != a.shape[1]:
        found["transposed"] = a.T
    return found


for _argument in ("xs", "x", "ys", "logits", "table", "vector", "floats"):
    forbid_each(_argument, NO_FLOATS)
for _argument in ("xs", "x", "ys", "logits", "table", "vector"):
    forbid_values(_argument, np.float32(1))
forbid_each("vector", {"longer": lambda a: longer(a, 1), "rank 2": lambda a: a[None]})
forbid_values("table", np.ones(3, np.float32), np.ones((5, 2, 2), np.float32))
forbid_values("linear layer", None, {}, "words", np.ones((3, 2), np.float32))
forbid_each(
    "linear layer",
    {
        "w missing": lambda p: p._replace(w=None),
        "b missing": lambda p: p._replace(b=None),
        "w flat": lambda p: p._replace(w=p.w.reshape(-1)),
        "w a list": lambda p: p._replace(w=p.w.tolist()),
        "b longer": lambda p: p._replace(b=longer(p.b, 1)),
    },
)
for _argument in ("xs", "x"):
    forbid_each(_argument, FEATURES, ("x", "features"))
forbid_each("xs of a question", {label: make for label, make in NO_FLOATS.items() if label != "a shape"}, "xs")
forbid("options", "that run has not", lambda rng, good, old: Changes({"lenghts": 3}, ("lenghts",)))
forbid_each("xs", {"rank 1": lambda a: a.reshape(-1)})

SIZES = (0, -1, 2.5, "4", True, float("nan"), [4])
for _argument in ("size", "inputs", "hidden", "window", "heads"):
    forbid_values(_argument, *SIZES, None)
forbid_values("axis of a batch", -1, 3, 1.0, "1", True, None, (1,))
forbid_values("tree to split", 1.0, "words", [1.0], np.ones(2), np.full((2, 4), None), np.full((2, 4), "1"))
forbid_values("devices", [], 1, "cpu", ["cpu"], [None], {})
forbid_values("heads", 3)  # it should divide hidden, 4
for _argument in ("chunk", "projection", "size or None"):
    forbid_values(_argument, *SIZES)
forbid_values("hidden of a classifier", *SIZES[:-1], None, (), (3, 0), (3, "4"))
forbid_values("batch", -1, 2.5, "4", True, None, (2.0,), (2, -1), ("2",), float("nan"))
forbid_values("remat", 0, -1, 2.5, "yes", [2], float("nan"))
for _argument in ("reverse", "bias", "peephole", "projection_bias"):
    forbid_values(_argument, 1, "yes", None, 0.5, np.ones(2, bool))
forbid_values("training", 1, "yes", 0.5, np.ones(2, bool))

NO_NAMES = (3, True, "", np.ones(2), object())
for _argument, *_bad in (
    ("padding", "keep", "Zero", ["zero"], None),
    ("backend", "cuda", "Fused", ["fused"]),
    ("residuals", "all", ["gates"]),
    ("init", "he", ["glorot"], None),
    ("coupling", "f = 1 - i", "i", ["f=1-i"]),
    ("layer_norm", "cell", ["gates"]),
    ("normed_cell", "h", ["state"], None),
    ("reset of gru", "both", ["after"], None),
    ("forget", "tanh", ["exp"], None),
    ("cell", "lstm2", ["lstm"], None),
    ("pooling", "sum", ["mean"], None),
):
    forbid_values(_argument, *NO_NAMES, *_bad)
NO_ACTIVATIONS = (
    "swish9",
    None,
    3,
    ("relu", 1.0),
    ("elu", "1"),
    ("elu", float("nan")),
    ("elu", 1.0, 2.0),
    ["tanh"],
    (),
)
for _argument in ("candidate", "activation"):
    forbid_values(_argument, *NO_ACTIVATIONS)
for _kind, _good in (("lstm", ("sigmoid",) * 3), ("gru", ("sigmoid",) * 2)):
    _argument = f"activations of {_kind}"
    forbid_values(_argument, "tanh", 3, None, list(_good), _good[1:], (*_good, "tanh"))
    forbid_values(_argument, *((*_good[1:], bad) for bad in NO_ACTIVATIONS))
for _argument in ("clip", "clip_cell", "clip_projection"):
    forbid_values(_argument, 0, 0.0, -1.0, float("nan"), float("inf"), 10**400, "1", True, [1.0], np.ones(2))
forbid_values("epsilon", 0, -1e-5, float("nan"), "1", None, True, [1.0])
forbid_values("forget_bias", "one", None, True, [1.0], np.ones(2, np.float32), float("nan"), float("inf"), 10**400)
NO_DTYPES = ("int32", "float33", "complex64", "float8_e4m3fn", np.longdouble, bool, int, 3, [1], ["float32"])
forbid_values("dtype", None, *NO_DTYPES)
forbid_values("compute_dtype", *NO_DTYPES, np.ones(2))
for _argument in ("dtype", "compute_dtype"):
    forbid(_argument, "str 'float64'", lambda rng, good, old: SKIP if jax.config.jax_enable_x64 else "float64")
forbid_values("precision", "best", 3.5, ["highest"], {}, np.ones(2))
forbid_values("key", 0, "seed", 1.5, np.zeros(3, np.int32), np.zeros(2, np.float32), jax.random.split(KEY))
forbid_values("rate", 1.5, -0.1, float("nan"), 1.0, 1, "0.5", None, True, [0.5])
forbid_values("smoothing", 1.5, -0.1, float("nan"), 1.0, "0.5", None, [0.5])
forbid_values("loss", None, "loss", 1.0)
forbid_values("text", None, 3, ["a"], b"a")
forbid_values("words", ["a", "a"], [""], [1], [None])
forbid_values("size of a vocabulary", 1, 0, -3, "4", 2.5)
forbid_values("list of ids below 3", [3], [-1], [1.5], ["a"])
forbid_values("length to pad to", -1, 2.5, "4")
forbid_values("lengths to bucket", [])
forbid_values("bounds", [4, 4], [], [4, 2])
forbid_values("predicted", [1], [], [[0, 1]])


def forbid_lengths(bad: dict[str, Callable], values: bool = False) -> None:
    """Functions of T and the batch shape. A mask beside the lengths, a fault of its own, is taken away."""
    for label, make in bad.items():

        def change(rng, good, old, make=make):
            alone = {"mask": None} if "mask" in good.arguments else {}
            return Changes({"lengths": make(good.about["time"], good.about["batch"])} | alone)

        forbid("lengths", label, change, values=values)


forbid_lengths(
    {
        "another count": lambda T, batch: np.ones((batch[0] + 1, *batch[1:]) if batch else 2, np.int32),
        "an axis more": lambda T, batch: np.ones((*batch, 1), np.int32),
        "floats": lambda T, batch: np.ones(batch, np.float32),
        "bools": lambda T, batch: np.ones(batch, bool),
        "complex": lambda T, batch: np.ones(batch, np.complex64),
        "a mask": lambda T, batch: np.ones((T, *batch), bool),
        "a string": lambda T, batch: "7",
        "a float": lambda T, batch: 1.0,
        "True": lambda T, batch: True,
        "a dict": lambda T, batch: {},
        "an object": lambda T, batch: object(),
        "a ragged list": lambda T, batch: [[1], [1, 2]],
        "a list of strings": lambda T, batch: ["1", "2"],
        "a list of None": lambda T, batch: [None, None],
        "a list of bools": lambda T, batch: [True, False],
        "objects": lambda T, batch: np.full(batch, 1, object),
        "a masked array": lambda T, batch: np.ma.ones(batch, np.int32),
        "a shape": lambda T, batch: jax.ShapeDtypeStruct(batch, np.int32),
        "a range": lambda T, batch: range(2),
    }
)
forbid_lengths(
    {
        "above T": lambda T, batch: np.full(batch, T + 1, np.int32),
        "above T in 8 bits": lambda T, batch: np.full(batch, T + 1, np.int8),
        "above T in a list": lambda T, batch: np.full(batch, T + 1).tolist(),
        "negative": lambda T, batch: np.full(batch, -1, np.int32),
    },
    values=True,
)


def lengths_and_mask(rng, good, old):
    T, batch = good.about["time"], good.about["batch"]
    if "mask" not in good.accepts:
        return SKIP
    return Changes({"lengths": np.ones(batch, np.int32), "mask": np.ones((T, *batch), bool)}, ("lengths", "mask"))


forbid("lengths", "beside a mask", lengths_and_mask)
forbid("mask", "beside lengths", lengths_and_mask)


def forbid_steps(argument: str, bad: dict[str, Callable]) -> None:
    """Functions of the shape [T, *batch]. Lengths beside a mask, a fault of its own, are taken away."""
    for label, make in bad.items():

        def change(rng, good, old, make=make):
            alone = {"lengths": None} if argument == "mask" and "lengths" in good.arguments else {}
            found = make((good.about["time"], *good.about["batch"]))
            return SKIP if found is SKIP else Changes({argument: found} | alone)

        forbid(argument, label, change)


for _argument in ("mask", "reset", "valid"):
    forbid_steps(
        _argument,
        {
            "ints": lambda shape: np.ones(shape, np.int32),
            "floats": lambda shape: np.ones(shape, np.float32),
            "lengths": lambda shape: np.ones(shape[1:], np.int32),
            "a list": lambda shape: np.ones(shape, bool).tolist(),
            "a string": lambda shape: "yes",
            "True": lambda shape: True,
            "an object": lambda shape: object(),
            "objects": lambda shape: np.full(shape, True, object),
            "a masked array": lambda shape: np.ma.ones(shape, bool),
            "a shape": lambda shape: jax.ShapeDtypeStruct(shape, bool),
            "an axis more": lambda shape: np.ones((*shape, 1), bool),
            "a step more": lambda shape: np.ones((shape[0] + 1, *shape[1:]), bool),
            "no time": lambda shape: np.ones(shape[1:], bool),
            "transposed": lambda shape: np.ones(shape[::-1], bool) if shape != shape[::-1] else SKIP,
        },
    )

for _n in (5, 7):
    _argument = f"ids below {_n}"
    forbid_values(_argument, None, "words", 1.0, [1, 2], {}, np.ones((2, 4), np.float32), np.ones((2, 4), bool))
    forbid(_argument, "too great", lambda rng, good, old, n=_n: np.full((2, 4), n, np.int32), values=True)
    forbid(_argument, "negative", lambda rng, good, old: np.array([[0, -1, 1, 2]] * 2, np.int32), values=True)
forbid_values("ids below 7", np.ones(4, np.int32), np.ones((2, 4, 1), np.int32))

for _argument in ("labels below 4", "labels of 0 to 1"):
    forbid_values(_argument, None, "words", {}, [0])
    forbid_each(_argument, {"another count": lambda a: np.ones((*a.shape, 3), a.dtype)})
forbid_each(
    "labels below 4",
    {
        "floats": lambda a: np.ones(a.shape, np.float32),
        "bools": lambda a: np.ones(a.shape, bool),
    },
)
forbid_each(
    "labels below 4",
    {
        "too great": lambda a: np.full(a.shape, 4, np.int32),
        "negative": lambda a: np.full(a.shape, -1, np.int32),
    },
    values=True,
)
forbid_values("weights of examples", "words", {}, [1.0], 1.0)
forbid(
    "weights of examples",
    "another count",
    lambda rng, good, old: np.ones((*good.about["batch"], 3), np.float32),
)

RATES = (1.5, -0.1, float("nan"), 1.0, 1, "0.5", None, True, [0.5], {}, np.ones(2, np.float32), np.int32(0))


def forbid_fields(argument: str, fields: dict[str, tuple]) -> None:
    """Values of the fields of a NamedTuple, which the message has to name."""
    for field, bad in fields.items():
        for value in bad:

            def change(rng, good, old, field=field, value=value):
                tree = lstmjax.Regularisers() if old is None else old
                return tree._replace(**{field: value})

            forbid(argument, f"{field} {show(value)}", change, field)


forbid_fields("regularisers", dict.fromkeys(lstmjax.Regularisers._fields, RATES))
forbid_fields(
    "options of a classifier",
    dict(pooling=("sum", None, 1), dropout=RATES[:7], word_dropout=RATES[:7]),
)
forbid_fields(
    "recipe",
    dict(
        learning_rate=(-1, 0, float("nan"), float("inf"), "1"),
        clip=(-1, 0, float("nan")),
        weight_decay=(-1, float("nan")),
        batch_size=SIZES,
        epochs=SIZES,
        patience=SIZES,
        members=SIZES,
        tokens=("letters", None),
    ),
)
forbid_values("regularisers", 0.5, {"inputs": 0.1}, "dropout", (0.1,), lstmjax.Regularisers, [])
forbid_values("training data", [], [("a", "x"), ("b", "x")])
forbid_values("dev data", [], [("a", "z")])


def useless_rate(rng, good, old):
    """A rate above 0 that a layer of the call has no use for."""
    kinds = kinds_in(good.about["tree"])
    useless = ["recurrent", "weights"] * ("MinLSTMParams" in kinds) + ["zoneout_c"] * (kinds != {"LSTMParams"})
    if not useless:
        return SKIP
    field = pick(rng, *useless)
    return Changes({"regularisers": lstmjax.Regularisers(**{field: 0.3})}, (field,))


def rate_without_key(rng, good, old):
    rates = good.arguments.get("regularisers")
    rates = rates if rates and any(rates) else lstmjax.Regularisers(inputs=0.3)
    return Changes({"regularisers": rates, "training": True, "key": None}, ("key",))


def both_directions_reversed(rng, good, old):
    return True if has_pair(good.about["tree"]) else SKIP


def backend_that_cannot(rng, good, old):
    cannot = []
    if not is_plain(good.about["tree"]):
        cannot.append("fused")
    if kinds_in(good.about["tree"]) != {"MinLSTMParams"}:
        cannot.append("associative")
    return Changes({"backend": name}, ("backend", name)) if (name := pick(rng, *cannot, None)) else SKIP


def options_of_another_backend(rng, good, old):
    option = pick(rng, {"residuals": "gates"}, {"chunk": 3})
    return Changes({"backend": "scan", **option}, ("scan", *option))


def residuals_of_another_cell(rng, good, old):
    if is_plain(good.about["tree"]):
        return SKIP
    return Changes({"backend": None, "residuals": "gates"}, ("residuals",))


def zoneout_on_fused(rng, good, old):
    if not is_plain(good.about["tree"]) or "regularisers" not in good.accepts:
        return SKIP
    rates = lstmjax.Regularisers(**{pick(rng, "zoneout_h", "zoneout_c"): 0.3})
    return Changes(dict(backend="fused", regularisers=rates, key=KEY, training=None), ("fused",))


forbid("regularisers", "a rate without use", useless_rate)
forbid("training", "without a key", rate_without_key)
forbid("reverse", "a pair", both_directions_reversed)
forbid("backend", "that cannot do this", backend_that_cannot)
forbid("backend", "scan with options of fused", options_of_another_backend)
forbid("backend", "fused with zoneout", zoneout_on_fused)
forbid("residuals", "of another cell", residuals_of_another_cell)


def other_params(rng, good, old):
    """No params at all, or in no container of ours."""
    layer = layers_in(old)[0][1]
    bad = [None, {}, "words", 1.0, [old], layer._asdict(), (), np.ones(3, np.float32), tuple(layer)]
    if "own" in good.about:
        bad += [(old,), Bidirectional(old, old), *(other for other in OTHERS.values() if type(other) is not type(old))]
    return pick_any(rng, bad)


def other_part(rng, good, old):
    """A part of a container that is no layer."""
    if is_layer(old):
        return SKIP
    bad = pick(rng, None, {}, "words", [layers_in(old)[0][1]], np.ones(3, np.float32))
    return put_layer(old, int(rng.integers(len(layers_in(old)))), bad)


def layer_damage(make: Callable) -> Callable:
    """A damage of one layer among those of the params: make(rng, layer) -> (layer, words), or SKIP."""

    def damage(rng, good, old):
        if make is activation_of_another_shape and "x" not in good.accepts and "state" not in good.accepts:
            return SKIP  # nothing is computed
        found = layers_in(old)
        n = int(rng.integers(len(found)))
        path, layer = found[n]
        spoilt = make(rng, layer)
        if spoilt is SKIP:
            return SKIP
        layer, *words = spoilt
        words = tuple(w.replace("params", f"params{path}") if isinstance(w, str) else w for w in words)
        return Changes({"params": put_layer(old, n, layer)}, words)

    return damage


def some_weight(rng, layer):
    """One of the weights: its path, itself, and a function that puts another in its place."""
    found, tree = jax.tree_util.tree_flatten_with_path(layer)
    n = int(rng.integers(len(found)))
    path, weight = found[n]

    def put(other):
        return jax.tree.unflatten(tree, [other if k == n else leaf for k, (_, leaf) in enumerate(found)])

    return jax.tree_util.keystr(path), np.asarray(weight), put


def no_weight(rng, layer):
    path, weight, put = some_weight(rng, layer)
    label = pick(rng, *NO_FLOATS)
    if label == "None" and not path.endswith((".w_x", ".w_h", ".scale")):
        return SKIP  # it is optional
    return put(NO_FLOATS[label](weight)), f"params{path}"


def weight_of_another_shape(rng, layer):
    path, weight, put = some_weight(rng, layer)
    options = shapes(weight)
    if type(layer) is lstmjax.SLSTMParams and path == ".w_h" and weight.ndim == 2:
        del options["an axis more"]  # that is one head
    if type(layer) is lstmjax.MinLSTMParams and layer.b is None:
        options.pop("transposed", None)  # that may be other sizes
    return put(pick_any(rng, list(options.values()))), "params", path.split(".")[-1]


def recurrent_weights_of_another_height(rng, layer):
    if type(layer) is lstmjax.MinLSTMParams:
        return SKIP
    return layer._replace(w_h=longer(np.asarray(layer.w_h), 1, axis=0)), "params", "w_h"


def weight_of_another_dtype(rng, layer):
    if len(jax.tree.leaves(layer)) == 1:
        return SKIP
    _, weight, put = some_weight(rng, layer)
    return put(weight.astype(np.float16 if weight.dtype != np.float16 else np.float32)), "params", "one dtype"


def form_of_another_kind(rng, layer):
    bad = [form() for form in FORMS.values() if form is not FORMS[type(layer)]]
    return layer._replace(form=pick_any(rng, [*bad, FORMS[type(layer)], "plain", {}, 3, np.ones(2)])), "params.form"


def coupling_that_does_not_fit(rng, layer):
    if type(layer) is not lstmjax.LSTMParams:
        return SKIP
    coupled = layer.form is not None and layer.form.coupling is not None
    form = None if coupled else lstmjax.LSTMForm(coupling=pick(rng, "f=1-i", "i=1-f"))
    # The columns may be those of another H, which the other weights then do not fit.
    return layer._replace(form=form), "params", ("w_h", "projection", "peephole", "norm")


def activation_of_another_shape(rng, layer):
    """A function that does not give back what it was given, which shows when it is called."""
    other = pick(
        rng,
        lambda x: None,
        lambda x: x.sum(),
        lambda x: x.astype(jnp.bfloat16),
        lambda x: jnp.concatenate([x, x], -1),
        lambda x: [x],
    )
    if type(layer) is lstmjax.SLSTMParams:
        return SKIP
    form = layer.form or FORMS[type(layer)]()
    field = next(name for name in ("activations", "activation", "candidate") if hasattr(form, name))
    if field == "activations":
        given = list(form.activations)
        given[rng.integers(len(given))] = other
        other = tuple(given)
    return layer._replace(form=dataclasses.replace(form, **{field: other})), ("activation", "candidate")


def projection_bias_alone(rng, layer):
    if type(layer) is not lstmjax.LSTMParams or layer.projection is not None:
        return SKIP
    return layer._replace(projection_b=layer.w_h[:, 0]), "params.projection_b"


def form_without_its_weights(rng, layer):
    if type(layer) is not lstmjax.LSTMParams:
        return SKIP
    form = layer.form or lstmjax.LSTMForm()
    if layer.projection is None:
        return layer._replace(form=dataclasses.replace(form, clip_projection=1.0)), "params.form.clip_projection"
    if layer.norm is None or layer.norm.cell is None:
        return layer._replace(form=dataclasses.replace(form, normed_cell="output")), "params.form.normed_cell"
    return SKIP


def no_layer_norm(rng, layer):
    if type(layer) is not lstmjax.LSTMParams:
        return SKIP
    n = layer.w_x.shape[-1]
    ones = np.ones(n, layer.w_x.dtype)
    bad = [ones, lstmjax.Norm(ones), {"gates": ones}, "gates", True, lstmjax.LayerNorm()]
    bad += [
        lstmjax.LayerNorm(**{pick(rng, "gates", "x", "h", "cell"): part}) for part in (ones, (ones,), "one", 1.0, {})
    ]
    return layer._replace(norm=pick_any(rng, bad)), "params.norm"


def peephole_of_another_kind(rng, layer):
    if type(layer) is not lstmjax.LSTMParams:
        return SKIP
    n, dtype = layer.w_x.shape[-1], layer.w_x.dtype
    return layer._replace(peephole=np.ones(n, dtype)), "params.peephole"


def reset_before_with_b_n(rng, layer):
    if type(layer) is not lstmjax.GRUParams:
        return SKIP
    b_n = layer.w_h[:, 0]
    return layer._replace(b_n=b_n, form=lstmjax.GRUForm(reset="before")), "params.b_n"


def input_weights_of_another_height(rng, good, old):
    """Two rows too many: features that the inputs do not have."""
    if good.name == "init_state":
        return SKIP
    found = layers_in(old)
    n = int(rng.integers(len(found)))
    path, layer = found[n]
    taller = layer._replace(w_x=longer(np.asarray(layer.w_x), 2, axis=0))
    return Changes({"params": put_layer(old, n, taller)}, (f"params{path}" if "own" not in good.about else "params",))


FORMS = {
    lstmjax.LSTMParams: lstmjax.LSTMForm,
    lstmjax.GRUParams: lstmjax.GRUForm,
    lstmjax.RNNParams: lstmjax.RNNForm,
    lstmjax.MinLSTMParams: lstmjax.MinLSTMForm,
    lstmjax.SLSTMParams: lstmjax.SLSTMForm,
}
OTHERS = {kind: draw_layer(np.random.default_rng(0), kind, 2, (), np.float32).params for kind in KINDS}

for _argument in ("params", "params of a question"):
    forbid(_argument, "no params", other_params, "params")
    forbid(_argument, "no layer in a container", other_part, "params")
forbid("params", "w_x for other inputs", input_weights_of_another_height)
for _make in (
    no_weight,
    no_weight,
    weight_of_another_shape,
    weight_of_another_shape,
    recurrent_weights_of_another_height,
    weight_of_another_dtype,
    form_of_another_kind,
    activation_of_another_shape,
    coupling_that_does_not_fit,
    projection_bias_alone,
    form_without_its_weights,
    no_layer_norm,
    peephole_of_another_kind,
    reset_before_with_b_n,
):
    forbid("params", _make.__name__.replace("_", " "), layer_damage(_make))


def other_state(rng, good, old):
    """No state at all, or one in other containers."""
    old = good.about["state"]
    layer = layers_in(old)[0][1]
    bad = ["words", 1.0, {}, [old], list(old), layer.h, layer._asdict(), (old, old, old, old)]
    if "own" in good.about or good.name == "step":
        bad.append(None)
    if is_layer(old):
        bad += [tuple(old), (old,), Bidirectional(old, old)]
    else:
        bad += [layer, old[:-1], (*old, layer), Bidirectional(layer, layer) if type(old) is tuple else tuple(old)]
    return pick_any(rng, bad)


def state_damage(make: Callable) -> Callable:
    """A damage of the state of one layer: make(rng, state, batch) -> (state, words), or SKIP."""

    def damage(rng, good, old):
        old = good.about["state"]
        found = layers_in(old)
        n = int(rng.integers(len(found)))
        path, state = found[n]
        spoilt = make(rng, state, good.about["batch"])
        if spoilt is SKIP:
            return SKIP
        state, word = spoilt
        return Changes({"state": put_layer(old, n, state)}, (word.replace("state", f"state{path}"),))

    return damage


def state_of_another_kind(rng, state, batch):
    bad = [tuple(state), list(state), state.h, state._asdict(), "zeros", 0.0, {}]
    bad += [kind(*(state.h,) * len(kind._fields)) for kind in STATES if kind is not type(state)]
    return pick_any(rng, bad), "state"


def no_state_array(rng, state, batch):
    field = pick(rng, *state._fields)
    made = NO_FLOATS[pick(rng, *NO_FLOATS)]
    return state._replace(**{field: made(getattr(state, field))}), f"state.{field}"


def state_array_of_another_shape(rng, state, batch):
    field = pick(rng, *state._fields)
    a = getattr(state, field)
    bad = [*shapes(a).values(), longer(a, 1)]
    if batch:
        bad += [longer(a, 1, axis=0), a[0], np.zeros((*batch[::-1], a.shape[-1] + 1), a.dtype)]
    if batch != (1,):
        bad.append(np.ones((1, a.shape[-1]), a.dtype))
    return state._replace(**{field: pick_any(rng, bad)}), f"state.{field}"


def h_and_c_swapped(rng, state, batch):
    if type(state) is not lstmjax.LSTMState or state.h.shape == state.c.shape:
        return SKIP
    return lstmjax.LSTMState(state.c, state.h), "state.h"


STATES = (
    lstmjax.LSTMState,
    lstmjax.GRUState,
    lstmjax.RNNState,
    lstmjax.MinLSTMState,
    lstmjax.SLSTMState,
)
forbid("state", "no state", other_state, "state")
for _make in (state_of_another_kind, no_state_array, state_array_of_another_shape, h_and_c_swapped):
    forbid("state", _make.__name__.replace("_", " "), state_damage(_make))


def pick_any(rng: np.random.Generator, choices: list) -> Any:
    return choices[rng.integers(len(choices))]


def draw(seed: int, n: int) -> tuple[Good, Bad]:
    """Call n of a seed, before and after it is damaged."""
    rng = np.random.default_rng((seed, n))
    good = draw_good(rng)
    return good, draw_bad(rng, good)


def draw_good(rng: np.random.Generator) -> Good:
    good = pick(rng, *DRAWS)(rng)
    if chance(rng, 0.2):  # arrays of JAX, whose values can be looked at too
        arrays = jax.tree.map(lambda a: jnp.asarray(a) if isinstance(a, np.ndarray) else a, good.arguments)
        good = good._replace(arguments=arrays)
    return good


def draw_bad(rng: np.random.Generator, good: Good) -> Bad:
    """The call with one damage, or now and then two that have nothing to do with one another."""
    changed: dict[str, Any] = {}
    labels, words, values = [], [], False
    # Arguments with a large catalogue oftener, or they would never be worked through.
    names = [name for name, catalogue in good.accepts.items() if catalogue in DAMAGES]
    weights = np.sqrt([len(DAMAGES[good.accepts[name]]) for name in names])
    wanted = 2 if chance(rng, 0.15) else 1
    for _ in range(100):
        name = names[rng.choice(len(names), p=weights / weights.sum())]
        damage = pick_any(rng, DAMAGES[good.accepts[name]])
        made = damage.make(rng, good, good.arguments.get(name))
        if made is SKIP:
            continue
        if not isinstance(made, Changes):
            made = Changes({name: made})
        if changed.keys() & made.arguments.keys():
            continue
        changed |= made.arguments
        labels.append(f"{good.accepts[name]}: {damage.label}")
        words.append(made.words or damage.words or (name,))
        values |= damage.values
        if len(labels) == wanted:
            break
    eager = values or not good.traceable or chance(rng, 0.5)
    mode = "eager" if eager else pick(rng, *TRACINGS)
    return Bad(good.name, good.function, good.arguments | changed, tuple(labels), tuple(words), mode)


def call(function: Callable, arguments: dict[str, Any], mode: str) -> Any:
    """Call it, under tracing with every array (in grad: of floats) a tracer."""
    if mode == "eager":
        return function(**arguments)
    leaves, tree = jax.tree.flatten(arguments)
    traced = [n for n, leaf in enumerate(leaves) if _can_be_traced(leaf, mode)]

    def inner(arrays):
        filled = leaves.copy()
        for n, array in zip(traced, arrays, strict=True):
            filled[n] = array
        function(**jax.tree.unflatten(tree, filled))
        return 0.0

    def mapped(arrays):
        return jax.vmap(inner, axis_size=2)([jnp.stack([a, a]) for a in arrays])

    # vmap and grad within eval_shape: by themselves they would compile every operation before the error.
    transformed = {"jit": jax.jit(inner), "vmap": mapped, "grad": jax.grad(inner)}.get(mode, inner)
    arrays = [leaves[n] for n in traced]
    return transformed(arrays) if mode == "jit" else jax.eval_shape(transformed, arrays)


def _can_be_traced(leaf, mode):
    """Whether JAX takes it for an array: jit would refuse, say, strings before we could."""
    if isinstance(leaf, np.ma.MaskedArray) or not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        return False
    if isinstance(leaf.dtype, np.dtype) and (leaf.dtype.kind in "OSU" or leaf.dtype == np.longdouble):
        return False
    return mode != "grad" or jnp.issubdtype(leaf.dtype, jnp.floating)


def verdict(bad: Bad) -> str | None:
    """What is wrong with the answer to a bad call; None if it is refused as it should be."""
    try:
        call(bad.function, bad.arguments, bad.mode)
    except Exception as error:  # whatever comes is to be judged
        return _judge(error, bad.words)
    return "accepted"


def _judge(error: Exception, words: tuple) -> str | None:
    message = str(error)
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    last = frame.f_code.co_filename
    if type(error) not in (TypeError, ValueError):
        return f"{type(error).__module__}.{type(error).__name__}: {message}"
    if not last.startswith(LIBRARY) or not _raised(error):
        return f"not raised by us but in {Path(last).name}: {type(error).__name__}: {message}"
    if not any(all(_holds(message, word) for word in of_damage) for of_damage in words):
        return f"names nothing of {words}: {message}"
    ours = message
    for phrase in OUR_WORDS:
        ours = ours.replace(phrase, "")
    if inside := [word for word in FROM_INSIDE if word in ours.lower()]:
        return f"{inside} from inside: {message}"
    return None


def _raised(error):
    """Whether the last thing to run was a raise statement: an operation of Python's that failed is not a refusal."""
    tb = error.__traceback__
    while tb.tb_next is not None:
        tb = tb.tb_next
    return tb.tb_lasti in _raises(tb.tb_frame.f_code)


@cache
def _raises(code):
    return {step.offset for step in dis.get_instructions(code) if step.opname == "RAISE_VARARGS"}


def _holds(message, word):
    return word in message if isinstance(word, str) else any(w in message for w in word)


class Failure(NamedTuple):
    """A call that was not answered as it should be."""

    n: int
    bad: Bad
    why: str


class Report(NamedTuple):
    """What became of the calls."""

    calls: int
    by_function: collections.Counter
    by_damage: collections.Counter
    by_mode: collections.Counter
    good: int  # calls that were made undamaged too
    failures: list[Failure]


def fuzz(seed: int, numbers: Iterable[int], check_good: int = 20) -> Report:
    """Make the calls of these numbers; every `check_good`th also before it is damaged, to see that it is in order."""
    report = Report(0, *(collections.Counter() for _ in range(3)), 0, [])
    with strict():
        for n in numbers:
            good, bad = draw(seed, n)
            if n % check_good == 0 and good.traceable:
                report = report._replace(good=report.good + 1)
                if why := refusal(good, pick(np.random.default_rng(n), *TRACINGS)):
                    report.failures.append(Failure(n, bad._replace(damages=(), arguments=good.arguments), why))
            report = report._replace(calls=report.calls + 1)
            report.by_function[bad.name] += 1
            report.by_damage.update(bad.damages)
            report.by_mode[bad.mode] += 1
            if why := verdict(bad):
                report.failures.append(Failure(n, bad, why))
    return report


def refusal(good: Good, mode: str) -> str | None:
    """The error of a call that is in order; None if there is none, as there should be."""
    try:
        call(good.function, good.arguments, mode)
    except Exception as error:  # whatever comes is to be shown
        return f"refused though in order: {type(error).__name__}: {error}"
    return None


@contextlib.contextmanager
def strict() -> Iterator[None]:
    """As in the tests: JAX promotes nothing, and a warning is an error; and tracebacks are whole."""
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    try:
        with (
            warnings.catch_warnings(),
            jax.numpy_dtype_promotion("strict"),
            jax.numpy_rank_promotion("raise"),
        ):
            warnings.simplefilter("error")
            yield
    finally:
        jax.config.update("jax_traceback_filtering", before)


def describe(seed: int, failure: Failure) -> str:
    n, bad, why = failure
    what = "; ".join(bad.damages) or "not damaged"
    return f"python -m tests.fuzz --seed {seed} --only {n}    {bad.name} ({bad.mode}): {what}\n    {why[:300]}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one call by its number, shown")
    given = parser.parse_args(arguments)
    if given.only is not None:
        for name, value in draw(given.seed, given.only)[1].arguments.items():
            print(f"{name} = {jax.tree.map(lambda leaf: show(leaf) if hasattr(leaf, 'shape') else leaf, value)}")
    numbers = range(given.calls) if given.only is None else [given.only]
    start = time.perf_counter()
    report = fuzz(given.seed, numbers, 20 if given.only is None else 1)
    seconds = time.perf_counter() - start
    for title, counts in (("function", report.by_function), ("damage", report.by_damage)):
        print(f"calls by {title}:")
        for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            print(f"  {count:6} {name}")
    for failure in report.failures:
        print(describe(given.seed, failure))
    modes = ", ".join(f"{count} {mode}" for mode, count in sorted(report.by_mode.items()))
    print(
        f"seed {given.seed}: {report.calls} bad calls ({modes}), {report.good} good ones among them tried before; "
        f"{len(report.failures)} not answered as they should be; {seconds:.0f} s"
    )
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
