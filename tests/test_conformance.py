"""The published cases one by one, and the runner itself on cases made here."""

import json
from pathlib import Path

import numpy as np
import pytest

from lstmjax import LayerNorm, LSTMForm, LSTMParams, Norm
from tests import conformance, reference
from tests.problems import layer, state_of

# Beside the repository, and not part of it.
FOLDER = Path(__file__).parents[2] / "shared" / "conformance"
CASES = conformance.cases(FOLDER) if (FOLDER / "manifest.json").is_file() else []


@pytest.mark.skipif(not CASES, reason="the folder of published cases, ../shared/conformance, is absent")
@pytest.mark.parametrize("case", CASES or [None], ids=lambda case: case["name"] if case else "none")
def test_published_case(case):
    assert conformance.not_applicable(case["semantics"]) is None
    runs = list(conformance.judge(FOLDER, case, quick=True))
    wrong = [f"{run.backend} {run.dtype} {f.name}: {f.error}" for run in runs for f in run.findings if not f.passed]
    assert not wrong
    assert all(run.passed for run in runs)
    assert {run.backend for run in runs} == ({"scan"} if is_variant(case["semantics"]) else {"scan", "fused"})


def is_variant(semantics):
    """Whether these are not the semantics of a plain LSTM."""
    names = ("activations", "coupling", "peephole", "projection", "layer_norm", "clip_preactivation", "clip_cell")
    return any(conformance.meant(semantics)[name] not in (conformance.DEFAULTS[name], False) for name in names)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("variant", [False, True], ids=["plain", "variant"])
def test_runner_passes_what_is_right_and_fails_what_is_wrong(tmp_path, capsys, direction, variant):
    """A case of the NumPy reference passes; with numbers moved it fails and names them, and so does the exit code."""
    case, data = made_case(direction, variant)
    code, text = judged(tmp_path, [case], data, capsys)
    assert (code, text.splitlines()[-1]) == (0, "1 passed, 0 failed, 0 not applicable")
    assert ("the backend cannot do this" in text) == variant
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
    unknown = dict(case, name="unknown", semantics=case["semantics"] | {"zoneout": 0.1, "attention": None})
    code, text = judged(tmp_path, [case, unknown], data, capsys, "--backend", "fused")
    assert (code, text.splitlines()[-1]) == (1, "0 passed, 1 failed, 1 not applicable")
    assert "zoneout is 0.1" in text
    assert "attention" not in text
    for backend in conformance.BACKENDS:
        code, text = judged(tmp_path, [case], data, capsys, "--backend", backend, "--dtype", "float32")
        assert (code, text.splitlines()[-1]) == (0, "1 passed, 0 failed, 0 not applicable")
        assert {name for name in conformance.BACKENDS if name in text} == {backend}
        assert "float64" not in text
    # What may be judged in float64 only is judged there.
    code, text = judged(tmp_path, [dict(case, judge_in="float64")], data, capsys, "--dtype", "float32")
    assert code == 1
    assert "float64 ref_y IS OFF BY" in text
    assert "float32" not in text


def test_runner_says_what_fused_cannot_do(tmp_path, capsys):
    case, data = made_case("forward", variant=True)
    code, text = judged(tmp_path, [case], data, capsys, "--backend", "fused")
    assert (code, text.splitlines()) == (
        0,
        ["n/a   made_forward  fused cannot do this", "0 passed, 0 failed, 1 not applicable"],
    )


@pytest.mark.parametrize("left_out", [None, "gone"])
def test_what_a_case_leaves_out_is_the_default(tmp_path, capsys, left_out):
    """Semantics that are null, or not there; bounds of 0; arrays decide where nothing is said of them."""
    case, data = made_case("forward")
    semantics = {
        "direction": "forward",
        "clip_preactivation": 0,
        "clip_cell": 0,
        "clip_projection": 0,
        "activations": None,
    }
    if left_out is None:
        semantics |= dict.fromkeys(conformance.DEFAULTS) | {"direction": "forward"}
    code, text = judged(tmp_path, [dict(case, semantics=semantics)], data, capsys)
    assert (code, text.splitlines()[-1]) == (0, "1 passed, 0 failed, 0 not applicable")
    data["l0d0_p"] = np.zeros((3, 4))  # changes nothing, and fused cannot do it
    code, text = judged(tmp_path, [dict(case, semantics=semantics)], data, capsys, "--dtype", "float32")
    assert "the backend cannot do this" in text
    assert (code, text.splitlines()[-1]) == (0, "1 passed, 0 failed, 0 not applicable")


@pytest.mark.parametrize("array", ["l0d0_p", "l0d0_proj", "l0d0_proj_b", "l0d0_ln_scale", "l0d1_W", "l1d0_W", "l0d0_u"])
def test_runner_fails_an_array_it_cannot_place(tmp_path, capsys, array):
    case, data = made_case("forward")
    code, text = judged(tmp_path, [case], dict(data, **{array: np.ones((4, 4))}), capsys)
    assert (code, text.splitlines()[-1]) == (1, "0 passed, 1 failed, 0 not applicable")
    assert f"no place for {array}" in text


