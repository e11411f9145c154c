"""Break the library on purpose, in one place at a time, and see that the tests notice.

    python -m tests.mutants [NAME ...] [--list] [--jobs N] [--no-baseline]

A mutant is one edit of one file. Each is made in a copy of the library and of the tests in a temporary folder, where
the narrowest tests that should notice are run. A mutant that they let pass has survived: a test is missing. Before that
the same tests are run with nothing broken, since a test that fails by itself catches everything.

Exit codes: 0, all are caught; 1, some survived; 2, nothing can be said: a mutant whose text is not in its file any
more, a test that is not there or fails unbroken, a copy that cannot be imported.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutant(NamedTuple):
    """A way to break the library."""

    name: str
    broken: str  # what, in a few words
    file: str  # within lstmjax
    old: str  # the text, which is in the file once
    new: str  # what stands in its place
    tests: tuple[str, ...]  # which should notice, as pytest names them, within tests


def of(file: str, *rows: tuple[str, ...]) -> list[Mutant]:
    """The mutants of a file, from rows of name, what is broken, old, new, tests."""
    return [Mutant(name, broken, file, old, new, tuple(tests)) for name, broken, old, new, *tests in rows]


# --- the tests, by what is asked of them -----------------------------------------------------------------------------


def step(cell):
    return f"test_cells.py::test_step_equals_numpy[True-{cell}]"


def variant(name):
    return f"test_variants.py::test_variant_equals_numpy[{name}]"


def over_time(way):
    return f"test_sequence.py::test_equals_numpy[{way}]"


def property_of(test, way):
    return f"test_properties.py::test_{test}[{way}]"


def padding_of(way):
    return property_of("padding_is_not_read", way)


def refused(row):
    return f"test_bad_input.py::test_refused[{row}]"


def as_scan(case):
    return f"test_backends.py::test_equals_scan_in_every_combination[{case}]"


def losses(test):
    return f"test_losses_metrics.py::{test}"


def chain(test):
    return f"test_crf.py::{test}"


def tagged(test):
    return f"test_tagger.py::{test}"


def decoded(test):
    return f"test_decoding.py::{test}"


def attending(test):
    return f"test_seq2seq.py::{test}"


HUGE = "test_variants.py::test_huge_inputs_give_finite_numbers"
EQUAL = "test_variants.py::test_layer_norm_of_equal_numbers"
APART = "test_cells.py::test_init_draws_every_weight_of_a_key_apart"
REMAT = "test_memory.py::test_remat_changes_nothing"
WINDOWS = "test_memory.py::test_truncation_is_the_sum_of_windows"

# --- the mutants -----------------------------------------------------------------------------------------------------

CELLS = [
    *of(
        "cells/lstm.py",
        (
            "lstm-i-f-swapped",
            "the columns of i and f change places",
            'GATES = {None: "ifgo"',
            'GATES = {None: "figo"',
            step("lstm"),
        ),
        (
            "lstm-g-o-swapped",
            "the columns of g and o change places",
            'GATES = {None: "ifgo"',
            'GATES = {None: "ifog"',
            step("lstm"),
        ),
        (
            "lstm-cell-crossed",
            "c' = i c + f g",
            "bounded(f * state.c + i * g,",
            "bounded(i * state.c + f * g,",
            step("lstm"),
        ),
        (
            "lstm-coupled-f",
            "f = i where it should be 1 - i",
            'f = gate("f", act, state.c) if form.coupling is None else 1 - i',
            'f = gate("f", act, state.c) if form.coupling is None else i',
            variant("f=1-i"),
        ),
        (
            "lstm-coupled-i",
            "i = 1 - f with the two changed about",
            'f = gate("f", act, state.c)\n        i = 1 - f',
            'i = gate("f", act, state.c)\n        f = 1 - i',
            variant("i=1-f"),
        ),
        (
            "lstm-peephole-old-cell",
            "o sees the cell before the step",
            'o = gate("o", act, c) if o is None else o',
            'o = gate("o", act, state.c) if o is None else o',
            variant("peephole"),
        ),
        (
            "lstm-peephole-order",
            "peepholes in the order o, f, i",
            'peepholes = _blocks(names.replace("g", ""), params.peephole)',
            'peepholes = _blocks(names.replace("g", "")[::-1], params.peephole)',
            variant("peephole"),
        ),
        (
            "lstm-bias-normed",
            "the bias goes in before the norm of the gates",
            "z = biased(normed(Norm(scales[k], shifts.get(k)), z, form.epsilon), biases.get(k))",
            "z = normed(Norm(scales[k], shifts.get(k)), biased(z, biases.get(k)), form.epsilon)",
            variant("norm of gates, scale"),
        ),
        (
            "lstm-norm-x-h",
            "x W_x has the scales of h W_h",
            "from_x = normed(norm.x, from_x, form.epsilon)",
            "from_x = normed(norm.h or norm.x, from_x, form.epsilon)",
            variant("norm of x, h and cell"),
        ),
        (
            "lstm-epsilon",
            "epsilon is what it is by default",
            "z, form.epsilon), biases.get(k))",
            "z, 1e-5), biases.get(k))",
            variant("epsilon"),
        ),
        (
            "lstm-normed-cell",
            "normed_cell is not looked at",
            'c = c_out if form.normed_cell == "state" else c',
            "c = c_out",
            variant("norm of the output"),
        ),
        (
            "lstm-clip-gate",
            "clip bounds what comes out of the activations",
            "return act(bounded(z, form.clip))",
            "return bounded(act(z), form.clip)",
            variant("clip"),
        ),
        (
            "lstm-clip-output",
            "clip leaves the last activation out",
            "act_c(bounded(c_out, form.clip))",
            "act_c(c_out)",
            variant("clip"),
        ),
        (
            "lstm-clip-cell",
            "clip_cell bounds what is added to the cell",
            "c = bounded(f * state.c + i * g, form.clip_cell)",
            "c = f * state.c + bounded(i * g, form.clip_cell)",
            variant("clip of the cell"),
        ),
        (
            "lstm-projection-bias",
            "the bias of the projection is dropped",
            "h = biased(dot(h, params.projection, dtype, wide, how.precision), params.projection_b)",
            "h = dot(h, params.projection, dtype, wide, how.precision)",
            variant("wide projection"),
        ),
        (
            "lstm-clip-projection",
            "the projection is not bounded",
            "h = bounded(h, form.clip_projection)",
            "h = bounded(h, None)",
            variant("clip of the projection"),
        ),
        (
            "lstm-forget-bias",
            "the forget bias stands in the block of g",
            'start = max(names.find("f"), 0) * hidden',
            'start = max(names.find("g"), 0) * hidden',
            "test_cells.py::test_forget_bias[lstm]",
        ),
        (
            "lstm-forget-sign",
            "where f = 1 - i the input gate is the one that is open at first",
            'sign = 1 if "f" in names else -1',
            "sign = 1",
            "test_cells.py::test_the_forget_gate_is_open_at_first",
        ),
        (
            "lstm-epsilon-is-a-variant",
            "fused refuses a plain LSTM for an epsilon that it does not use",
            'changed = [name for name in changed if name not in ("epsilon", "normed_cell")]',
            "changed = list(changed)",
            "test_properties.py::test_neutral_weights_change_nothing[lstm-fused-epsilon of no norm]",
        ),
    ),
    *of(
        "cells/gru.py",
        (
            "gru-r-z-swapped",
            "the columns of r and z change places",
            "r, z = jnp.split(rz, 2, axis=-1)",
            "z, r = jnp.split(rz, 2, axis=-1)",
            step("gru"),
        ),
        (
            "gru-z",
            "h' = z n + (1 - z) h",
            "GRUState((1 - z) * n + z * state.h)",
            "GRUState(z * n + (1 - z) * state.h)",
            step("gru"),
        ),
        (
            "gru-reset-before",
            'the reset stands after the product where it is "before"',
            "inner = dot(r * h, params.w_h[:, 2 * hidden :], dtype, wide, how.precision)",
            "inner = r * dot(h, params.w_h[:, 2 * hidden :], dtype, wide, how.precision)",
            step("gru-before"),
        ),
        (
            "gru-reset-after",
            'the reset leaves out the recurrent bias where it is "after"',
            "n = act_n(from_x[..., 2 * hidden :] + r * inner)",
            "n = act_n(biased(from_x[..., 2 * hidden :] + r * from_h[..., 2 * hidden :], params.b_n))",
            step("gru"),
        ),
        (
            "gru-dropped-carry",
            "recurrent dropout reaches the h that is carried on",
            "(1 - z) * n + z * state.h",
            "(1 - z) * n + z * h",
            property_of("h_is_dropped_for_a_sequence", "forward-gru-scan"),
        ),
    ),
    *of(
        "cells/rnn.py",
        ("rnn-bias", "the bias is dropped", "(biased(z, params.b))", "(z)", step("rnn")),
    ),
    *of(
        "cells/minlstm.py",
        (
            "minlstm-f-i-swapped",
            "the columns of f and i change places",
            "z_f, z_i, z_g = jnp.split",
            "z_i, z_f, z_g = jnp.split",
            step("minlstm"),
        ),
        (
            "minlstm-ratio",
            "f / (f + i) of two sigmoids that may both be 0",
            "log_ratio = jax.nn.log_sigmoid(z_f) - jax.nn.log_sigmoid(z_i)",
            "log_ratio = jnp.log(jax.nn.sigmoid(z_f) / jax.nn.sigmoid(z_i))",
            HUGE,
        ),
        (
            "minlstm-forget-bias",
            "the forget bias stands in the block of i",
            "b = b.at[:hidden].set(forget_bias)",
            "b = b.at[hidden : 2 * hidden].set(forget_bias)",
            "test_cells.py::test_forget_bias[minlstm]",
        ),
    ),
    *of(
        "cells/slstm.py",
        (
            "slstm-stabiliser-sign",
            "the stabiliser has the other sign in the forget gate",
            "before = log_f + state.m",
            "before = log_f - state.m",
            step("slstm"),
        ),
        (
            "slstm-stabiliser-greatest",
            "the stabiliser is the smaller of the two",
            "jnp.maximum(before, z_i)",
            "jnp.minimum(before, z_i)",
            HUGE,
        ),
        (
            "slstm-never-fresh",
            "a state that has seen nothing is one that has seen zeros",
            "fresh = state.n == 0",
            "fresh = state.n < 0",
            HUGE,
        ),
        (
            "slstm-unguarded-exponent",
            "an exponent that is not taken overflows",
            "jnp.exp(jnp.where(fresh, 0, before - m))",
            "jnp.exp(before - m)",
            HUGE,
        ),
        (
            "slstm-heads-first",
            "the gates stand in the heads, not the heads in the gates",
            "for p in products], axis=-2)",
            "for p in products], axis=-3)",
            variant("slstm of two heads"),
        ),
        (
            "slstm-heads-alike",
            "all heads are drawn from one key",
            "jnp.stack([draw(k, inputs,",
            "jnp.stack([draw(key, inputs,",
            "test_cells.py::test_init_of_the_variants_of_the_others",
        ),
        (
            "slstm-forget",
            "the forget gate is always a sigmoid",
            'if (params.form or PLAIN).forget == "sigmoid" else z_f',
            'if (params.form or PLAIN).forget != "" else z_f',
            variant("slstm exp"),
        ),
    ),
    *of(
        "cells/norm.py",
        (
            "norm-mean",
            "the mean stays",
            "z = z - z.mean(-1, keepdims=True)",
            "z = z - 0 * z.mean(-1, keepdims=True)",
            variant("norm of gates, scale"),
        ),
        (
            "norm-over-batch",
            "the variance is that of the whole batch",
            "(z * z).mean(-1, keepdims=True)",
            "(z * z).mean(keepdims=True)",
            variant("norm of gates, scale"),
        ),
        (
            "norm-of-equal-numbers",
            "the mean of equal numbers is rounded",
            "z = z - lax.stop_gradient(z[..., :1])",
            "z = z - 0",
            EQUAL,
        ),
        (
            "norm-of-huge-numbers",
            "squares overflow",
            "jnp.maximum(jnp.abs(z).max(-1, keepdims=True), 1)",
            "jnp.ones_like(z[..., :1])",
            "test_variants.py::test_layer_norm_does_not_see_the_unit",
        ),
    ),
    *of(
        "cells/products.py",
        (
            "bounded-above",
            "a bound holds above only",
            "jnp.where(z < -bound, -bound, z)",
            "z",
            variant("clip of the cell"),
        ),
        (
            "state-narrow",
            "the state has the dtype of the inputs",
            "return wider(dtype, jnp.float32)",
            "return jnp.dtype(dtype)",
            "test_cells.py::test_dtype_in_is_dtype_out",
        ),
        (
            "sums-narrow",
            "products are rounded to bfloat16 before they are summed with the rest",
            "preferred_element_type=wider(dtype, out_dtype)",
            "preferred_element_type=dtype",
            "test_backends.py::test_compute_dtype_is_that_of_the_products[gru-scan]",
        ),
    ),
    *of(
        "cells/cell.py",
        (
            "output-wide",
            "the output has the dtype of the state",
            "return state, state.h.astype(x.dtype)",
            "return state, state.h",
            "test_cells.py::test_dtype_in_is_dtype_out",
        ),
        (
            "state-squeezed",
            "a float64 state is squeezed into float32",
            "if wider(array.dtype, wide) != wide:",
            "if False:",
            "test_bad_input.py::test_a_state_that_cannot_be_held_is_refused",
        ),
        (
            "recurrent-dropout-off",
            "recurrent dropout is not applied by scan",
            "return state.h if how.recurrent is None else state.h * how.recurrent",
            "return state.h",
            property_of("h_is_dropped_for_a_sequence", "forward-rnn-scan"),
        ),
    ),
    *of(
        "cells/draw.py",
        (
            "draw-key-twice",
            "w_x and w_h are drawn from one key",
            "jax.random.uniform(k_h, (outputs, columns)",
            "jax.random.uniform(k_x, (outputs, columns)",
            f"{APART}[torch-lstm]",
        ),
        (
            "draw-gates-alike",
            "all gates of w_x are drawn from one key",
            "glorot(k, (inputs, width), wide)",
            "glorot(k_x, (inputs, width), wide)",
            f"{APART}[glorot-lstm]",
        ),
        (
            "draw-batch-decomposed",
            "draws side by side are decomposed as one batch, which never ends",
            "return sequential_vmap(lambda key: jax.nn.initializers.orthogonal()(key, shape, dtype))(key)",
            "return jax.nn.initializers.orthogonal()(key, shape, dtype)",
            "test_cells.py::test_draws_side_by_side_are_those_of_each_and_decompose_no_batch[lstm]",
        ),
        (
            "draw-torch-bias",
            "one of torch's two biases is left out",
            "jax.random.uniform(k_b, (2, columns), wide, -bound, bound).sum(0)",
            "jax.random.uniform(k_b, (2, columns), wide, -bound, bound)[0]",
            "test_cells.py::test_torch_init[lstm]",
        ),
    ),
    *of(
        "activations.py",
        (
            "activation-default",
            "the hard sigmoid has the slope of another framework",
            "_Known(_hard_sigmoid, (0.2, 0.5))",
            "_Known(_hard_sigmoid, (1 / 6, 0.5))",
            variant("hard_sigmoid, softplus, elu"),
        ),
        (
            "activation-constants",
            "constants that are given are not looked at",
            "constants = [*constants, *defaults[len(constants) :]]",
            "constants = [*defaults]",
            variant("scaled_tanh and constants"),
        ),
    ),
]

OVER_TIME = [
    *of(
        "backends/scan.py",
        (
            "scan-length",
            "a sequence is one step longer than its length",
            "valid = t < lengths",
            "valid = t <= lengths",
            over_time("forward-gru-scan"),
        ),
        (
            "scan-reset-skipped",
            "resets are not looked at",
            "before = state if restart is None else _where(restart, initial, state)",
            "before = state",
            over_time("forward-gru-scan"),
        ),
        (
            "scan-reset-to-zeros",
            "a reset puts zeros in place, not the initial state",
            "_where(restart, initial, state)",
            "_where(restart, jax.tree.map(jnp.zeros_like, initial), state)",
            over_time("forward-gru-scan"),
        ),
        (
            "scan-reset-in-padding",
            "a reset in the padding counts",
            "after, y = _where(valid, after, state), ",
            "after, y = _where(valid, after, before), ",
            padding_of("forward-gru-scan"),
        ),
        (
            "scan-padding-read",
            "the padding meets the weights",
            "step(before, _where(valid, x, jnp.zeros_like(x)), kept)",
            "step(before, x, kept)",
            padding_of("forward-gru-scan"),
        ),
        (
            "scan-outputs-in-padding",
            "outputs stay in the padding",
            "_where(valid, y, jax.tree.map(jnp.zeros_like, y))",
            "y",
            padding_of("forward-gru-scan"),
        ),
        (
            "scan-state-in-padding",
            "the state goes on in the padding",
            "after, y = _where(valid, after, state), ",
            "after, y = after, ",
            over_time("forward-gru-scan"),
        ),
        (
            "scan-reverse-padding",
            "in reverse the padding is taken to be in front",
            "valid = t < lengths",
            "valid = t >= len(xs) - lengths if reverse else t < lengths",
            over_time("reverse-gru-scan"),
        ),
        (
            "scan-reverse-clock",
            "in reverse the steps are counted from T",
            "jnp.int32(len(xs) - 1 if reverse else 0)",
            "jnp.int32(len(xs) if reverse else 0)",
            over_time("reverse-gru-scan"),
        ),
        (
            "scan-state-rounded",
            "beside inputs of bfloat16 the state is rounded to that from step to step",
            "after, _ = cell.advance(params, before, x, how)",
            "after, _ = cell.advance(params, before, x, how)\n"
            "        if x.dtype == 'bfloat16':\n"
            "            after = jax.tree.map(lambda s: jax.lax.reduce_precision(s, 8, 7), after)",
            "test_sequence.py::test_the_state_does_not_drift_in_half_precision[minlstm-scan]",
        ),
        (
            "scan-compute-dtype",
            "compute_dtype is not handed on",
            "how = cell_of(params), How(compute_dtype, precision, noise.recurrent)\n\n    def step(before, x, kept):\n"
            "        after, _ =",
            "how = cell_of(params), How(None, precision, noise.recurrent)\n\n    def step(before, x, kept):\n"
            "        after, _ =",
            "test_backends.py::test_compute_dtype_is_that_of_the_products[gru-scan]",
        ),
        (
            "trace-before",
            "the trace has the state before each step",
            "return after, (after, gates)",
            "return after, (before, gates)",
            "test_variants.py::test_trace_equals_numpy[forward-gru]",
        ),
        (
            "trace-expectation",
            "the trace leaves out the expectation of zoneout",
            "after, gates = cell.advance(params, before, x, how)\n"
            "        after = held(before, after, kept, noise.expected)",
            "after, gates = cell.advance(params, before, x, how)\n        after = held(before, after, kept, {})",
            "test_faults.py::test_zoneout_without_training_is_the_same_step_by_step[gru]",
        ),
        (
            "remat-order",
            "in reverse the odd steps come last",
            "jnp.concatenate(a[::-1] if reverse else a)",
            "jnp.concatenate(a)",
            REMAT,
        ),
        (
            "remat-cut",
            "in reverse the odd steps are cut off at the wrong end",
            "return (slice(odd, time), slice(0, odd)) if reverse else",
            "return (slice(0, time - odd), slice(time - odd, time)) if reverse else",
            REMAT,
        ),
        (
            "remat-keeps-all",
            "remat keeps every step",
            "jax.checkpoint(segment, prevent_cse=False)",
            "segment",
            "test_memory.py::test_checkpoints_grow_as_the_root",
        ),
    ),
    *of(
        "backends/associative.py",
        (
            "associative-reset-flag",
            "a reset is forgotten where two pieces are put together",
            "jnp.where(restart, second[1], b), first[2] | restart",
            "jnp.where(restart, second[1], b), restart",
            "test_sequence.py::test_a_nan_state_does_not_survive_a_reset[4-forward-minlstm-associative]",
        ),
        (
            "associative-reset-to-zeros",
            "a reset puts zeros in place, not the initial state",
            "jnp.where(restart, f * state.h[None] + b, b)",
            "b",
            over_time("forward-minlstm-associative"),
        ),
        (
            "associative-masked-step",
            "a step that does not count forgets the state",
            "jnp.where(valid, a, 1)",
            "jnp.where(valid, a, 0)",
            over_time("forward-minlstm-associative"),
        ),
        (
            "associative-reset-in-padding",
            "a reset in the padding counts",
            "restart = restart & valid if reset is not None else None",
            "restart = restart if reset is not None else None",
            padding_of("forward-minlstm-associative"),
        ),
        (
            "associative-padding-read",
            "the padding meets the weights",
            "xs = jnp.where(valid, xs, 0)",
            "xs = xs + 0",
            padding_of("forward-minlstm-associative"),
        ),
        (
            "associative-outputs-in-padding",
            "outputs stay in the padding",
            "ys = h if valid is None else jnp.where(valid, h, 0)",
            "ys = h",
            over_time("forward-minlstm-associative"),
        ),
        (
            "associative-last",
            "in reverse the last state is that of the first step",
            "h[0 if reverse else -1]",
            "h[-1]",
            over_time("reverse-minlstm-associative"),
        ),
    ),
    *of(
        "padding.py",
        (
            "hold-zeros",
            "zeros are held before the first output, not the initial h",
            "h[None].astype(ys.dtype)",
            "jnp.zeros_like(h[None]).astype(ys.dtype)",
            variant("f=1-i"),
            variant("i=1-f"),
        ),
        (
            "hold-forward",
            "in reverse the output before is held, not the one after",
            "lax.cummin(jnp.where(mask, t, T), axis=0, reverse=True)",
            "lax.cummax(jnp.where(mask, t, -1), axis=0)",
            "test_cells.py::test_masks_as_in_keras[reverse-hold]",
        ),
    ),
    *of(
        "sequence.py",
        (
            "pair-order",
            "the outputs of the backward layer stand first",
            "jnp.concatenate([ys, ys_backward], axis=-1)",
            "jnp.concatenate([ys_backward, ys], axis=-1)",
            "test_sequence.py::test_stacks_may_nest",
        ),
        (
            "pair-one-way",
            "the backward layer runs forward",
            'options = options | {"reverse": True}',
            "options = options | {}",
            "test_sequence.py::test_stacks_may_nest",
        ),
        (
            "pair-state",
            "the backward layer begins with a state of zeros",
            "xs, state.backward, options,",
            "xs, jax.tree.map(jnp.zeros_like, state.backward), options,",
            property_of("a_pair_is_two_runs", "rnn-scan"),
        ),
        (
            "step-expectation",
            "a step leaves out the expectation of zoneout",
            "after = regularise.held(state, after, {}, regularise.outline(work, after.h.dtype).expected)",
            "after = regularise.held(state, after, {}, {})",
            "test_faults.py::test_zoneout_without_training_is_the_same_step_by_step[gru]",
        ),
    ),
    *of(
        "truncation.py",
        (
            "truncation-none",
            "all of the sequence is one window",
            "window = checks.size(",
            "window = 10**6 * checks.size(",
            "test_memory.py::test_truncation_truncates",
        ),
        (
            "truncation-not-summed",
            "the gradient is that of the last window",
            "jax.tree.map(jnp.add, gradients, found)), None",
            "found), None",
            WINDOWS,
        ),
        (
            "truncation-value",
            "the loss is that of the last window",
            "(params, after, total + value,",
            "(params, after, value,",
            WINDOWS,
        ),
        (
            "truncation-last-window",
            "the last, shorter window is left out",
            "if whole < time:",
            "if False:",
            WINDOWS,
        ),
        (
            "truncation-state",
            "every window begins with the initial state",
            "return (params, after, total",
            "return (params, state, total",
            WINDOWS,
        ),
    ),
]

FUSED = [
    *of(
        "backends/chunked.py",
        (
            "fused-bias-gradient",
            "the gradient of the bias is that of one sample",
            "dz_own.astype(wide).sum((0, 1))",
            "dz_own.astype(wide)[:, 0].sum(0)",
            as_scan("gates-full-whole-state-forward"),
        ),
        (
            "fused-bias-recomputed",
            "gates come back without their bias",
            "project(x, cast_x, b.astype(wide), config, wide) + dot(h_before",
            "project(x, cast_x, 0 * b.astype(wide), config, wide) + dot(h_before",
            as_scan("outputs-full-whole-state-forward"),
        ),
        (
            "fused-backward-order",
            "the backward pass takes the steps of a chunk in the order of the forward pass",
            "chunks.steps(m, step, (dh, dc, dz, d0), down=not config.reverse)",
            "chunks.steps(m, step, (dh, dc, dz, d0), down=config.reverse)",
            as_scan("gates-full-whole-state-forward"),
        ),
        (
            "fused-slope",
            "the slope of f has the cell after the step",
            "jnp.concatenate([g * 0.25, c_before * 0.25, i, tanh_c * 0.25], axis=-1)",
            "jnp.concatenate([g * 0.25, c_after * 0.25, i, tanh_c * 0.25], axis=-1)",
            as_scan("gates-full-whole-state-forward"),
        ),
        (
            "fused-halves",
            "where the weights are not halved, the sums are not either",
            "jnp.tanh(z if half is None else z * half[None])",
            "jnp.tanh(z)",
            "test_backends.py::test_chunks_of_every_kind_equal_scan[2-None-False]",
        ),
        (
            "fused-lane-reset",
            "a reset of one sequence resets those at its place in other lanes",
            "restart = row(chunks.reset, t, lane)[:, None]\n                    h_before",
            "restart = row(chunks.reset[:, : h.shape[0]], t)[:, None]\n                    h_before",
            "test_backends.py::test_what_is_tuned_for_a_cpu_changes_nothing",
        ),
        (
            "fused-one-chunk-late",
            "where there is one chunk, the weight gradients of a second are waited for",
            "if chunks.n > 1 else terms",
            "if chunks.n > 1 else [0 * term for term in terms]",
            "test_backends.py::test_chunks_of_every_kind_equal_scan[10-None-True]",
        ),
        (
            "fused-residual-cell",
            "the cell that is kept is the one before the step",
            "put(kept[1], c_after, t, lane)]",
            "put(kept[1], c_before, t, lane)]",
            as_scan("gates-full-whole-state-forward"),
        ),
        (
            "fused-residual-chunk",
            "every chunk begins again with the initial cell",
            "kept = [put(kept[0], c_lane, m, lane)]",
            "kept = [put(kept[0], c0[lane], m, lane)]",
            as_scan("outputs-full-whole-state-forward"),
        ),
        (
            "fused-reset-gradient",
            "what resets send back to the initial state is lost",
            "(d + joined(d_lanes) for d, d_lanes",
            "(d + 0 * joined(d_lanes) for d, d_lanes",
            as_scan("gates-full-reset-state-forward"),
        ),
        (
            "fused-reset-cut",
            "the gradient goes back through a reset",
            "dh_t, dc_t = jnp.where(restart, 0, dh_t), jnp.where(restart, 0, dc_t)",
            "dh_t, dc_t = dh_t + 0, dc_t + 0",
            as_scan("gates-full-reset-state-forward"),
        ),
        (
            "fused-reset-recomputed",
            "the cells of a chunk come back without its resets",
            "c_before = jnp.where(row(chunks.reset, t)[:, None], c0, c)",
            "c_before = c",
            as_scan("outputs-full-reset-state-forward"),
        ),
        (
            "fused-lengths-weights",
            "padded steps have a share in the gradients of the weights",
            "dz_t = jnp.where(valid, dz_t, 0)",
            "dz_t = dz_t + 0",
            as_scan("gates-lengths-whole-state-forward"),
        ),
        (
            "fused-lengths-state",
            "the gradient of the state does not pass padded steps by",
            "dh_t, dc_t = jnp.where(valid, dh_t, dh), jnp.where(valid, dc_t, dc)",
            "dh_t, dc_t = dh_t + 0, dc_t + 0",
            as_scan("gates-lengths-whole-state-forward"),
        ),
        (
            "fused-mask-held",
            "the backward pass finds 0 at masked steps, not the h that is held",
            "0 if chunks.mask is None else h)",
            "0)",
            property_of("a_mask_is_lengths_with_gaps", "reverse-lstm-fused"),
        ),
        (
            "fused-dropout-forward",
            "recurrent dropout is not applied",
            "times(chunks.dropped(h_before, lane), first, second, config, wide, widen)",
            "times(h_before, first, second, config, wide, widen)",
            property_of("h_is_dropped_for_a_sequence", "forward-lstm-fused"),
        ),
        (
            "fused-dropout-weights",
            "the gradient of w_h meets an h of which nothing is dropped",
            "h_before = chunks.dropped(h_before).astype(config.dtype)",
            "h_before = h_before.astype(config.dtype)",
            "test_backends.py::test_recurrent_dropout_equals_scan",
        ),
        (
            "fused-dropout-state",
            "the gradient of h passes units that are dropped",
            "dh_t = chunks.dropped(times(dz_t, held_h, h_back, config, wide, widen), lane)",
            "dh_t = times(dz_t, held_h, h_back, config, wide, widen)",
            "test_backends.py::test_recurrent_dropout_equals_scan",
        ),
    ),
    *of(
        "backends/abreast.py",
        (
            "abreast-bias",
            "a half forgets its bias",
            "row(zx, j, lane) + b[None] + zh",
            "row(zx, j, lane) + zh",
            "test_backends.py::test_what_is_tuned_for_a_cpu_changes_nothing",
        ),
        (
            "abreast-edge",
            "the first step of a half begins with the c of another",
            "jnp.where(t == edge, c0[lane], ",
            "jnp.where(t == -1, c0[lane], ",
            "test_backends.py::test_what_is_tuned_for_a_cpu_changes_nothing",
        ),
        (
            "abreast-padding",
            "a half has a gradient in the padding",
            "jnp.where(valid, dz_k, 0)",
            "dz_k",
            "test_backends.py::test_what_is_tuned_for_a_cpu_changes_nothing",
        ),
        (
            "abreast-weights",
            "the gradient of the weights is that of the first half",
            "functools.reduce(operator.add, of_each)",
            "of_each[0]",
            "test_backends.py::test_what_is_tuned_for_a_cpu_changes_nothing",
        ),
        (
            "abreast-places",
            "both halves are written to the place of the first",
            "[lane.start + zero for lane in cut]",
            "[cut[0].start + zero for _ in cut]",
            "test_backends.py::test_what_is_tuned_for_a_cpu_changes_nothing",
        ),
        (
            "abreast-counter",
            "the counter of a loop is copied",
            "+ _zero(carry, rows)",
            "+ 0",
            "test_abreast.py::test_the_loops_of_the_halves_have_no_number_in_common",
        ),
        (
            "abreast-ends",
            "what the first loop had is had by the second",
            "zero = _zero(ends)\n",
            "zero = 0 * _zero(ends)\n",
            "test_abreast.py::test_the_loops_of_the_halves_have_no_number_in_common",
        ),
        (
            "abreast-carried",
            "a step makes what the next does not have",
            "return [h, c], [put(ys, y, j), *own], [zh, a, *[seen] * rounds]",
            "return [h, c], [put(ys, y, j), *own], [zh, zh, *[seen] * rounds]",
            "test_abreast.py::test_the_loops_of_the_halves_have_no_number_in_common",
        ),
    ),
    *of(
        "backends/chunks.py",
        (
            "fused-ragged-inputs",
            "the last chunk takes the gradient of rows that are not its own",
            "rows = jnp.where(self._owned(m), rows, lax.dynamic_slice_in_dim(old, at, rows.shape[1], 1))",
            "rows = rows + 0",
            as_scan("gates-full-whole-state-reverse"),
        ),
        (
            "fused-lane-rows",
            "every lane writes to the rows of the first",
            "starts = (part.start or 0 for part",
            "starts = (0 for part",
            "test_backends.py::test_what_is_tuned_for_a_cpu_changes_nothing",
        ),
        (
            "fused-precisions",
            "with the weights first, each operand has the precision of the other",
            "config = config._replace(precision=config.precision[::-1])",
            "pass",
            "test_backends.py::test_a_precision_for_each_operand_follows_it",
        ),
        (
            "fused-h-shifted",
            "the gradient of w_h meets the h after each step",
            "shifted = jnp.concatenate([edge, inside[:-1]])",
            "shifted = inside",
            as_scan("gates-full-whole-state-forward"),
        ),
        (
            "fused-edge",
            "the first step of a chunk sees a step too far back",
            "jnp.maximum(first - 1, 0)",
            "jnp.maximum(first - 2, 0)",
            as_scan("gates-full-whole-state-forward"),
        ),
        (
            "fused-edge-reverse",
            "in reverse the first step of a chunk sees itself",
            "jnp.minimum(first + K, T - 1)",
            "jnp.minimum(first + K - 1, T - 1)",
            as_scan("gates-full-whole-state-reverse"),
        ),
        (
            "fused-start",
            "the gradient of w_h leaves out the initial state",
            "start = t == 0",
            "start = t < 0",
            as_scan("gates-full-whole-state-forward"),
        ),
        (
            "fused-start-reverse",
            "in reverse the initial state is met at T, not at the length",
            "start = t == (T if self.lengths is None else self.lengths[None]) - 1",
            "start = t == T - 1",
            as_scan("gates-lengths-whole-state-reverse"),
        ),
        (
            "fused-ragged-weights",
            "rows of two chunks count twice in the weights",
            "return jnp.where(self._owned(m), rows, 0) if self.ragged else rows",
            "return rows",
            as_scan("gates-full-whole-state-reverse"),
        ),
        (
            "fused-ragged-steps",
            "rows of two chunks are stepped through twice",
            "return m * self.K - jnp.minimum(m * self.K, self.T - self.K) if self.ragged else 0",
            "return 0 * m",
            as_scan("gates-full-whole-state-forward"),
        ),
        (
            "fused-weights-first",
            "with the weights first, a sequence gets the rows of another",
            "return jnp.moveaxis(lax.optimization_barrier(product(w, x, config, wide)), 0, -1)",
            "return jnp.moveaxis(lax.optimization_barrier(product(w, x, config, wide)), 0, -1)[::-1]",
            "test_backends.py::test_what_is_tuned_for_a_cpu_changes_nothing",
        ),
        (
            "fused-reset-in-padding",
            "a reset in the padding counts",
            "if self.reset is not None and self.lengths is not None:",
            "if False:",
            padding_of("forward-lstm-fused"),
        ),
        (
            "fused-reset-in-mask",
            "a reset at a masked step counts",
            "if self.reset is not None and self.mask is not None:",
            "if False:",
            padding_of("forward-lstm-fused"),
        ),
        (
            "fused-padding-read",
            "the padding meets the weights",
            "return jnp.where((t < self.lengths[None])[..., None], x, 0)",
            "return x",
            padding_of("forward-lstm-fused"),
        ),
        (
            "fused-mask-read",
            "masked steps meet the weights",
            "return jnp.where(lax.dynamic_slice_in_dim(self.mask, first, self.K)[..., None], x, 0)",
            "return x",
            padding_of("forward-lstm-fused"),
        ),
        (
            "fused-index",
            "every step looks whether its index is negative",
            "allow_negative_indices=False",
            "allow_negative_indices=True",
            "test_backends.py::test_a_step_of_inference_is_few_operations",
        ),
        (
            "fused-equal-buffers",
            "buffers begin alike, and are copied",
            "lax.full(shape, mark, dtype)",
            "lax.full(shape, 0, dtype)",
            "test_backends.py::test_no_buffer_of_all_steps_is_copied",
        ),
    ),
    *of(
        "backends/tuning.py",
        (
            "fused-half-row",
            "a row in float16 loses small numbers",
            "and jnp.finfo(dtype).nexp == jnp.finfo(jnp.float32).nexp",
            "",
            "test_backends.py::test_one_sequence_in_float16_keeps_small_numbers",
        ),
        (
            "fused-row-packed",
            "a single row comes second too",
            "units <= H and 1 < B <= 64",
            "units <= H and B <= 64",
            "test_backends.py::test_a_step_is_tuned_on_a_cpu_only",
        ),
        (
            "fused-abreast-little",
            "a gradient of little has two loops",
            "2 * (B * H >= 768 and",
            "2 * (B * H >= 512 and",
            "test_backends.py::test_halves_have_loops_of_their_own_where_a_cpu_runs_both",
        ),
        (
            "fused-halves-chunk",
            "a gradient in two loops has the chunks of forward",
            '"abreast": 2 * (B',
            '"abreast": 1 * (B',
            "test_backends.py::test_chunks_are_longer_where_halves_have_loops_of_their_own",
        ),
        (
            "fused-abreast-chunk",
            "a run of large layers has no longer chunks where it has two loops",
            "H <= 128 or B <= 16 else 2)",
            "H <= 128 or B <= 16 else 1)",
            "test_backends.py::test_chunks_are_longer_where_halves_have_loops_of_their_own",
        ),
        (
            "fused-lean-chunk",
            "a second gradient of the weights is made where all steps take less",
            "return T if 4 * (T - K) * step <= weights else K",
            "return K",
            "test_memory.py::test_outputs_are_all_that_is_kept",
        ),
        (
            "fused-lean-steps",
            "chunks are as long where memory counts as where time does",
            "max(min(1.3e6 / step, max(10, min(T / 16, 20))), min(weights / (8 * step), 20), math.sqrt(T / 20), 5)",
            "min(max(1.3e6 / step, weights / (2.5 * step), 5), 50)",
            "test_memory.py::test_outputs_are_all_that_is_kept",
        ),
        (
            "fused-x-transposed",
            "the weights of the inputs are transposed for a few rows",
            '"x_first": few or lean',
            '"x_first": lean',
            "test_backends.py::test_dx_of_few_rows_takes_the_weights_as_they_lie",
        ),
        (
            "fused-few-steps",
            "weights are transposed for a few steps",
            "first = T >= 16 and _weights_first(",
            "first = _weights_first(",
            "test_backends.py::test_few_steps_are_not_worth_a_transpose",
        ),
    ),
    *of(
        "backends/fused.py",
        (
            "fused-x-lean",
            "memory does not count where it was asked for",
            '"lean": lean}',
            '"lean": False}',
            "test_backends.py::test_dx_of_few_rows_takes_the_weights_as_they_lie",
        ),
        (
            "fused-vmap-chunks",
            "a vmap over sequences has the chunks of one of them",
            "(tuning.lean_chunk(T, xs.size // (T * D), params.w_x, params.w_h) if lean else 0)",
            "tuning.chunk(T, xs.size // (T * D), params.w_x, params.w_h)",
            "test_backends.py::test_vmap_over_sequences_has_the_chunks_of_a_batch",
        ),
        (
            "fused-takes-variants",
            "fused takes LSTMs that it does not know",
            "if changed is not None:",
            "if False:",
            variant("peephole"),
        ),
        (
            "fused-takes-zoneout",
            "fused takes zoneout and leaves it out",
            "if noise.zoneout or noise.expected:",
            "if False:",
            refused("run: zoneout on fused"),
        ),
        (
            "fused-mask-outputs",
            "outputs stay at masked steps",
            "return state, ys if mask is None else jnp.where(mask[..., None], ys, 0)",
            "return state, ys",
            "test_cells.py::test_masks_as_in_keras[forward-zero]",
        ),
        (
            "fused-stored-narrow",
            "the outputs are stored in the dtype of the inputs, which loses some of the h that the products saw",
            "stored=xs.dtype if xs.dtype in (wide, dtype) else wider(dtype, xs.dtype)",
            "stored=xs.dtype",
            "test_backends.py::test_nothing_is_lost_of_h_beside_half_precision_inputs[gates]",
        ),
        (
            "fused-remat",
            "remat keeps the gates of every step",
            '("gates" if remat is False else "outputs")',
            '"gates"',
            "test_memory.py::test_twenty_thousand_steps_in_400_megabytes",
        ),
        (
            "fused-one-gradient-each",
            "shared weights have a gradient for each example of a vmap",
            "grouped = per_example or any(layout is _WEIGHT for _, layout in mapped)",
            "grouped = True",
            "test_backends.py::test_gradient_of_vmap_has_one_weight_gradient",
        ),
        (
            "fused-insists-not",
            "fused by name leaves forward mode to scan without a word",
            'which scan does."""\n    if config.insist:',
            'which scan does."""\n    if False:',
            "test_backends.py::test_fused_by_name_refuses_what_it_has_not[jvp]",
        ),
        (
            "fused-derivative-direction",
            "forward mode runs forward where it should run in reverse",
            "reverse=config.reverse,\n        compute_dtype=config.dtype",
            "reverse=False,\n        compute_dtype=config.dtype",
            "test_backends.py::test_backend_none_has_scans_derivatives[jvp]",
        ),
    ),
    *of(
        "backends/kernel.py",
        (
            "kernel-restart",
            "a sequence goes on from the padding before it",
            "restart = valid & (count == 1)",
            "restart = valid & (count == 0)",
            "test_kernel.py::test_equals_fused",
        ),
        (
            "kernel-h0",
            "h0 gets its gradient from the last step",
            "dz[-1 if config.reverse else 0]",
            "dz[0 if config.reverse else -1]",
            "test_kernel.py::test_equals_fused",
        ),
        (
            "kernel-precision",
            "TF32 is taken for whatever precision",
            "if jnp.dtype(dtype) != jnp.float32:",
            "if True:",
            "test_kernel.py::test_reasons",
        ),
        (
            "kernel-unbuilt",
            "a kernel that cannot be built gives way to XLA without a word, though asked for by name",
            "if problem is not None and config.insist:",
            "if False:",
            "test_kernel.py::test_what_cannot_be_built_is_said_by_name_and_left_to_xla_else",
        ),
    ),
    *of(
        "backends/persistent.py",
        (
            "persistent-unproven",
            "what has not been run on a card is taken without being asked for",
            "if not insist and jnp.dtype(dtype).name not in PROVEN:",
            "if False:",
            "test_kernel.py::test_what_was_not_tried_on_a_card_is_there_by_name_only",
        ),
        (
            "persistent-few-steps",
            "a kernel is built for a step or two",
            "if not insist and xs.shape[0] < STEPS:",
            "if False:",
            "test_kernel.py::test_it_is_taken_where_it_can",
        ),
    ),
    *of(
        "backends/dispatch.py",
        (
            "dispatch-order",
            "scan is tried first",
            '("persistent", "fused", "associative", "scan")',
            '("scan", "persistent", "fused", "associative")',
            "test_backends.py::test_choose_and_reasons",
        ),
        (
            "dispatch-falls-back",
            "a backend that was asked for by name gives way without a word",
            "raise ValueError(f'backend=\"{backend}\" cannot run this: {reason}')",
            'backend = "scan"',
            refused("run: fused for a GRU"),
        ),
    ),
    *of(
        "varying.py",
        (
            "varying-alike",
            "a loop's carry varies over fewer axes of a mesh than what is put into it",
            "return tuple(over(names, tree) for tree in trees) if names else trees",
            "return trees",
            "test_sharding.py",
        ),
    ),
]

