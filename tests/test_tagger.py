"""The tagger against loops in NumPy, its padding, what it learns; spans and how they are counted; the commands."""

import itertools
import json
import sys
from functools import partial
from io import BytesIO, TextIOWrapper

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstmjax import baselines, crf, datasets, spans, tag, train
from lstmjax.__main__ import main
from lstmjax.commands.tasks import TASKS
from lstmjax.models import tagger
from lstmjax.recipe import SWEPT, Recipe
from lstmjax.sequence import run
from lstmjax.spans import Argument, Span

KEY = jax.random.key(0)
SMALL = Recipe(members=1, embedding=16, hidden=(16,), epochs=12, dropout=0.1, learning_rate=1e-2, buckets=1)
WAYS = list(itertools.product(tagger.DIRECTIONS, (False, True), (0, 2)))  # directions, highway, reach


def _drawn(directions="both", highway=True, reach=2, seed=0):
    """A small tagger, and a batch for it: params, options, ids [B, T, F], lengths, predicates, tags."""
    how = dict(embedding=6, hidden=(4, 3), directions=directions, highway=highway, reach=reach, above=(3, 2))
    params = tagger.init(jax.random.key(seed), 20, 5, **how)
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, 20, (3, 5, 3)).astype(np.int32)
    lengths, predicates = np.array([5, 3, 0], np.int32), np.array([2, -1, -1], np.int32)
    tags = rng.integers(0, 5, (3, 5)).astype(np.int32)
    return params, tagger.Options(directions), ids, lengths, predicates if reach else None, tags


def _slow(params, options, ids, length, predicate):
    """The emissions of one sequence, step by step: [length, K]."""
    table = np.asarray(params.embedding)
    xs = np.stack([table[[k for k in row if k]].sum(0) / np.sqrt((row != 0).sum()) for row in ids[:length]])
    xs = _slow_layers(params, options, xs, 0)
    if params.frames is not None:
        frames = jax.tree.map(np.asarray, params.frames)
        reach = len(frames.marks) // 2 - 1
        beside = []
        for t in range(length):
            far = 0 if predicate < 0 else max(-reach, min(reach, t - predicate)) + reach + 1
            z = xs[t] @ frames.word.w + frames.word.b + frames.marks[far]
            beside.append(np.tanh(z if predicate < 0 else z + xs[predicate] @ frames.predicate))
        xs = _slow_layers(params.frames, options, np.stack(beside), len(params.layers))
    return xs @ np.asarray(params.head.w) + np.asarray(params.head.b)


def _slow_layers(params, options, xs, below):
    for n, layer in enumerate(params.layers):
        back = options.directions == "alternating" and (below + n) % 2 == 1
        ys = np.asarray(run(layer, jnp.asarray(xs), reverse=back)[1])
        if params.highways is not None:
            gate, carry = params.highways[n]
            r = 1 / (1 + np.exp(-(np.concatenate([xs, ys], 1) @ np.asarray(gate.w) + np.asarray(gate.b))))
            ys = r * ys + (1 - r) * (xs @ np.asarray(carry.w) + np.asarray(carry.b))
        xs = ys
    return xs


@pytest.mark.parametrize(("directions", "highway", "reach"), WAYS)
def test_emissions_are_those_of_a_loop_over_words(directions, highway, reach):
    params, options, ids, lengths, predicates, _ = _drawn(directions, highway, reach)
    found = jax.jit(tagger.emissions, static_argnames="options")(params, ids, lengths, predicates, options=options)
    for b, n in enumerate(lengths[:2]):
        right = _slow(params, options, ids[b], n, -1 if predicates is None else predicates[b])
        np.testing.assert_allclose(found[:n, b], right, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("directions", "highway", "reach"), WAYS)
