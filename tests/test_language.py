"""Language models from text to text, and what training has for them: a carry, and a mean that waits for its sign."""

import json
import math
import signal
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lstmjax import classify, decoding, devices, language, members, train
from lstmjax.__main__ import main
from lstmjax.containers import Bidirectional
from lstmjax.models import language_model
from lstmjax.windows import Windows, cut
from tests import kill

SMALL = language.RECIPE._replace(
    embedding=8, hidden=(24,), dropout=0.0, batch_size=16, bptt=20, epochs=8, patience=8, learning_rate=2e-2
)
ENTROPY = math.log(2) / 2  # nats per character of `_text`


def _text(characters, seed):
    """Every other character is a or b, each half of the time, and between stands what came two before, in capitals."""
    letters = np.random.default_rng(seed).choice(list("ab"), characters // 2)
    return "".join(a + b.upper() for a, b in zip(letters, ["a", *letters[:-1]], strict=True))


@pytest.fixture(scope="module")
def model():
    """A model of letters, trained to the end."""
    found, fitted = language.fit(_text(12000, 0), _text(2000, 1), SMALL)
    assert fitted.history[fitted.best_epoch - 1]["dev_loss"] == min(r["dev_loss"] for r in fitted.history)
    return found


# --- training with a carry -------------------------------------------------------------------------------------------


def _carried(w, carry, batch, key):
    """Each step sees the sum of the batches before it."""
    return jnp.mean((w - carry["sum"] - batch) ** 2), {"sum": carry["sum"] + batch.sum()}


BATCHES = [[1.0, 2.0], [0.5, 0.5], [np.nan, 1.0], [-1.0, 2.0]]


def _fit_carried(**options):
    options = dict(key=jax.random.key(0), epochs=3, carry={"sum": jnp.float32(0.25)}) | options
    return train.fit(
        _carried, jnp.float32(0), optax.sgd(0.1), lambda epoch: [jnp.array(b) + epoch for b in BATCHES], **options
    )


def test_a_carry_goes_from_batch_to_batch_and_begins_anew_in_each_epoch():
    """A step that is not finite holds it."""
    w, losses = 0.0, []
    for epoch in range(3):
        carry, total = 0.25, 0.0
        for batch in np.array(BATCHES) + epoch:
            if np.isfinite(batch).all():
                total += ((w - carry - batch) ** 2).mean()
                w -= 0.1 * 2 * (w - carry - batch).mean()
                carry += batch.sum()
        losses.append(total / 3)
    fitted = _fit_carried()
    np.testing.assert_allclose(fitted.state.params, w, rtol=1e-5)
    np.testing.assert_allclose([record["loss"] for record in fitted.history], losses, rtol=1e-5)
    assert [record["skipped"] for record in fitted.history] == [1, 1, 1]
    assert float(fitted.state.carry["sum"]) == 0.25


def test_a_carry_that_is_not_finite_is_a_bad_step():
    def loss(w, carry, batch, key):
        return (w - batch) ** 2, carry / batch

    step = jax.jit(train.make_step(loss, optax.sgd(0.1)))
    state = train.init_state(jnp.float32(1), optax.sgd(0.1), jax.random.key(0), carry=jnp.float32(3))
    after, report = step(state, jnp.float32(0))
    assert report.finite.tolist() == [True, True, False]
    assert (float(after.params), float(after.carry), int(after.skipped)) == (1, 3, 1)
    with pytest.raises(FloatingPointError, match="that is not finite in the carry; params"):
        train.fit(
            loss,
            jnp.float32(1),
            optax.sgd(0.1),
            lambda epoch: [jnp.float32(0)] * 3,
            key=jax.random.key(0),
            epochs=1,
            carry=jnp.float32(3),
            bad_steps=2,
        )


def test_no_gradient_goes_through_a_carry():
    """The next loss depends on these params by what was carried, and its gradient does not know."""

    def loss(w, carry, batch, key):
        return w * batch + carry, carry + 100 * w

    step = train.make_step(loss, optax.sgd(1.0))
    state = train.init_state(jnp.float32(0), optax.sgd(1.0), jax.random.key(0), carry=jnp.float32(0))
    for _ in range(3):
        state, _ = step(state, jnp.float32(2))
    assert float(state.params) == -6


class Stopped(train.Watch):
    """Ends a run after a step."""

    def __init__(self, after, **options):
        super().__init__(**options)
        self.after = after

    def stepped(self, epoch, step, *rest):
        super().stepped(epoch, step, *rest)
        if step == self.after:
            signal.raise_signal(signal.SIGTERM)


def test_a_carried_run_goes_on_to_the_same_bits(tmp_path):
    whole = kill.bits(_fit_carried(average_after=1))
    for after in (2, 7, None):  # the first two in the middle of an epoch
        with train.Snapshots(tmp_path) as snapshots:
            how = dict(snapshots=snapshots, resume=True, average_after=1)
            fitted = _fit_carried(watch=Stopped(after), **how)
        assert fitted.interrupted == (after is not None)
    assert kill.bits(fitted) == whole


def test_a_carry_on_a_mesh():
    mesh = devices.mesh(jax.devices()[:1])
    assert kill.bits(_fit_carried(mesh=mesh, average_after=1)) == kill.bits(_fit_carried(average_after=1))


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        (dict(accumulate=2), ValueError, "accumulate should be 1 with a carry"),
        (dict(carry={"sum": 0.25}), TypeError, "carry.sum should be an array"),
        (dict(carry={"sum": jnp.zeros((), jnp.int32)}), ValueError, "loss should return the next carry in the shapes"),
        (dict(average_after=0), ValueError, "average_after should be an int of at least 1"),
        (dict(average_after=2, average=0.9), ValueError, "average and average_after are two means"),
    ],
)
def test_refusals_of_training(options, kind, says):
    with jax.numpy_dtype_promotion("standard"), pytest.raises(kind, match=says):
        _fit_carried(**options)


