"""The thirteen properties of a layer over time, in their order, over every cell, backend and direction.

Hypothesis draws what is data: numbers, lengths, masks with gaps, resets, cuts, orders, keys, rates. Shapes and options
are few and fixed: a program is compiled once and meets all that is drawn, since compiling is what takes the time.
"""

import contextlib
import functools
import inspect
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

import lstmjax
from lstmjax import (
    Bidirectional,
    GRUForm,
    LSTMForm,
    Norm,
    Regularisers,
    RNNForm,
    RNNParams,
    SLSTMForm,
    checkpoint,
    layers,
    losses,
)
from lstmjax.models import classifier
from tests import reference
from tests.problems import CELLS, QUICK, WAYS, B, D, H, T, cast, layer, padding, problem, state_of
from tests.test_sequence import (
    both_directions,
    called,
    every_way,
    gradient,
    jitted_gradient,
    of,
    plain,
    plain_gradient,
    run,
)

# --- what is drawn ---------------------------------------------------------------------------------------------------


class Steps(NamedTuple):
    """What there is to say about steps, in the order of `plain`: which of them count, by lengths or by a mask."""

    lengths: Any
    reset: Any
    mask: Any

    def skipped(self):
        """Where [T, B] a step does not count."""
        return padding(self.lengths, T) if self.mask is None else ~self.mask


seeds = st.integers(0, 99)
flags = st_numpy.arrays(bool, (T, B))
lengths = st.lists(st.integers(0, T), min_size=B, max_size=B).map(lambda drawn: np.array(drawn, np.int32))
steps = st.builds(Steps, lengths, flags, st.none()) | st.builds(Steps, st.none(), flags, flags)
rates = st.sampled_from([0.2, 0.4, 0.7])


def examples(count):
    return hypothesis.settings(max_examples=count)


def drawn(way, seed, **kwargs):
    return of(way, seed=seed, dtype=np.float64, **kwargs)


def close(got, want, tolerance=1e-14):
    """Within rounding of float64: programs that say the same may differ in the order of a sum."""
    chex.assert_trees_all_close(got, want, rtol=tolerance, atol=tolerance)


equal = chex.assert_trees_all_equal


def stacked(trees):
    return jax.tree.map(lambda *arrays: np.stack(arrays), *trees)


# --- 1. what stands in padding ---------------------------------------------------------------------------------------


@every_way
@both_directions
@examples(10)
@given(seeds, steps)
def test_padding_is_not_read(way, reverse, seed, steps):
    """1. Whatever stands at steps that do not count, no bit of outputs, states and gradients moves; its own gradient
    is 0."""
    p, skipped = drawn(way, seed), steps.skipped()
    dirt = np.random.default_rng(seed).choice([np.nan, np.inf, -np.inf, 1e30, np.finfo(float).max], p.xs.shape)
    clean, dirty = (np.where(skipped[..., None], filling, p.xs) for filling in (0, dirt))
    want = gradient(way, reverse, p.params, clean, p.state, *steps)
    got = gradient(way, reverse, p.params, dirty, p.state, *steps._replace(reset=steps.reset ^ skipped))
    chex.assert_tree_all_finite(want)
    equal(got, want)
    np.testing.assert_array_equal(got[1][1][skipped], 0)


# --- 2. full lengths, full masks, prefixes ---------------------------------------------------------------------------


@every_way
@both_directions
@examples(5)
@given(seeds, flags)
def test_all_steps_count_without_lengths(way, reverse, seed, reset):
    """2. Lengths of T, and a mask of all steps, are as good as none."""
    p = drawn(way, seed)
    want = gradient(way, reverse, *p[:3], None, reset)
    close(gradient(way, reverse, *p[:3], np.full(B, T, np.int32), reset), want)
    close(gradient(way, reverse, *p[:3], None, reset, np.ones((T, B), bool)), want)


@every_way
@both_directions
@examples(5)
@given(seeds, lengths, flags, flags)
def test_a_mask_is_lengths_with_gaps(way, reverse, seed, lengths, reset, mask):
    """2. A mask of a prefix is its length; any other is that of the steps that count, moved to the front."""
    p = drawn(way, seed)
    want = gradient(way, reverse, *p[:3], lengths, reset)
    close(gradient(way, reverse, *p[:3], None, reset, ~padding(lengths, T)), want)
    counts = mask.sum(0, dtype=np.int32)
    state, ys = run(way, reverse, p.params, to_front(p.xs, mask), p.state, counts, to_front(reset, mask))
    got_state, got = run(way, reverse, *p[:3], None, reset, mask)
    close((got_state, to_front(got, mask)), (state, ys))
    np.testing.assert_array_equal(got[~mask], 0)


def to_front(rows, mask):
    """Each sample's rows where the mask is true, then zeros."""
    moved = np.zeros_like(rows)
    for n in range(B):
        kept = rows[mask[:, n], n]
        moved[: len(kept), n] = kept
    return moved


