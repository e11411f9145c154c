"""Translation from records to sentences: learnt on made data, kept in a folder, used from the command line."""

import io
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstmjax import baselines, checkpoint, classify, explain, reader, recipe, text, translate
from lstmjax.__main__ import main
from lstmjax.commands import tasks
from lstmjax.datasets import Translation
from lstmjax.models import seq2seq
from lstmjax.recipe import Recipe
from tests.problems import QUICK

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SMALL = Recipe(
    members=1,
    embedding=24,
    hidden=(24,),
    decoder=(32,),
    dropout=0.1,
    word_dropout=0.0,
    learning_rate=1e-2,
    epochs=6,
    batch_size=32,
    buckets=1,
    best="loss",
)


def backwards(n, seed):
    """Digits in words, and their figures in the other order."""
    rng = np.random.default_rng(seed)
    records = []
    for _ in range(n):
        digits = rng.integers(0, 10, rng.integers(2, 7))
        records.append((" ".join(DIGITS[k] for k in digits), " ".join(map(str, digits[::-1]))))
    return records


@pytest.fixture(scope="module")
def model():
    found, fitted = translate.fit(backwards(1200, 0), backwards(100, 1), SMALL)
    assert fitted.history[-1]["dev_loss"] < 0.1
    return found


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return translate.save(model, tmp_path_factory.mktemp("m") / "model")


def untrained(recipe, records=None):
    """A model as it is drawn."""
    model, task = translate._task(records or backwards(30, 0), backwards(5, 1), recipe)
    params = jax.vmap(task.init)(jax.random.split(jax.random.key(0), recipe.members))
    return model._replace(params=params)


def test_it_learns_to_turn_a_sequence_round(model):
    seen = {source for source, _ in backwards(1200, 0)}
    test = [pair for pair in backwards(300, 2) if pair[0] not in seen]
    assert len(test) > 100
    sources, targets = zip(*test, strict=True)
    for width in (1, 4):
        found = translate.translate(model, sources, width=width)
        assert np.mean([a == b for a, b in zip(found, targets, strict=True)]) > 0.95
    measured = translate.evaluate(model, test)
    assert measured["records"] == len(test)
    assert measured["bleu"] > 95
    assert measured["chrf"] > 95


def test_a_text_is_translated_alike_in_any_company(model):
    texts = ["one two three", "", "seven", "  ", "nine nine zero one two four five", "never seen"]
    together = translate.translate(model, texts)
    assert together[1] == together[3] == ""
    assert [translate.translate(model, [words])[0] for words in texts] == together
    assert translate.translate(model, []) == []


def endless(*records, **changes):
    """A model as it is drawn, that never says the end."""
    model = untrained(SMALL._replace(**changes), list(records) or None)
    return model._replace(params=model.params._replace(bias=model.params.bias.at[:, seq2seq.END].set(-40.0)))


def said(model, *texts, **how):
    """The number of tokens of each translation."""
    return [len(model.target.read(found)) for found in translate.translate(model, texts, **how)]


@pytest.mark.parametrize("width", [1, 3])
def test_a_translation_is_cut_by_the_length_of_its_own_source(width):
    texts, ends = ["one", "one two three", "one two three four five " * 5], [2, 4, 26]
    model = endless()
    assert model.ratio == 2
    assert said(model, *texts, width=width) == [2 * n + 10 for n in ends]
    alone = [translate.translate(model, [words], width=width)[0] for words in texts]
    assert translate.translate(model, texts, width=width) == alone
    assert said(model, *texts, width=width, longest=7) == [7] * 3