def test_padding_changes_nothing(directions, highway, reach):
    params, options, ids, lengths, predicates, tags = _drawn(directions, highway, reach)

    def loss(params, ids, tags):
        ones = jnp.array([1.0, 1, 0])
        batch = tagger.Batch(ids, lengths, jnp.zeros(3, jnp.int32) if predicates is None else predicates, tags, ones)
        return tagger.loss(params, batch, options=options)

    past = np.arange(5)[None] >= lengths[:, None]
    other_ids, other_tags = np.where(past[..., None], 19, ids), np.where(past, 0, tags)
    value, gradient = jax.value_and_grad(loss)(params, ids, tags)
    other, other_gradient = jax.value_and_grad(loss)(params, other_ids, other_tags)
    assert value == other
    jax.tree.map(np.testing.assert_array_equal, gradient, other_gradient)
    wide = np.pad(ids, ((0, 0), (0, 2), (0, 0)))
    longer = tagger.emissions(params, wide, lengths, predicates, options)[:5]
    np.testing.assert_allclose(
        np.where(past.T[..., None], 0, longer),
        np.where(past.T[..., None], 0, tagger.emissions(params, ids, lengths, predicates, options)),
        rtol=1e-6,
        atol=1e-6,
    )


def test_the_loss_is_the_mean_of_log_p_and_a_row_of_no_weight_may_hold_anything():
    params, options, ids, lengths, predicates, tags = _drawn()
    allowed = crf.bio(["O", "B-A", "I-A", "B-B", "I-B"])
    tags[0], tags[1], tags[2] = [1, 2, 2, 0, 3], [0, 0, 1, 4, 4], 4
    scores = tagger.emissions(params, ids, lengths, predicates, options)
    chain = tagger.chain(params, allowed)
    right = -np.mean([float(crf.log_likelihood(chain, scores[:n, b], tags[b, :n])) for b, n in ((0, 5), (1, 3))])
    batch = tagger.Batch(ids, np.array([5, 3, 5], np.int32), predicates, tags, np.array([1.0, 1, 0], np.float32))
    value, gradient = jax.value_and_grad(lambda p: tagger.loss(p, batch, allowed=allowed, options=options))(params)
    np.testing.assert_allclose(value, right, rtol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    for weights in ([0.1, 0.1, 0], [2.0, 2, -3]):  # of any size; a row of a weight below 0 does not count either
        same = batch._replace(weights=np.array(weights, np.float32))
        np.testing.assert_allclose(tagger.loss(params, same, allowed=allowed, options=options), right, rtol=1e-6)
    for wrong in (np.ones((3, 1), np.float32), np.float32(2), np.ones(2, np.float32)):
        with pytest.raises(ValueError, match=r"batch.weights should be \[B\] with B = 3"):
            tagger.loss(params, batch._replace(weights=wrong), options=options)
    with pytest.raises(TypeError, match=r"batch\.weights should be an array of floats, got NoneType"):
        tagger.loss(params, batch._replace(weights=None), options=options)
    with pytest.raises(TypeError, match="allowed should be Allowed"):
        tagger.loss(params, batch, allowed=allowed.transitions, options=options)


def test_predicted_tags_are_the_best_of_all_and_allowed():
    params, options, ids, lengths, predicates, _ = _drawn()
    names = ["O", "B-A", "I-A", "B-B", "I-B"]
    allowed = crf.bio(names)
    found = np.asarray(tagger.predict(params, ids, lengths, predicates, allowed=allowed, options=options))
    scores = np.asarray(tagger.emissions(params, ids, lengths, predicates, options))
    chain = jax.tree.map(np.asarray, tagger.chain(params, allowed))

    def value(path, b):
        beside = sum(chain.transitions[i, j] for i, j in itertools.pairwise(path))
        return chain.start[path[0]] + beside + chain.end[path[-1]] + sum(scores[t, b, k] for t, k in enumerate(path))

    for b, n in ((0, 5), (1, 3)):
        best = max(itertools.product(range(5), repeat=int(n)), key=lambda path, b=b: value(path, b))
        assert tuple(found[b, :n]) == best
        spans.check_bio([names[k] for k in best], "the best")
    assert (found[2] == -1).all()


@pytest.mark.parametrize("directions", tagger.DIRECTIONS)
def test_a_sentence_read_once_for_all_its_predicates_is_as_one_read_for_each(directions):
    params, options, ids, lengths, *_ = _drawn(directions)
    whose, predicates = np.array([1, 0, 0, 2, 0], np.int32), np.array([2, 4, -1, -1, 0], np.int32)
    tags = np.random.default_rng(1).integers(0, 5, (5, 5)).astype(np.int32)
    weights = np.array([1, 1, 1, 0, 2], np.float32)
    shared = tagger.Batch(ids, lengths, predicates, tags, weights, whose)
    each = tagger.Batch(ids[whose], lengths[whose], predicates, tags, weights)
    value = jax.jit(jax.value_and_grad(partial(tagger.loss, options=options)))
    (one, gradient), (other, other_gradient) = value(params, shared), value(params, each)
    np.testing.assert_allclose(one, other, rtol=1e-6)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), gradient, other_gradient)
    found = tagger.predict(params, ids, lengths, predicates, options=options, sentences=whose)
    right = tagger.predict(params, ids[whose], lengths[whose], predicates, options=options)
    np.testing.assert_array_equal(found, right)


