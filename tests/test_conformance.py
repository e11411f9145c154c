"""The published cases one by one, and the runner itself on cases made here."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests import conformance, reference
from tests.problems import layer

# Beside the repository, and not part of it.
FOLDER = Path(__file__).parents[2] / "shared" / "conformance"
CASES = conformance.cases(FOLDER) if (FOLDER / "manifest.json").is_file() else []


@pytest.mark.skipif(not CASES, reason="the folder of published cases, ../shared/conformance, is absent")
@pytest.mark.parametrize("case", CASES or [None], ids=lambda case: case["name"] if case else "none")
def test_published_case(case):
    reason = conformance.not_applicable(case["semantics"])
    if reason is not None:
        pytest.skip(reason)
    runs = list(conformance.judge(FOLDER, case))
    assert {run.backend for run in runs} == set(conformance.BACKENDS)
    wrong = [f"{run.backend} {run.dtype} {f.name}: {f.error}" for run in runs for f in run.findings if not f.passed]
    assert not wrong
    assert all(run.passed for run in runs)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_runner_passes_what_is_right_and_fails_what_is_wrong(tmp_path, capsys, direction):
    """A case of the NumPy reference passes; with numbers moved it fails and names them, and so does the exit code."""
    case, data = made_case(direction)
    code, text = judged(tmp_path, [case], data, capsys)
    assert (code, text.splitlines()[-1]) == (0, "1 passed, 0 failed, 0 not applicable")
    last = "l0d0" if direction == "forward" else "l0d1"
    moved = {"exp_y": 1e-3, f"exp_h_{last}": 1e-3, f"ref_c_{last}": 1e-9, f"grad_{last}_R": 1e-9, "grad_x": 1e-9}
    for name, by in moved.items():
        data[name].flat[1] += by
    code, text = judged(tmp_path, [case], data, capsys, "--backend", "scan", "--dtype", "float64")
    assert (code, text.splitlines()[-1]) == (1, "0 passed, 1 failed, 0 not applicable")
    assert {name for name in data if f" {name} IS OFF BY" in text} == set(moved)


def test_runner_counts_and_options(tmp_path, capsys):
    case, data = made_case("forward")
    # A published number that is not judged, and one number that only float64 can tell to be wrong.
    data["exp_y"][0] = np.nan
    data["ref_y"].flat[1] += 1e-9
    peephole = dict(case, name="peephole", semantics=case["semantics"] | {"peephole": True})
    unknown = dict(case, name="unknown", semantics=case["semantics"] | {"zoneout": 0.1})
    code, text = judged(tmp_path, [case, peephole, unknown], data, capsys, "--backend", "fused")
    assert (code, text.splitlines()[-1]) == (1, "0 passed, 1 failed, 2 not applicable")
    assert "peephole is True" in text
    assert "zoneout is 0.1" in text
    for backend in conformance.BACKENDS:
        code, text = judged(tmp_path, [case], data, capsys, "--backend", backend, "--dtype", "float32")
        assert (code, text.splitlines()[-1]) == (0, "1 passed, 0 failed, 0 not applicable")
        assert {name for name in conformance.BACKENDS if name in text} == {backend}
        assert "float64" not in text


def test_runner_fails_an_array_it_cannot_place(tmp_path, capsys):
    case, data = made_case("forward")
    code, text = judged(tmp_path, [case], dict(data, l0d0_p=np.ones((3, 4))), capsys)
    assert (code, text.splitlines()[-1]) == (1, "0 passed, 1 failed, 0 not applicable")
    assert "no place for l0d0_p" in text


def judged(folder, cases, data, capsys, *options):
    """The exit code and the text of the runner on these cases, which share one file."""
    np.savez(folder / "case.npz", **data)
    (folder / "manifest.json").write_text(json.dumps({"cases": cases}))
    code = conformance.main([str(folder), *options])
    return code, capsys.readouterr().out


def made_case(direction):
    """A case in the canonical form with lengths and initial states, its numbers from `tests.reference`."""
    T, B, D, H = 4, 3, 2, 4
    rng = np.random.default_rng(0)
    lengths = np.array([4, 0, 2])
    xs = rng.normal(size=(T, B, D))
    names = [f"l0d{j}_" for j in conformance.DIRECTIONS[direction]]
    layers = {name: layer(rng, "lstm", D, H, np.float64) for name in names}
    states = {name: [rng.normal(size=(B, H)) for _ in "hc"] for name in names}

    def results(xs, layers, states):
        finals, ys = {}, []
        for name in names:
            state = reference.LSTMState(*states[name])
            state, y = reference.run(layers[name], xs, state, lengths=lengths, reverse=name == "l0d1_")
            finals |= {f"h_{name[:-1]}": state.h, f"c_{name[:-1]}": state.c}
            ys.append(y)
        return {"y": np.concatenate(ys, -1), **finals}

    def loss(xs, layers, states):
        found = results(xs, layers, states)
        total = (np.cos(0.7 * np.arange(found["y"].size) + 0.3) * found["y"].reshape(-1)).sum()
        return total + sum({"h": 0.5, "c": -0.25}[k[0]] * a.sum() for k, a in found.items() if k != "y")

    def canonical(layers, states, xs):
        gates = {f"{n}{k}": w.T.reshape(4, H, -1) for n in names for k, w in zip("WR", layers[n][:2], strict=True)}
        biases = {f"{n}b": layers[n].b.reshape(4, H) for n in names}
        return {
            "x": xs,
            **gates,
            **biases,
            **{f"{n}{k}0": s for n in names for k, s in zip("hc", states[n], strict=True)},
        }

    found = results(xs, layers, states)
    d_xs, d_layers, d_states = reference.gradients(loss, xs, layers, states)
    data = canonical(layers, states, xs) | {"lengths": lengths}
    data |= {f"{kind}_{name}": a.copy() for kind in ("exp", "ref") for name, a in found.items()}
    data |= {f"grad_{name}": a for name, a in canonical(d_layers, d_states, d_xs).items()}
    case = {
        "name": f"made_{direction}",
        "file": "case.npz",
        "semantics": {"direction": direction, "layers": 1, "peephole": False, "pad_output": "zero"},
        "tolerance": {"atol": 1e-5, "rtol": 1e-5},
        "judge_in": "float32 or float64",
    }
    return case, data
