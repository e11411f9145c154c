"""Tasks of texts from records to answers: each is learnt on data where words without their order tell nothing."""

import io
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from lstmjax import baselines, classify, explain, match, members, reader, recipe
from lstmjax.__main__ import main
from lstmjax.commands import tasks
from lstmjax.models import encoder
from lstmjax.recipe import Recipe

SMALL = Recipe(members=2, embedding=16, hidden=(16,), width=16, pooling="max", dropout=0.1, epochs=12, buckets=1)
NAMES = ("ann", "bob", "eve", "joe", "kim", "lee")
FILLER = ("so", "then", "and", "well", "now", "there")


def _order(n, seed):
    """Which of two words came first: the label, or labels, of a text."""
    rng = np.random.default_rng(seed)
    records = []
    for _ in range(n):
        marks = [str(mark) for pair in (["red", "blue"], ["up", "down"]) for mark in rng.permutation(pair)]
        words = [word for mark in marks for word in (*rng.choice(FILLER, 2), mark)]
        records.append((" ".join(words), (marks[0], marks[2])))
    return records


def _swapped(n, seed):
    """Whether two sentences say the same, or the other way round."""
    rng = np.random.default_rng(seed)
    records = []
    for k in range(n):
        a, b = rng.choice(NAMES, 2, replace=False)
        same = k % 2 == 0
        records.append((f"{a} saw {b}", f"{b} was seen by {a}" if same else f"{a} was seen by {b}", same))
    return records


@pytest.fixture(scope="module")
def several():
    """A classifier of texts with several labels, and what it was fitted to."""
    training, dev = _order(400, 0), _order(100, 1)
    model, _ = classify.fit(training, dev, SMALL._replace(several=True))
    return model, training, dev


@pytest.fixture(scope="module")
def outside():
    """A classifier that knows two labels, and that there are other texts."""
    training = [(words, labels[0]) for words, labels in _order(300, 0)]
    alien = [(" ".join(np.random.default_rng(k).choice(NAMES, 8)), "none") for k in range(30)]
    model, _ = classify.fit(training + alien, training[:60] + alien[:15], SMALL._replace(outside="none"))
    return model, training, alien


@pytest.fixture(scope="module")
def matcher():
    """A model of whether two sentences say the same, and what it was fitted to."""
    training, dev = ([(a, b, "same" if same else "other") for a, b, same in _swapped(n, n)] for n in (400, 100))
    model, _ = match.fit(training, dev, SMALL._replace(epochs=25, learning_rate=1e-2))
    return model, training, dev


def test_several_labels_are_learnt_where_counting_words_fails(several):
    model, training, _ = several
    test = _order(200, 2)
    found = classify.evaluate(model, test)
    assert found["macro_f1"] > 0.95
    index = {label: k for k, label in enumerate(model.labels)}
    targets = np.zeros((len(training), len(index)), bool)
    for row, (_, labels) in enumerate(training):
        targets[row, [index[label] for label in labels]] = True
    scores = baselines.scores(
        [words for words, _ in training], targets, [words for words, _ in test], features="counts"
    )
    right = np.array([[label in labels for label in model.labels] for _, labels in test])
    assert ((scores > 0.5) == right).mean() < 0.7
    chosen = classify.decide(model, classify.predict(model, [test[0][0]]))[0]
    assert set(chosen) == set(test[0][1])
    assert found["micro_f1"] > 0.95
    assert 0.8 < found["all_right"] <= 1


def test_several_labels_survive_the_folder(several, tmp_path):
    model, _, dev = several
    classify.save(model._replace(thresholds=(float("inf"), *model.thresholds[1:])), tmp_path / "m")
    loaded = classify.load(tmp_path / "m")
    assert loaded.thresholds == (float("inf"), *model.thresholds[1:])
    texts = [words for words, _ in dev[:3]]
    np.testing.assert_array_equal(classify.predict(loaded, texts), classify.predict(model, texts))
    with pytest.raises(ValueError, match="describes no matcher"):
        match.load(tmp_path / "m")