NOISE = [
    *of(
        "layers.py",
        (
            "dropout-scale",
            "what is kept is not scaled up",
            "jnp.where(kept, x * (1 / keep), 0)",
            "jnp.where(kept, x, 0)",
            losses("test_dropout_keeps_the_mean_and_needs_a_key"),
        ),
        (
            "embed-wraps",
            "an id of -1 is the last row",
            "jnp.where(ids < 0, len(table), ids)",
            "ids",
            losses("test_embed_never_wraps_or_clamps"),
        ),
    ),
    *of(
        "regularise.py",
        (
            "noise-layers-alike",
            "layers and directions share a key",
            "self._replace(key=jax.random.fold_in(self.key, n))",
            "self._replace(key=self.key)",
            "test_properties.py::test_layers_draw_for_themselves",
        ),
        (
            "noise-h-c-alike",
            "zoneout keeps the same units of h and of c",
            'keys[3 + (field == "c")]',
            "keys[3]",
            "test_faults.py::test_zoneout_of_h_and_c_are_two_draws",
        ),
        (
            "noise-inputs-each-step",
            "the inputs lose other features at each step",
            "dropout(keys[0], rates.inputs, xs, shared=(0,))",
            "dropout(keys[0], rates.inputs, xs)",
            property_of("inputs_are_dropped_for_a_sequence", "forward-rnn-scan"),
        ),
        (
            "noise-recurrent-of-the-batch",
            "all sequences lose the same features of h",
            "dropout(keys[2], rates.recurrent, ones)",
            "dropout(keys[2], rates.recurrent, ones, shared=tuple(range(len(batch))))",
            property_of("h_is_dropped_for_a_sequence", "forward-rnn-scan"),
        ),
        (
            "noise-between-once",
            "outputs between layers lose the same features at every step",
            "training.rates.between, ys)",
            "training.rates.between, ys, shared=(0,))",
            property_of("outputs_are_dropped_between_layers", "forward-rnn"),
        ),
        (
            "noise-weights-of-x",
            "DropConnect drops entries of w_x",
            "params._replace(w_h=dropout(keys[1], rates.weights, params.w_h))",
            "params._replace(w_x=dropout(keys[1], rates.weights, params.w_x))",
            property_of("weights_are_dropped_for_a_call", "forward-rnn-scan"),
        ),
        (
            "noise-without-training",
            "training=False with a key drops all the same",
            "key if training in (None, True) else None",
            "key",
            property_of("zoneout_keeps_units_as_they_are", "forward-rnn-scan"),
        ),
        (
            "noise-without-key",
            "training=True without a key drops nothing, without a word",
            "if training and key is None and any(map(_on, rates)):",
            "if False:",
            refused("run: training without a key"),
        ),
        (
            "noise-without-use",
            "a rate that a cell has no use for is accepted",
            "if _on(rates.zoneout_c) and not cell.zoneout_c:",
            "if False:",
            refused("run: zoneout of c of an RNN"),
        ),
        (
            "zoneout-other-side",
            "zoneout keeps what should change",
            "jnp.where(where, getattr(before, field), getattr(after, field))",
            "jnp.where(where, getattr(after, field), getattr(before, field))",
            property_of("zoneout_keeps_units_as_they_are", "forward-rnn-scan"),
        ),
        (
            "zoneout-expectation",
            "the expectation is (1 - rate) old + rate new",
            "rate * old + (1 - rate) * new",
            "(1 - rate) * old + rate * new",
            property_of("zoneout_keeps_units_as_they_are", "forward-rnn-scan"),
        ),
    ),
]