def test_dropout_draws_by_key_alone_and_drops_the_same_features_of_every_word():
    params, options, ids, lengths, predicates, _ = _drawn(highway=False, reach=2)
    options = options._replace(dropout=0.5, word_dropout=0.3, recurrent=0.3)
    calm = tagger.emissions(params, ids, lengths, predicates, options)
    once, again, other = (
        tagger.emissions(params, ids, lengths, predicates, options, k) for k in (KEY, KEY, jax.random.key(1))
    )
    np.testing.assert_array_equal(once, again)
    assert not np.allclose(once, other)
    assert not np.allclose(once, calm)
    np.testing.assert_array_equal(calm, tagger.emissions(params, ids, lengths, predicates, tagger.Options()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(ids=jnp.zeros((2, 3))), "ids should be an array of ints"),
        (dict(ids=jnp.zeros(3, jnp.int32)), r"ids should be \[S, T\]"),
        (dict(ids=jnp.full((3, 5), 20)), "ids should lie in"),
        (dict(lengths=jnp.array([6, 1, 1])), "lengths"),
        (dict(predicates=None), "but params have frames"),
        (dict(predicates=jnp.zeros(3)), "predicates should be an array of ints"),
        (dict(predicates=jnp.zeros(2, jnp.int32)), r"predicates should be \[B\]"),
        (dict(predicates=jnp.array([0, 3, -1])), "predicates should be words of their sentences, or -1, got 3 where"),
        (dict(predicates=jnp.array([-2, 0, -1])), "predicates should be words of their sentences, or -1, got -2 where"),
        (dict(options=None), "options should be Options, got NoneType"),
        (dict(sentences=jnp.zeros(3)), "sentences should be an array of ints"),
        (dict(sentences=jnp.zeros(2, jnp.int32)), r"both be \[B\], got shapes \(3,\) and \(2,\)"),
        (dict(sentences=jnp.array([0, 3, 0])), r"sentences should lie in \[0, 3\)"),
        (dict(options=tagger.Options("up")), "options.directions"),
        (dict(options=tagger.Options(dropout=1.0)), "options.dropout"),
        (dict(key=3), "key"),
    ],
)
def test_bad_input_is_named(change, said):
    params, options, ids, lengths, predicates, _ = _drawn()
    given = dict(ids=ids, lengths=lengths, predicates=predicates, options=options, key=None) | change
    with pytest.raises((TypeError, ValueError), match=said):
        tagger.emissions(params, **given)


def test_what_has_no_predicates_takes_none():
    params, options, ids, lengths, *_ = _drawn(reach=0)
    for given in (dict(predicates=np.zeros(3, np.int32)), dict(sentences=np.zeros(3, np.int32))):
        with pytest.raises(ValueError, match=r"no frames|there are none"):
            tagger.emissions(params, ids, lengths, options=options, **given)