def test_what_is_outside_is_told_by_a_threshold(outside):
    model, training, alien = outside
    assert model.labels == ("blue", "red")
    found = classify.evaluate(model, training[:100] + alien[15:])
    assert found["accuracy"] > 0.9  # of texts inside only
    bound = model.thresholds[0]
    highest = classify.predict(model, [words for words, _ in training[:100] + alien[15:]]).max(-1)
    right = found["accuracy"] * 100
    assert found["outside_recall"] == pytest.approx((highest[100:] < bound).mean())
    assert found["accepted_accuracy"] * 100 <= right
    said = classify.decide(model, np.array([[0.5, 0.5], [0.0, 1.0]]))
    assert said[1] == ("red",)
    assert said[0] == (("none",) if bound > 0.5 else ("blue",))


@pytest.mark.parametrize("sure", [0.7, 0.85])  # of a text outside: the second costs too many inside to be told
def test_the_bound_is_the_best_there_is(sure):
    found = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.55, 0.45], [1 - sure, sure]])
    targets = np.array([0, 1, 0, -1, -1])
    bound = classify._best_bound(found, targets)

    def worth(bound):
        kept = found.max(-1) >= bound
        return (kept & (found.argmax(-1) == targets))[:3].mean() + (~kept)[3:].mean()

    assert worth(bound) == max(worth(b) for b in np.linspace(0, 1.1, 111))


def test_weights_by_class():
    targets = np.array([0, 0, 0, 1])
    np.testing.assert_allclose(classify._weights(targets, 0.0), 1)
    weights = classify._weights(targets, 1.0)
    np.testing.assert_allclose(weights[:3].sum(), weights[3], rtol=1e-6)
    np.testing.assert_allclose(weights.mean(), 1, rtol=1e-6)
    several = np.array([[1.0, 0], [1, 0], [1, 1], [0, 0]])
    weights = classify._weights(several, 1.0)  # labels of 3 and 1 texts: 1/3, 1/3, their mean 2/3, and the mean of all
    np.testing.assert_allclose(weights / weights[0], [1, 1, 2, 2], rtol=1e-6)


def test_pairs_are_learnt_where_counting_words_fails(matcher):
    model, training, _ = matcher
    test = [(a, b, "same" if same else "other") for a, b, same in _swapped(200, 7)]
    assert match.evaluate(model, test)["accuracy"] > 0.9
    targets, right = (np.array([record[2] == "same" for record in part]) for part in (training, test))
    found = baselines.pairs([record[:2] for record in training], targets, [record[:2] for record in test])
    assert (found == right).mean() < 0.7


@pytest.mark.parametrize("head", ["compare", "manhattan"])
def test_scores_are_learnt_and_search_finds_the_nearest(head, tmp_path):
    """The score is the share of words that two texts have in common."""
    rng = np.random.default_rng(0)
    records = []
    for _ in range(300):
        kept = rng.integers(0, 4)
        one = list(rng.choice(NAMES, 3, replace=False))
        two = one[:kept] + list(rng.choice([n for n in NAMES if n not in one], 3 - kept, replace=False))
        records.append((" ".join(one), " ".join(two), float(kept)))
    settings = SMALL._replace(head=head, target="score", epochs=15, pooling="mean", learning_rate=1e-2)
    model, _ = match.fit(records[:240], records[240:], settings)
    found = match.evaluate(model, records[240:])
    assert found["pearson"] > 0.8
    assert found["squared_error"] < np.var([score for *_, score in records])
    match.save(model, tmp_path / "m")
    loaded = match.load(tmp_path / "m")
    pairs = [record[:2] for record in records[:5]]
    np.testing.assert_array_equal(match.predict(loaded, pairs), match.predict(model, pairs))
    assert (match.predict(model, pairs) >= 0).all()
    corpus = ["ann bob eve", "joe kim lee", "ann bob joe"]
    near = match.search(model, match.encode(model, corpus), "ann bob eve")
    assert near.argmax() == 0
    assert near[0] == pytest.approx(1, abs=1e-5)
    assert near[1] < 0.99


