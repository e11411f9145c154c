"""Word vectors from files of every form, and what a classifier makes of them."""

import numpy as np
import pytest

from lstmjax import classify, train, vectors
from tests.test_train import RECORDS, SMALL

WORDS = {"good": [1.0, 2.0, -0.5], "bad": [0.25, 0.0, 4.0], "好": [3.0, 1.5, 0.125]}


def _text(header):
    lines = [" ".join([word, *map(str, row)]) for word, row in WORDS.items()]
    return ("3 3\n" * header + "\n".join(lines) + "\n").encode()


def _binary(newline=b""):
    return b"3 3\n" + b"".join(
        word.encode() + b" " + np.array(row, "<f4").tobytes() + newline for word, row in WORDS.items()
    )


@pytest.mark.parametrize("width", [2, 100, 300, 1000])
def test_rows_of_any_length_are_told_from_binary(tmp_path, width):
    """Also where the first row is longer than what one would look at, and a binary one holds the end of a line."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5, width))
    lines = "".join(f"word{k} {' '.join(map(repr, row.tolist()))}\n" for k, row in enumerate(rows))
    (tmp_path / "text").write_text(f"5 {width}\n{lines}")
    held = rows.astype("<f4")
    held.view(np.uint8)[0, :2] = 10
    binary = b"".join(f"word{k} ".encode() + row.tobytes() for k, row in enumerate(held))
    (tmp_path / "binary").write_bytes(f"5 {width}\n".encode() + binary)
    for name, expected in (("text", rows.astype(np.float32)), ("binary", held)):
        found = vectors.read(tmp_path / name)
        assert found.words == tuple(f"word{k}" for k in range(5))
        np.testing.assert_array_equal(found.array, expected)


@pytest.mark.parametrize(
    "content",
    [_text(True), _text(False), _binary(), _binary(b"\n")],
    ids=["word2vec", "GloVe", "binary", "binary lines"],
)
def test_every_form_gives_the_same_vectors(tmp_path, content):
    (tmp_path / "v").write_bytes(content)
    found = vectors.read(tmp_path / "v")
    assert found.words == tuple(WORDS)
    np.testing.assert_array_equal(found.array, np.array(list(WORDS.values()), np.float32))
    some = vectors.read(tmp_path / "v", wanted=["好", "none"])
    assert some.words == ("好",)
    np.testing.assert_array_equal(some.array, [WORDS["好"]])
    assert vectors.read(tmp_path / "v", wanted=[]).array.shape[0] == 0


def test_a_word_with_spaces_and_one_that_comes_twice(tmp_path):
    (tmp_path / "v").write_text("good 1 2\nat name 3 4\ngood 5 6\n")
    found = vectors.read(tmp_path / "v")
    assert found.words == ("good", "at name")
    np.testing.assert_array_equal(found.array, [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds no vectors"),
        (b"good 1 2\nbad 1\n", "line 2: expected a word and 2 numbers, got 1"),
        (b"good 1 2\nbad 1 x\n", "line 2: expected 2 finite numbers after 'bad'"),
        (b"good 1 nan\n", "line 1: expected 2 finite numbers after 'good'"),
        (_binary()[:-2], r"ends within vector 3 of 3 \('好'\)"),
        (b"1 1\nw " + np.array([np.inf], "<f4").tobytes(), "the vector of 'w' is not finite"),
    ],
)
def test_refusals(tmp_path, content, says):
    (tmp_path / "v").write_bytes(content)
    with pytest.raises(ValueError, match=says):
        vectors.read(tmp_path / "v")
    with pytest.raises(FileNotFoundError, match="is no file"):
        vectors.read(tmp_path / "none")


@pytest.mark.parametrize("tune", [True, False], ids=["tuned", "frozen"])
def test_a_classifier_begins_with_them(tmp_path, tune):
    (tmp_path / "v").write_bytes(_text(False))
    recipe = SMALL._replace(
        members=2, bidirectional=False, vectors=str(tmp_path / "v"), tune_vectors=tune, epochs=2, buckets=1
    )
    model, _ = classify.fit(RECORDS, RECORDS, recipe)
    assert model.recipe.embedding == 3
    row = model.reader.vocabulary.index["good"]
    same = np.asarray(model.params.embedding[:, row]) == WORDS["good"]
    assert not same.any() if tune else same.all()
    other = np.asarray(model.params.embedding[:, model.reader.vocabulary.index["great"]])
    assert (other[0] != other[1]).any()
    classify.save(model, tmp_path / "m")
    np.testing.assert_allclose(
        classify.predict(classify.load(tmp_path / "m"), ["good"]), classify.predict(model, ["good"]), rtol=1e-6
    )


def test_vectors_of_other_words_are_refused(tmp_path):
    (tmp_path / "v").write_text("zebra 1 2\n")
    with pytest.raises(ValueError, match="has a vector for none of the 18 words"):
        classify.fit(RECORDS, RECORDS, SMALL._replace(vectors=str(tmp_path / "v")))


def test_a_run_goes_on_with_the_vectors_it_began_with(tmp_path):
    """Not with others, that stand in the file of the same name now."""
    file = tmp_path / "v"
    file.write_bytes(_text(False))
    recipe = SMALL._replace(members=1, bidirectional=False, vectors=str(file), epochs=1, buckets=1)
    with train.Snapshots(tmp_path / "s") as snapshots:
        classify.fit(RECORDS, RECORDS, recipe, snapshots=snapshots)
        classify.fit(RECORDS, RECORDS, recipe, snapshots=snapshots, resume=True)
        file.write_text("good 1 2 3\n")
        with pytest.raises(ValueError, match=r"known_vectors was .* and is now"):
            classify.fit(RECORDS, RECORDS, recipe, snapshots=snapshots, resume=True)