AT_THE_DOOR = [
    *of(
        "checks.py",
        (
            "ints-narrow",
            "T is another number in the dtype of lengths",
            "return ints.astype(np.int32) if ints.dtype.itemsize < 4 else ints",
            "return ints",
            "test_sequence.py::test_lengths_of_few_bits_beside_many_steps",
        ),
        (
            "lengths-above",
            "a length above T is accepted",
            "if low < 0 or high > time:",
            "if low < 0:",
            refused("run: a length above T"),
        ),
        (
            "lengths-below",
            "a negative length is accepted",
            "if low < 0 or high > time:",
            "if high > time:",
            refused("run: a negative length"),
        ),
        (
            "lengths-full",
            "a length of T is refused",
            "if low < 0 or high > time:",
            "if low < 0 or high >= time:",
            "test_sequence.py::test_lengths_of_any_integer_kind",
        ),
        (
            "lengths-not-clipped",
            "lengths out of range are not clipped under tracing",
            "return jnp.clip(jnp.asarray(given), 0, time).astype(jnp.int32)",
            "return jnp.asarray(given).astype(jnp.int32)",
            "test_sequence.py::test_lengths_are_clipped_under_tracing[reverse-lstm-fused]",
        ),
        (
            "size-bool",
            "True is a size",
            "if isinstance(n, bool) or not isinstance(n, int | np.integer):\n"
            '        raise TypeError(f"{name} should be an int of at least {least}',
            "if not isinstance(n, int | np.integer):\n"
            '        raise TypeError(f"{name} should be an int of at least {least}',
            refused("run: chunk True"),
        ),
        (
            "rate-nan",
            "a rate of NaN is accepted",
            "if not 0 <= given < 1:",
            "if given < 0 or given >= 1:",
            refused("run: inputs NaN"),
        ),
        (
            "rate-one",
            "a rate of 1 is accepted",
            "if not 0 <= given < 1:",
            "if not 0 <= given <= 1:",
            refused("run: inputs 1"),
        ),
        (
            "bools-of-ints",
            "ints are bools",
            "if not is_array(given) or given.dtype != jnp.bool_:",
            "if not is_array(given):",
            refused("run: reset of ints"),
        ),
        (
            "ids-below",
            "an id of -1 is accepted",
            "if low < 0 or high >= size:",
            "if high >= size:",
            refused("embed: an id of -1"),
        ),
        (
            "checkify-quiet",
            "checkify says nothing",
            "if _CHECKIFIED.get():",
            "if False:",
            "test_bad_input.py::test_values_are_seen_with_checkify[run: a length above T]",
        ),
    ),
    *of(
        "call.py",
        (
            "pair-in-backward",
            "a pair on the backward side of another runs from the end twice",
            '    check_directions("params", params)\n',
            "",
            refused("run: a pair within the backward side of one"),
        ),
        (
            "mask-and-lengths",
            "mask and lengths are accepted together",
            "if lengths is not None and mask is not None:",
            "if False:",
            refused("run: mask and lengths"),
        ),
        (
            "reverse-of-a-pair",
            "reverse of a pair is accepted",
            'if checks.flag("reverse", reverse) and holds_pair(params):',
            'if checks.flag("reverse", reverse) and False:',
            refused("run: reverse of a pair"),
        ),
    ),
    *of(
        "losses.py",
        (
            "class-ruled-out",
            "a class that is ruled out makes NaN of the others",
            "costs = jnp.where(targets > 0, jax.nn.log_softmax(logits), 0)",
            "costs = jax.nn.log_softmax(logits)",
            losses("test_a_class_that_is_ruled_out_costs_nothing"),
        ),
        (
            "label-outside",
            "a label out of range costs nothing under tracing",
            "_mean(jnp.where(outside, jnp.nan, losses), weights)",
            "_mean(losses, weights)",
            losses("test_label_out_of_range"),
        ),
        (
            "label-last-class",
            "a label of -1 is the last class under tracing",
            "jax.nn.one_hot(labels, classes, dtype=logits.dtype), smoothing)",
            "jax.nn.one_hot(labels % classes, classes, dtype=logits.dtype), smoothing)\n    labels = labels % classes",
            losses("test_label_out_of_range"),
        ),
        (
            "mean-of-nothing",
            "the mean of no example is NaN",
            "jnp.where(total == 0, 1, total)",
            "total",
            losses("test_all_left_out_is_zero_with_finite_gradient"),
        ),
        (
            "mean-of-all",
            "examples that are left out count in the mean",
            "jnp.where(total == 0, 1, total)",
            "losses.size",
            losses("test_cross_entropy_is_the_weighted_mean"),
        ),
        (
            "penalty-pairs",
            "a change counts where its second step does",
            "None if valid is None else valid[1:] & valid[:-1])",
            "None if valid is None else valid[1:])",
            "test_faults.py::test_penalties_of_activations",
        ),
        (
            "penalty-padding",
            "steps that do not count spoil the gradient",
            "ys = jnp.where(valid[..., None], ys, 0)",
            "ys = ys + 0",
            "test_faults.py::test_penalties_of_activations",
        ),
    ),
]