def test_shared_words_are_flagged():
    records = [("a b", "b c", "x"), ("c", "d", "y")]
    model, task, _ = match._task(records, records, SMALL._replace(overlap=True, pieces=10))
    one, two = match.ids_of(model, "a b", "b c")
    shared = model.reader.size
    assert one[:, -1].tolist() == [0, shared]
    assert two[:, -1].tolist() == [shared, 0]
    params = jax.eval_shape(task.init, jax.random.key(0))
    assert params.embedding.shape == (shared + 1, 16)


def test_sweep_of_pairs_is_each_alone():
    records = [("a b", "b a", "x"), ("a c", "d e", "y")] * 8
    settings = SMALL._replace(members=1, epochs=2, embedding=4, hidden=(4,), width=4, dropout=0.0, word_dropout=0.0)
    models, swept = match.sweep(records, records, {"learning_rate": [1e-3, 1e-2]}, settings)
    alone, _ = match.fit(records, records, settings._replace(learning_rate=1e-2))
    pair = [("a b", "d e")]
    np.testing.assert_allclose(match.predict(models[1], pair), match.predict(alone, pair), atol=1e-4)
    assert len(swept.best_epoch) == 2


def test_explanations_add_up(several, matcher, tmp_path):
    """The effect of a word is what the answer loses when the word is one that the model never saw."""
    model, _, dev = several
    words = dev[0][0]
    found = explain.text(model, words)
    (seen,) = found.texts
    assert seen.words == tuple(words.split())
    p = classify.predict(model, [words])[0]
    k = int(p.argmax())
    without = " ".join("zzz" if n == 2 else word for n, word in enumerate(words.split()))
    expected = np.log(p[k]) - np.log(classify.predict(model, [without])[0][k])
    assert seen.effect[2] == pytest.approx(expected, abs=1e-4)
    assert set(seen.measures) == {
        f"{g} gate {d}" for g in ("input", "forget", "output") for d in ("forward", "backward")
    }
    assert all(((rows >= 0) & (rows <= 1)).all() and rows.shape == (12,) for rows in seen.measures.values())
    pair = explain.pair(matcher[0], "ann saw bob", "bob was seen by ann")
    assert pair.alignment.shape == (3, 5)
    np.testing.assert_allclose(pair.alignment.sum(-1), 1, rtol=1e-5)
    assert [len(seen.effect) for seen in pair.texts] == [3, 5]
    for ending in (".html", ".png"):
        explain.to_file(pair, tmp_path / f"pair{ending}")
        assert (tmp_path / f"pair{ending}").stat().st_size > 500
    assert "bob" in (tmp_path / "pair.html").read_text()
    assert "&lt;b&gt;" in explain.to_html(found._replace(texts=(seen._replace(words=("<b>", *seen.words[1:])),)))
    odd = pair._replace(
        answer="[/etc] [bold]", texts=tuple(s._replace(words=("[/a]", *s.words[1:])) for s in pair.texts)
    )
    explain.to_terminal(odd, console := Console(file=io.StringIO(), width=200))
    said = console.file.getvalue()
    assert "[/etc] [bold]" in said
    assert said.count("[/a]") >= 3  # of both tables, and of the alignment
    with pytest.raises(ValueError, match=r"should end in \.html"):
        explain.to_file(pair, tmp_path / "pair.txt")
    with pytest.raises(ValueError, match="at least one word"):
        explain.text(model, "  ")


def test_attention_is_explained():
    records = [("it is good", "up"), ("it is bad", "down")] * 10
    model, _ = classify.fit(records, records, SMALL._replace(pooling="attention+max", epochs=1, members=1))
    attention = explain.text(model, "it is good").texts[0].measures["attention"]
    assert attention.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("n", [1, 3, 64, 65, 1000])
