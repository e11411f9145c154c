"""Sequences that are not words, from records to answers: what is drawn, learnt, kept and refused."""

import gzip
import json

import jax
import numpy as np
import pytest

from lstmjax import asked, datasets, recipe, sequences
from lstmjax.__main__ import main
from lstmjax.commands.tasks import TASKS, of_set
from lstmjax.datasets import Drawn
from lstmjax.models import sequencer

SMALL = sequences.DEFAULT._replace(hidden=(4,), batch_size=8, epochs=2, patience=9, buckets=2)


@pytest.mark.parametrize("T", [2, 3, 25, 600])
def test_the_adding_problem_is_as_it_is_defined(T):
    xs, ys = datasets.adding(7, 300, T)
    assert (xs.dtype, xs.shape, ys.dtype, ys.shape) == (np.float32, (300, T, 2), np.float32, (300,))
    for x, y in zip(xs, ys, strict=True):
        marked = [t for t in range(T) if x[t, 1] == 1]
        assert len(marked) == 2
        assert marked[0] < T // 2 <= marked[1]
        assert all(x[t, 1] == 0 for t in range(T) if t not in marked)
        assert all(0 <= x[t, 0] < 1 for t in range(T))
        np.testing.assert_allclose(y, x[marked[0], 0] + x[marked[1], 0], rtol=1e-6)
    if T == 600:
        assert abs(np.mean((ys - 1) ** 2) - 1 / 6) < 0.03
        first, second = (xs[..., 1].argmax(1), T - 1 - xs[:, ::-1, 1].argmax(1))
        assert (first.min(), second.max()) == pytest.approx((0, T - 1), abs=8)
        assert (first.max(), second.min()) == pytest.approx((T // 2 - 1, T // 2), abs=8)


def test_the_copy_problem_is_as_it_is_defined():
    T, K, S = 30, 8, 10
    xs, ys = datasets.copy(7, 300, T)
    assert xs.dtype == ys.dtype == np.int32
    for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
        said = x[:S]
        assert all(1 <= one <= K for one in said)
        assert x == said + [0] * (T - 1) + [K + 1] + [0] * S
        assert y == [0] * (T + S) + said
    assert set(xs[:, :S].ravel().tolist()) == set(range(1, K + 1))
    np.testing.assert_allclose(np.bincount(xs[:, 3], minlength=9)[1:] / 300, 1 / 8, atol=0.07)
    small, _ = datasets.copy(0, 50, 4, symbols=2, length=3)
    assert small.shape == (50, 10)
    assert small.max() == 3


@pytest.mark.parametrize("name", sequences.GENERATED)
def test_a_batch_is_a_function_of_seed_epoch_and_number(name):
    def batch(seed, epoch, k):
        return Drawn(name, 12, 64, seed=seed).batch(epoch, k, 16)

    jax.tree.map(np.testing.assert_array_equal, batch(1, 2, 3), batch(1, 2, 3))
    others = [batch(*place) for place in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 2)]]
    others += [Drawn(name, 12, 64, seed=seed).held(split, 16) for seed in (0,) for split in ("dev", "test")]
    starts = {xs[:, :10].tobytes() for xs, _ in others}
    assert len(starts) == len(others)
    one, two = (Drawn(name, 12, 64, seed=seed).held("dev", 16) for seed in (0, 5))
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_the_adding_problem_is_learnt_where_a_constant_fails():
    dev, test = (list(zip(*datasets.adding(place, 300, 24), strict=True)) for place in [(1, 0), (2, 0)])
    settings = SMALL._replace(hidden=(16,), chrono=24, learning_rate=1e-2, batch_size=32, epochs=12)
    model, fitted = sequences.fit(Drawn("adding", 24, 1600), dev, settings)
    found = sequences.evaluate(model, test)
    assert found["squared_error"] < 0.01
    assert sequences.baseline(model, Drawn("adding", 24, 1600), test)["always the mean"] > 0.14
    assert fitted.history[-1]["dev_loss"] < fitted.history[0]["dev_loss"]
    answers = sequences.predict(model, [x for x, _ in test[:4]])
    assert [answer.shape for answer in answers] == [()] * 4
    np.testing.assert_allclose(answers, [y for _, y in test[:4]], atol=0.4)