TRAINING = [
    *of(
        "allocator.py",
        (
            "allocator-arenas",
            "arenas of threads stay, of which none holds much",
            "(_ARENA_MAX, 1), (_MMAP_MAX, 0)",
            "(_MMAP_MAX, 0)",
            "test_allocator.py::test_pages_are_touched_for_the_first_time_once",
        ),
    ),
    *of(
        "devices.py",
        (
            "devices-share",
            "devices share models that they do not divide",
            "if models % n == 0)",
            "if n <= models)",
            "test_cli.py::test_members_are_shared_by_cores_unless_told_otherwise",
        ),
    ),
    *of(
        "members.py",
        (
            "members-first-device",
            "of members on several devices only those of the first have a loss",
            "in_specs=(lead, whole, lead), out_specs=lead)",
            "in_specs=(lead, whole, lead), out_specs=whole, check_vma=False)",
            "test_sharding.py::test_members_shared_by_two_devices_are_as_on_one",
        ),
        (
            "members-spread",
            "what was trained over devices stays there",
            "return fitted._replace(params=jax.device_put(fitted.params, shared.devices.flat[0]))",
            "return fitted",
            "test_sharding.py::test_members_shared_by_two_devices_are_as_on_one",
        ),
    ),
    *of(
        "train/step.py",
        (
            "step-bad-applied",
            "on a CPU an update is made whatever the gradient is",
            "jax.lax.cond(ok, made,",
            "jax.lax.cond(True, made,",
            "test_train.py::test_a_bad_step_changes_nothing_and_is_counted[cpu]",
        ),
        (
            "step-bad-applied-gpu",
            "elsewhere an update is made whatever the gradient is",
            "jnp.where(ok, new, like(new, old))",
            "new",
            "test_train.py::test_a_bad_step_changes_nothing_and_is_counted[gpu]",
        ),
        (
            "step-both-held",
            "a CPU chooses between numbers, too",
            'if jax.default_backend() == "cpu":',
            "if False:",
            "test_train.py::test_what_a_bad_step_leaves_as_it_was_is_held_once",
        ),
        (
            "step-loss-only",
            "only the loss is looked at",
            "ok = finite.all()",
            "ok = finite[0]",
            "test_train.py::test_a_gradient_that_is_not_finite_is_as_bad_as_a_loss",
        ),
        (
            "step-in-a-row",
            "bad steps are counted over good ones",
            "(state.in_a_row + bad) * bad",
            "state.in_a_row + bad",
            "test_train.py::test_a_bad_step_changes_nothing_and_is_counted",
        ),
        (
            "step-parts-summed",
            "the parts of a batch are summed",
            "lambda a: a / n, total",
            "lambda a: a, total",
            "test_train.py::test_parts_of_a_batch_give_the_gradient_of_the_whole",
        ),
        (
            "step-one-key",
            "all steps have one key",
            "jax.random.fold_in(state.key, state.step)",
            "jax.random.fold_in(state.key, 0)",
            "test_train.py::test_each_step_has_its_own_key",
        ),
    ),
    *of(
        "train/loop.py",
        (
            "fit-resume-epoch",
            "a run that goes on begins the epoch anew",
            "first, number, total = int(state.batch),",
            "first, number, total = 0,",
            "test_train.py::test_sigterm_saves_and_a_new_run_goes_on_to_the_same_bits",
        ),
        (
            "fit-history-lost",
            "a run that goes on forgets its history",
            "return loaded.state, history",
            "return loaded.state, []",
            "test_train.py::test_a_run_that_is_over_is_handed_back",
        ),
        (
            "fit-never-saved",
            "the end of a run is saved only if a snapshot is due",
            "            run.save(state, best, history)\n        except",
            "        except",
            "test_train.py::test_snapshots_between_epochs_are_those_that_are_due",
        ),
        (
            "fit-other-run",
            "a run goes on with the snapshots of another",
            "    if before != about:",
            "    if False:",
            "test_train.py::test_another_run_is_not_gone_on_with",
        ),
        (
            "fit-never-ends",
            "bad steps in a row never end a run",
            "if bad >= self.bad_steps:",
            "if bad >= 10 * self.bad_steps:",
            "test_train.py::test_so_many_bad_steps_in_a_row_end_it",
        ),
        (
            "fit-mean-of-all",
            "the loss of an epoch is divided by skipped steps too",
            "float(state.loss_sum) / (steps - skipped)",
            "float(state.loss_sum) / steps",
            "test_train.py::test_a_run_goes_on_past_bad_steps_and_counts_them",
        ),
        (
            "fit-best-is-last",
            "every epoch is the best",
            "                    best_epoch == 0 or sign",
            "                    True or sign",
            "test_train.py::test_fit_keeps_the_best_epoch_and_stops_early",
        ),
    ),
    *of(
        "train/lock.py",
        (
            "snapshot-lock-removed",
            "a lock on a file that is no longer there counts",
            "if os.path.samestat(os.fstat(file.fileno()), path.stat()):",
            "if True:",
            "test_snapshots.py::test_a_lock_that_was_removed_meanwhile_is_none",
        ),
        (
            "snapshot-lock-left",
            "the file of a lock stays when its run has ended",
            "os.unlink(file.name)",
            "pass",
            "test_snapshots.py::test_one_run_saves_in_a_folder_at_a_time",
        ),
    ),
    *of(
        "train/snapshots.py",
        (
            "snapshot-always-due",
            "what a snapshot costs is not looked at",
            "return (time.monotonic() - self._ended) * self.share >= self._cost",
            "return True",
            "test_snapshots.py::test_one_is_due_when_it_costs_little_of_the_time",
        ),
        (
            "snapshot-unclaimed",
            "a run begins where another is going on",
            """            )
        self.claim()
""",
            """            )
""",
            "test_snapshots.py::test_one_run_saves_in_a_folder_at_a_time",
        ),
        (
            "snapshot-unverified",
            "the bytes of a snapshot are not looked at",
            'if hashlib.file_digest(file, "sha256").hexdigest() != digest:',
            "if False:",
            "test_snapshots.py::test_the_leaf_of_a_harmed_file_is_named",
        ),
        (
            "snapshot-planted",
            "a file that was put into a snapshot is not noticed",
            'for name in there.keys() - record["files"].keys():',
            "for name in ():",
            "test_snapshots.py::test_a_file_that_was_put_there_is_refused",
        ),
        (
            "snapshot-not-finite",
            "what is not finite is saved",
            "if not is_fine:",
            "if False:",
            "test_snapshots.py::test_what_is_not_finite_is_not_saved",
        ),
        (
            "snapshot-best-forgotten",
            "the best snapshot is removed as any other",
            "if step != best:",
            "if True:",
            "test_snapshots.py::test_the_last_and_the_best_are_kept",
        ),
        (
            "snapshot-about-later",
            "what is said of a snapshot is read when it is written, not when it is saved",
            "about = json.loads(json.dumps(about, allow_nan=False))",
            "json.dumps(about, allow_nan=False)",
            "test_snapshots.py::test_what_is_given_may_change_as_soon_as_save_returns",
        ),
        (
            "snapshot-kinds",
            "shapes and dtypes are not compared",
            "if kinds[name] != wanted[name]:",
            "if False:",
            "test_snapshots.py::test_another_state_is_refused",
        ),
    ),
    *of(
        "train/sweeps.py",
        (
            "sweep-one-setting",
            "all models of a sweep have settings of 0",
            "def step(one, state, batch):",
            "def step(one, state, batch):\n        one = {name: 0 * value for name, value in one.items()}",
            "test_sweeps.py::test_one_that_is_not_finite_stands_still_and_disturbs_no_other",
        ),
        (
            "sweep-resume-epoch",
            "a sweep that goes on begins the epoch anew",
            "first, number = int(states.batch[0]), int(states.step[0])",
            "first, number = 0, int(states.step[0])",
            "test_sweeps.py::test_a_sweep_that_was_stopped_in_an_epoch_goes_on_from_there",
        ),
        (
            "sweep-best-of-last",
            "the best model of a sweep is that of the last epoch",
            "return int(scores.max(0).argmax())",
            "return int(scores[-1].argmin())",
            "test_sweeps.py::test_one_that_is_not_finite_stands_still_and_disturbs_no_other",
        ),
    ),
    *of(
        "train/watch.py",
        (
            "log-cut-line",
            "a line that a kill cut short is written on",
            "_mend(self.log)",
            "self.log.touch()",
            "test_train.py::test_the_log_has_each_step_once_also_after_a_new_start",
        ),
    ),
    *of(
        "batches.py",
        (
            "batches-one-order",
            "every epoch has the same order",
            'np.random.default_rng((self.seed, checks.size("epoch", epoch, least=0)))',
            "np.random.default_rng((self.seed, 0))",
            "test_train.py::test_batches_are_a_function_of_seed_and_epoch",
        ),
    ),
    *of(
        "text.py",
        (
            "bounds-batch-size",
            "what fills up a batch costs nothing when lengths to pad to are chosen",
            "-(-n // batch_size) * batch_size * ends",
            "n * ends",
            "test_text.py::test_bounds_have_the_fewest_padded_steps",
        ),
    ),
    *of(
        "members.py",
        (
            "answers-unsorted",
            "texts are answered in the order they come in",
            'order = np.argsort(lengths, kind="stable")',
            "order = np.arange(len(lengths))",
            "test_tasks.py::test_batches_are_padded_little_and_of_few_shapes[1000]",
        ),
        (
            "answers-misplaced",
            "an answer goes to the text in whose place it was computed",
            "found[:, bucket.rows] = np.asarray(given)",
            "found[:, np.sort(bucket.rows)] = np.asarray(given)",
            "test_tasks.py::test_batches_are_padded_little_and_of_few_shapes[65]",
        ),
    ),
    *of(
        "models/encoder.py",
        (
            "lookup-sum",
            "the vectors of a step are added without their root",
            "rows.sum(-2) * jax.lax.rsqrt(n)",
            "rows.sum(-2)",
            "test_tasks.py::test_the_vectors_of_pieces_are_added_by_their_root",
        ),
        (
            "variational-none",
            "variational dropout drops other features at every step",
            "(0,) if options.variational else ()",
            "()",
            "test_tasks.py::test_variational_dropout_is_the_same_at_every_step",
        ),
    ),
    *of(
        "classify.py",
        (
            "outside-recall-alone",
            "the bound for what is outside is chosen by what is outside alone",
            "bounds[(accuracy + recall).argmax()]",
            "bounds[recall.argmax()]",
            "test_tasks.py::test_the_bound_is_the_best_there_is",
        ),
        (
            "balance-upside-down",
            "frequent labels weigh more",
            "np.maximum(targets.sum(0), 1) ** -balance",
            "np.maximum(targets.sum(0), 1) ** balance",
            "test_tasks.py::test_weights_by_class",
        ),
    ),
    *of(
        "match.py",
        (
            "overlap-own",
            "a word says whether it stands in its own text",
            "[word in two for word in one]",
            "[word in one for word in one]",
            "test_tasks.py::test_shared_words_are_flagged",
        ),
        (
            "search-cosine",
            "the query is not looked for, but itself",
            "return corpus @ vector",
            "return corpus @ corpus[0]",
            "test_tasks.py::test_pairs_on_the_command_line",
        ),
    ),
    *of(
        "vectors.py",
        (
            "vectors-shifted",
            "the numbers of a binary file are read a byte off",
            'name.decode("utf-8", "replace").lstrip("\\n")',
            'name.decode("utf-8", "replace")',
            "test_vectors.py::test_every_form_gives_the_same_vectors",
        ),
    ),
    *of(
        "backends/chunks.py",
        (
            "fused-widen-exact",
            "a row in bfloat16 is not rounded where it is multiplied as float32",
            "return lax.reduce_precision(x.astype(wide), kind.nexp, kind.nmant)",
            "return x.astype(wide)",
            "test_backends.py::test_a_single_row_in_bfloat16_is_rounded_as_any_other",
        ),
    ),
]

