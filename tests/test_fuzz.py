"""Five hundred random bad calls, and that the fuzz would find a check that is missing."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstmjax
from lstmjax import checks
from tests import fuzz
from tests.problems import problem

SEED = 0
params, xs = problem()[:2]


@pytest.mark.parametrize("half", [range(250), range(250, 500)], ids=["first", "second"])
def test_bad_calls_are_refused_by_us(half):
    report = fuzz.fuzz(SEED, half)
    assert report.calls == 250
    assert report.good > 5
    assert [fuzz.describe(SEED, failure) for failure in report.failures] == []


@cache
def drawn():
    return [fuzz.draw(SEED, n) for n in range(2000)]


def test_every_function_and_every_catalogue_is_drawn():
    public = {name for name in vars(lstmjax) if callable(getattr(lstmjax, name)) and name[0].islower()}
    forms = {name for name in vars(lstmjax) if name.endswith("Form")}
    assert (public | forms) - {good.name for good, _ in drawn()} == set()
    assert set(fuzz.DAMAGES) - {catalogue for good, _ in drawn() for catalogue in good.accepts.values()} == set()
    modes = [bad.mode for _, bad in drawn()]
    assert modes.count("eager") > 800
    assert min(map(modes.count, fuzz.TRACINGS)) > 150


# A check, what stands in its place, and the arguments whose damages it answers.
DISABLED = {
    "lengths": (lambda name, given, batch, time: jnp.asarray(given, jnp.int32), "lengths"),
    "bools": (lambda name, given, shape, layout: given, "reset"),
    "as_float_array": (lambda name, x: jnp.asarray(x), "xs"),
    "size": (lambda name, n: n, "hidden"),
    "flag": (lambda name, given: bool(np.all(given)), "reverse"),
    "rate": (lambda name, given: given, "regularisers"),
    "one_of": (lambda name, given, allowed: None, "init"),
    "float_dtype": (lambda name, dtype: jnp.dtype(dtype), "dtype"),
    "precision": (lambda name, given: None, "precision"),
    "key": (lambda name, k: None, "key"),
}


@pytest.mark.parametrize("check", DISABLED)
def test_a_missing_check_is_found(check, monkeypatch):
    instead, argument = DISABLED[check]
    concerned = [n for n, (_, bad) in enumerate(drawn()) if bad.damages[0].startswith(f"{argument}: ")][:8]
    assert fuzz.fuzz(SEED, concerned).failures == []
    monkeypatch.setattr(checks, check, instead)
    assert fuzz.fuzz(SEED, concerned).failures


def answer(function, *words):
    with fuzz.strict():
        return fuzz.verdict(fuzz.Bad("f", function, {}, ("a damage",), (words,), "eager"))


def test_what_is_no_answer():
    """Each of these is told from an error of ours that names the argument."""

    def ours():
        lstmjax.run(params, xs, chunk=0)

    def not_ours():
        raise ValueError("chunk should be an int of at least 1")

    assert answer(ours, "chunk") is None
    assert answer(ours, ("lengths", "chunk"), "at least 1") is None
    assert answer(ours, "lengths").startswith("names nothing")
    assert answer(ours, "chunk", "lengths").startswith("names nothing")
    assert answer(lambda: None, "chunk") == "accepted"
    assert answer(not_ours, "chunk").startswith("not raised by us")
    # Python's own error in a line of ours, and JAX's from below it.
    assert answer(partial(checks.one_of, "padding", "zero", None), "NoneType").startswith("not raised by us")
    assert answer(lambda: jnp.dot(xs, params.b, precision="best")).startswith("not raised by us")
    assert "TracerBoolConversionError" in answer(lambda: jax.jit(bool)(True))
    assert answer(lambda: checks.one_of("x", "a tracer in a scan", ("scan",))).startswith(
        "['scan', 'tracer'] from inside"
    )
    assert answer(lambda: checks.one_of("x", 1, ("scan",))) is None


def test_the_same_seed_draws_the_same_calls():
    for n in range(20):
        first, second = (fuzz.draw(SEED, n)[1] for _ in range(2))
        assert first.damages == second.damages
        assert repr(first.arguments.keys()) == repr(second.arguments.keys())
        leaves = zip(jax.tree.leaves(first.arguments), jax.tree.leaves(second.arguments), strict=True)
        assert all(np.array_equal(a, b) for a, b in leaves if isinstance(a, np.ndarray) and a.dtype == np.float32)


def test_the_command_says_what_it_did(monkeypatch, capsys):
    assert fuzz.main(["--calls", "10", "--seed", "3"]) == 0
    assert "seed 3: 10 bad calls" in capsys.readouterr().out
    monkeypatch.setattr(fuzz, "verdict", lambda bad: "accepted")
    assert fuzz.main(["--calls", "10", "--seed", "3"]) == 1
    shown = capsys.readouterr().out
    assert "python -m tests.fuzz --seed 3 --only 7" in shown
    assert "10 not answered" in shown
    assert fuzz.main(["--seed", "3", "--only", "7"]) == 1
    assert "--only 7" in capsys.readouterr().out