# --- NT-ASGD ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3])
def test_nt_asgd_equals_numpy(n):
    """Algorithm 1 of Merity et al. 2018, over given measures of dev."""
    measures = [5.0, 4.0, 4.5, 3.0, 3.5, 3.2, 3.1, 3.4, 2.0, 9.0]
    targets, given = np.random.default_rng(0).normal(size=(10, 3)), iter(measures)
    seen = []

    def evaluate(w):
        seen.append(float(w))
        return {"dev_loss": next(given)}

    fitted = train.fit(
        lambda w, batch, key: (w - batch) ** 2,
        jnp.float32(0),
        optax.sgd(0.2),
        lambda epoch: [jnp.float32(t) for t in targets[epoch]],
        key=jax.random.key(0),
        epochs=10,
        evaluate=evaluate,
        metric="dev_loss",
        average_after=n,
    )
    w, iterates, began, logs = 0.0, [], None, []
    for epoch in range(10):
        for target in targets[epoch]:
            w -= 0.2 * 2 * (w - target)
            iterates.append(w)
        mean = w if began is None else np.mean(iterates[began - 1 :])
        np.testing.assert_allclose(seen[epoch], mean, rtol=1e-4, atol=1e-6)
        t = len(logs)
        if began is None and t > n and measures[epoch] > min(logs[: t - n]):
            began = len(iterates)
        logs.append(measures[epoch])
    assert began == {1: 18, 3: 24}[n]
    assert int(fitted.state.averaged) == len(iterates) - began + 1
    np.testing.assert_allclose(fitted.params, seen[8], rtol=1e-5)  # epoch 9 had the best measure


def test_the_mean_does_not_count_bad_steps():
    step = jax.jit(train.make_step(lambda w, batch, key: (w - batch) ** 2, optax.sgd(0.25)))
    state = train.init_state(jnp.float32(1), optax.sgd(0.25), jax.random.key(0), waits=True)
    state, _ = step(state, jnp.float32(3))
    assert float(state.weights) == float(state.params) == 2
    state = state._replace(averaged=jnp.ones((), jnp.int32))
    for target in (4.0, np.nan, 5.0):
        state, _ = step(state, jnp.float32(target))
    assert (float(state.params), float(state.weights), int(state.averaged)) == (4, 3, 3)  # 2, 3, 4