def test_spans_are_there_and_back():
    rng = np.random.default_rng(0)
    for _ in range(50):
        tags, right, n = [], [], 0
        while n < 8:
            size, label = int(rng.integers(1, 4)), str(rng.choice(["A", "B-C"]))
            if rng.random() < 0.5:
                right.append(Span(label, n, n + size))
                tags += [f"B-{label}", *[f"I-{label}"] * (size - 1)]
            else:
                tags += ["O"] * size
            n += size
        assert spans.spans_of(tags) == right
        spans.check_bio(tags, "these")
    assert spans.spans_of(["I-A", "I-A", "I-B"]) == [Span("A", 0, 2), Span("B", 2, 3)]
    with pytest.raises(ValueError, match="'S-A'"):
        spans.spans_of(["S-A"])
    with pytest.raises(ValueError, match="here: expected B-B or I-B before the I-B of word 2, got B-A"):
        spans.check_bio(["B-A", "I-B"], "here")


def test_arguments_are_counted_as_conll_2005_does():
    tags = ["B-A1", "I-A1", "B-V", "B-C-A1", "B-A0", "B-C-A2", "B-C-V", "B-A1"]
    assert spans.arguments_of(tags) == [
        Argument("A1", ((0, 2), (3, 4))),
        Argument("A0", ((4, 5),)),
        Argument("A2", ((5, 6),)),
        Argument("A1", ((7, 8),)),
    ]
    # A part of a broken argument is no hit.
    half = spans.arguments_of(["B-A1", "I-A1", "B-V", "O", "B-A0", "O", "O", "B-A1"])
    found = spans.score([half], [spans.arguments_of(tags)])
    assert (found[""].right, found[""].found, found[""].there) == (2, 3, 4)
    assert found["A2"] == (0.0, 0.0, 0.0, 0, 0, 1)
    np.testing.assert_allclose(found[""].f1, 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))


NAMES, VERBS = ("ann", "bob", "eve", "joe"), ("saw", "met", "knew")


def _said(n, seed):
    """Sentences, active or passive, in which the roles hang on the form and not on the words."""
    rng, sentences = np.random.default_rng(seed), []
    for _ in range(n):
        a, b = rng.choice(NAMES, 2, replace=False)
        if rng.random() < 0.5:
            words, p, tags = (a, rng.choice(VERBS), "the", b), 1, ("B-A0", "B-V", "B-A1", "I-A1")
        else:
            words, p = ("the", b, "was", rng.choice(VERBS), "by", a), 3
            tags = ("B-A1", "I-A1", "O", "B-V", "B-A0", "I-A0")
        words = tuple(map(str, words))
        sentences.append(datasets.Roles(words, ("",) * len(words), (datasets.Predicate(p, words[p], "", tags),)))
    return sentences


@pytest.fixture(scope="module")
def roles():
    """A model of roles and of predicates."""
    training, dev = (tag.frames(_said(n, n)) for n in (150, 40))
    return tag.fit(training, dev, SMALL._replace(reach=3, highway=True, members=2, hidden=(12,), above=(12,)))


def test_roles_and_predicates_are_learnt_where_counting_words_fails(roles):
    model, _ = roles
    test = tag.frames(_said(60, 7))
    found = tag.evaluate(model, test)
    assert found["span_f1"] > 0.98
    assert found["predicate_f1"] > 0.98
    marked = [record for record in test if record.predicate >= 0]
    rows = [tuple(r) for r in tag.frames(_said(150, 150)) if r.predicate >= 0]
    commonest = baselines.commonest_tags(rows, [(r.words, r.predicate) for r in marked])
    assert tag.measured(commonest, marked, model.recipe)["span_f1"] < 0.9
    (frames,) = tag.roles(model, [("the", "bob", "was", "met", "by", "joe")])
    assert frames == [tag.Frame(3, (Span("A1", 0, 2), Span("A0", 4, 6)))]
    assert tag.roles(model, []) == []