CHAINS = [
    *of(
        "crf.py",
        (
            "crf-end-lost",
            "log Z knows no score of the last tag",
            "_log_sum_exp(last + params.end[None], -1)",
            "_log_sum_exp(last, -1)",
            chain("test_equals_enumeration[0]"),
        ),
        (
            "crf-nothing",
            "log Z of no steps is that of one",
            "return jnp.where(n > 0, _log_sum_exp(last + params.end[None], -1), 0)",
            "return _log_sum_exp(last + params.end[None], -1)",
            chain("test_equals_enumeration[0]"),
        ),
        (
            "crf-underflow",
            "what underflows in a product stays lost",
            "jax.lax.cond((low & lost).any(), entry_by_entry",
            "jax.lax.cond((low & lost).all(), entry_by_entry",
            chain("test_sums_far_below_the_best[200]"),
        ),
        (
            "crf-slow-way",
            "each step of a model that is sure of itself goes entry by entry",
            "jax.lax.cond((low & lost).any(), entry_by_entry",
            "jax.lax.cond(low.any(), entry_by_entry",
            chain("test_sums_far_below_the_best[80]"),
        ),
        (
            "crf-raised-lost",
            "sums that are lost are not summed once more",
            "jax.lax.cond(low.any(), far, lambda",
            "jax.lax.cond(low.all(), far, lambda",
            chain("test_sums_far_below_the_best[80]"),
        ),
        (
            "crf-raised-all",
            "all sums are of raised terms, in whose gradient what is not likely is lost",
            "jnp.where(low, raised, product)",
            "jnp.where(lost, product, raised)",
            chain("test_gradients_of_sums_far_below_the_best[110]"),
        ),
        (
            "crf-raised-too-far",
            "terms are raised so far that their sum is infinite",
            "np.log(limits.max) - np.log(k) - 2)",
            "np.log(limits.max))",
            chain("test_sums_far_below_the_best[60]"),
        ),
        (
            "crf-raised-forbidden",
            "the gradient by what is forbidden is infinity times nothing",
            "jnp.where(small, 0, jnp.exp(ratios))",
            "jnp.exp(ratios)",
            chain("test_gradients_of_sums_far_below_the_best[110]"),
        ),
        (
            "crf-raised-small",
            "what small weights add to a raised sum is lost",
            "jnp.maximum(least, rest)",
            "jnp.maximum(least, 0 * rest)",
            chain("test_small_weights_of_sums_far_below_the_best"),
        ),
        (
            "crf-backwards",
            "the best path is traced along the rows of transitions",
            "params.transitions[:, jnp.maximum(tag, 0)].T",
            "params.transitions[jnp.maximum(tag, 0)]",
            chain("test_equals_enumeration[0]"),
        ),
        (
            "crf-pairs-past-the-end",
            "transitions into padding count",
            "jnp.where(valid[1:], params.transitions[tags[:-1], tags[1:]], 0)",
            "params.transitions[tags[:-1], tags[1:]]",
            chain("test_equals_enumeration[0]"),
        ),
        (
            "crf-padding",
            "NaN in the padding reaches the gradient",
            "jnp.where(valid[..., None], emissions.reshape(time, len(n), k).astype(dtype), 0)",
            "emissions.reshape(time, len(n), k).astype(dtype)",
            chain("test_padding_is_not_read"),
        ),
        (
            "crf-outside",
            "a tag out of range is the nearest one under tracing",
            "return jnp.where(bad, jnp.nan, found).reshape(batch)",
            "return found.reshape(batch)",
            chain("test_tags_out_of_range"),
        ),
        (
            "crf-dead-ends",
            "a sum of nothing has a gradient of NaN",
            "return jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1)) + top.squeeze(axis), -jnp.inf)",
            "return jnp.log(total) + top.squeeze(axis)",
            chain("test_where_all_is_forbidden"),
        ),
        (
            "crf-pairs-kept",
            "the gradient keeps a table of pairs for each step",
            "    @partial(jax.checkpoint, prevent_cse=False)\n",
            "",
            chain("test_the_gradient_keeps_no_table_of_pairs_for_each_step"),
        ),
        (
            "bio-begins-inside",
            "a sequence may begin with I-",
            "(names[:, None] == names[None]), ~inside)",
            "(names[:, None] == names[None]), inside | True)",
            chain("test_constraints[True]"),
        ),
        (
            "bio-any-inside",
            "I- may follow whatever is no O",
            "names[:, None] == names[None]",
            'names[:, None] != ""',
            chain("test_bio_is_its_rule"),
        ),
    ),
    *of(
        "decoding.py",
        (
            "beam-all-end",
            "an end is done wherever it stands among the 2 W best",
            "closing = jnp.where(ends[:w], best[:w], -jnp.inf)",
            "closing = jnp.where(ends[:w], best[:w], -jnp.inf).at[-1].set(jnp.where(ends, best, -jnp.inf).max())",
            decoded("test_beam_is_the_search_with_lists[0.0-2]"),
        ),
        (
            "beam-states-stay",
            "states are not taken along with their sequences",
            "log_p, jax.tree.map(lambda x: x[parents], states)",
            "log_p, states",
            decoded("test_beam_is_the_search_with_lists[0.0-3]"),
        ),
        (
            "beam-penalty",
            "the length penalty does not count the end",
            "n = (t + 1).astype(dtype)",
            "n = t.astype(dtype)",
            decoded("test_beam_is_the_search_with_lists[0.8-3]"),
        ),
        (
            "beam-no-cut",
            "what did not end is lost",
            "lambda a, b: jnp.concatenate([a, b]), done, cut)",
            "lambda a, b: jnp.concatenate([a, a]), done, cut)",
            decoded("test_a_beam_as_wide_as_all_sequences_finds_the_best[0.0]"),
        ),
        (
            "greedy-end-free",
            "greedy's log p leaves out the last token",
            "log_p += jax.nn.log_softmax(logits.astype(dtype))[token]",
            "log_p += jnp.where(token == end, 0, jax.nn.log_softmax(logits.astype(dtype))[token])",
            decoded("test_greedy_takes_the_best_of_each_step"),
        ),
        (
            "sample-one-draw",
            "every step of a sample has the same draw",
            "jax.random.fold_in(key, t)",
            "key",
            decoded("test_samples_come_as_often_as_they_should[1.0]"),
        ),
        (
            "nucleus-short",
            "the token that crosses top_p is left out",
            "before < top_p",
            "before + p <= top_p",
            decoded("test_likeliest_against_a_loop"),
        ),
        (
            "highest-of-equals",
            "of equals the one in the higher block comes first",
            "jnp.sort(_top_k(cut.max(-1), k)[1])",
            "_top_k(cut.max(-1), k)[1]",
            decoded("test_the_highest_are_those_of_top_k[40-259-16]"),
        ),
        (
            "highest-no-rest",
            "what fills no block is not looked at",
            "jnp.concatenate([cut[chosen].reshape(-1), rest])",
            "jnp.concatenate([cut[chosen].reshape(-1), jnp.full_like(rest, -jnp.inf)])",
            decoded("test_the_highest_are_those_of_top_k[1000000-65-4]"),
        ),
    ),
]