def test_the_copy_problem_is_learnt_where_chance_fails():
    how = dict(symbols=3, length=3)
    dev, test = (list(zip(*datasets.copy(place, 200, 8, **how), strict=True)) for place in [(1, 0), (2, 0)])
    settings = SMALL._replace(hidden=(32,), chrono=16, learning_rate=1e-2, batch_size=32, epochs=12)
    model, _ = sequences.fit(Drawn("copy", 8, 1600, how=how), dev, settings)
    found = sequences.evaluate(model, test)
    assert found["recall"] > 0.98
    assert found["nll"] < 0.05
    assert 0.25 < sequences.baseline(model, dev, test)["always the most frequent"] < 0.45


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_other_cells_learn_what_is_near(cell):
    """Which of two symbols came first, in sequences of several lengths."""
    rng = np.random.default_rng(0)
    records = [(rng.integers(0, 2, rng.integers(1, 6)), 0) for _ in range(200)]
    records = [(x, int(x[0])) for x, _ in records]
    settings = SMALL._replace(cell=cell, hidden=(8,), learning_rate=2e-2, epochs=8, chrono=6)
    model, _ = sequences.fit(records[:150], records[150:], settings)
    assert sequences.evaluate(model, records[150:])["accuracy"] > 0.95
    assert model.kind == asked.Kind(True, 2, "class", 2)


def _scales(n, rng):
    """Two notes that go up a step at a time, from different starts: the next frame is certain."""
    pieces = []
    for _ in range(n):
        start, length = rng.integers(20, 40), rng.integers(5, 12)
        frames = np.zeros((length, 88), bool)
        frames[np.arange(length), start + np.arange(length)] = frames[
            np.arange(length), start + 4 + np.arange(length)
        ] = 1
        pieces.append((frames[:-1], frames[1:]))
    return pieces


def test_the_next_notes_are_learnt_in_keys_that_were_not_heard():
    rng = np.random.default_rng(0)
    training, dev = _scales(40, rng), _scales(20, rng)
    settings = SMALL._replace(hidden=(64,), learning_rate=2e-2, epochs=25, transpose=6)
    model, _ = sequences.fit(training, dev, settings)
    found = sequences.evaluate(model, dev)["nll"]
    assert found < 2
    assert found < 0.3 * sequences.baseline(model, training, dev)["each key as often as it is down"]


def test_measures_are_their_equations():
    rng = np.random.default_rng(0)
    kind = asked.Kind(False, 1, "classes", 3)
    p = [rng.dirichlet(np.ones(3), (2, n)) for n in (4, 2)]  # two models, records of 4 and 2 steps
    y = [np.array([0, 1, 2, 0]), np.array([2, 0])]
    found = asked.measured(kind, p, y)
    for k in range(2):
        steps = [(p[n][k, t], y[n][t]) for n in range(2) for t in range(len(y[n]))]
        assert found["nll"][k] == pytest.approx(np.mean([-np.log(q[c]) for q, c in steps]))
        assert found["accuracy"][k] == np.mean([q.argmax() == c for q, c in steps])
        assert found["recall"][k] == np.mean([q.argmax() == c for q, c in steps if c != 0])
    p, y = [rng.random((1, n, 88)) for n in (3, 1)], [rng.random((n, 88)) < 0.5 for n in (3, 1)]
    each = [-np.log(q if down else 1 - q) for n in range(2) for q, down in zip(p[n].ravel(), y[n].ravel(), strict=True)]
    assert asked.measured(kind._replace(answer="keys"), p, y)["nll"][0] == pytest.approx(np.sum(each) / 4)
    found = asked.measured(kind._replace(answer="number"), [np.array([1.0]), np.array([4.0])], [0.0, 2.0])
    assert found["squared_error"] == [2.5]


def test_answers_do_not_depend_on_company():
    rng = np.random.default_rng(0)
    records = [(rng.normal(size=(n, 2)).astype(np.float32), rng.integers(0, 3, n)) for n in (5, 1, 3, 9, 2, 7)]
    model, _ = sequences.fit(records, records, SMALL._replace(members=2, epochs=1))
    together = sequences.predict(model, [x for x, _ in records])
    for (x, _), answer in zip(records, together, strict=True):
        assert answer.shape == (len(x), 3)
        np.testing.assert_allclose(sequences.predict(model, [x])[0], answer, atol=1e-6)
    assert sequences.predict(model, []) == []