def test_a_saved_model_says_the_same_and_the_commands_say_it(roles, tmp_path, capsys, monkeypatch):
    model, _ = roles
    folder = str(tag.save(model, tmp_path / "model"))
    words = [record.words for record in tag.frames(_said(5, 3))]
    assert tag.predict(tag.load(folder), words) == tag.predict(model, words)
    assert main(["roles", "--model", folder, "Ann saw the Bob"]) == 0
    assert capsys.readouterr().out == "saw\tA0=Ann\tA1=the Bob\n\n"
    given = TextIOWrapper(BytesIO(b"\xef\xbb\xbfthe bob was met by joe\n\nann saw the bob\r\n"))
    monkeypatch.setattr(sys, "stdin", given)
    assert main(["roles", "--model", folder, "--json"]) == 0
    held, nothing, last = map(json.loads, capsys.readouterr().out.splitlines())  # a line for each
    assert held["words"][0] == "the"
    assert held["frames"][0]["roles"][0] == {"label": "A1", "start": 0, "end": 2}
    assert nothing == {"words": [], "frames": []}
    assert last["words"] == ["ann", "saw", "the", "bob"]
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"ann saw the bob\ncaf\xe9 ran\n")))
    assert main(["roles", "--model", folder]) == 2
    assert "standard input, line 2, is not UTF-8 text" in capsys.readouterr().err
    for command in (["predict"], ["explain"]):
        assert main([*command, "--model", folder, "ann saw the bob"]) == 2
        assert "model" in capsys.readouterr().err


def test_slots_are_trained_from_a_file_of_columns(tmp_path, capsys):
    rng, lines = np.random.default_rng(0), []
    for _ in range(200):
        who, where = rng.choice(NAMES), rng.choice(["rome", "new york", "oslo"])
        place = where.split()
        lines += [f"take O\n{who}\tB-who\nto O", *(f"{w} {'I' if k else 'B'}-city" for k, w in enumerate(place)), ""]
    file = tmp_path / "slots.txt"
    file.write_text("\n".join(lines), encoding="utf-8")
    settings = ["--embedding", "16", "--hidden", "12", "--epochs", "6", "--learning-rate", "0.02", "--buckets", "1"]
    out = str(tmp_path / "model")
    assert main(["train", "tag", "--data", str(file), "--out", out, "--json", str(tmp_path / "m.json"), *settings]) == 0
    measured = json.loads((tmp_path / "m.json").read_text())
    assert measured["test"]["span_f1"] > 0.98
    assert "commonest tag of a word" in measured["baselines"]
    capsys.readouterr()
    assert main(["predict", "--model", out, "take eve to new york"]) == 0
    assert capsys.readouterr().out == "who=eve\tcity=new york\ttake eve to new york\n"
    assert main(["evaluate", "--model", out, "--data", str(file)]) == 0
    assert "span f1" in capsys.readouterr().out
    assert main(["roles", "--model", out, "take eve"]) == 2


def test_files_of_tags_are_read_and_refused_by_line(tmp_path):
    file = tmp_path / "file"
    file.write_text("a O\nb B-X\n\n\nc\tNN\tO\n", encoding="utf-8")
    assert tag.read(file) == [tag.Record(("a", "b"), ("O", "B-X")), tag.Record(("c",), ("O",))]
    file.write_text("a O\nb\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: expected a word and its tag, got 'b'"):
        tag.read(file)
    file.write_text("a O\nb I-X\n", encoding="utf-8")
    with pytest.raises(ValueError, match="ends at line 2: expected B-X"):
        tag.read(file)


CONLL_2005 = """\
The       DT   (S(NP*     *   -        (A0*    (A1*
cat       NN         *)   *   -          *)      *)
came      VBD   (VP*      *   come      (V*)     *
and       CC          *   *   -          *       *
was       VBD   (VP*      *   -          *       *
fed       VBN       *)))  *   feed       *     (V*)

Rain      NN   (S*)       *   -
"""