def test_the_best_few_of_a_search(model):
    """By falling score, each the log p of its own tokens, and the first is the translation."""
    texts = ["one two three", " ", "seven seven"]
    found = translate.candidates(model, texts, 3, width=5, length_penalty=0.7)
    assert [len(best) for best in found] == [3, 0, 3]
    firsts = translate.translate(model, texts, width=5, length_penalty=0.7)
    assert [best[0].text if best else "" for best in found] == firsts
    for words, best in zip(texts, found, strict=True):
        assert len({one.text for one in best}) == len(best)
        assert [one.score for one in best] == sorted((one.score for one in best), reverse=True)
        for one in best:
            ids, target = translate.ids_of(model.source, words), translate.ids_of(model.target, one.text)
            batch = seq2seq.Batch(ids[None], np.array([len(ids)]), target[None], np.array([len(target)]))
            logits = seq2seq.apply(jax.tree.map(lambda a: a[0], model.params), batch)[0].at[:, text.UNK].set(-jnp.inf)
            log_p = jax.nn.log_softmax(logits)[np.arange(len(target)), target].sum()
            np.testing.assert_allclose(one.log_p, log_p, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(one.score, one.log_p / ((5 + len(target)) / 6) ** 0.7, rtol=1e-5)
    # As wide as is asked for, where the recipe's beam is less; of a greedy search there is one.
    wide = translate.candidates(model._replace(recipe=model.recipe._replace(beam=1)), texts[:1], 6)[0]
    assert len(wide) == 6
    (alone,) = translate.candidates(model, texts[:1], 1, width=1)[0]
    assert alone.text == translate.translate(model, texts[:1], width=1)[0]
    assert alone.score == alone.log_p


def test_there_may_be_fewer_than_asked_for():
    """Of one token: the end, and the only word. What did not end comes last, however likely."""
    found = translate.candidates(endless(("a", "b"), ("a a", "b b")), ["a"], 5, longest=1)[0]
    assert [one.text for one in found] == ["", "b"]
    assert found[0].score < found[1].score


def test_a_source_may_have_a_target_many_times_as_long(tmp_path):
    """As characters out of a word: what was seen in training says how long."""
    records = [("one two", "1 2"), ("three", "x" * 30), ("four", "y" * 12)] * 3
    model = endless(*records, target_tokens="characters")
    assert model.ratio == (31 - 10) / 2  # what is just enough for the longest
    assert len(translate.translate(model, ["one two three"], width=1)[0].strip()) > 40
    assert translate.load(translate.save(model, tmp_path / "new")).ratio == model.ratio
    about = checkpoint.read_about(tmp_path / "new")["about"]
    checkpoint.save(tmp_path / "old", model.params, {name: value for name, value in about.items() if name != "ratio"})
    assert translate.load(tmp_path / "old").ratio == 2
    checkpoint.save(tmp_path / "odd", model.params, about | {"ratio": "x"})
    with pytest.raises(ValueError, match=r"describes no translator: .*ratio should be a number"):
        translate.load(tmp_path / "odd")


def test_the_folder_keeps_all(model, folder):
    loaded = translate.load(folder)
    assert loaded.recipe == model.recipe
    assert loaded.ratio == model.ratio
    texts = [source for source, _ in backwards(20, 3)]
    assert translate.translate(loaded, texts) == translate.translate(model, texts)
    with pytest.raises(ValueError, match="describes no text classifier"):
        classify.load(folder)
    about = checkpoint.read_about(folder)["about"]
    checkpoint.save(folder.parent / "other", model.params, about | {"task": "match"})
    with pytest.raises(ValueError, match="describes no translator"):
        translate.load(folder.parent / "other")


def test_members_are_averaged_in_probability():
    """Greedy search of two models beside a loop over the mean of their probabilities."""
    model = untrained(SMALL._replace(members=2))
    ready = model._replace(params=model.params._replace(bias=model.params.bias.at[:, seq2seq.END].set(2.0)))
    plain, covering = (
        translate.translate(ready, ["one two three"], width=4, length_penalty=0.0, coverage=beta)[0]
        for beta in (0.0, 9.0)
    )
    assert len(covering) > len(plain)  # of models that know nothing the shortest is the likeliest
    model = model._replace(params=jax.tree.map(lambda a: 4 * a, model.params))  # so that they are of different minds
    words = "one two three"
    ids = translate.ids_of(model.source, words)
    said = translate.translate(model, [words], width=1)[0]
    apply = jax.jit(jax.vmap(seq2seq.apply, (0, None)), compiler_options=QUICK)
    tokens, differ, steps = [], 0, 2 * 4 + 10
    for t in range(steps):
        target = np.array([tokens + [seq2seq.END] * (steps - t)], np.int32)
        logits = apply(model.params, seq2seq.Batch(ids[None], np.array([len(ids)]), target, np.array([t + 1])))[:, 0, t]
        p = np.asarray(jax.nn.softmax(logits.at[:, text.UNK].set(-jnp.inf)))
        differ += p[0].argmax() != p[1].argmax()
        tokens.append(int(p.mean(0).argmax()))
        if tokens[-1] == seq2seq.END:
            break
    assert differ
    assert said == model.target.write([token for token in tokens if token != seq2seq.END])
    assert "<unk>" not in said


@pytest.mark.parametrize(
    ("tokens", "words", "cut"),
    [
        ("words", "It isn't bad, (真的不错)!", "it isn't bad, (真的不错)!"),
        ("bpe", "It isn't bad , it is good", "it isn't bad , it is good"),
        ("characters", "Tom  说：“不错！”", "Tom  说：“不错！”"),
        ("blanks", "Tom  <unk> isn't", "Tom <unk> isn't"),
    ],
)
def test_what_is_read_can_be_written(tokens, words, cut):
    read, _ = reader.learn([words], tokens=tokens, size=60)
    back = reader.Reader.from_json(json.loads(json.dumps(read.to_json())))
    for one in (read, back):
        assert one.write(one.read(words)) == cut
    old = {name: value for name, value in read.to_json().items() if name != "cut"}
    assert reader.Reader.from_json(old).cut == ("bpe" if tokens == "bpe" else "words")


def test_blanks_of_characters_are_made_single():
    read, _ = reader.learn(["Tom 说 é"], tokens="characters", size=60)
    np.testing.assert_array_equal(
        translate.ids_of(read, " Tom \u3000说  e\u0301\n"), translate.ids_of(read, "Tom 说 é")
    )
    assert translate.ids_of(read, "é")[0] > text.UNK


def test_score():
    found = ["the cat sat on the mat today .", "a b c d"]
    targets = ["The cat sat on a mat today .", "a b c d"]
    bleu = translate.score(found, targets, "none")["bleu"]
    precisions = [11 / 12, 8 / 10, 5 / 8, 2 / 6]  # counted by hand
    np.testing.assert_allclose(bleu, 100 * np.prod(precisions) ** 0.25, rtol=1e-6)
    assert translate.score(["不错"], ["不错"], "zh")["chrf"] == 100
    for cut, same in (("13a", True), ("none", False)):
        bleu = translate.score(["it works quite well. now"], ["it works quite well . now"], cut)["bleu"]
        assert (bleu > 99.9) == same


def test_a_memory_gives_the_target_of_the_nearest_source():
    found = baselines.memory(["one two", "three four"], ["1 2", "3 4"], ["three", "one two six"])
    assert found == ["3 4", "1 2"]


def test_the_best_epoch_by_bleu_or_by_loss():
    records = backwards(40, 0)
    quick = SMALL._replace(epochs=2, embedding=4, hidden=(4,), decoder=(4,))
    _, fitted = translate.fit(records, records[:10], quick._replace(best="measure"))
    assert all(0 <= record["dev_bleu"] <= 100 for record in fitted.history)
    models, swept = translate.sweep(records, records[:10], {"learning_rate": [1e-3, 1e-2]}, quick)
    alone, fitted = translate.fit(records, records[:10], quick._replace(learning_rate=1e-2))
    assert "dev_bleu" not in fitted.history[0]
    np.testing.assert_allclose(swept.history[-1]["dev_loss"][1], fitted.history[-1]["dev_loss"], atol=1e-4)
    assert translate.translate(models[1], ["one two"]) == translate.translate(alone, ["one two"])


def test_padding_of_a_bucket_fits_each_side():
    model, task = translate._task(
        [("a b c d", "x")] * 3 + [("a", "x y")] * 3, [("a", "x")], SMALL._replace(buckets=2, batch_size=3)
    )
    shapes = sorted({batch.source.shape + batch.target.shape for batch in task.batches(0)})
    assert shapes == [(3, 2, 3, 3), (3, 5, 3, 2)]
    for batch in task.batches(0):
        assert batch.source_lengths.sum() + batch.target_lengths.sum() == task.tokens(batch)
        assert (batch.target_lengths > 0).sum() == 3
    assert model.target.read("x y").tolist() == [2, 3]


def test_vocabularies_of_both_sides():
    records = [("a b", "猫狗"), ("b", "狗")] * 2
    apart, _ = translate._task(records, records, SMALL._replace(target_tokens="characters", target_vocabulary=3))
    assert apart.source.vocabulary.words == ("b", "a")
    assert apart.target.vocabulary.words == ("狗",)
    together, task = translate._task(records, records, SMALL._replace(shared=True))
    assert together.source is together.target
    assert jax.eval_shape(task.init, jax.random.key(0)).target is None


def test_explained(model, tmp_path):
    words = "one two three"
    found = explain.translation(model, words)
    assert found.answer == "3 2 1"
    written, read = found.texts
    assert written.words == ("3", "2", "1", "(end)")
    assert read.words == ("one", "two", "three", "(end)")
    np.testing.assert_allclose(found.alignment.sum(-1), 1, rtol=1e-5)
    assert found.alignment.shape == (4, 4)
    assert written.effect.max() <= 0
    other = explain.translation(model, "one zzz three")
    batch = [translate.ids_of(model.source, w) for w in (words, "one zzz three")]
    target = translate.ids_of(model.target, found.answer)
    of_both = seq2seq.Batch(np.stack(batch), np.array([4, 4]), np.stack([target] * 2), np.array([4, 4]))
    log_p = seq2seq.log_p(jax.tree.map(lambda a: a[0], model.params), of_both)
    np.testing.assert_allclose(read.effect[1], log_p[0] - log_p[1], atol=1e-4)
    np.testing.assert_allclose(written.effect.sum(), log_p[0], atol=1e-4)
    assert len(other.texts[1].words) == 4
    explain.to_file(found, tmp_path / "found.png")
    assert (tmp_path / "found.png").stat().st_size > 500


def test_what_is_explained_is_what_is_translated():
    """In the form that the model reads: single blanks, and NFC."""
    records = [("é à", "1 2"), ("à é", "2  1")] * 2
    model = endless(*records, tokens="characters", members=2)
    plain, loose = (explain.translation(model, words) for words in ("é à", " e\u0301  à\n"))
    assert loose.texts[1].words == plain.texts[1].words == ("é", " ", "à", "(end)")
    assert loose.answer == plain.answer
    np.testing.assert_array_equal(loose.alignment, plain.alignment)
    assert plain.alignment.shape == tuple(len(seen.words) for seen in plain.texts)
    assert [len(seen.words) == len(seen.effect) for seen in plain.texts] == [True, True]
    with pytest.raises(TypeError, match="the text should be a str, got int 3"):
        explain.translation(model, 3)


def test_pictures_of_characters_that_matplotlib_lacks(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    seen = explain.Seen(("\U000104b0", "b"), np.array([0.5, 0.1]), {})  # which no font for Chinese has
    found = explain.Explanation("不\U000104b0", "log p", (seen, seen), np.ones((2, 2)))
    with pytest.warns(UserWarning, match=r"no font .* has .*\U000104b0: a page \(.html\)") as warned:
        explain.to_file(found, tmp_path / "found.png")
    assert len(warned) == 1
    seen = seen._replace(words=("\u231a", "b"))  # which matplotlib's own lacks, and this has
    found = explain.Explanation("\u231a", "log p", (seen,))
    monkeypatch.setattr(explain, "FONTS", ("no such font", "STIXGeneral"))
    axis = explain.to_figure(found).axes[0]
    for written in (axis.title, *axis.get_xticklabels()):
        assert written.get_fontfamily()[-1] == "STIXGeneral"
    explain.to_file(found, tmp_path / "found.png")


def test_on_the_command_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "pairs.tsv").write_text("\n".join("\t".join(pair) for pair in backwards(60, 0)))
    out, data = str(tmp_path / "m"), ["--data", str(tmp_path / "pairs.tsv")]
    quick = [
        "--embedding",
        "8",
        "--hidden",
        "8",
        "--decoder",
        "8",
        "--epochs",
        "1",
        "--buckets",
        "1",
        "--vocabulary",
        "60",
    ]
    assert (
        main(["train", "translate", *data, "--out", out, "--json", str(tmp_path / "f.json"), "--reverse", *quick]) == 0
    )
    said = capsys.readouterr().out
    assert "test bleu" in said
    assert "translation memory" in said
    found = json.loads((tmp_path / "f.json").read_text())
    assert 0 <= found["test"]["bleu"] <= 100
    assert found["recipe"]["reverse"]
    assert found["recipe"]["tokens"] == "bpe"
    given = io.BytesIO(b"\xef\xbb\xbf1 2\n\n3 4\r\n" + b"5\n" * translate.AT_ONCE)  # the first three say UTF-8
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(given))
    assert main(["translate", "--model", out, "--beam", "2"]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == translate.AT_ONCE + 4
    assert lines[1] == lines[-1] == ""
    assert len(set(lines[3:-1])) == 1
    expected = translate.translate(translate.load(out), ["1 2", "3 4"], width=2)
    assert [lines[0], lines[2]] == expected
    assert main(["translate", "--model", out, "--beam", "2", "1 2"]) == 0
    assert capsys.readouterr().out == f"{expected[0]}\n"
    assert main(["translate", "--model", out, "--n-best", "2", "--beam", "2", "1 2", " ", "3 4"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["1", "1", "3", "3"]
    assert [rows[0][2], rows[2][2]] == expected
    assert float(rows[0][1]) >= float(rows[1][1])
    assert main(["evaluate", "--model", out, *data]) == 0
    assert "60 records, bleu" in capsys.readouterr().out
    assert main(["explain", "--model", out, "1 2"]) == 0
    assert "->" in capsys.readouterr().out
    for wrong, says in [
        (["predict", "--model", out, "1 2"], "holds a translator: python -m lstmjax translate"),
        (
            ["train", "translate", "--out", str(tmp_path / "n")],
            "translate needs --data: a set (data list), or a file with lines of source TAB target",
        ),
        (["translate", "--model", out, "--beam", "0", "1"], "width should be an int of at least 1"),
        (
            ["translate", "--model", out, "--n-best", "3", "--beam", "2", "1"],
            "n should be at most the width, which is 2",
        ),
        (["search", "--model", out, "--corpus", "x", "y"], "is no model of pairs"),
        (["train", "translate", "--data", "snips", "--out", str(tmp_path / "n")], "is no set of translations"),
    ]:
        if wrong[-3] == "snips" and not tasks.datasets.where("snips"):
            continue
        assert main(wrong) == 2
        assert says in capsys.readouterr().err


def test_a_model_of_another_task_does_not_translate(tmp_path, capsys):
    records = [("it is good", "up"), ("it is bad", "down")] * 4
    settings = Recipe(members=1, embedding=4, hidden=(4,), epochs=1, buckets=1)
    classify.save(classify.fit(records, records, settings)[0], tmp_path / "m")
    assert main(["translate", "--model", str(tmp_path / "m"), "x"]) == 2
    assert "is no translator" in capsys.readouterr().err


def test_direction():
    pairs = [Translation("good", "好"), Translation("bad", "坏")]
    assert tasks._turned(pairs, SMALL) == [("good", "好"), ("bad", "坏")]
    assert tasks._turned(pairs, SMALL._replace(reverse=True)) == [("好", "good"), ("坏", "bad")]


def test_recipes():
    for name in ("ja-en", "en-zh", "zh-en"):
        file = recipe.read(name)
        assert file.task == "translate"
        assert file.recipe().reverse == (name == "zh-en")


def test_files(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("good\t好\n\nbad\t坏\n")
    assert translate.read(path) == [("good", "好"), ("bad", "坏")]
    for line in ("good", "good\t", "a\tb\tc"):
        path.write_text(f"good\t好\n{line}\n")
        with pytest.raises(ValueError, match="line 2: expected source TAB target"):
            translate.read(path)


def test_without_sacrebleu(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    for call in (
        lambda: translate.score(["a"], ["a"]),
        lambda: translate.evaluate(None, [("a", "b")]),
        lambda: translate._task([("a", "b")], [("a", "b")], SMALL._replace(best="measure")),
    ):
        with pytest.raises(ImportError, match=r"pip install 'lstmjax\[translate\]'"):
            call()


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: _fit([]), ValueError, "the training data should hold at least one record"),
        (lambda: _fit(dev=[]), ValueError, "the dev data should hold at least one record"),
        (lambda: _fit([("a", " ")]), ValueError, "the training data should have words on both sides"),
        (lambda: _fit(pieces=5), ValueError, "pieces is not for translate, got 5"),
        (lambda: _fit(vectors="x"), ValueError, "vectors is not for translate"),
        (lambda: _fit(cell="gru"), ValueError, 'cell should be "lstm" for translate'),
        (lambda: _fit(shared=True, target_tokens="bpe"), ValueError, "shared is True: target_tokens"),
        (lambda: _fit(attention="dot"), ValueError, 'attention = "dot" needs a decoder as wide'),
        (lambda: _fit(attention="x"), ValueError, "attention should be one of"),
        (lambda: _fit(target_tokens="x"), ValueError, "target_tokens should be one of"),
        (lambda: _fit(bleu="x"), ValueError, "bleu should be one of"),
        (lambda: _fit(beam=0), ValueError, "beam should be an int of at least 1"),
        (lambda: _fit(length_penalty=-1.0), ValueError, "length_penalty should be a number of at least 0"),
        (lambda: _fit(sampling=1.0), ValueError, "sampling should be a float in"),
        (lambda: _fit(decoder=()), ValueError, "at least one layer"),
        (lambda: _fit(tied=1), TypeError, "tied should be True or False"),
        (lambda: _fit(pretrained="x"), ValueError, "pretrained is not for translate, got 'x'"),
        (lambda: _fit(target_vocabulary=1), ValueError, "target_vocabulary should be at least 2"),
        (lambda: _fit(vocabulary=1), ValueError, "^vocabulary should be at least 2"),
        (lambda: _fit([("a", "b"), ("a", 3)]), TypeError, r"pairs of strings, got \('a', 3\) as record 1"),
        (lambda: _fit(dev=["ab"]), TypeError, "the dev data should hold pairs of strings, got 'ab' as record 0"),
        (lambda: _fit("ab"), TypeError, "the training data should be a sequence of pairs of strings, got str 'ab'"),
        (lambda: translate.translate(None, "abc"), TypeError, "got one str: put it in a list"),
        (lambda: translate.translate(None, None), TypeError, "texts should be a sequence of strings, got NoneType"),
        (lambda: translate.translate(None, ["a", 3]), TypeError, "texts should be .* got int 3 at place 1"),
        (lambda: _translate(width=0), ValueError, "width should be an int of at least 1"),
        (lambda: _candidates(0), ValueError, "n should be an int of at least 1"),
        (lambda: _candidates(3, width=2), ValueError, "n should be at most the width, which is 2, got 3"),
        (lambda: _candidates(2, coverage=-1.0), ValueError, "coverage should be a number of at least 0"),
        (lambda: _translate(width=1, length_penalty=-1.0), ValueError, "length_penalty should be a number of at least"),
        (lambda: _translate(width=1, length_penalty="1"), TypeError, "length_penalty should be a number"),
        (lambda: _translate(width=1, coverage=-0.2), ValueError, "coverage should be a number of at least 0, got -0.2"),
        (lambda: _translate(width=2, coverage=np.nan), ValueError, "coverage should be a finite number"),
        (lambda: _translate(longest=0), ValueError, "longest should be an int of at least 1"),
        (lambda: translate.evaluate(None, []), ValueError, "at least one record"),
        (lambda: translate.evaluate(None, [("a",)]), TypeError, "the data should hold pairs of strings"),
        (lambda: translate.score("a", "a"), TypeError, "found should be a sequence of strings, got one str"),
        (lambda: translate.score(["a"], [3]), TypeError, "targets should be a sequence of strings, got int 3"),
        (lambda: translate.score(["a"], ["a", "b"]), ValueError, "should be equally many, .* got 1 and 2"),
        (lambda: translate.score([], []), ValueError, "at least one, got 0 and 0"),
        (lambda: translate.score(["a"], ["a"], "intl"), ValueError, "cut should be one of '13a', 'none'"),
    ],
)
def test_refusals(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def _translate(**how):
    return translate.translate(translate.Model(None, SMALL, None, None), [], **how)


def _candidates(n, **how):
    return translate.candidates(translate.Model(None, SMALL, None, None), [], n, **how)


def _fit(training=(("a", "b"),), dev=(("a", "b"),), **changes):
    return translate.fit(training, dev, SMALL._replace(**changes))