def test_batches_are_padded_little_and_of_few_shapes(n):
    """Each text gets what belongs to it, whatever the order; two texts of 1,000 cost no more than their own batch."""
    lengths = np.random.default_rng(n).integers(0, 24, n).tolist()
    lengths[:2] = [300, 0][:n]
    asked = []

    def predict(bucket, size):
        asked.append((size, bucket.length))
        assert len(bucket.rows) <= size
        assert max(lengths[row] for row in bucket.rows) <= bucket.length
        of_rows = np.pad(np.array([[row, lengths[row]] for row in bucket.rows]), ((0, size - len(bucket.rows)), (0, 0)))
        return np.stack([of_rows, -of_rows])

    found = members.in_batches(lengths, predict, (2, 2))
    np.testing.assert_array_equal(found, np.stack([[np.arange(n), lengths], [-np.arange(n), -np.array(lengths)]]).mT)
    assert {size for size, _ in asked} == {min(64, 2 ** (n - 1).bit_length())}
    assert {length for _, length in asked} <= {8, 12, 16, 24, 384}
    assert len(asked) == -(-n // 64)
    assert [length for _, length in asked].count(384) == 1
    if n == 1000:
        assert sum(size * length for size, length in asked) < 1.3 * sum(lengths) + 64 * 384


def test_a_model_alone_answers_as_it_does_among_several(several):
    """The axis of models that `Alone` stands for, against one that is there."""
    model, training, _ = several
    other = jax.tree.map(lambda a: -a, model.params)
    both = jax.tree.map(lambda a, b: np.stack([a, b]), model.params, other)
    texts = [model.reader.read(words) for words, _ in training[:5]]
    found = classify._probabilities(both, texts, model.recipe, len(model.labels))
    assert (members.count(both), members.count(members.Alone(both))) == (2, 1)
    for k, params in enumerate((model.params, other)):
        alone = classify._probabilities(members.Alone(params), texts, model.recipe, len(model.labels))
        np.testing.assert_allclose(alone[0], found[k], rtol=1e-6, atol=1e-6)
        (apart,) = members.apart(members.Alone(params))
        chex.assert_trees_all_equal(apart, params, members.apart(both)[k])


def test_no_texts_have_no_batches():
    assert members.in_batches([], None, (2, 5)).shape == (2, 0, 5)


def test_pieces_reach_words_that_were_never_seen():
    read, _ = reader.learn(["seeing is believing"], pieces=500)
    known, unknown = read.read("seeing"), read.read("seeings")
    assert unknown[0, 0] == 1
    assert len(set(known[0]) & set(unknown[0]) - {0}) >= 8
    assert (read.read("x y")[:, 1:] == 0).sum() >= 2 * (reader.MOST - 2)
    back = reader.Reader.from_json(json.loads(json.dumps(read.to_json())))
    np.testing.assert_array_equal(back.read("seeings"), unknown)
    long = read.read("antidisestablishmentarianism")
    assert (long[0, 1:] > 0).all()
    assert long.shape == (1, 1 + reader.MOST)


def test_the_vectors_of_pieces_are_added_by_their_root():
    table = jax.random.normal(jax.random.key(0), (9, 4))
    found = encoder.lookup(table, np.array([[3, 5, 0], [0, 0, 0], [2, 0, 8]]))
    np.testing.assert_allclose(found[0], (table[3] + table[5]) / 2**0.5, rtol=1e-6)
    np.testing.assert_allclose(found[1], 0)
    np.testing.assert_allclose(found[2], (table[2] + table[8]) / 2**0.5, rtol=1e-6)
    gradient = jax.grad(lambda table: encoder.lookup(table, np.array([[3, 0]])).sum())(table)
    assert (gradient[0] == 0).all()


def test_variational_dropout_is_the_same_at_every_step():
    options = encoder.Options(dropout=0.5, variational=True)
    words = encoder.words(np.ones((5, 64), np.float32), np.full(7, 3), options, jax.random.key(0))
    assert (words == words[:1]).all()
    assert 10 < (words[0] == 0).sum() < 54
    free = encoder.words(
        np.ones((5, 64), np.float32), np.full(7, 3), options._replace(variational=False), jax.random.key(0)
    )
    assert (free != free[:1]).any()


def test_every_recipe_that_comes_along_makes_sense():
    for name in recipe.names():
        file = recipe.read(name)
        assert file.task in tasks.TASKS
        assert file.recipe().members >= 1


def test_the_help_says_what_each_field_is(capsys):
    """And where a task begins with something else."""
    assert recipe.ABOUT.keys() == set(Recipe._fields)
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "most tokens that have a number of their own (default: 20000; translate: 4000; language: 50000)" in said
    assert "--bleu str" in said


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("hiden = 3", "sets hiden, which is not among"),
        ("hidden = [", "is no TOML"),
        ("dropout = 1.5", "dropout should"),
        ('pooling = "max+sum"', "pooling should be one of"),
        ('head = "manhattan"', "gives a similarity"),
        ('several = true\noutside = "x"', "outside is for texts with one label"),
        ("balance = -1.0", "balance should be a number of at least 0"),
    ],
)
def test_recipe_files_are_checked(content, says, tmp_path):
    (tmp_path / "r.toml").write_text(content)
    with pytest.raises(ValueError, match=says):
        recipe.read(tmp_path / "r.toml").recipe()