def test_columns_of_conll_2005_are_read(tmp_path):
    file = tmp_path / "props"
    file.write_text(CONLL_2005, encoding="utf-8")
    first, second = datasets.roles(file)
    assert first.words == ("The", "cat", "came", "and", "was", "fed")
    assert first.pos[:2] == ("DT", "NN")
    assert [(p.word, p.lemma, p.tags) for p in first.predicates] == [
        (2, "come", ("B-A0", "I-A0", "B-V", "O", "O", "O")),
        (5, "feed", ("B-A1", "I-A1", "O", "O", "O", "B-V")),
    ]
    assert second == datasets.Roles(("Rain",), ("NN",), ())
    assert len(TASKS["roles"].of_file(str(file), Recipe(reach=2))) == 4
    file.write_text("1 CD -\n\nup RB up (V*)\n", encoding="utf-8")  # a word, where others are not numbered
    assert [one.words for one in datasets.roles(file)] == [("1",), ("up",)]
    for column, said in (
        ("(A0(A1*) *)", r"word 1, got '\(A0\(A1\*\)'"),
        ("(A0* (A1*)", "word 2, A0 being open"),
        ("(A0*)(A1*) *", "expected brackets such as"),
        ("(A0* *", "A0 open at the last word"),
        ("* *)", r"got '\*\)' for word 2, None being open"),
        ("(*) *", "expected brackets such as"),
    ):
        one, two = column.split(" ")
        file.write_text(f"a go {one}\nb - {two}\n", encoding="utf-8")
        with pytest.raises(ValueError, match=said) as error:
            datasets.roles(file)
        assert "sentence that ends at line 3" in str(error.value)
    file.write_text("a b - (A*)\n", encoding="utf-8")
    with pytest.raises(ValueError, match="0 predicates and 1 columns"):
        datasets.roles(file)


@pytest.mark.parametrize(
    ("training", "recipe", "said"),
    [
        ([], SMALL, "at least one record"),
        ([tag.Record(("a",), ("O", "O"))], SMALL, "a tag a word"),
        ([tag.Record(("a",), ("I-X",))], SMALL, "expected B-X"),
        ([tag.Record(("a",), ("O",), 0)], SMALL, "reach is 0"),
        ([tag.Record(("a",), ("O",), 3)], SMALL._replace(reach=1), "expected a predicate among 1 words"),
        ([tag.Record(("a",), ("O",))], SMALL._replace(reach=1), "should hold predicates, which a model of roles"),
        ([tag.Record(("a",), ("O",))], SMALL._replace(tokens="bpe"), "every word has a tag"),
        ([tag.Record(("a",), ("O",))], SMALL._replace(best="loss"), 'best should be "measure"'),
        ([tag.Record(("a",), ("O",))], SMALL._replace(smoothing=0.1), "smoothing should be 0"),
        ([(("a",), ("O",))], SMALL, "record 0: expected words, tags and a predicate"),
        (
            [tag.Record(("a",), ("O",), 0.7)],
            SMALL._replace(reach=1),
            "record 0: the predicate should be an int, got fl",
        ),
        ([tag.Record(("a", ""), ("O", "O"))], SMALL, "record 0: expected words that are not empty"),
    ],
)
def test_records_that_make_no_sense_are_refused(training, recipe, said):
    with pytest.raises((TypeError, ValueError), match=said):
        tag.fit(training, training, recipe)


def test_numpy_counts_predicates_too():
    records = [tag.Record(("a", "b"), ("B-V", "B-X"), np.int64(0))] * 4
    model, _ = tag.fit(records, records, SMALL._replace(reach=1, epochs=1, hidden=(4,), above=(4,)))
    found = tag.evaluate(model, records)
    assert "predicate_f1" not in found  # no record asks where predicates are
    assert found["records"] == 4