# --- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize(("words", "columns"), [(100, 4), (101, 4), (3, 5), (57, 1)])
def test_every_word_is_predicted_once_in_each_epoch(words, columns, random):
    ids = np.arange(1, words + 1)
    windows = Windows(cut(ids, columns, start=999), 7, random=random)
    for epoch in range(3):
        today, found = windows(epoch), []
        for k in range(len(today)):
            batch = today[k]
            assert batch.inputs.shape == (columns, 17 if random else 7)
            there = batch.weights > 0
            found += batch.targets[there].tolist()
            before = batch.inputs[there]
            np.testing.assert_array_equal(np.where(before == 999, 0, before), batch.targets[there] - 1)
            if random:
                assert (there <= (np.arange(17) < batch.lengths[:, None])).all()
        assert sorted(found) == ids.tolist()


def test_random_windows_are_those_of_their_epoch():
    columns = cut(np.arange(1, 4001), 4, start=0)
    windows = Windows(columns, 30, random=True, seed=3)
    lengths = [[today[k].lengths[0] for k in range(len(today))] for today in map(windows, (0, 1, 1))]
    assert lengths[1] == lengths[2] != lengths[0]
    assert all(5 <= length <= 40 for length in lengths[0][:-1])
    assert len(set(lengths[0])) > 5
    assert 20 < np.mean(lengths[0]) < 35


def test_words_and_their_ends_of_lines():
    recipe = SMALL._replace(tokens="blanks")
    given = " = A title = \n\nthe <unk> sat\n"
    read = language._learn(given, recipe)
    assert language._tokens(read, given) == ["=", "A", "title", "=", "\n", "\n", "the", "<unk>", "sat", "\n"]
    ids = read.vocabulary.encode(language._tokens(read, given))
    assert ids[7] == 1
    assert read.vocabulary.words[0] == "\n"
    assert language._joined(read, language._tokens(read, given)) == "= A title =\n\nthe <unk> sat\n"
    assert language._tokens(read, "a b") == ["a", "b"]
    plain = language._learn("ab\nc", SMALL)
    assert language._tokens(plain, "ab\nc") == list("ab\nc")
    whole = language._learn("It's so.\n", SMALL._replace(tokens="words"))
    assert language._tokens(whole, "It's so.\n") == ["it's", "so", ".", "\n"]


def test_subwords_are_put_together_again():
    pytest.importorskip("tokenizers")
    given = "low lower lowest\nnew newer newest\n"
    read = language._learn(given * 5, SMALL._replace(tokens="bpe", vocabulary=40))
    words = language._tokens(read, given)
    assert words.count("\n") == 2
    assert language._joined(read, words) == given
    assert language.Reader.from_json(read.to_json()).tokenise("lower") == read.tokenise("lower")


def test_a_text_is_split_at_ends_of_lines():
    given = "".join(f"line {k}\n" for k in range(50))
    parts = language.split(given)
    assert "".join(parts) == given
    assert all(part.endswith("\n") for part in parts)
    assert 0.75 < len(parts[0]) / len(given) < 0.85
    assert "".join(language.split("x" * 100)) == "x" * 100
    # Both places lie in one line, whose end would leave dev empty.
    long = "a" * 70 + "\n" + "b" * 24 + "\nccccc"
    assert [len(part) for part in language.split(long)] == [81, 10, 10]
    with pytest.raises(ValueError, match="too short"):
        language.split("ab")


# --- a trained model -------------------------------------------------------------------------------------------------


def test_it_learns_to_the_entropy_of_its_text(model):
    found = language.evaluate(model, _text(4000, 2))
    assert found["tokens"] == 4000
    assert found["nats"] == pytest.approx(ENTROPY, abs=0.02)
    assert found["bits"] == pytest.approx(found["nats"] / math.log(2))
    assert found["perplexity"] == pytest.approx(math.exp(found["nats"]))
    assert language.unigram(model, _text(4000, 0), _text(4000, 2)) == pytest.approx(4, rel=0.01)