TAGS = [
    *of(
        "models/tagger.py",
        (
            "tagger-mark-side",
            "words before the predicate are marked as those after it",
            "jnp.clip(t - p[None], -far, far)",
            "jnp.clip(jnp.abs(t - p[None]), -far, far)",
            tagged("test_emissions_are_those_of_a_loop_over_words[both-True-2]"),
        ),
        (
            "tagger-no-predicate",
            "where no predicate is marked the first word is one",
            "there = (p >= 0) & (p <",
            "there = (p >= -1) & (p <",
            tagged("test_emissions_are_those_of_a_loop_over_words[both-True-2]"),
        ),
        (
            "tagger-highway",
            "the gate of a highway carries what it should let through",
            "ys = r * ys + (1 - r) * linear(carry, xs)",
            "ys = (1 - r) * ys + r * linear(carry, xs)",
            tagged("test_emissions_are_those_of_a_loop_over_words[both-True-2]"),
        ),
        (
            "tagger-one-way",
            "alternating layers all read forward",
            'options.directions == "alternating" and (below + n) % 2 == 1',
            'options.directions == "alternating" and (below + n) % 2 == 2',
            tagged("test_emissions_are_those_of_a_loop_over_words[alternating-False-0]"),
        ),
        (
            "tagger-beside",
            "every word stands beside the first, and not beside the predicate",
            "ys[jnp.where(there, p, 0), whose] @",
            "ys[0, whose] @",
            tagged("test_emissions_are_those_of_a_loop_over_words[both-True-2]"),
        ),
        (
            "tagger-whose",
            "a predicate stands in a sentence of another",
            "ys[jnp.where(there, p, 0), whose] @",
            "ys[jnp.where(there, p, 0), jnp.minimum(jnp.arange(len(p)), ys.shape[1] - 1)] @",
            tagged("test_a_sentence_read_once_for_all_its_predicates_is_as_one_read_for_each[both]"),
        ),
        (
            "tagger-weights",
            "a row of no weight counts",
            "log_p, weights = jnp.where(counts, log_p, 0), jnp.where(counts, weights, 0)",
            "weights = jnp.where(counts, weights, 0)",
            tagged("test_the_loss_is_the_mean_of_log_p_and_a_row_of_no_weight_may_hold_anything"),
        ),
        (
            "tagger-free",
            "forbidden tags are learnt as if they were allowed",
            "log_p = crf.log_likelihood(chain(params, allowed), scores",
            "log_p = crf.log_likelihood(chain(params, None), scores",
            tagged("test_the_loss_is_the_mean_of_log_p_and_a_row_of_no_weight_may_hold_anything"),
        ),
    ),
    *of(
        "packing.py",
        (
            "packs-in-rows",
            "sequences come together in the order of the records, in every epoch",
            "np.lexsort((rng.random(len(rows)), -self.counts[rows]))",
            "np.lexsort((np.arange(len(rows)), -self.counts[rows]))",
            "test_packing.py::test_the_order_is_that_of_seed_and_epoch",
        ),
        (
            "packs-full",
            "a batch is as wide as it may be, and not as it has to be",
            "max(int(falling[part].sum()) for part in dealt)",
            "2 * room",
            "test_packing.py::test_little_is_filled_up",
        ),
        (
            "deal-over",
            "a batch may have more questions than there is room for",
            "if load + count > room:",
            "if load > room:",
            "test_packing.py::test_dealing_leaves_little_and_is_level[0]",
        ),
        (
            "in-order-over",
            "a batch that is full is given more",
            "(counts[row] > left or len(rows) == sequences)",
            "(len(rows) == sequences)",
            "test_packing.py::test_any_number_of_sequences_is_asked_in_few_shapes",
        ),
    ),
    *of(
        "spans.py",
        (
            "spans-next",
            "a B after a span of the same name goes on with it",
            '(kind != "I" or label != open_label)',
            '(tag == "O" or label != open_label)',
            tagged("test_spans_are_there_and_back"),
        ),
        (
            "spans-label",
            "an I of another name goes on with the span",
            '(kind != "I" or label != open_label)',
            'kind != "I"',
            tagged("test_spans_are_there_and_back"),
        ),
        (
            "spans-continued",
            "a continued argument is another argument",
            "if continued and before:",
            "if continued and not before:",
            tagged("test_arguments_are_counted_as_conll_2005_does"),
        ),
        (
            "spans-verb",
            "the predicate counts as one of its arguments",
            'return [one for one in found if one.label != "V"]',
            "return found",
            tagged("test_arguments_are_counted_as_conll_2005_does"),
        ),
        (
            "spans-recall",
            "F1 counts what was found twice",
            "2 * right / (found + there)",
            "2 * right / (found + found)",
            tagged("test_arguments_are_counted_as_conll_2005_does"),
        ),
    ),
]