@every_way
@both_directions
@examples(3)
@given(seeds, flags, lengths)
def test_all_steps_count_without_lengths_to_the_bit(way, reverse, seed, reset, lengths):
    """2. Operation by operation: compiled as a whole, XLA may contract a product and a sum in one program only."""
    time = 4
    p, short = drawn(way, seed, time=time), np.minimum(lengths, time)
    options = dict(WAYS[way][1], reset=reset[:time], reverse=reverse)
    with jax.enable_x64(True), jax.disable_jit():
        want = lstmjax.run(*p[:3], **options)
        equal(lstmjax.run(*p[:3], **options, lengths=np.full(B, time)), want)
        equal(lstmjax.run(*p[:3], **options, mask=np.ones((time, B), bool)), want)
        prefix = lstmjax.run(*p[:3], **options, mask=~padding(short, time))
        equal(prefix, lstmjax.run(*p[:3], **options, lengths=short))


# --- 3. batches ------------------------------------------------------------------------------------------------------


@every_way
@both_directions
@examples(8)
@given(seeds, steps, st.permutations(range(B)))
def test_a_row_does_not_see_its_batch(way, reverse, seed, steps, order):
    """3. A row of the batch is the run of that row alone, and rows may change places."""
    p = drawn(way, seed)

    def of_rows(chosen):
        of_steps = Steps(*(None if a is None else a[..., chosen] for a in steps))
        state = jax.tree.map(lambda s: s[chosen], p.state)
        return run(way, reverse, p.params, p.xs[:, chosen], state, *of_steps)

    state, ys = of_rows(slice(None))
    for chosen in (order, order[:1]):
        of_state = type(state)(*(s[chosen] for s in state))
        close(of_rows(chosen), (of_state, ys[:, chosen]))


# --- 4. pieces of time -----------------------------------------------------------------------------------------------


@every_way
@both_directions
@examples(16)
@given(seeds, steps, st.integers(0, T))
def test_two_pieces_make_the_whole(way, reverse, seed, steps, cut):
    """4. The state handed on, lengths and masks on both sides of the cut."""
    p, state, parts = drawn(way, seed), None, [None, None]
    pieces = [slice(0, cut), slice(cut, T)]
    state = p.state
    for k in (1, 0) if reverse else (0, 1):
        here = pieces[k]
        # No resets: they go back to the initial state, which is another one for the second piece.
        if steps.mask is None:
            counts = np.clip(steps.lengths - here.start, 0, here.stop - here.start), None, None
        else:
            counts = None, None, steps.mask[here]
        state, parts[k] = run(way, reverse, p.params, p.xs[here], state, *counts)
    close((state, np.concatenate(parts)), run(way, reverse, *p[:3], *steps._replace(reset=None)))


# --- 5. reverse ------------------------------------------------------------------------------------------------------


@every_way
@examples(8)
@given(seeds, steps)
def test_reverse_is_forward_of_flipped_time(way, seed, steps):
    """5. With lengths each valid prefix is flipped, with a mask all of time."""
    p = drawn(way, seed)
    # A reset stands at its own flipped place: at the step before which it happens.
    there = Steps(steps.lengths, *(None if a is None else flipped(a, steps) for a in steps[1:]))
    state, ys = run(way, False, p.params, flipped(p.xs, steps), p.state, *there)
    close(run(way, True, *p[:3], *steps), (state, flipped(ys, steps)))


def flipped(rows, steps):
    """Each sample's steps the other way round: the valid prefix, or all of them beside a mask."""
    rows = rows.copy()
    for n, length in enumerate(steps.lengths if steps.mask is None else [T] * B):
        rows[:length, n] = rows[:length, n][::-1]
    return rows


# --- 6. pairs and stacks ---------------------------------------------------------------------------------------------


@every_way
@examples(6)
@given(seeds, steps)
def test_a_pair_is_two_runs(way, seed, steps):
    """6. The halves of a `Bidirectional` are a run forward and one in reverse."""
    p, q = drawn(way, seed), drawn(way, seed + 1)
    state, ys = run(way, False, Bidirectional(p.params, q.params), p.xs, Bidirectional(p.state, q.state), *steps)
    forward, ys_forward = run(way, False, *p[:3], *steps)
    backward, ys_backward = run(way, True, q.params, p.xs, q.state, *steps)
    close((state, ys), (Bidirectional(forward, backward), np.concatenate([ys_forward, ys_backward], -1)))


@every_way
@both_directions
@examples(6)
@given(seeds, steps)
def test_a_stack_is_its_layers_by_hand(way, reverse, seed, steps):
    """6. Each layer runs over the outputs of the one before, in reverse all of them."""
    p, q = drawn(way, seed), drawn(way, seed + 1, inputs=H)
    got = run(way, reverse, (p.params, q.params), p.xs, (p.state, q.state), *steps)
    first, ys = run(way, reverse, *p[:3], *steps)
    second, ys = run(way, reverse, q.params, ys, q.state, *steps)
    close(got, ((first, second), ys))


# --- 7. transformations and costs ------------------------------------------------------------------------------------


@every_way
@both_directions
@examples(2)
@given(seeds, steps)
def test_jit_or_no_jit(way, reverse, seed, steps):
    """7. Values without jit, which compile anew at each call."""
    p = drawn(way, seed)
    close(called(plain(way, reverse), *p[:3], *steps), run(way, reverse, *p[:3], *steps))


@every_way
@both_directions
@examples(5)
@given(st.lists(seeds, min_size=3, max_size=3), flags, flags)
def test_vmap_over_models_is_a_loop(way, reverse, seeds, reset, mask):
    """7. An ensemble: other weights, other states, the same inputs."""
    problems = [drawn(way, seed) for seed in seeds]
    params, state = (stacked([getattr(p, field) for p in problems]) for field in ("params", "state"))
    xs, steps = problems[0].xs, Steps(None, reset, mask)
    loop = [gradient(way, reverse, p.params, xs, p.state, *steps) for p in problems]
    close(called(ensemble(way, reverse), params, xs, state, *steps), stacked(loop), 1e-13)