def test_a_text_is_measured_the_same_in_any_room(model, monkeypatch):
    """Window by window, or all at once; and as one sequence it is what the model says of it step by step."""
    given = _text(200, 3)
    whole = language.evaluate(model, given, columns=1)["nats"]
    monkeypatch.setattr(language, "ROOM", 7 * model.reader.size)
    assert language.evaluate(model, given, columns=1)["nats"] == pytest.approx(whole, rel=1e-5)
    state, total, ids = language_model.begin(model.params), 0.0, language._ids(model, given[:40])
    step = jax.jit(language_model.step)
    for before, word in zip([language._start(model), *ids[:-1]], ids, strict=True):
        state, logits = step(model.params, state, jnp.int32(before))
        total -= float(jax.nn.log_softmax(logits)[word])
    assert language.evaluate(model, given[:40], columns=1)["nats"] == pytest.approx(total / 40, rel=1e-4)


def test_score_is_the_sum_over_a_line(model):
    lines = ["aAbA", "", "bB" * 20, "zz"]
    found = language.score(model, lines)
    for line, nats in zip(lines, found, strict=True):
        measured = language.evaluate(model, line + "\n", columns=1)
        assert nats == pytest.approx(measured["nats"] * measured["tokens"], rel=1e-4)
    with pytest.raises(TypeError, match="got one str"):
        language.score(model, "aAbA")


def test_a_cache_finds_what_is_repeated(model):
    """Words that the model has seldom seen, and that come again and again."""
    given = "zqaZ" * 60
    plain = language.evaluate(model, given, columns=1)["nats"]
    assert language.evaluate(model, given, columns=1, cache=language.Cache(50, 0.5, 0.3))["nats"] < plain - 0.2
    assert language.evaluate(model, given, columns=1, cache=language.Cache(50, 0.5, 0.0))["nats"] == pytest.approx(
        plain
    )


def test_generate(model):
    one, two, other = (
        language.generate(model, "aAb", jax.random.key(seed), tokens=60, top_p=0.99) for seed in (0, 0, 1)
    )
    assert one == two != other
    assert one.startswith("aAb")
    assert len(one) == 63
    wrong = sum(one[k + 3] != one[k].upper() for k in range(0, 58, 2))
    assert wrong <= 3  # it has learnt what stands between
    likeliest = language.generate(model, "aAb", jax.random.key(5), tokens=20, top_k=1)
    ids, state = language._ids(model, "aAb"), language_model.begin(model.params)
    for word in [language._start(model), *ids[:-1]]:
        state, _ = language_model.step(model.params, state, jnp.int32(word))

    def step(state, token):
        return language_model.step(model.params, state, token)

    greedy = decoding.greedy(step, state, start=int(ids[-1]), end=0, steps=20)
    assert likeliest == "aAb" + "".join(model.reader.vocabulary.decode(np.asarray(greedy.tokens).tolist()))
    cold = language.generate(model, "aAb", jax.random.key(0), tokens=20, temperature=2e-38)
    assert cold == likeliest
    hot = language.generate(model, "", jax.random.key(0), tokens=300, temperature=50.0)
    assert len(hot) == 300  # neither padding nor unknown words, which would be longer


@pytest.mark.parametrize(("tokens", "prompt"), [("words", "Ann  SAW kim, ok"), ("bpe", "Ann saw 猫 x"), ("words", "")])
def test_a_prompt_is_kept_as_it_stands(tokens, prompt):
    """Also where the model reads it in lower case, cut at other places, or does not know it."""
    recipe = SMALL._replace(tokens=tokens, vocabulary=40, epochs=1, hidden=(6,))
    model, _ = language.fit(WORDS * 9, WORDS, recipe)
    found = language.generate(model, prompt, jax.random.key(0), tokens=12)
    assert found.startswith(prompt)
    more = language.generate(model, f"{prompt}\n", jax.random.key(0), tokens=12)
    assert more.startswith(f"{prompt}\n")
    assert len(found) > len(prompt) + 5
    if tokens == "words" and prompt:
        assert found[len(prompt)] in " \n"
        assert found.removeprefix(prompt).split(" ")[0] in ("", "\n")