TRANSLATION = [
    *of(
        "models/attend.py",
        (
            "deferred-undropped",
            "the gradient of w_h is formed with the h before dropout",
            "(x, recurrent(state, how))",
            "(x, state.h)",
            attending("test_gradients_by_differences[general, fed]"),
        ),
    ),
    *of(
        "models/seq2seq.py",
        (
            "attention-to-padding",
            "padding is attended to",
            "jnp.where(there, 0, jnp.finfo(values.dtype).min / 2)",
            "jnp.where(there, 0, 0.0)",
            attending("test_it_is_its_equations[dot]"),
        ),
        (
            "target-not-shifted",
            "the decoder is told the token that it has to say",
            "jnp.concatenate([jnp.full_like(targets[:1], END), targets[:-1]])",
            "targets",
            attending("test_it_is_its_equations[dot]"),
        ),
        (
            "bridge-cell",
            "the hidden state that the decoder begins with is not squashed",
            "LSTMState(jnp.tanh(h), c)",
            "LSTMState(h, c)",
            attending("test_it_is_its_equations[dot]"),
        ),
        (
            "attention-last",
            "the state keeps the attention of the last step alone",
            "state.attention + attention",
            "attention",
            attending("test_a_step_at_a_time_is_the_same[dot]"),
        ),
        (
            "log-p-of-padding",
            "padding counts in log p of a target",
            "jnp.where(_there(batch), of_tokens, 0)",
            "of_tokens",
            attending("test_what_is_made_of_logits"),
        ),
    ),
    *of(
        "translate.py",
        (
            "blank-shifts",
            "a blank text shifts the translations after it",
            "found[rows[row]]",
            "found[row]",
            "test_translate.py::test_a_text_is_translated_alike_in_any_company",
        ),
        (
            "members-first",
            "of several members only the first is asked",
            "jax.nn.logsumexp(log_p, 0)",
            "log_p[0]",
            "test_translate.py::test_members_are_averaged_in_probability",
        ),
    ),
]