@functools.cache
def ensemble(way, reverse):
    axes = (0, None, 0, None, None, None)
    return jax.jit(jax.vmap(plain_gradient(way, reverse), axes), compiler_options=QUICK)


# What keeps less in the backward pass: a number of steps that divides T, one that does not, one above T.
REMATS = [("checkpoint", False), (True, True), (1, False), (2, True), (T + 9, True)]


@pytest.mark.parametrize("way", [way for way in WAYS if "associative" not in way])
@pytest.mark.parametrize(("remat", "reverse"), REMATS)
@examples(4)
@given(seeds, flags, flags)
def test_remat_or_no_remat(way, remat, reverse, seed, reset, mask):
    """7. Values and gradients are those without."""
    p, steps = drawn(way, seed), Steps(None, reset, mask)
    got = called(frugal(way, remat, reverse), *p[:3], *steps)
    close(got, gradient(way, reverse, *p[:3], *steps), 1e-13)


@functools.cache
def frugal(way, remat, reverse):
    if remat == "checkpoint":
        return jax.jit(jax.checkpoint(plain_gradient(way, reverse)), compiler_options=QUICK)
    # A chunk and a number of steps to keep would say the same thing twice.
    without_chunk = {"chunk": None} if "fused" in way and remat is not True else {}
    return jitted_gradient(way, reverse, remat=remat, **without_chunk)


@pytest.mark.parametrize("way", [way for way in WAYS if "fused" in way])
@pytest.mark.parametrize(("chunk", "reverse"), [(None, True), (1, False), (2, True), (T, False), (T + 9, True)])
@examples(4)
@given(seeds, steps)
def test_chunks_of_any_size_agree(way, chunk, reverse, seed, steps):
    """7. The chunk of `WAYS`, which does not divide T, and others."""
    p = drawn(way, seed)
    close(gradient(way, reverse, *p[:3], *steps, chunk=chunk), gradient(way, reverse, *p[:3], *steps), 1e-13)


# --- 8. neutral weights ----------------------------------------------------------------------------------------------


def zeros(name, *shape):
    """A weight of zeros in the place of none."""
    return lambda params: (params._replace(**{name: None}), params._replace(**{name: np.zeros(shape)}))


def form(given):
    """A form that says what is so anyway."""
    return lambda params: (params, params._replace(form=given))


def projected(params):
    neutral = params._replace(projection=np.eye(H), projection_b=np.zeros(H), form=LSTMForm(clip_projection=1e30))
    return params, neutral


def all_at_once(params):
    _, neutral = projected(params)
    bounds = dict(clip=1e30, clip_cell=1e30, clip_projection=1e30)
    return params, neutral._replace(peephole=np.zeros(3 * H), form=LSTMForm(**bounds))


def shifted(params):
    """Layer norms without shifts, and with shifts of zeros."""

    def having(shift):
        norms = [norm and Norm(norm.scale, shift(norm.scale)) for norm in params.norm]
        return params._replace(norm=type(params.norm)(*norms))

    return having(lambda _: None), having(np.zeros_like)


def one_head(params):
    """Heads are blocks on the diagonal of one w_h."""
    heads, size, _ = params.w_h.shape
    w_h = np.zeros((heads, size, 4, heads, size))
    for k in range(heads):
        w_h[k, :, :, k] = params.w_h[k].reshape(size, 4, size)
    return params, params._replace(w_h=w_h.reshape(H, 4 * H))


# (cell, what is said twice) -> a function of params to (plain, neutral).
FUSED = {
    "b": zeros("b", 4 * H),
    "form": form(LSTMForm()),
    "epsilon of no norm": form(LSTMForm(epsilon=0.1)),
}
NEUTRAL = {
    "lstm": {
        **FUSED,
        "peephole": zeros("peephole", 3 * H),
        "projection": projected,
        "bounds": form(LSTMForm(clip=1e30, clip_cell=1e30)),
        "activations": form(LSTMForm(activations=(jax.nn.sigmoid, ("scaled_tanh", 1.0, 1.0), jnp.tanh))),
        "all": all_at_once,
    },
    "lstm-everything": {
        "b": zeros("b", 3 * (H + 1)),
        "peephole": zeros("peephole", 2 * (H + 1)),
        "projection_b": zeros("projection_b", H),
        "shifts": shifted,
    },
    "gru": {"b": zeros("b", 3 * H), "b_n": zeros("b_n", H), "form": form(GRUForm())},
    "gru-before": {"b": zeros("b", 3 * H)},
    "rnn": {"b": zeros("b", H), "form": form(RNNForm())},
    "minlstm": {"b": zeros("b", 3 * H), "form": form(None)},
    "slstm": {"b": zeros("b", 4 * H), "form": form(SLSTMForm()), "heads": one_head},
}
NEUTRAL_WAYS = [
    (way, name) for way, (cell, _) in WAYS.items() for name in NEUTRAL[cell] if "fused" not in way or name in FUSED
]