def test_a_tagger_without_predicates_takes_none(roles):
    model, _ = roles
    with pytest.raises(TypeError, match="sequences of words"):
        tag.predict(model, ["ann saw"])
    for words, predicate in ((("ann", "saw"), 2), ((), 0)):
        with pytest.raises(ValueError, match="predicates should be words"):
            tag.predict(model, [words], [predicate])
    with pytest.raises(ValueError, match="predicates should be one a sequence, 1, got 2"):
        tag.predict(model, [("ann", "saw")], [0, 1])
    with pytest.raises(TypeError, match="predicates should be an int, got float"):
        tag.predict(model, [("ann", "saw")], [0.7])
    assert tag.predict(model, [()]) == [()]
    with pytest.raises(ValueError, match="reach of this one is 0"):
        tag.roles(model._replace(recipe=SMALL), [("ann",)])


def test_a_run_goes_on_to_the_same_bits(tmp_path):
    training, dev = (tag.frames(_said(n, n)) for n in (24, 8))
    recipe = SMALL._replace(reach=2, epochs=2, hidden=(8,), above=(8,), batch_size=8)
    whole, _ = tag.fit(training, dev, recipe)

    class Enough(Exception):
        pass

    class Stops(train.Watch):
        def epoch_ends(self, record, better):
            if record["epoch"] == 1:
                raise Enough

    with train.Snapshots(tmp_path / "s") as snapshots, pytest.raises(Enough):
        tag.fit(training, dev, recipe, snapshots=snapshots, save_every=2, watch=Stops())
    with train.Snapshots(tmp_path / "s") as snapshots:
        assert snapshots.steps()
        again, _ = tag.fit(training, dev, recipe, snapshots=snapshots, resume=True)
    jax.tree.map(np.testing.assert_array_equal, whole.params, again.params)


def test_taggers_of_a_sweep_are_each_alone():
    records = [tag.Record(("a", "b"), ("O", "B-X")), tag.Record(("b", "a"), ("B-X", "O"))] * 8
    recipe = SMALL._replace(embedding=8, hidden=(8,), epochs=2)
    models, swept = tag.sweep(records, records, {"seed": [0, 1]}, recipe)
    for seed, model in enumerate(models):
        alone, fitted = tag.fit(records, records, recipe._replace(seed=seed))
        assert model.recipe == alone.recipe
        assert swept.best_epoch[seed] == fitted.best_epoch
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), model.params, alone.params)
    with pytest.raises(ValueError, match="smoothing should be 0"):
        tag.sweep(records, records, {"smoothing": [0.0, 0.5]}, recipe)


def test_every_other_setting_can_be_swept():
    """All are tracers then, also the rates that a test of Python's would ask whether they are 0."""
    records = [tag.Record(("a", "b"), ("O", "B-X")), tag.Record(("b", "a"), ("B-X", "O"))] * 4
    recipe = SMALL._replace(embedding=4, hidden=(4,), epochs=3)
    values = {name: [getattr(recipe, name)] * 2 for name in SWEPT if name not in ("smoothing", "word_dropout")}
    _, swept = tag.sweep(records, records, values | {"word_dropout": [0.0, 0.9]}, recipe)
    one, two = swept.history[-1]["loss"]
    assert abs(one - two) > 1e-3


def test_a_sweep_goes_on_with_its_own_data_and_recipe_alone(tmp_path):
    records = [tag.Record(("a", "b"), ("O", "B-X")), tag.Record(("b", "a"), ("B-X", "O"))] * 4
    recipe, settings = SMALL._replace(embedding=4, hidden=(4,), epochs=2), {"seed": [0, 1]}
    with train.Snapshots(tmp_path) as snapshots:
        tag.sweep(records, records, settings, recipe, snapshots=snapshots)
        for other, held, said in (
            (recipe._replace(learning_rate=0.5), records, "learning_rate was 0.01 and is now 0.5"),
            (recipe, records[:4], "records was .* and is now"),
        ):
            with pytest.raises(ValueError, match=f"another sweep: {said}"):
                tag.sweep(held, records, settings, other, snapshots=snapshots, resume=True)
        tag.sweep(records, records, settings, recipe, snapshots=snapshots, resume=True)