BAGS = [
    *of(
        "models/bag.py",
        (
            "bag-of-padding",
            "padding counts as a word",
            ".reshape(-1, *(1,) * (ids.ndim - 1)) & (ids < len(rarity))",
            ".reshape(-1, *(1,) * (ids.ndim - 1)) | (ids < len(rarity))",
            "test_bag.py::test_logits_are_the_equation_whatever_is_padded",
        ),
        (
            "bag-of-tokens",
            "a word that is twice in a text counts as two texts that have it",
            "once = [np.unique(ids) for ids in texts]",
            "once = list(texts)",
            "test_bag.py::test_logits_are_the_equation_whatever_is_padded",
        ),
        (
            "bag-unweighted",
            "the weights of records are left out",
            "model.fit(features, targets, sample_weight=weights)",
            "model.fit(features, targets)",
            "test_bag.py::test_fit_ends_where_the_penalised_loss_is_flat[False]",
        ),
    ),
    *of(
        "classify.py",
        (
            "measured-alone",
            "epochs are chosen without the linear part that the model will have",
            "_probabilities(members.beside(params, part), dev_sequences",
            "_probabilities(params, dev_sequences",
            "test_bag.py::test_a_recipe_with_a_linear_part_is_measured_saved_and_loaded_with_it[0]",
        ),
    ),
]

MUTANTS = CELLS + OVER_TIME + FUSED + NOISE + AT_THE_DOOR + TRAINING + CHAINS + TAGS + TRANSLATION + BAGS

# --- breaking and running --------------------------------------------------------------------------------------------

SECONDS = 300  # for the tests of one mutant
ELSEWHERE = 70  # the exit code of PYTEST where another lstmjax than that of the copy was imported

# pytest over a copy, in the folder it is run in.
PYTEST = f"""
import os, sys
import pytest

class Quick:
    def pytest_configure(self, config):  # after conftest, before any test is read
        from hypothesis import Phase, settings
        phases = [Phase.explicit, Phase.generate]  # what fails is not made smaller
        settings.register_profile("mutants", settings(), phases=phases, report_multiple_bugs=False)
        settings.load_profile("mutants")

code = pytest.main(sys.argv[1:], plugins=[Quick()])
import lstmjax
sys.exit(code if os.path.samefile(lstmjax.__path__[0], "lstmjax") else {ELSEWHERE})
"""


class Run(NamedTuple):
    """Tests under way over a copy."""

    mutant: Mutant | None  # None: nothing is broken
    process: subprocess.Popen
    folder: Path
    start: float


class Outcome(NamedTuple):
    """What came of it."""

    mutant: Mutant | None
    code: int | None  # of pytest; None: it took too long
    failed: dict[str, str]  # the tests that failed, and with which error
    output: str
    seconds: float

    @property
    def caught(self) -> bool | None:
        """Whether a test failed; None if pytest came to no verdict."""
        if self.code == 1 and self.failed:
            return True
        return False if self.code == 0 else None


def stale(mutants: Iterable[Mutant]) -> list[str]:
    """What is wrong with a table: names given twice, texts that are not once in their file, tests without a file."""
    mutants, found = list(mutants), []
    found += [f"{name}: two mutants have this name" for name, n in Counter(m.name for m in mutants).items() if n > 1]
    for m in mutants:
        path = ROOT / "lstmjax" / m.file
        count = path.read_text(encoding="utf-8").count(m.old) if path.is_file() else 0
        if count != 1:
            found.append(f"{m.name}: {count} times in lstmjax/{m.file}, not once: {m.old!r}")
        if m.old == m.new:
            found.append(f"{m.name}: nothing is broken")
        missing = [test for test in m.tests if not (ROOT / "tests" / test.split("::")[0]).is_file()]
        found += [f"{m.name}: no file of {test}" for test in missing]
        if not m.tests:
            found.append(f"{m.name}: no test should notice")
    return found


def copy(source: Path, target: Path) -> None:
    """The library, its tests, and what pytest is told."""
    for name in ("lstmjax", "tests"):
        shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(source / "pyproject.toml", target)


def start(mutant: Mutant | None, tests: Iterable[str], clean: Path, folder: Path) -> Run:
    """Begin to run the tests over a copy of `clean` in which the mutant's edit is made."""
    copy(clean, folder)
    if mutant is not None:
        path = folder / "lstmjax" / mutant.file
        path.write_text(path.read_text(encoding="utf-8").replace(mutant.old, mutant.new), encoding="utf-8")
    options = ["-n", "0", "-m", "", "--tb=short", "-p", "no:cacheprovider", "--color=no", "-rfE"]
    options += [] if mutant is None else ["-x"]
    environment = {
        # What is compiled is kept, so that all runs together compile unbroken programs once.
        "JAX_COMPILATION_CACHE_DIR": str(clean.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **{name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"},
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "COLUMNS": "250",  # so that pytest cuts no line short
    }
    command = [sys.executable, "-c", PYTEST, *options, *(f"tests/{test}" for test in tests)]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
    return Run(mutant, process, folder, time.monotonic())


def finish(run: Run) -> Outcome:
    """What came of a run that has ended or took too long; its copy is removed."""
    code = run.process.poll()
    if code is None:
        run.process.kill()
        run.process.wait()
    output = (run.folder / "output").read_text(encoding="utf-8", errors="replace")
    lines = [line.removeprefix("FAILED tests/") for line in output.splitlines() if line.startswith("FAILED tests/")]
    failed = {test: error.split(":")[0] for test, _, error in (line.partition(" - ") for line in lines)}
    shutil.rmtree(run.folder)
    return Outcome(run.mutant, code, failed, output, time.monotonic() - run.start)


def outcomes(mutants: Iterable[Mutant], clean: Path, jobs: int) -> Iterator[Outcome]:
    """The mutants' outcomes as they come, `jobs` at a time."""
    waiting, running = list(mutants), []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                mutant = waiting.pop(0)
                running.append(start(mutant, mutant.tests, clean, clean.parent / mutant.name))
            for run in list(running):
                if run.process.poll() is not None or time.monotonic() - run.start > SECONDS:
                    running.remove(run)
                    yield finish(run)
            time.sleep(0.02)
    finally:
        for run in running:
            run.process.kill()
            run.process.wait()


def baseline(mutants: Iterable[Mutant], clean: Path) -> Outcome:
    """The outcome of all tests of these mutants with nothing broken."""
    tests = dict.fromkeys(test for mutant in mutants for test in mutant.tests)
    run = start(None, tests, clean, clean.parent / "unbroken")
    try:
        run.process.wait()
    finally:
        run.process.kill()
    return finish(run)


def is_one_of(tests: Iterable[str], test: str) -> bool:
    """Whether a test is among these, of which some are whole files or functions of many tests."""
    return any(test == given or test.startswith((f"{given}[", f"{given}::")) for given in tests)


def verdict(mutants: list[Mutant], jobs: int, unbroken: bool) -> int:
    """Run them, a line each; the exit code."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        clean = Path(folder) / "clean"
        clean.mkdir()
        copy(ROOT, clean)  # once, so that whoever edits the library meanwhile changes nothing here
        begin, unusable = time.monotonic(), []
        if unbroken:
            found = baseline(mutants, clean)
            if found.caught is None or "\nERROR tests/" in found.output:
                print(*found.output.splitlines()[-40:], sep="\n")
                return 2
            print(f"unbroken: {found.output.splitlines()[-1]}", flush=True)
            unusable = [m for m in mutants if any(is_one_of(m.tests, test) for test in found.failed)]
            mutants = [m for m in mutants if m not in unusable]
        survivors = []
        for n, found in enumerate(outcomes(mutants, clean, jobs), 1):
            mutant, caught = found.mutant, found.caught
            word = {True: "caught", False: "SURVIVED", None: "NO VERDICT"}[caught]
            by = [f"{test}: {error}" for test, error in found.failed.items()] if caught else mutant.tests
            print(f"{n:4}/{len(mutants)} {word:10} {mutant.name:30} {found.seconds:5.1f} s  {' '.join(by)}", flush=True)
            if caught is False:
                survivors.append(mutant)
            if caught is None:
                unusable.append(mutant)
                print(*found.output.splitlines()[-15:], sep="\n")
        for mutant in survivors:
            print(f"survived: {mutant.name} ({mutant.file}): {mutant.broken}")
        for mutant in unusable:
            print(f"no verdict: {mutant.name} ({mutant.file}): its tests fail unbroken, or could not be run")
        seconds = time.monotonic() - begin
        caught = len(mutants) - sum(mutant in mutants for mutant in survivors + unusable)
        print(f"{caught} caught, {len(survivors)} survived, {len(unusable)} without verdict; {seconds:.0f} s")
        return 2 if unusable else 1 if survivors else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants; all if none is named")
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests unbroken first")
    given = parser.parse_args(arguments)
    by_name = {mutant.name: mutant for mutant in MUTANTS}
    unknown = [name for name in given.names if name not in by_name]
    if unknown:
        parser.error(f"no mutant is called {', '.join(unknown)}; --list says what there is")
    mutants = [by_name[name] for name in given.names] or MUTANTS
    if given.list:
        for mutant in mutants:
            print(f"{mutant.name:30} {mutant.file:24} {mutant.broken}")
    if wrong := stale(mutants):
        print(*wrong, sep="\n")
        return 2
    return 0 if given.list else verdict(mutants, max(given.jobs, 1), not given.no_baseline)


if __name__ == "__main__":
    # So that a kill, too, leaves no folder behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