@pytest.mark.parametrize(("way", "name"), NEUTRAL_WAYS)
@examples(4)
@given(seeds, steps)
def test_neutral_weights_change_nothing(way, name, seed, steps):
    """8. Weights of zeros, projections that are the identity, bounds that are not met, forms that are the default."""
    p = drawn(way, seed)
    params, neutral = NEUTRAL[WAYS[way][0]][name](p.params)
    (_, want), (d_params, *rest) = gradient(way, False, params, *p[1:3], *steps)
    (_, got), (d_neutral, *rest_neutral) = gradient(way, False, neutral, *p[1:3], *steps)
    close(got, want)
    close(rest_neutral, rest, 1e-13)
    # Of the weights, those that both have.
    both = weights_by_name(d_neutral), weights_by_name(d_params)
    for name in both[0].keys() & both[1].keys():
        close(both[0][name], both[1][name], 1e-13)


def weights_by_name(tree):
    return {(jax.tree_util.keystr(path), leaf.shape): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


# --- 9. dtypes -------------------------------------------------------------------------------------------------------

DTYPES = ["float32", "bfloat16", "float16", "float64"]


@every_way
@pytest.mark.parametrize("dtype", DTYPES)
@examples(3)
@given(st.sampled_from(DTYPES), st.sampled_from(DTYPES), st.sampled_from(["zero", "hold"]), st.booleans(), steps)
def test_dtype_in_is_dtype_out(way, dtype, weights, of_state, padding, reverse, steps):
    """9. ys has the dtype of xs, a gradient that of its argument, the state float32 or wider."""
    with jax.enable_x64("float64" in (dtype, weights)):
        p, wide = of(way), jnp.dtype("float64" if dtype == "float64" else "float32")
        state = cast(p.state, wide if of_state == "float64" else jnp.dtype(of_state))
        args = cast(p.params, jnp.dtype(weights)), cast(p.xs, jnp.dtype(dtype)), state
        found = jax.eval_shape(plain_gradient(way, reverse, padding=padding), *args, *steps)
        (_, (after, ys)), gradients = found
        assert ys.dtype == dtype
        assert {s.dtype for s in after} == {wide}
        assert dtypes(gradients) == dtypes(args)


def dtypes(tree):
    return jax.tree.map(lambda a: a.dtype, tree)


# --- 10. abstract values ---------------------------------------------------------------------------------------------


def public():
    """The full names of all public functions that take arrays."""
    found = {}
    for module in (lstmjax, layers, losses, classifier):
        for name, value in vars(module).items():
            here = module is lstmjax or value.__module__ == module.__name__ if inspect.isfunction(value) else False
            if here and not name.startswith("_"):
                found[f"{module.__name__}.{name}"] = value
    return found


class Abstract(NamedTuple):
    """What the public functions are called on: one cell, in a stack of two where they take stacks."""

    kind: str  # lstm of init_lstm
    params: Any
    state: Any
    x: Any  # [*batch, D]
    stack: Any
    stack_state: Any
    xs: Any  # [T, *batch, D]
    ys: Any  # [T, *batch, H]
    key: Any


def init(a):
    like = problem(a.kind).params._replace(form=None)
    heads = {"heads": len(like.w_h)} if a.kind == "slstm" else {}
    return functools.partial(getattr(lstmjax, f"init_{a.kind}"), inputs=D, hidden=H, **heads), (a.key,), like


def asked(question):
    """A question about arrays whose answer is none."""

    def row(a):
        def ask(params, xs):
            assert question(params, xs)
            return xs

        return ask, (a.stack, a.xs), a.xs

    return row


def truncated(a):
    def loss(params, xs, state):
        state, ys = lstmjax.run(params, xs, state)
        return ys.sum(), state

    want = (np.float32(0), a.stack_state), a.stack
    return lstmjax.truncated_value_and_grad(loss, 3), (a.stack, a.xs, a.stack_state), want


def of_classifier(function, *args, want):
    """The row of a function of a classifier of 9 words and 2 classes."""

    def row(a):
        params = jax.eval_shape(functools.partial(classifier.init, vocabulary=9, classes=2), a.key)
        return function, (params, *args), want

    return row


IDS, LENGTHS = np.zeros((B, T), np.int32), np.zeros(B, np.int32)
BATCH = classifier.Batch(IDS, LENGTHS, LENGTHS, np.zeros(B, np.float32))
SCALAR = np.float32(0)
KINDS = {"lstm", "gru", "rnn", "minlstm", "slstm"}
# Full name -> Abstract -> (function, arguments, what has the shapes and dtypes of the result).
ABSTRACT = {
    **{f"lstmjax.init_{kind}": init for kind in KINDS},
    **{
        f"lstmjax.{kind}_step": lambda a: (
            getattr(lstmjax, f"{a.kind}_step"),
            (a.params, a.state, a.x),
            (a.state, a.state.h),
        )
        for kind in KINDS
    },
    **{
        f"lstmjax.{kind}_gates": lambda a: (
            getattr(lstmjax, f"{a.kind}_gates"),
            (a.params, a.state, a.x),
            reference.CELLS[type(a.params)].gates(*[a.state[-1]] * len(reference.CELLS[type(a.params)].gates._fields)),
        )
        for kind in KINDS - {"rnn"}
    },
    "lstmjax.run": lambda a: (lstmjax.run, (a.stack, a.xs, a.stack_state), (a.stack_state, a.ys)),
    "lstmjax.step": lambda a: (lstmjax.step, (a.stack, a.stack_state, a.x), (a.stack_state, a.ys[0])),
    "lstmjax.trace": lambda a: (
        lambda *args: [states for states, _ in lstmjax.trace(*args)],
        (a.stack, a.xs, a.stack_state),
        [jax.tree.map(lambda s: np.stack([s] * T), state) for state in a.stack_state],
    ),
    "lstmjax.checkify": lambda a: (
        lambda *args: lstmjax.checkify(lstmjax.run)(*args)[1],
        (a.stack, a.xs, a.stack_state),
        (a.stack_state, a.ys),
    ),
    "lstmjax.choose": asked(lstmjax.choose),
    "lstmjax.reasons": asked(lstmjax.reasons),
    "lstmjax.init_state": lambda a: (
        functools.partial(lstmjax.init_state, batch=a.x.shape[:-1]),
        (a.stack,),
        a.stack_state,
    ),
    "lstmjax.truncated_value_and_grad": truncated,
    "lstmjax.split_batch": lambda a: (functools.partial(lstmjax.split_batch, axis=1), (a.xs,), a.xs),
    "lstmjax.layers.init_linear": lambda a: (
        functools.partial(layers.init_linear, inputs=D, outputs=2),
        (a.key,),
        layers.Linear(np.zeros((D, 2), np.float32), np.zeros(2, np.float32)),
    ),
    "lstmjax.layers.linear": lambda a: (
        layers.linear,
        (layers.Linear(np.eye(D, dtype=np.float32), np.zeros(D, np.float32)), a.xs),
        a.xs,
    ),
    "lstmjax.layers.init_embedding": lambda a: (
        functools.partial(layers.init_embedding, vocabulary=9, features=D),
        (a.key,),
        np.zeros((9, D), np.float32),
    ),
    "lstmjax.layers.embed": lambda a: (
        layers.embed,
        (np.zeros((9, D), np.float32), np.zeros(a.xs.shape[:-1], np.int32)),
        a.xs,
    ),
    "lstmjax.layers.check_ids": lambda a: (functools.partial(layers.check_ids, "ids", size=9), (IDS,), None),
    "lstmjax.layers.dropout": lambda a: (layers.dropout, (a.key, SCALAR, a.xs), a.xs),
    "lstmjax.layers.attend": lambda a: (
        layers.attend,
        (np.zeros(D, np.float32), np.zeros((T, D), np.float32), np.ones(T, bool)),
        (np.zeros(D, np.float32), np.zeros(T, np.float32)),
    ),
    "lstmjax.losses.cross_entropy": lambda a: (
        losses.cross_entropy,
        (a.ys, np.zeros(a.ys.shape[:-1], np.int32)),
        SCALAR,
    ),
    "lstmjax.losses.binary_cross_entropy": lambda a: (losses.binary_cross_entropy, (a.ys, a.ys), SCALAR),
    "lstmjax.losses.squared_error": lambda a: (losses.squared_error, (a.ys, a.ys), SCALAR),
    "lstmjax.losses.activation_penalty": lambda a: (losses.activation_penalty, (a.ys,), SCALAR),
    "lstmjax.losses.temporal_activation_penalty": lambda a: (losses.temporal_activation_penalty, (a.ys,), SCALAR),
    "lstmjax.models.classifier.init": lambda a: (
        functools.partial(classifier.init, vocabulary=9, classes=2, embedding=D, hidden=H, cell="rnn"),
        (a.key,),
        classifier.Params(
            np.zeros((9, D), np.float32),
            (Bidirectional(problem("rnn").params, problem("rnn").params),),
            layers.Linear(np.zeros((2 * H, 2), np.float32), np.zeros(2, np.float32)),
        ),
    ),
    "lstmjax.models.classifier.encode": of_classifier(
        classifier.encode, IDS[0], LENGTHS[0], want=np.zeros(128, np.float32)
    ),
    "lstmjax.models.classifier.apply": of_classifier(classifier.apply, IDS, LENGTHS, want=np.zeros((B, 2), np.float32)),
    "lstmjax.models.classifier.loss": of_classifier(classifier.loss, BATCH, want=SCALAR),
    "lstmjax.models.classifier.predict": of_classifier(
        classifier.predict, IDS, LENGTHS, want=np.zeros((B, 2), np.float32)
    ),
}


@pytest.mark.parametrize("name", sorted(public()))
@examples(6)
@given(st.data())
def test_every_public_function_has_an_abstract_value(name, data):
    """10. `eval_shape` of all of them: float32 in, float32 out, whether 64-bit types are on or not. A function without
    a row in the table fails."""
    kind = next((part for part in name.rpartition(".")[2].split("_") if part in KINDS), None)
    cell = data.draw(st.sampled_from([cell for cell in CELLS if kind in (None, cell.partition("-")[0])]))
    batch = data.draw(st.sampled_from([(), (2,), (3, 2)]))
    rng = np.random.default_rng(0)
    params, above = (layer(rng, cell, inputs, H, np.float32) for inputs in (D, H))
    state, state_above = (state_of(rng, part, batch, np.float32) for part in (params, above))
    x, y = np.zeros((*batch, D), np.float32), np.zeros((*batch, H), np.float32)
    xs, ys = np.stack([x] * T), np.stack([y] * T)
    with jax.enable_x64(data.draw(st.booleans())):
        a = Abstract(kind, params, state, x, (params, above), (state, state_above), xs, ys, jax.random.key(0))
        function, args, want = ABSTRACT[name](a)
        chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(function, *args), want)