def test_a_folder_holds_all_of_it(model, tmp_path):
    language.save(model, tmp_path / "m")
    loaded = language.load(tmp_path / "m")
    assert loaded.recipe == model.recipe
    chex.assert_trees_all_equal(loaded.params, model.params)
    given = _text(50, 4)
    assert language.evaluate(loaded, given) == language.evaluate(model, given)
    with pytest.raises(ValueError, match="describes no text classifier"):
        classify.load(tmp_path / "m")


BUSY = SMALL._replace(
    tokens="blanks",
    tied=True,
    samples=4,
    hidden=(6,),
    dropout=0.2,
    recurrent=0.1,
    weight_dropout=0.2,
    word_dropout=0.1,
    ar=1.0,
    tar=1.0,
    random_bptt=True,
    optimizer="sgd",
    average_after=1,
    batch_size=4,
    learning_rate=1.0,
    epochs=4,
)
WORDS = "".join(f"{a} saw {b} .\n" for a in ("ann", "bob", "eve") for b in ("kim", "lee", "joe")) * 8


def test_all_of_awd_at_once_and_on_to_the_same_bits(tmp_path):
    model, whole = language.fit(WORDS, WORDS[:80], BUSY)
    assert whole.history[-1]["loss"] < whole.history[0]["loss"]
    for after in (5, 21, None):
        with train.Snapshots(tmp_path) as snapshots:
            again, fitted = language.fit(
                WORDS, WORDS[:80], BUSY, snapshots=snapshots, resume=True, watch=Stopped(after)
            )
    assert kill.bits(fitted) == kill.bits(whole)
    chex.assert_trees_all_equal(again.params, model.params)
    with train.Snapshots(tmp_path) as snapshots, pytest.raises(ValueError, match="texts was"):
        language.fit(WORDS, WORDS[:90], BUSY, snapshots=snapshots, resume=True)


def test_an_adaptive_softmax_and_gru_layers_learn_words():
    recipe = SMALL._replace(
        tokens="words", cell="gru", hidden=(12, 12), cutoffs=(4, 7), batch_size=4, epochs=40, average=0.5
    )
    model, fitted = language.fit(WORDS, WORDS[:80], recipe)
    # Nine lines, each as likely as the next: two words of three each in five.
    assert language.evaluate(model, WORDS)["nats"] < 2 * math.log(3) / 5 + 0.15
    assert set(language.generate(model, "ann saw", jax.random.key(0), tokens=30, top_p=0.9).split()) <= set(
        WORDS.split()
    )
    assert fitted.best_epoch > 1


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_short_window_makes_a_short_step(optimizer):
    """After the bound on the gradient and after Adam, which else would undo it; the loss is shown as it is."""
    recipe = SMALL._replace(bptt=10, batch_size=2, random_bptt=True, optimizer=optimizer, clip=1e-3, weight_decay=0.0)
    params = language._init(jax.random.key(0), recipe, 9)
    ids = np.random.default_rng(0).integers(0, 9, (2, 5)).astype(np.int32)
    short = language.Batch(ids, ids, np.ones((2, 5), np.float32), np.full(2, 5, np.int32))

    def stepped(one):
        optimizer = language._optimizer(one, 9)
        state = train.init_state(params, optimizer, jax.random.key(0), carry=language_model.begin(params, 2))
        step = train.make_step(partial(language._loss, recipe=one), optimizer)
        state, report = step(state, short)
        if one.optimizer == "adamw":  # whose rate is 0 at first
            state, _ = step(state, short)
        return report.loss, jax.tree.map(jnp.subtract, state.params, params)

    one, half = stepped(recipe)
    two, whole = stepped(recipe._replace(bptt=5))
    assert float(one) == pytest.approx(float(two), rel=1e-6)
    total = [float(optax.tree.norm(update)) for update in (half, whole)]
    assert total[0] == pytest.approx(0.5 * total[1], rel=2e-2)
    assert total[1] > 1e-6