@pytest.mark.parametrize("standardise", [False, True])
def test_bytes_stand_for_n_of_255(standardise):
    """Whatever they stand beside, and also where features are standardised."""
    rng = np.random.default_rng(0)
    bytes_ = [(rng.integers(0, 256, (n, 2), np.uint8), np.int32(n % 2)) for n in (5, 4, 6, 3) * 2]
    floats = [(x / np.float32(255), y) for x, y in bytes_]
    recipe = SMALL._replace(epochs=1, standardise=standardise)
    mixed = [a if k % 2 else b for k, (a, b) in enumerate(zip(bytes_, floats, strict=True))]
    expected = None
    for records in (bytes_, floats, mixed):
        model, _ = sequences.fit(records, records, recipe)
        for asked_of in (bytes_, floats, mixed):
            found = np.array(sequences.predict(model, [x for x, _ in asked_of]))
            expected = found if expected is None else expected
            np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(expected[:, 0]) > 1e-4


def test_the_loss_of_training_is_that_of_each_record():
    """Padded batches of several lengths, the last of them not full: their mean, by steps, is that over all records."""
    records = _scales(7, np.random.default_rng(0))
    model, task = sequences._task(records, records, SMALL._replace(batch_size=3))
    params = jax.vmap(task.init)(jax.random.split(jax.random.key(0), 1))
    total = count = 0
    seen = []
    for batch in task.batches(0):
        steps = int(np.sum(batch.lengths * batch.weights))
        total += steps * task.loss(jax.tree.map(lambda w: w[0], params), batch, None, model.recipe)
        count += steps
        seen += batch.lengths[batch.weights > 0].tolist()
        assert task.tokens(batch) == steps
    assert sorted(seen) == sorted(len(x) for x, _ in records)
    dev = task.evaluate(jax.tree.map(lambda w: w[None], params))
    assert float(total / count) == pytest.approx(float(dev["dev_loss"][0]), rel=1e-4)