# --- 11. purity ------------------------------------------------------------------------------------------------------


@every_way
@both_directions
@examples(4)
@given(seeds, steps)
def test_same_call_same_bits(way, reverse, seed, steps):
    """11. Under jit, of NumPy's arrays and of JAX's, which are neither written nor donated."""
    args = *drawn(way, seed)[:3], *steps
    unchanged(jitted_gradient(way, reverse), args)


@every_way
@examples(2)
@given(seeds, steps)
def test_same_call_same_bits_without_jit(way, seed, steps):
    """11. Likewise without jit, where a donation inside the library would be one."""
    unchanged(plain(way), (*drawn(way, seed)[:3], *steps))


def unchanged(function, args):
    """Calls twice on each kind of array."""
    with jax.enable_x64(True):
        before, on_device = jax.tree.map(np.copy, args), jax.tree.map(jnp.asarray, args)
        first, second, third = (jax.device_get(function(*these)) for these in (on_device, on_device, args))
    equal(first, second)
    equal(first, third)
    equal(jax.device_get(on_device), before)
    equal(args, before)


# --- 12. random keys -------------------------------------------------------------------------------------------------

KEYS = 32  # at once, where masks are counted


def useful(way):
    """The regularisers that this way can have."""
    cell, options = WAYS[way]
    fields = {"inputs"}
    if cell != "minlstm":
        fields |= {"recurrent", "weights"}
    if options["backend"] == "scan":
        fields |= {"zoneout_h"} | ({"zoneout_c"} if cell.startswith("lstm") else set())
    return fields


