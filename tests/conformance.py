"""Run published LSTM cases through lstmjax and judge what comes out.

    python -m tests.conformance DIR [--backend scan|fused] [--dtype float32|float64|both] [--quick]

DIR holds a `manifest.json` and an npz per case, in one canonical form: time major, gates i f g o, a layer k and a
direction j per array (`l0d1_W`), `exp_*` as published, `ref_*` and `grad_*` from a float64 reference. In float32 the
published numbers are judged, in float64 the published ones, then the reference's and the derivatives to 1e-12. A case
that is to be judged in one dtype only is judged in that one, whatever is asked for. A case passes if all its runs pass;
a backend that cannot do it says so, and is not counted.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lstmjax
from lstmjax import Bidirectional, LayerNorm, LSTMForm, LSTMParams, LSTMState, Norm
from tests.problems import QUICK

BACKENDS = ("scan", "fused")
DTYPES = ("float32", "float64")
EXACT = {"atol": 1e-12, "rtol": 1e-12}  # for ref_* and grad_*, in float64

# What is meant where a case does not say.
DEFAULTS = {
    "direction": "forward",
    "layers": 1,
    "activations": ["sigmoid", "tanh", "tanh"],
    "coupling": None,
    "peephole": None,
    "projection": None,
    "layer_norm": None,
    "layer_norm_eps": LSTMForm().epsilon,
    "clip_preactivation": None,
    "clip_cell": None,
    "clip_projection": None,
    "pad_output": "zero",
}
DIRECTIONS = {"forward": (0,), "reverse": (1,), "bidirectional": (0, 1)}
WITHOUT_CONSTANTS = ("sigmoid", "tanh", "relu", "identity")

# Of the gates i, f, g, o and the peepholes i, f, o, those that a coupling leaves: the other gate has no weights, and
# what a case holds in its place is not read.
GATES = {None: (0, 1, 2, 3), "f=1-i": (0, 2, 3), "i=1-f": (1, 2, 3)}
PEEPHOLES = {None: (0, 1, 2), "f=1-i": (0, 2), "i=1-f": (1, 2)}

# The three layer norms: which arrays are scale and shift of what.
NORMS = {
    None: {},
    "per_gate_scale_then_bias": {"gates": ("ln_scale",)},
    "per_gate_scale_shift_and_cell": {"gates": ("ln_scale", "ln_shift"), "cell": ("ln_scale_c", "ln_shift_c")},
    "whole_vector_input_and_recurrent_separately": {
        "x": ("ln_scale_x", "ln_shift_x"),
        "h": ("ln_scale_h", "ln_shift_h"),
        "cell": ("ln_scale_c", "ln_shift_c"),
    },
}


class Finding(NamedTuple):
    """One array of one run, judged."""

    name: str
    error: float  # the largest absolute error among the judged numbers
    passed: bool


class Run(NamedTuple):
    """A case on a backend in a dtype."""

    backend: str
    dtype: str
    findings: list[Finding]

    @property
    def passed(self):
        return bool(self.findings) and all(finding.passed for finding in self.findings)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance", description="Judge lstmjax by published cases."
    )
    parser.add_argument("folder", type=Path, help="with a manifest.json and its npz files")
    parser.add_argument("--backend", choices=BACKENDS, help="both unless one is named")
    parser.add_argument("--dtype", choices=(*DTYPES, "both"), default="both")
    parser.add_argument(
        "--quick", action="store_true", help="compile without optimising: most of the time is compiling"
    )
    options = parser.parse_args(argv)
    backends = [options.backend] if options.backend else BACKENDS
    dtypes = DTYPES if options.dtype == "both" else [options.dtype]
    passed = failed = other = 0
    for case in cases(options.folder):
        reason, runs = not_applicable(case["semantics"]), []
        if reason is None:
            try:
                runs = list(judge(options.folder, case, backends, dtypes, options.quick))
            except Exception as error:  # a case that raises is a case that fails; the next ones are still judged
                print(f"FAIL  {case['name']}  {type(error).__name__}: {error}")
                failed += 1
                continue
            if not runs:
                reason = f"{' and '.join(backends)} cannot do this"
        if reason is not None:
            print(f"n/a   {case['name']}  {reason}")
            other += 1
            continue
        for backend in backends:
            _report(case["name"], backend, [run for run in runs if run.backend == backend])
        good = all(run.passed for run in runs)
        passed, failed = passed + good, failed + (not good)
    print(f"{passed} passed, {failed} failed, {other} not applicable")
    return 1 if failed else 0


def cases(folder: Path) -> list[dict]:
    """The lines of a manifest."""
    return json.loads((Path(folder) / "manifest.json").read_text())["cases"]


def meant(semantics: dict) -> dict:
    """The semantics of a case with what it leaves out, or leaves empty."""
    return DEFAULTS | {name: given for name, given in semantics.items() if given is not None}


def not_applicable(semantics: dict) -> str | None:
    """Why lstmjax has no params for a case of these semantics, or None if it has."""
    semantics = meant(semantics)
    known = {"direction": DIRECTIONS, "layer_norm": NORMS, "pad_output": ("zero", "hold")}
    reasons = [f"unknown semantics: {name} is {semantics[name]!r}" for name in semantics if name not in DEFAULTS]
    reasons += [f"{name} is {semantics[name]!r}" for name, values in known.items() if semantics[name] not in values]
    try:
        form(semantics, projected=True)
    except (TypeError, ValueError) as error:
        reasons.append(str(error))
    if semantics["coupling"] is not None and "x" in NORMS.get(semantics["layer_norm"], ()):
        reasons.append("layer_norm is over the gate that coupling leaves out too, lstmjax has no weights of that gate")
    return "; ".join(reasons) or None


def form(semantics: dict, projected: bool) -> LSTMForm:
    """The form of a layer, projected or not, of a case of these semantics."""
    clips = {"clip": "clip_preactivation", "clip_cell": "clip_cell", "clip_projection": "clip_projection"}
    # A bound of 0 is none; one of the projection says nothing where there is no projection.
    bounds = {name: semantics[given] or None for name, given in clips.items() if projected or name != "clip_projection"}
    return LSTMForm(
        coupling=semantics["coupling"],
        activations=tuple(map(_activation, semantics["activations"])),
        epsilon=semantics["layer_norm_eps"],
        **bounds,
    )


def _activation(given):
    """A name, or [name, alpha, beta]; constants of a function that has none say nothing."""
    if isinstance(given, str) or not given:
        return given
    name, *constants = given
    return name if name in WITHOUT_CONSTANTS else (name, *constants)


def judge(folder: Path, case: dict, backends=BACKENDS, dtypes=DTYPES, quick: bool = False) -> Iterator[Run]:
    """The runs of a case that its line asks to be judged in."""
    with np.load(Path(folder) / case["file"]) as file:
        data = dict(file)
    judged_in = case.get("judge_in") or " ".join(DTYPES)
    dtypes = [d for d in dtypes if d in judged_in] or [d for d in DTYPES if d in judged_in]
    for backend in backends:
        for dtype in dtypes:
            with jax.enable_x64(dtype == "float64"):
                findings = _judge(case, data, backend, dtype, QUICK if quick else None)
            if findings is not None:
                yield Run(backend, dtype, findings)


def _judge(case, data, backend, dtype, compiler_options):
    """The findings of one run, or None where the backend says that it cannot do it."""
    semantics = meant(case["semantics"])
    given = {name: a for name, a in data.items() if not name.startswith(("exp_", "ref_", "grad_"))}
    lengths = given.pop("lengths", None)
    given = {name: jnp.asarray(a, dtype) for name, a in given.items()}
    options = dict(
        lengths=lengths,
        reverse=semantics["direction"] == "reverse",
        backend=backend,
        precision=jax.lax.Precision.HIGHEST,
    )
    params, _ = _params_and_state(semantics, given)
    try:
        lstmjax.choose(params, given["x"], **options)
    except ValueError:
        if backend == "scan":  # which can do everything, so this is no answer but an error
            raise
        return None

    def loss(given):
        params, state = _params_and_state(semantics, given)
        state, ys = _run(semantics, params, given["x"], state, options)
        results = {"y": ys, **_finals(semantics, state)}
        return _scalar_loss(results, lengths), results

    if dtype == "float32":
        results, gradients = jax.jit(lambda given: loss(given)[1], compiler_options=compiler_options)(given), {}
    else:
        gradient = jax.value_and_grad(loss, has_aux=True)
        (_, results), gradients = jax.jit(gradient, compiler_options=compiler_options)(given)
    findings = []
    for name, want in data.items():
        kind, _, what = name.partition("_")
        if kind == "exp":
            findings.append(_compare(name, results[what], want, **case["tolerance"]))
        if kind == "ref" and dtype == "float64":
            findings.append(_compare(name, results[what], want, **EXACT))
        if kind == "grad" and dtype == "float64":
            findings.append(_compare(name, gradients[what], want, **EXACT))
    if lengths is not None:
        # Outputs that hold their last value there are judged by ref_y.
        zero = semantics["pad_output"] == "zero"
        padding = np.arange(len(data["x"]))[:, None] >= lengths
        if zero:
            findings.append(_compare("y at padding", results["y"][padding], 0, atol=0, rtol=0))
        if "x" in gradients:
            findings.append(_compare("grad_x at padding", gradients["x"][padding], 0, atol=0, rtol=0))
    return findings


def _run(semantics, params, xs, state, options):
    """`lstmjax.run` with the padding that a case means. What a case holds is the last output of a forward half; a
    backward half comes from the padding, where a case has 0 and lstmjax, as Keras, holds the initial state."""
    hold = semantics["pad_output"] == "hold" and semantics["direction"] != "reverse"
    state_after, ys = lstmjax.run(params, xs, state, padding="hold" if hold else "zero", **options)
    if hold and semantics["direction"] == "bidirectional":
        last = params if type(params) is Bidirectional else params[-1]
        forward = last.forward.w_h.shape[0]
        _, zero = lstmjax.run(params, xs, state, padding="zero", **options)
        ys = jnp.concatenate([ys[..., :forward], zero[..., forward:]], -1)
    return state_after, ys


def _params_and_state(semantics, given):
    """Params and state of a case, from its arrays; an array that nothing reads is an error."""
    unread = set(given) - {"x"}
    (_, batch, _), dtype = given["x"].shape, given["x"].dtype
    gates, peepholes = (np.array(rows[semantics["coupling"]]) for rows in (GATES, PEEPHOLES))

    def direction(name):
        def take(part):
            """An array of this direction, None where the case has none."""
            unread.discard(name + part)
            return given.get(name + part)

        def of_gates(part, rows=gates):
            """(4, H) to [4H] and (4, H, D) to [D, 4H], without what coupling leaves out."""
            a = take(part)
            return None if a is None else a[rows].reshape(-1, *a.shape[2:]).T

        def norm(scale, shift=None):
            read = take if scale.endswith("_c") else of_gates
            return Norm(read(scale), None if shift is None else read(shift))

        projection = take("proj") if semantics["projection"] is not False else None
        norms = {field: norm(*parts) for field, parts in NORMS[semantics["layer_norm"]].items()}
        params = LSTMParams(
            w_x=of_gates("W"),
            w_h=of_gates("R"),
            b=of_gates("b"),
            peephole=of_gates("p", peepholes) if semantics["peephole"] is not False else None,
            projection=None if projection is None else projection.T,
            projection_b=None if projection is None else take("proj_b"),
            norm=LayerNorm(**norms) if norms else None,
            form=form(semantics, projection is not None),
        )
        hidden = given[name + "W"].shape[1]
        zeros = jnp.zeros((batch, params.w_h.shape[0]), dtype), jnp.zeros((batch, hidden), dtype)
        state = (take("h0"), take("c0"))
        return params, LSTMState(*(z if s is None else s for s, z in zip(state, zeros, strict=True)))

    def layer(k):
        parts = [direction(f"l{k}d{j}_") for j in DIRECTIONS[semantics["direction"]]]
        return parts[0] if len(parts) == 1 else tuple(map(Bidirectional, *parts))

    layers = [layer(k) for k in range(semantics["layers"])]
    if unread:
        raise ValueError(f"no place for {', '.join(sorted(unread))}")
    params, state = layers[0] if len(layers) == 1 else zip(*layers, strict=True)
    # Where a case names no state, the library's own default is what is judged.
    stated = any(name.endswith(("h0", "c0")) for name in given)
    return params, state if stated else None


def _finals(semantics, state):
    """The final states by their names in a case."""
    states = [state] if semantics["layers"] == 1 else state
    finals = {}
    for k, layer in enumerate(states):
        directions = DIRECTIONS[semantics["direction"]]
        for j, (h, c) in zip(directions, [layer] if len(directions) == 1 else layer, strict=True):
            finals |= {f"h_l{k}d{j}": h, f"c_l{k}d{j}": c}
    return finals


def _scalar_loss(results, lengths):
    """What grad_* are the derivatives of: outputs at valid steps weighted by cos(0.7 n + 0.3), plus half the final
    hidden states, minus a quarter of the final cells."""
    y = results["y"]
    weight = np.cos(0.7 * np.arange(y.size) + 0.3).reshape(y.shape)
    if lengths is not None:
        weight = weight * (np.arange(len(y))[:, None] < lengths)[..., None]
    total = (weight.astype(y.dtype) * y).sum()
    total += 0.5 * sum(a.sum() for name, a in results.items() if name.startswith("h_"))
    return total - 0.25 * sum(a.sum() for name, a in results.items() if name.startswith("c_"))


def _compare(name, got: Any, want: Any, *, atol: float, rtol: float) -> Finding:
    """Judge the numbers that are not NaN in `want`; a NaN in `got` is never right."""
    got = np.asarray(got, np.float64)
    want = np.broadcast_to(np.float64(want), got.shape) if np.ndim(want) == 0 else want
    if got.shape != want.shape:
        return Finding(f"{name} has shape {got.shape}, not {want.shape},", np.inf, False)
    judged = ~np.isnan(want)
    error, want = np.abs(got - want)[judged], np.abs(want[judged])
    return Finding(name, float(error.max(initial=0)), bool((error <= atol + rtol * want).all()))


def _report(name, backend, runs):
    """A line: the largest error of each kind of array, or the arrays that are wrong."""
    parts = []
    for run in runs:
        for kind in ("exp", "ref", "grad"):
            errors = [finding.error for finding in run.findings if finding.name.startswith(kind)]
            if errors:
                parts.append(f"{run.dtype} {kind} {max(errors):.1e}")
        parts += [f"{run.dtype} {f.name} IS OFF BY {f.error:.1e}" for f in run.findings if not f.passed]
    verdict = "ok  " if all(run.passed for run in runs) else "FAIL"
    print(f"{verdict}  {name:44} {backend:5}  {'; '.join(parts) or 'the backend cannot do this'}")


if __name__ == "__main__":
    sys.exit(main())