@pytest.mark.parametrize(
    ("semantics", "words"),
    [
        (dict(direction="sideways"), "direction is 'sideways'"),
        (dict(coupling="o=1-i"), "coupling"),
        (dict(layer_norm="batch"), "layer_norm is 'batch'"),
        (dict(pad_output="last"), "pad_output is 'last'"),
        (dict(activations=["sigmoid", "swish9", "tanh"]), "swish9"),
        (dict(activations=["sigmoid", "tanh"]), "activations"),
        (dict(activations=["sigmoid", [], "tanh"]), "activations"),
        (dict(clip_cell=-1.0), "clip_cell"),
        (dict(use_hardware=True), "use_hardware is True"),
        (dict(coupling="f=1-i", layer_norm="whole_vector_input_and_recurrent_separately"), "coupling leaves out"),
    ],
    ids=lambda given: str(given)[:40],
)
def test_not_applicable(semantics, words):
    assert conformance.not_applicable({"direction": "forward"}) is None
    assert words in conformance.not_applicable({"direction": "forward"} | semantics)


def judged(folder, cases, data, capsys, *options):
    """The exit code and the text of the runner on these cases, which share one file."""
    np.savez(folder / "case.npz", **data)
    (folder / "manifest.json").write_text(json.dumps({"cases": cases}))
    code = conformance.main([str(folder), "--quick", *options])
    return code, capsys.readouterr().out


T, B, D, H, P = 4, 3, 2, 4, 3


def variant_of(rng):
    """An LSTM with a lot beside the plain weights, and the semantics of it."""

    def draw(*shape):
        return rng.normal(size=shape) * 0.6

    semantics = {
        "activations": [["hard_sigmoid", 0.3, 0.4], "tanh", ["relu", 1.0, 0.0]],
        "coupling": "f=1-i",
        "peephole": True,
        "projection": True,
        "layer_norm": "per_gate_scale_then_bias",
        "layer_norm_eps": 1e-3,
        "clip_preactivation": 1.5,
        "clip_cell": 0.9,
        "clip_projection": 0.8,
        "pad_output": "hold",
    }
    form = LSTMForm("f=1-i", (("hard_sigmoid", 0.3, 0.4), "tanh", "relu"), 1.5, 0.9, 0.8, 1e-3)
    weights = draw(D, 3 * H), draw(P, 3 * H), draw(3 * H), draw(2 * H), draw(H, P), draw(P)
    return LSTMParams(*weights, LayerNorm(gates=Norm(1 + draw(3 * H))), form), semantics


def made_case(direction, variant=False):
    """A case in the canonical form with lengths and initial states, its numbers from `tests.reference`."""
    rng = np.random.default_rng(0)
    lengths = np.array([4, 0, 2])
    xs = rng.normal(size=(T, B, D))
    names = [f"l0d{j}_" for j in conformance.DIRECTIONS[direction]]
    semantics = {"peephole": False, "projection": False, "pad_output": "zero"}
    layers = {}
    for name in names:
        layers[name] = layer(rng, "lstm", D, H, np.float64)
        if variant:
            layers[name], semantics = variant_of(rng)
    states = {name: state_of(rng, layers[name], (B,)) for name in names}

    def results(xs, layers, states):
        finals, ys = {}, []
        for name in names:
            # Where a case holds, it holds in its forward half.
            way = {"reverse": True} if name == "l0d1_" else {"padding": semantics["pad_output"]}
            state, y = reference.run(layers[name], xs, states[name], lengths=lengths, **way)
            finals |= {f"h_{name[:-1]}": state.h, f"c_{name[:-1]}": state.c}
            ys.append(y)
        return {"y": np.concatenate(ys, -1), **finals}

    def loss(xs, layers, states):
        found = results(xs, layers, states)
        valid = np.arange(T)[:, None, None] < lengths[:, None]
        total = (np.cos(0.7 * np.arange(found["y"].size) + 0.3).reshape(found["y"].shape) * valid * found["y"]).sum()
        return total + sum({"h": 0.5, "c": -0.25}[k[0]] * a.sum() for k, a in found.items() if k != "y")

    def canonical(layers, states, xs, unused):
        """The arrays of a case; `unused` stands in the place of the gate that coupling leaves out."""

        def gates(a, blocks=4):
            """[.., kH] to (4, H, ..)."""
            a = a.T.reshape(-1, H, *a.shape[:-1])
            return a if len(a) == blocks else np.insert(a, 1, unused, axis=0)

        arrays = {"x": xs}
        for name in names:
            p, state = layers[name], states[name]
            arrays |= {f"{name}W": gates(p.w_x), f"{name}R": gates(p.w_h), f"{name}b": gates(p.b)}
            arrays |= {f"{name}h0": state.h, f"{name}c0": state.c}
            if variant:
                arrays |= {f"{name}p": gates(p.peephole, 3), f"{name}ln_scale": gates(p.norm.gates.scale)}
                arrays |= {f"{name}proj": p.projection.T, f"{name}proj_b": p.projection_b}
        return arrays

    found = results(xs, layers, states)
    d_xs, d_layers, d_states = reference.gradients(loss, xs, layers, states)
    data = canonical(layers, states, xs, 7.0) | {"lengths": lengths}
    data |= {f"{kind}_{name}": a.copy() for kind in ("exp", "ref") for name, a in found.items()}
    data |= {f"grad_{name}": a.copy() for name, a in canonical(d_layers, d_states, d_xs, 0.0).items()}
    case = {
        "name": f"made_{direction}",
        "file": "case.npz",
        "semantics": {"direction": direction, "layers": 1, **semantics},
        "tolerance": {"atol": 1e-5, "rtol": 1e-5},
        "judge_in": "float32 or float64",
    }
    return case, data