def ways_with(field):
    return pytest.mark.parametrize("way", [way for way in WAYS if field in useful(way)])


def plain_noisy(way, reverse):
    """`plain_gradient` of (params, xs, state, lengths, reset, mask, rates, key); rates by the names of regularisers."""

    def loss(params, xs, state, lengths, reset, mask, rates, key):
        options = dict(lengths=lengths, reset=reset, mask=mask, regularisers=Regularisers(**rates), key=key)
        state, ys = lstmjax.run(params, xs, state, reverse=reverse, **options, **WAYS[way][1])
        return reference.scalar(state, ys), (state, ys)

    return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)


@functools.cache
def noisy(way, reverse):
    return jax.jit(plain_noisy(way, reverse), compiler_options=QUICK)


@functools.cache
def noisy_keys(way, reverse):
    return jax.jit(jax.vmap(plain_noisy(way, reverse), (*[None] * 7, 0)), compiler_options=QUICK)


def all_rates(way, given):
    """What is given, and zeros for all else: rates are data, so that one program does for all of them."""
    return {field: np.float32(given.get(field, 0)) for field in sorted(useful(way))}


def with_keys(way, reverse, p, seed, steps=(None, None, None), **given):
    """The results and gradients of as many keys, the keys' axis first."""
    args = *p[:3], *steps, all_rates(way, given), keys_of(seed)
    return called(noisy_keys(way, reverse), *args)


def keys_of(seed, count=KEYS):
    return jax.random.split(jax.random.key(seed), count)


def dropped(rows, kept, rate):
    """What dropout leaves of an array."""
    return np.where(kept, rows / (1 - np.float64(np.float32(rate))), 0)  # as it is handed in


def near(kept, rate):
    """As often true as can be told from so many draws: within five standard deviations."""
    assert abs(kept.mean() - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / kept.size)


def differ(kept, axis):
    """Some draws along an axis are unlike the first."""
    assert (kept != kept.take([0], axis)).any()


@every_way
@both_directions
@examples(4)
@given(seeds, steps)
def test_rates_of_zero_are_no_regularisers(way, reverse, seed, steps):
    """12. They need no key, even in training, and use none that is given; traced zeros likewise."""
    p = drawn(way, seed)
    want = run(way, reverse, *p[:3], *steps)
    equal(run(way, reverse, *p[:3], *steps, regularisers=Regularisers(), training=True), want)
    equal(called(keyed(way, reverse), *p[:3], *steps, jax.random.key(seed)), want)
    _, results = called(noisy(way, reverse), *p[:3], *steps, all_rates(way, {}), jax.random.key(seed))[0]
    close(results, want)


@functools.cache
def keyed(way, reverse):
    """A run that has a key for nothing."""

    def function(*args):
        return plain(way, reverse, regularisers=Regularisers(), key=args[-1])(*args[:-1])

    return jax.jit(function, compiler_options=QUICK)


@every_way
@both_directions
@examples(4)
@given(seeds, steps, st.data())
def test_same_key_same_draws(way, reverse, seed, steps, data):
    """12. Another key, other draws; keys may be mapped over."""
    p = drawn(way, seed)
    given = {field: data.draw(rates) for field in sorted(useful(way))}
    many = with_keys(way, reverse, p, seed, steps, **given)
    equal(with_keys(way, reverse, p, seed, steps, **given), many)
    for k, key in enumerate(keys_of(seed)[:2]):
        one = called(noisy(way, reverse), *p[:3], *steps, all_rates(way, given), key)
        close(one, jax.tree.map(lambda a, k=k: a[k], many), 1e-13)
    (_, (_, ys)), _ = many
    if not steps.skipped().all():
        assert len(np.unique(ys.reshape(KEYS, -1), axis=0)) > 1  # where one step counts, few draws differ