def test_no_such_recipe():
    with pytest.raises(FileNotFoundError, match="is no file, nor the name of a recipe"):
        recipe.read("nothing")


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda: classify.fit([("a", ("x", "y"))] * 3, [("a", "x")], SMALL), ValueError, "2 labels for one text"),
        (lambda: classify.fit([("a", "x")], [("a", "x")], SMALL), ValueError, "at least two labels"),
        (lambda: match.fit([("a", "b", "x")], [("a", "b", "x")], SMALL), ValueError, "at least two labels"),
        (lambda: match._outcomes([("a", "b", 1.0)], SMALL._replace(target="score")), ValueError, "at least two scores"),
        (
            lambda: match._outcomes([("a", "b", 0.0), ("a", "b", 99.0)], SMALL._replace(target="score")),
            ValueError,
            "span at most 50 whole numbers, got 0 to 99",
        ),
        (lambda: members.recipes_of(SMALL, {"hidden": [1]}), ValueError, "a setting of the sweep should be one of"),
        (
            lambda: match.fit(
                [("a", "b", 1.0), ("a", "c", 5.0)], [("a", "b", 2.0)], SMALL._replace(target="score", head="align")
            ),
            ValueError,
            "the dev data should hold scores that differ, since the epoch is chosen by correlation, got 1 records",
        ),
        (
            lambda: classify.fit([("a", 1), ("b", 2)], [("a", 1)], SMALL),
            TypeError,
            "a label, or a tuple of labels, got",
        ),
        (lambda: classify.labels_of(("a", {"x"})), TypeError, r"a label, or a tuple of labels, got {'x'}"),
        (lambda: classify.predict(None, "it works"), TypeError, "texts should be a sequence .* got one str: put it in"),
        (lambda: classify.predict(None, ["a", 3]), TypeError, "texts should be a sequence of strings, got int 3 at pl"),
        (lambda: match.encode(None, "it works"), TypeError, "texts should be a sequence of strings, got one str"),
        (lambda: match.encode(None, [None]), TypeError, "texts should be a sequence of strings, got NoneType at place"),
    ],
)
def test_refusals(call, kind, says):
    with pytest.raises(kind, match=says):
        call()


def test_labels_between_commas_are_not_empty(tmp_path):
    file = tmp_path / "data"
    file.write_text("it works\ta, b\nit fails\ta,\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: expected labels with commas between, got 'a,'"):
        classify.read(file, several=True)
    assert classify.read(file)[1] == ("it fails", "a,")


