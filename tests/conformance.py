"""Run published LSTM cases through lstmjax and judge what comes out.

    python -m tests.conformance DIR [--backend scan|fused] [--dtype float32|float64|both]

DIR holds a `manifest.json` and an npz per case, in one canonical form: time major, gates i f g o, a layer k and a
direction j per array (`l0d1_W`), `exp_*` as published, `ref_*` and `grad_*` from a float64 reference. In float32 the
published numbers are judged, in float64 the published ones, then the reference's and the derivatives to 1e-12. A case
passes if all its runs pass.
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
from lstmjax import Bidirectional, LSTMParams, LSTMState

BACKENDS = ("scan", "fused")
DTYPES = ("float32", "float64")
EXACT = {"atol": 1e-12, "rtol": 1e-12}  # for ref_* and grad_*, in float64

# What a case may ask for, and the one answer lstmjax has. A feature that arrives leaves this table, and its arrays
# enter `FIELDS`.
PLAIN = {
    "activations": ["sigmoid", "tanh", "tanh"],
    "coupling": None,
    "peephole": False,
    "projection": False,
    "layer_norm": None,
    "layer_norm_eps": None,
    "clip_preactivation": None,
    "clip_cell": None,
    "clip_projection": None,
    "pad_output": "zero",
}
DIRECTIONS = {"forward": (0,), "reverse": (1,), "bidirectional": (0, 1)}

# The arrays of a layer, and how they stand in `LSTMParams`.
FIELDS = {
    "W": ("w_x", lambda w: w.reshape(-1, w.shape[-1]).T),  # (4, H, D) to [D, 4H]
    "R": ("w_h", lambda w: w.reshape(-1, w.shape[-1]).T),  # (4, H, H) to [H, 4H]
    "b": ("b", lambda b: b.reshape(-1)),  # (4, H) to [4H]
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
    options = parser.parse_args(argv)
    backends = [options.backend] if options.backend else BACKENDS
    dtypes = DTYPES if options.dtype == "both" else [options.dtype]
    passed = failed = other = 0
    for case in cases(options.folder):
        reason, runs = not_applicable(case["semantics"]), []
        if reason is None:
            try:
                runs = list(judge(options.folder, case, backends, dtypes))
            except Exception as error:  # a case that raises is a case that fails; the next ones are still judged
                print(f"FAIL  {case['name']}  {type(error).__name__}: {error}")
                failed += 1
                continue
            if not runs:
                reason = "no run was asked for that the backend can do and the case is to be judged in"
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


def not_applicable(semantics: dict) -> str | None:
    """Why lstmjax has no params for a case of these semantics, or None if it has."""
    reasons = []
    for name, given in semantics.items():
        if name in PLAIN:
            if given not in (PLAIN[name], None):
                reasons.append(f"{name} is {given!r}, lstmjax has {PLAIN[name]!r}")
        elif name not in ("direction", "layers"):
            reasons.append(f"unknown semantics: {name} is {given!r}")
    if semantics["direction"] not in DIRECTIONS:
        reasons.append(f"direction is {semantics['direction']!r}")
    return "; ".join(reasons) or None


def judge(folder: Path, case: dict, backends=BACKENDS, dtypes=DTYPES) -> Iterator[Run]:
    """The runs of a case that its line asks to be judged in."""
    with np.load(Path(folder) / case["file"]) as file:
        data = dict(file)
    for backend in backends:
        for dtype in dtypes:
            if dtype in case.get("judge_in", dtype):
                with jax.enable_x64(dtype == "float64"):
                    findings = _judge(case, data, backend, dtype)
                if findings is not None:
                    yield Run(backend, dtype, findings)


def _judge(case, data, backend, dtype):
    """The findings of one run, or None where the backend says that it cannot do it."""
    semantics = case["semantics"]
    given = {name: a for name, a in data.items() if not name.startswith(("exp_", "ref_", "grad_"))}
    lengths = given.pop("lengths", None)
    given = {name: jnp.asarray(a, dtype) for name, a in given.items()}
    params, _ = _params_and_state(semantics, given)
    try:
        lstmjax.choose(params, given["x"], backend=backend)
    except ValueError:
        return None

    def loss(given):
        params, state = _params_and_state(semantics, given)
        state, ys = lstmjax.run(
            params,
            given["x"],
            state,
            lengths=lengths,
            reverse=semantics["direction"] == "reverse",
            backend=backend,
            precision=jax.lax.Precision.HIGHEST,
        )
        results = {"y": ys, **_finals(semantics, state)}
        return _scalar_loss(results, lengths), results

    if dtype == "float32":
        results, gradients = jax.jit(lambda given: loss(given)[1])(given), {}
    else:
        (_, results), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(given)
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
        padding = np.arange(len(data["x"]))[:, None] >= lengths
        findings.append(_compare("y at padding", results["y"][padding], 0, atol=0, rtol=0))
        if "x" in gradients:
            findings.append(_compare("grad_x at padding", gradients["x"][padding], 0, atol=0, rtol=0))
    return findings


def _params_and_state(semantics, given):
    """Params and state of a case, from its arrays; an array that nothing reads is an error."""
    unread = set(given) - {"x"}
    (_, batch, _), dtype = given["x"].shape, given["x"].dtype

    def direction(name):
        fields = {FIELDS[part][0]: FIELDS[part][1](given[name + part]) for part in FIELDS if name + part in given}
        params = LSTMParams(**fields)
        zeros = jnp.zeros((batch, params.w_h.shape[0]), dtype)
        unread.difference_update(name + part for part in (*FIELDS, "h0", "c0"))
        return params, LSTMState(given.get(name + "h0", zeros), given.get(name + "c0", zeros))

    def layer(k):
        parts = [direction(f"l{k}d{j}_") for j in DIRECTIONS[semantics["direction"]]]
        return parts[0] if len(parts) == 1 else tuple(map(Bidirectional, *parts))

    layers = [layer(k) for k in range(semantics.get("layers", 1))]
    if unread:
        raise ValueError(f"no place for {', '.join(sorted(unread))}")
    params, state = layers[0] if len(layers) == 1 else zip(*layers, strict=True)
    # Where a case names no state, the library's own default is what is judged.
    stated = any(name.endswith(("h0", "c0")) for name in given)
    return params, state if stated else None


def _finals(semantics, state):
    """The final states by their names in a case."""
    states = [state] if semantics.get("layers", 1) == 1 else state
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