@every_way
@examples(2)
@given(seeds, rates)
def test_a_key_draws_the_same_without_jit(way, seed, rate):
    """12. Under jit or not."""
    p, key = drawn(way, seed), jax.random.key(seed)
    given = all_rates(way, dict.fromkeys(useful(way), rate))
    options = WAYS[way][1] | dict(regularisers=Regularisers(**given), key=key)
    with jax.enable_x64(True):
        got = lstmjax.run(*p[:3], **options)
    (_, want), _ = called(noisy(way, False), *p[:3], None, None, None, given, key)
    close(jax.device_get(got), want)


@every_way
@both_directions
@examples(3)
@given(seeds, rates)
def test_inputs_are_dropped_for_a_sequence(way, reverse, seed, rate):
    """12. The same features at every step, others in each sequence, the rest scaled up."""
    p = drawn(way, seed)
    (_, results), (_, d_xs, _) = with_keys(way, reverse, p, seed, inputs=rate)
    kept = (d_xs != 0).any(1)  # [KEYS, B, D]: what is dropped has no gradient
    for k in range(3):
        want = run(way, reverse, p.params, dropped(p.xs, kept[k], rate), p.state)
        close(jax.tree.map(lambda a, k=k: a[k], results), want, 1e-13)
    near(kept, rate)
    differ(kept, 0)
    differ(kept, 1)


@ways_with("weights")
@both_directions
@examples(3)
@given(seeds, rates)
def test_weights_are_dropped_for_a_call(way, reverse, seed, rate):
    """12. The same entries of w_h in all sequences and steps, the rest scaled up."""
    p = drawn(way, seed)
    (_, results), (d_params, _, _) = with_keys(way, reverse, p, seed, weights=rate)
    kept = d_params.w_h != 0
    for k in range(3):
        params = p.params._replace(w_h=dropped(p.params.w_h, kept[k], rate))
        close(jax.tree.map(lambda a, k=k: a[k], results), run(way, reverse, params, *p[1:3]), 1e-13)
    near(kept, rate)
    differ(kept, 0)


@ways_with("recurrent")
@both_directions
@examples(3)
@given(seeds, rates)
def test_h_is_dropped_for_a_sequence(way, reverse, seed, rate):
    """12. The same units at every step, others in each sequence: the rows of w_h that meet them are gone for it."""
    p = drawn(way, seed)
    (_, (_, ys)), _ = with_keys(way, reverse, p, seed, recurrent=rate)
    # All the masks that there are for the units of one sequence, [2**H, H], and what each would come to.
    masks = (np.arange(2**H)[:, None] >> np.arange(H)) % 2 == 1
    rows = masks.reshape(-1, *p.params.w_h.shape[:-1], 1)
    possible = called(other_weights(way, reverse), *p[:3], dropped(p.params.w_h, rows, rate))
    misses = np.abs(ys[:, None] - possible).max((2, 4))  # [KEYS, 2**H, B]
    assert ((misses < 1e-12).sum(1) == 1).all()
    kept = masks[misses.argmin(1)]  # [KEYS, B, H]
    near(kept, rate)
    differ(kept, 0)
    differ(kept, 1)


@functools.cache
def other_weights(way, reverse):
    """Outputs of (params, xs, state, w_h) for many a w_h."""

    def function(params, xs, state, w_h):
        return plain(way, reverse)(params._replace(w_h=w_h), xs, state)[1]

    return jax.jit(jax.vmap(function, (None, None, None, 0)), compiler_options=QUICK)


@ways_with("zoneout_h")
@both_directions
@examples(3)
@given(seeds, rates, rates)
def test_zoneout_keeps_units_as_they_are(way, reverse, seed, rate_h, rate_c):
    """12. A unit that is kept has the bits of the step before, any other those of a step; anew at each step. Without
    training, with a key or without, each has its share of both."""
    p = drawn(way, seed)
    given = {"zoneout_h": rate_h, "zoneout_c": rate_c}
    given = {field: np.float32(rate) for field, rate in given.items() if field in useful(way)}
    states = called(trajectories(way, reverse, True), *p[:3], given, keys_of(seed, 8))
    expected = called(trajectories(way, reverse, False), *p[:3], given, keys_of(seed, 8))
    quiet = called(trajectories(way, reverse, None), *p[:3], given)
    equal(expected, jax.tree.map(lambda s: np.stack([s] * 8), quiet))
    for field, before, after, new in transitions(p, reverse, states):
        kept = after == before
        rate = given.get(f"zoneout_{field}")
        if rate is None:
            close(after, new, 1e-13)
            continue
        np.testing.assert_allclose(np.where(kept, 0, after - new), 0, rtol=0, atol=1e-13)
        # Where a step leaves a unit as it is, at a bound, one cannot tell.
        near(~kept[np.abs(new - before) > 1e-9], rate)
        for axis in range(3):
            differ(kept, axis)
    for field, before, after, new in transitions(p, reverse, quiet):
        rate = np.float64(given.get(f"zoneout_{field}", 0))
        close(after, rate * before + (1 - rate) * new, 1e-13)