# --- what a classifier begins with -----------------------------------------------------------------------------------


def test_a_classifier_begins_with_a_language_model(tmp_path):
    recipe = SMALL._replace(tokens="words", hidden=(6, 6), epochs=1)
    model, _ = language.fit(WORDS, WORDS[:80], recipe)
    folder = language.save(model, tmp_path / "m")
    records = [("ann saw kim", "x"), ("nobody saw bob", "y")] * 4
    small = classify.Recipe(
        members=2, embedding=3, hidden=(6, 6), bidirectional=True, epochs=1, buckets=1, pretrained=str(folder)
    )
    data = classify._Data(records, records, small)
    assert data.task.recipe.embedding == 8
    params, _ = members._begin(data.task, data.task.recipe)
    words, theirs = data.model.reader.vocabulary, model.reader.vocabulary
    for word in ("ann", "saw", "kim", "bob"):
        row = model.params.embedding[theirs.index[word]]
        np.testing.assert_array_equal(params.embedding[:, words.index[word]], jnp.stack([row, row]))
    assert (params.embedding[:, 0] == 0).all()
    assert (params.embedding[0, words.index["nobody"]] != params.embedding[1, words.index["nobody"]]).all()
    first, second = params.layers
    assert type(first) is Bidirectional
    chex.assert_trees_all_equal(jax.tree.map(lambda a: a[1], first.forward), model.params.layers[0])
    assert (first.backward.w_x != first.forward.w_x).any()
    assert second.forward.w_x.shape[1] == 12  # of two directions: none of the model's
    forwards = classify._Data(records, records, small._replace(bidirectional=False))
    params, _ = members._begin(forwards.task, forwards.task.recipe)
    chex.assert_trees_all_equal(jax.tree.map(lambda a: a[0], params.layers), model.params.layers)
    other = classify._Data(records, records, small._replace(cell="gru"))
    params, _ = members._begin(other.task, other.task.recipe)
    assert params.layers[0].forward.w_x.shape == (2, 8, 18)
    trained, _ = classify.fit(records, records, small)
    classify.save(trained, tmp_path / "c")
    assert classify.load(tmp_path / "c").recipe.pretrained == str(folder)
    with pytest.raises(ValueError, match="knows none of the"):
        classify.fit([("zzz yyy", "x"), ("www", "y")], records, small)


# --- refusals and the command line -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (dict(members=2), "members should be 1 and bidirectional False, got 2 and False"),
        (dict(bidirectional=True), "members should be 1 and bidirectional False"),
        (dict(cutoffs=(3,), tied=True), "give tied = False"),
        (dict(cutoffs=(9, 3)), "cutoffs should rise and lie in"),
        (dict(optimizer="adam"), "optimizer should be one of 'adamw', 'sgd'"),
        (dict(bptt=0), "bptt should be an int of at least 1"),
        (dict(weight_dropout=1.0), "weight_dropout should be a float in"),
        (dict(tar=-1.0), "tar should be a number of at least 0"),
        (dict(average=0.9, average_after=3), "two means of the weights"),
        (dict(pretrained="x", vectors="y"), "pretrained and vectors both say"),
        (dict(vectors="x"), "vectors, pretrained, pieces, smoothing and linear_part are of other tasks"),
        (dict(pieces=9), "are of other tasks"),
        (dict(smoothing=0.1), "are of other tasks"),
        (dict(linear_part=True), "are of other tasks"),
        (dict(seed=2**32), r"seed should be an int below 2\*\*32"),
    ],
)
def test_recipes_that_make_no_sense(recipe, says):
    with pytest.raises(ValueError, match=says):
        language.fit("ab\n" * 9, "ab\n", SMALL._replace(**recipe))


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda: language.fit(["a"], "a", SMALL), TypeError, "training should be a text, got list"),
        (lambda: language.fit("", "a", SMALL), ValueError, "training should hold at least one word"),
        (lambda: language.fit("a", " ", SMALL._replace(tokens="blanks")), ValueError, "dev should hold at least one"),
        (lambda: members.recipes_of(SMALL._replace(average_after=2), {"seed": [1]}), ValueError, "is of one run"),
    ],
)
def test_refusals(call, kind, says):
    with pytest.raises(kind, match=says):
        call()