def test_sgd_makes_the_same_step_of_any_number_of_members():
    records = [("a b", "x"), ("c d", "y")] * 4
    plain = SMALL._replace(optimizer="sgd", learning_rate=0.5, dropout=0.0, word_dropout=0.0, epochs=1, clip=1e3)
    moved, first = [], None
    for n in (1, 4):
        data = classify._Data(records, records, plain._replace(members=n, batch_size=8))
        (batch,) = data.task.batches(0)
        params, key = members._begin(data.task, data.task.recipe)
        first = jax.tree.map(lambda a: a[:1], params) if first is None else first
        same = jax.tree.map(lambda a, n=n: jnp.repeat(a, n, 0), first)
        how = dict(loss=data.task.loss, recipe=data.task.recipe, apart=False)
        optimizer = members._optimizer(data.task, data.task.recipe)
        updates, _ = optimizer.update(jax.grad(members._loss)(same, batch, key, **how), optimizer.init(same), same)
        moved.append(updates.head.w[0])
    assert np.abs(moved[0]).max() > 1e-4
    np.testing.assert_allclose(moved[1], moved[0], rtol=1e-4, atol=1e-7)


def test_a_rate_of_0_is_swept_beside_others():
    records = [("a b", "x"), ("c d", "y")] * 4
    settings = {"learning_rate": [1e-3, 1e-2], "dropout": [0, 0], "word_dropout": [0, 0]}
    models, _ = classify.sweep(records, records, settings, SMALL._replace(epochs=1, members=1, hidden=(4,)))
    assert [model.recipe.dropout for model in models] == [0, 0]


def test_pairs_on_the_command_line(tmp_path, capsys):
    lines = [f"{a}\t{b}\t{'same' if same else 'other'}" for a, b, same in _swapped(60, 0)]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines))
    out = str(tmp_path / "m")
    quick = ["--members", "1", "--embedding", "8", "--hidden", "8", "--width", "8", "--epochs", "2", "--buckets", "1"]
    data = ["--data", str(tmp_path / "pairs.tsv")]
    assert main(["train", "match", *data, "--out", out, "--json", str(tmp_path / "found.json"), *quick]) == 0
    said = capsys.readouterr().out
    assert "TF-IDF of both" in said
    found = json.loads((tmp_path / "found.json").read_text())
    assert 0 <= found["test"]["accuracy"] <= 1
    assert found["baselines"]["majority class"] == pytest.approx(0.5, abs=0.2)
    assert main(["predict", "--model", out, "ann saw bob", "bob was seen by ann"]) == 0
    label, probability, *pair = capsys.readouterr().out.rstrip("\n").split("\t")
    assert label in ("same", "other")
    assert 0.5 <= float(probability) <= 1
    assert pair == ["ann saw bob", "bob was seen by ann"]
    assert main(["evaluate", "--model", out, *data]) == 0
    assert "60 records, accuracy" in capsys.readouterr().out
    assert main(["explain", "--model", out, "ann saw bob", "bob was seen", "--out", str(tmp_path / "e.html")]) == 0
    assert "saw ->" in capsys.readouterr().out
    (tmp_path / "corpus.txt").write_text("joe saw lee\n\nann saw bob\n")
    search = ["search", "--model", out, "--corpus", str(tmp_path / "corpus.txt"), "ann saw bob"]
    assert main(search) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "1.0000\tann saw bob"
    assert second.endswith("joe saw lee")
    for wrong, says in [
        (["predict", "--model", out, "one"], "pairs are two texts each"),
        (["explain", "--model", out, "one"], "explain needs the two texts of a pair"),
        (["train", "match", "--out", str(tmp_path / "n")], "match needs --data"),
        (["train", "classify", "--config", "sick-relatedness"], "is a recipe for the task match"),
        (["search", "--model", out, "--corpus", str(tmp_path / "none"), "x"], "is no file"),
    ]:
        assert main(wrong) == 2
        assert says in capsys.readouterr().err