@functools.cache
def trajectories(way, reverse, training):
    """The states after 0, 1, ... T steps, [T + 1, B, H] each, of (params, xs, state, rates), or for each key of
    (params, xs, state, rates, keys)."""

    def states(params, xs, state, rates, key):
        def after(count):
            step = jnp.arange(T - 1, -1, -1) if reverse else jnp.arange(T)
            mask = jnp.broadcast_to((step < count)[:, None], (T, B))
            options = dict(mask=mask, regularisers=Regularisers(**rates), key=key, training=training)
            return lstmjax.run(params, xs, state, reverse=reverse, **options, **WAYS[way][1])[0]

        return jax.vmap(after)(jnp.arange(T + 1))

    if training is None:
        return jax.jit(functools.partial(states, key=None), compiler_options=QUICK)
    return jax.jit(jax.vmap(states, (None, None, None, None, 0)), compiler_options=QUICK)


def transitions(p, reverse, states):
    """For each field of the state: its name, its values before and after the steps of trajectories, and what a plain
    step would make of those before."""
    before, after = (
        jax.tree.map(lambda s, part=part: s[..., part, :, :], states) for part in (slice(T), slice(1, None))
    )
    xs = np.broadcast_to(p.xs[::-1] if reverse else p.xs, (*before.h.shape[:-1], D))
    with jax.enable_x64(True):
        new, _ = jax.device_get(lstmjax.step(p.params, before, xs))
    return zip(states._fields, before, after, new, strict=True)


@every_way
def test_training_needs_a_key(way):
    """12. A rate above 0 in training without a key is refused."""
    p = of(way)
    for field in useful(way):
        with pytest.raises(ValueError, match="key should be a PRNG key"):
            lstmjax.run(*p[:3], regularisers=Regularisers(**{field: 0.1}), training=True, **WAYS[way][1])


# A layer whose outputs are its inputs, that what was dropped of them shows.
MIRROR = RNNParams(np.eye(H), np.zeros((H, H)), None, RNNForm("identity"))


@pytest.mark.parametrize("cell", CELLS)
@both_directions
@examples(3)
@given(seeds, rates)
def test_outputs_are_dropped_between_layers(cell, reverse, seed, rate):
    """12. Others at every step and in each sequence; and none after the last layer."""
    p = problem(cell, dtype=np.float64, seed=seed)
    args = p.xs, np.float32(rate), keys_of(seed)
    ys = called(between(reverse, 1), p.params, *args)  # a single layer has nothing between
    above = called(between(reverse, 2), (p.params, MIRROR), *args)
    kept = above != 0
    close(above, dropped(ys, kept, rate))
    equal(ys, np.stack([called(between(reverse, 0), p.params, p.xs, np.float32(rate))] * KEYS))
    near(kept, rate)
    for axis in range(3):
        differ(kept, axis)


@functools.cache
def between(reverse, count):
    """The outputs of (params, xs, rate, keys); of (params, xs, rate), if the count of layers is 0."""

    def ys(params, xs, rate, key=None):
        return lstmjax.run(params, xs, reverse=reverse, regularisers=Regularisers(between=rate), key=key)[1]

    return jax.jit(ys if count == 0 else jax.vmap(ys, (None, None, None, 0)), compiler_options=QUICK)


@examples(5)
@given(seeds, rates)
def test_layers_draw_for_themselves(seed, rate):
    """12. The directions of a pair, and the layers of a stack."""
    xs = np.random.default_rng(seed).normal(size=(T, B, H))

    def kept(params):
        return called(mirrored, params, xs, np.float32(rate), keys_of(seed)) != 0

    alone, pair, stack = kept(MIRROR), kept(Bidirectional(MIRROR, MIRROR)), kept((MIRROR, MIRROR))
    near(alone[:, 0], rate)
    forward, backward = np.split(pair, 2, -1)
    near(forward[:, 0], rate)
    near(backward[:, 0], rate)
    # As often alike as two that know nothing of each other.
    near(forward[:, 0] == backward[:, 0], 2 * rate * (1 - rate))
    near(stack[:, 0], 1 - (1 - rate) ** 2)


@functools.partial(jax.jit, compiler_options=QUICK)
@functools.partial(jax.vmap, in_axes=(None, None, None, 0))
def mirrored(params, xs, rate, key):
    return lstmjax.run(params, xs, regularisers=Regularisers(inputs=rate), key=key)[1]


# --- 13. saving ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
@examples(8)
@given(seeds, st.sampled_from(DTYPES), st.booleans())
def test_saved_and_loaded_and_saved_is_the_same_bytes(cell, seed, dtype, bias):
    """13. Of a layer, and of a stack that holds it twice."""
    rng = np.random.default_rng(seed)
    alone, first, second = (layer(rng, cell, D, H, jnp.dtype(dtype), bias) for _ in range(3))
    for params in (alone, (Bidirectional(first, second), alone)):
        with contextlib.ExitStack() as stack:
            stack.enter_context(jax.enable_x64(dtype == "float64"))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            written = checkpoint.save(folder / "first", params, {"seed": seed})
            found, about = checkpoint.load(written, lambda about, params=params: jax.eval_shape(lambda: params))
            again = checkpoint.save(folder / "second", found, about)
            equal(jax.device_get(found), params)
            assert jax.tree.structure(found) == jax.tree.structure(params)
            assert contents(again) == contents(written)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}