def test_pieces_are_moved_in_training_alone_and_as_a_whole():
    pieces = _scales(6, np.random.default_rng(0))
    _, task = sequences._task(pieces, pieces, SMALL._replace(transpose=3, buckets=1))

    def first_notes(epoch):
        return sorted(int(x[0].argmax()) for batch in task.batches(epoch) for x in batch.xs if x.any())

    assert first_notes(0) == first_notes(0)
    assert len({tuple(first_notes(epoch)) for epoch in range(4)}) == 4
    for batch in task.batches(1):
        for x, y, n in zip(batch.xs, batch.targets, batch.lengths, strict=True):
            assert n == 0 or (x[1:n] == y[: n - 1]).all()
    record = pieces[0]
    shifts = set()
    for k in range(60):
        x, y = sequences._moved(record, (0, 0, k), 3)
        by = int(x[0].argmax() - record[0][0].argmax())
        np.testing.assert_array_equal(x[:, 20 + by : 60 + by], record[0][:, 20:60])
        assert (x.sum(), y.sum()) == (record[0].sum(), record[1].sum())
        shifts.add(by)
    assert shifts == set(range(-3, 4))
    edge = np.zeros((4, 88), bool)
    edge[:, 0] = edge[:, 86] = True
    assert {int(sequences._moved((edge, edge), (k,), 6)[0][0].argmax()) for k in range(30)} == {0, 1}
    assert not sequences._moved((~edge & False, edge & False), (0,), 6)[0].any()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with small mnist and jsb_chorales."""
    rng = np.random.default_rng(0)
    monkeypatch.setenv(datasets.FOLDER, str(tmp_path / "data"))
    (tmp_path / "data" / "seq_mnist").mkdir(parents=True)
    for name, n in (("train", 6), ("t10k", 3)):
        pixels, labels = rng.integers(0, 256, (n, 28, 28), np.uint8), np.arange(n, dtype=np.uint8) % 3
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (tmp_path / "data" / "seq_mnist" / f"{name}-{kind}-ubyte.gz").write_bytes(
                gzip.compress(head + array.tobytes())
            )
    (tmp_path / "data" / "seq_jsb_chorales").mkdir()
    pieces = {split: [[[60, 64], [62], [], [21, 108]]] * n for split, n in (("train", 4), ("valid", 2), ("test", 1))}
    (tmp_path / "data" / "seq_jsb_chorales" / "jsb_chorales.json").write_text(json.dumps(pieces))
    return tmp_path


def test_pictures_become_pixels_in_one_order(folder, monkeypatch):
    monkeypatch.setattr(sequences, "DEV", 2)
    pictures = datasets.load("mnist")["train"].pixels
    training, dev, test = sequences.records("mnist", SMALL, "train", "dev", "test")
    assert [[int(label) for _, label in part] for part in (training, dev, test)] == [[0, 1, 2, 0], [1, 2], [0, 1, 2]]
    np.testing.assert_array_equal(training[1][0], pictures[1].reshape(784, 1))
    ((chunked, _),) = sequences.records("mnist", SMALL._replace(chunk=28), "dev")[0][:1]
    np.testing.assert_array_equal(chunked, pictures[4])
    one, other = (sequences.records("mnist", SMALL._replace(permute=seed), "train", "test") for seed in (1, 2))
    order = one[0][0][0][:, 0]
    assert sorted(order) == sorted(pictures[0].ravel())
    assert (order != pictures[0].ravel()).any()
    assert (order != other[0][0][0][:, 0]).any()
    place = np.random.default_rng(1).permutation(784)
    for (x, _), picture in zip(
        [*one[0], *one[1]], [*pictures[:4], *datasets.load("mnist")["test"].pixels], strict=True
    ):
        np.testing.assert_array_equal(x[:, 0], picture.ravel()[place])
    model = sequences.Model(None, SMALL, sequences.kind_of(training))
    filled, lengths = sequences._filled([sequences._features(training[0][0], model)], 784, 2)
    np.testing.assert_allclose(filled[0, :, 0], pictures[0].ravel() / 255, rtol=1e-6)
    assert lengths.tolist() == [784, 0]
    with pytest.raises(ValueError, match="chunk should divide the 784 pixels of a picture, got 5"):
        sequences.records("mnist", SMALL._replace(chunk=5), "dev")


def test_frames_of_music_are_keys(folder):
    ((x, y),) = sequences.records("jsb_chorales", SMALL, "test")[0]
    assert [np.flatnonzero(frame).tolist() for frame in x] == [[39, 43], [41], []]
    assert [np.flatnonzero(frame).tolist() for frame in y] == [[41], [], [0, 87]]
    assert len(sequences.records("jsb_chorales", SMALL, "dev")[0]) == 2
    with pytest.raises(ValueError, match=r"pitches should lie in \[21, 109\), got \[20\]"):
        sequences._next_frames([[20], [60]])


def _same(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize("data", ["adding", "pieces"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(data, tmp_path):
    from lstmjax.train import Snapshots, Watch

    class Stopper(Watch):
        def stepped(self, epoch, number, loss, finite, tokens):
            if number == 5:
                raise KeyboardInterrupt

    if data == "adding":
        training, dev = Drawn("adding", 6, 24), list(zip(*datasets.adding(1, 8, 6), strict=True))
    else:
        training = dev = _scales(20, np.random.default_rng(0))
    settings = SMALL._replace(epochs=3, transpose=0 if data == "adding" else 3, dropout=0.2)
    whole, _ = sequences.fit(training, dev, settings)
    with Snapshots(tmp_path) as snapshots:
        _, cut = sequences.fit(training, dev, settings, snapshots=snapshots, save_every=2, watch=Stopper())
    assert cut.interrupted
    with Snapshots(tmp_path) as snapshots:
        again, fitted = sequences.fit(training, dev, settings, snapshots=snapshots, resume=True)
    assert len(fitted.history) == 3
    _same(again.params, whole.params)
    with Snapshots(tmp_path) as snapshots, pytest.raises(ValueError, match="records was"):
        sequences.fit(training, dev[1:], settings, snapshots=snapshots, resume=True)


def test_a_model_survives_the_folder(tmp_path):
    training, test = Drawn("copy", 4, 16, how=dict(symbols=2, length=2)), datasets.copy(2, 5, 4, symbols=2, length=2)
    test = list(zip(*test, strict=True))
    model, _ = sequences.fit(training, test, SMALL._replace(members=2, epochs=1))
    sequences.save(model, tmp_path / "m")
    loaded = sequences.load(tmp_path / "m")
    assert (loaded.kind, loaded.recipe) == (model.kind, model.recipe)
    _same(loaded.params, model.params)
    assert sequences.evaluate(loaded, test) == sequences.evaluate(model, test)
    about = json.loads((tmp_path / "m" / "model.json").read_text())
    about["about"]["kind"]["answer"] = "word"
    (tmp_path / "m" / "model.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="describes no model of sequences"):
        sequences.load(tmp_path / "m")


def test_a_sweep_is_each_alone():
    training, dev = Drawn("adding", 5, 32), list(zip(*datasets.adding(1, 8, 5), strict=True))
    models, swept = sequences.sweep(training, dev, {"learning_rate": [1e-3, 1e-2]}, SMALL)
    alone, _ = sequences.fit(training, dev, SMALL._replace(learning_rate=1e-2))
    x = [x for x, _ in dev]
    np.testing.assert_allclose(sequences.predict(models[1], x), sequences.predict(alone, x), atol=1e-4)
    assert len(swept.best_epoch) == 2


def test_the_command_line_trains_and_measures(tmp_path, capsys):
    out = str(tmp_path / "m")
    quick = ["--config", "adding", "--steps", "10", "--drawn", "64", "--hidden", "4", "--epochs", "1", "--cell", "rnn"]
    assert main(["train", "sequence", *quick, "--out", out, "--json", str(tmp_path / "found.json")]) == 0
    said = capsys.readouterr().out
    assert "Data: adding, drawn by a program" in said
    assert "train 64, dev 1,000, test 1,000 records" in said
    assert "RNN" in said
    found = json.loads((tmp_path / "found.json").read_text())
    assert 0 < found["test"]["squared_error"] < 3
    assert found["baselines"]["always the mean"] == pytest.approx(1 / 6, abs=0.02)
    assert main(["evaluate", "--model", out, "--data", "adding", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["squared_error"] == pytest.approx(found["test"]["squared_error"])
    for wrong, says in [
        (["predict", "--model", out, "one"], "is a model of sequences, not of texts"),
        (["explain", "--model", out, "one"], "is neither of texts with labels"),
        (["train", "sequence", "--out", out], "sequence needs --config, or --data: one of adding, copy, mnist"),
        (["train", "sequence", "--data", "snips", "--out", out], "name should be one of 'adding'"),
        (["train", "sequence", "--data", "x.tsv", "--out", out], "x.tsv is none of the sets of sequences"),
        (["train", "sequence", "--data", "adding", "--steps", "1"], "T should be an int of at least 2"),
        (["train", "sequence", "--data", "adding", "--drawn", "3"], "has no batch of 64: give more"),
        (["train", "sequence", "--data", "adding", "--bidirectional"], "bidirectional should be False"),
        (["train", "sequence", "--data", "adding", "--transpose", "2"], "transpose is for the same keys"),
        (["train", "sequence", "--data", "copy", "--dev", "x"], "copy has dev and test records of its own"),
        (["train", "sequence", "--data", "copy", "--chunk", "0"], "chunk should be"),
        (["train", "sequence", "--data", "copy", "--forget-bias", "nan"], "forget_bias should be"),
        (["train", "classify", "--config", "adding"], "is a recipe for the task sequence"),
    ]:
        assert main(wrong) == 2
        assert says in capsys.readouterr().err


@pytest.mark.parametrize("name", ["mnist", "jsb_chorales"])
def test_sets_are_trained_on_by_name(name, folder, monkeypatch, capsys):
    monkeypatch.setattr(sequences, "DEV", 2)
    config = {"mnist": ["pmnist", "--chunk", "28"], "jsb_chorales": ["music"]}[name]
    quick = ["--batch-size", "2", "--hidden", "3", "--epochs", "1", "--out", str(folder / "m")]
    assert main(["train", "sequence", "--config", *config, *quick]) == 0
    assert f"Data: {name}, " in capsys.readouterr().out
    loaded = sequences.load(folder / "m")
    assert loaded.kind.outputs == {"mnist": 3, "jsb_chorales": 88}[name]
    task = TASKS["sequence"]
    (test,) = of_set(task, name, loaded.recipe, "test")
    assert sequences.evaluate(loaded, test)["records"] == {"mnist": 3, "jsb_chorales": 1}[name]


def test_recipes_of_sequences_are_what_their_papers_measure():
    adding, copied, digits, music = (recipe.read(name).recipe() for name in ("adding", "copy", "pmnist", "music"))
    assert adding.steps == 600
    assert copied.steps >= 100
    assert digits.permute > 0
    assert recipe.read("mnist").recipe().permute == 0
    assert digits.chunk == 1
    assert music.transpose == 0
    for one in (adding, copied, digits, music):
        assert not one.bidirectional
        assert one.members == 1


ONE = np.zeros((3, 2), np.float32)


@pytest.mark.parametrize(
    ("training", "dev", "kind", "says"),
    [
        ([], [(ONE, 1.0)], ValueError, "the training data should hold at least one record"),
        ([(ONE, 1.0)], [], ValueError, "the dev data should hold at least one record"),
        ([(ONE, "x")], [(ONE, 1.0)], TypeError, "a target should be a float, an int"),
        ([(ONE[0], 1.0)], [(ONE, 1.0)], TypeError, r"x should be features \[T, D\] or symbols int \[T\]"),
        (
            [(ONE, 1.0), (ONE, 1)],
            [(ONE, 1.0)],
            ValueError,
            "record 1: expected 2 features with number .* got 2 features with class",
        ),
        (
            [(ONE, 1.0)],
            [(ONE, float("nan"))],
            ValueError,
            "the dev data, record 0: the target should be a finite number",
        ),
        ([(ONE, 1.0), (ONE[:, :1], 1.0)], [(ONE, 1.0)], ValueError, r"record 1: x should be features \[T, 2\]"),
        (
            [(ONE + np.nan, 1.0)],
            [(ONE, 1.0)],
            ValueError,
            r"sequences\[0\] should hold finite numbers, got nan at step 0",
        ),
        ([(ONE[:0], 1.0)], [(ONE, 1.0)], ValueError, "x should have at least one step"),
        (
            [(ONE, 0), (ONE, 1)],
            [(ONE, 2)],
            ValueError,
            r"dev data, record 0: classes should lie in \[0, 2\), got 2 to 2",
        ),
        ([(ONE, np.zeros(2, int))], [(ONE, np.zeros(3, int))], ValueError, "x has 3 steps and its target 2"),
        (
            [(np.array([0, 1]), 1.0)],
            [(np.array([2]), 1.0)],
            ValueError,
            r"should hold ids in \[0, 2\), got 2 at step 0",
        ),
        (
            [(ONE, np.zeros((3, 4), bool)), (ONE, np.zeros((3, 5), bool))],
            [(ONE, np.zeros((3, 4), bool))],
            ValueError,
            "expected 4 keys, got 5",
        ),
    ],
)
def test_records_are_refused_by_their_place(training, dev, kind, says):
    with pytest.raises(kind, match=says):
        sequences.fit(training, dev, SMALL)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: datasets.adding(0, 3, 1), "T should be an int of at least 2"),
        (lambda: datasets.copy(0, 3, 0), "T should be an int of at least 1"),
        (lambda: datasets.copy(0, 3, 4, symbols=0), "symbols should be"),
        (lambda: Drawn("sorting", 3, 4), "name should be one of 'adding', 'copy'"),
        (lambda: Drawn("adding", 3, 0), "n should be"),
        (lambda: Drawn("adding", 3, 4).held("all", 1), "split should be one of"),
        (lambda: sequences.records("snips", SMALL, "dev"), "name should be one of"),
    ],
)
def test_refusals(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_what_a_model_is_asked_is_of_its_kind():
    records = [(np.array([0, 1, 1]), 1.0)]
    kind = asked.kind_of(records)
    params = jax.vmap(lambda key: sequencer.init(key, 2, 1, hidden=3))(jax.random.split(jax.random.key(0), 1))
    model = sequences.Model(params, SMALL, kind)
    with pytest.raises(ValueError, match=r"xs, record 0: x should be symbols int \[T\]"):
        sequences.predict(model, [ONE])
    with pytest.raises(ValueError, match=r"should hold ids in \[0, 2\)"):
        sequences.predict(model, [np.array([5])])
    with pytest.raises(ValueError, match="expected 2 symbols with number"):
        sequences.evaluate(model, [(np.array([1]), 1)])