def test_refusals_of_a_model(model):
    for call, kind, says in [
        (lambda: language.evaluate(model, ["a"]), TypeError, "given should be a text"),
        (lambda: language.evaluate(model, ""), ValueError, "at least one word"),
        (lambda: language.evaluate(model, "a", columns=0), ValueError, "columns should be an int"),
        (lambda: language.evaluate(model, "a", cache=3), TypeError, "cache should be Cache"),
        (
            lambda: language.score(model, ["a", 1]),
            TypeError,
            "lines should be a sequence of strings, got int 1 at place 1",
        ),
        (lambda: language.split(None), TypeError, "given should be a text, got NoneType"),
        (lambda: language.generate(model, 3, jax.random.key(0)), TypeError, "prompt should be a text"),
        (lambda: language.generate(model, "a", 0), TypeError, "key should be a PRNG key"),
        (
            lambda: language.generate(model, "a", jax.random.key(0), tokens=0),
            ValueError,
            "tokens should be an int of at least 1",
        ),
        (
            lambda: language.generate(model, "a", jax.random.key(0), temperature=0.0),
            ValueError,
            "temperature should be",
        ),
    ]:
        with pytest.raises(kind, match=says):
            call()


def test_on_the_command_line(tmp_path, capsys):
    path, out = tmp_path / "text.txt", str(tmp_path / "m")
    path.write_text("".join(f"{_text(40, k)}\n" for k in range(60)))
    quick = ["--hidden", "8", "--embedding", "4", "--epochs", "2", "--batch-size", "8", "--bptt", "10"]
    data = ["--data", str(path)]
    assert main(["train", "language", *data, "--out", out, "--json", str(tmp_path / "found.json"), *quick]) == 0
    said = capsys.readouterr().out
    for part in ("1,968, dev 246, test 246 characters", "test perplexity", "words by their frequency", "Saved to"):
        assert part in said
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["test"]["perplexity"] == pytest.approx(math.exp(found["test"]["nats"]))
    assert found["recipe"]["bptt"] == 10
    assert main(["evaluate", "--model", out, *data]) == 0
    assert "2,460 tokens, nats" in capsys.readouterr().out
    assert main(["evaluate", "--model", out, *data, "--json", "--cache", "20,0.5,0.1"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 2460
    generate = ["generate", "--model", out, "--prompt", "aA", "--tokens", "9"]
    assert main(generate) == 0
    first = capsys.readouterr().out
    assert first.startswith("aA")
    assert len(first) == 12
    assert main([*generate, "--seed", "0", "--temperature", "1.0", "--top-p", "0.95"]) == 0
    assert capsys.readouterr().out == first
    assert main(["predict", "--model", out, "aA"]) == 0
    nats, given = capsys.readouterr().out.rstrip("\n").split("\t")
    assert float(nats) > 0
    assert given == "aA"
    (tmp_path / "blank.txt").write_text(" \n")
    for wrong, says in [
        (["train", "language", "--out", out], "language needs --data"),
        (["train", "language", *data, "--sweep", "lr=1e-3,1e-2"], "language has no sweep"),
        (["train", "language", "--data", str(tmp_path / "none")], "is no file"),
        (["train", "language", "--data", str(tmp_path / "blank.txt")], "holds no text"),
        (["train", "classify", "--config", "warpeace"], "is a recipe for the task language"),
        (["evaluate", "--model", out, *data, "--cache", "9"], "--cache should be WINDOW,THETA,LAMBDA"),
        (["explain", "--model", out, "aA"], "is neither of texts with labels"),
        (["generate", "--model", str(tmp_path)], "is no model folder"),
    ]:
        assert main(wrong) == 2
        assert says in capsys.readouterr().err
