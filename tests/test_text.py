"""Tokenising, vocabularies, padding, buckets."""

import itertools

import numpy as np
import pytest

from lstmjax import text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("I don't know.", ["i", "don't", "know", "."]),
        ("It’s", ["it's"]),
        ("我不喜欢Java", ["我", "不", "喜", "欢", "java"]),
        ("价格￥20，好", ["价", "格", "¥", "20", ",", "好"]),
        ("カナ と かな", ["カ", "ナ", "と", "か", "な"]),
        ("naïve café", ["naïve", "café"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("𠮷野家", ["𠮷", "野", "家"]),
        ("  \t\n", []),
        ("a-b_c", ["a", "-", "b_c"]),
    ],
)
def test_tokenise(given, expected):
    assert text.tokenise(given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Mr. Smith paid $1,000.50 to U.S. firms...", "Mr.|Smith|paid|$|1,000.50|to|U.S.|firms|..."),
        ("I saw him at 3:30 p.m. on 11/28/2000.", "I|saw|him|at|3:30|p.m.|on|11/28/2000|."),
        (
            "Send e-mail to a.b@c.com or see http://x.org/a_b, OK?",
            "Send|e-mail|to|a.b@c.com|or|see|http://x.org/a_b|,|OK|?",
        ),
        ("state-of-the-art work -- really!!!", "state|-|of|-|the|-|art|work|--|really|!!!"),
        ("It was I. Then J. R. Ray left.", "It|was|I|.|Then|J.|R.|Ray|left|."),
        ("She cannot, I'm gonna.", "She|can|not|,|I|'m|gon|na|."),
        ('我 said: "it’s 5." What?!', '我|said|:|"|it|\'s|5|.|"|What|?!'),
        ("AT&T ended 1.", "AT&T|ended|1|."),
        ("", ""),
    ],
)
def test_words_of_the_treebanks(given, expected):
    assert "|".join(text.treebank_words(given)) == expected
    assert "".join(text.treebank_words(given)) == "".join(given.replace("’", "'").split())  # nothing is lost


def test_decomposed_and_composed_letters_are_one_word():
    assert text.tokenise("cafe\u0301") == text.tokenise("caf\u00e9") == ["caf\u00e9"]


def test_ascii_is_cut_as_any_other_text():
    """It has a shorter pattern of its own."""
    for characters in itertools.product("a7_'’- .\x1c", repeat=4):
        plain = "".join(characters)
        with_other = text.tokenise(f"{plain} é")
        assert with_other == [*text.tokenise(plain), "é"]


def test_vocabulary_orders_by_count_then_alphabet():
    vocabulary = text.Vocabulary.count([["b", "a", "c"], ["c"]])
    assert vocabulary.words == ("c", "a", "b")
    assert vocabulary.encode(["c", "b", "zzz"]).tolist() == [2, 4, text.UNK]
    assert vocabulary.decode([2, 1, 0]) == ["c", "<unk>", "<pad>"]


def test_vocabulary_limits():
    texts = [["a", "a", "b", "b", "c"]]
    assert text.Vocabulary.count(texts, size=3).words == ("a",)
    assert text.Vocabulary.count(texts, min_count=2).words == ("a", "b")


def test_vocabulary_survives_json():
    vocabulary = text.Vocabulary(["好", '"', "a b"])
    assert text.Vocabulary.from_json(vocabulary.to_json()).words == vocabulary.words


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda: text.tokenise(3), TypeError, "text should be a str, got int"),
        (lambda: text.Vocabulary(["a", "a"]), ValueError, "distinct"),
        (lambda: text.Vocabulary([""]), ValueError, "not empty"),
        (lambda: text.Vocabulary([1]), TypeError, "strings"),
        (lambda: text.Vocabulary.count([["a"]], size=1), ValueError, "size"),
        (lambda: text.Vocabulary.count([["a"]], min_count=0), ValueError, "min_count"),
        (lambda: text.Vocabulary(["a"]).decode([3]), ValueError, r"\[0, 3\)"),
        (lambda: text.Vocabulary(["a"]).decode([-1]), ValueError, r"\[0, 3\)"),
        (lambda: text.pad([np.array([1])], length=-1), ValueError, "length"),
        (lambda: text.bounds([], 3), ValueError, "got none"),
        (lambda: text.bounds([3], 0), ValueError, "buckets"),
        (lambda: text.bucket([3], 0, [4]), ValueError, "batch_size"),
        (lambda: text.bucket([3], 2, [4, 4]), ValueError, "bounds"),
        (lambda: text.bucket([3], 2, []), ValueError, "bounds"),
    ],
)
def test_refusals(call, kind, says):
    with pytest.raises(kind, match=says):
        call()


def test_pad_cuts_what_is_too_long():
    ids, lengths = text.pad([np.array([5, 6, 7]), np.array([], np.int32)], length=2)
    assert ids.tolist() == [[5, 6], [0, 0]]
    assert lengths.tolist() == [2, 0]


def test_bounds_have_the_fewest_padded_steps():
    """Against all choices there are."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        lengths, buckets, size = (
            rng.integers(0, 12, rng.integers(1, 14)),
            int(rng.integers(1, 5)),
            int(rng.integers(1, 4)),
        )
        there = np.unique(np.maximum(lengths, 1))

        def padded(bounds, lengths=lengths, size=size):
            counts = np.bincount(np.searchsorted(bounds, np.maximum(lengths, 1)), minlength=len(bounds))
            return (-(-counts // size) * size * bounds).sum()

        choices = (c for k in range(buckets) for c in itertools.combinations(there[:-1], k))
        found = text.bounds(lengths, buckets, size)
        assert padded(found) == min(padded(np.array([*choice, there[-1]])) for choice in choices)
        assert len(found) <= buckets
    assert len(text.bounds(np.arange(3000), 4)) == 4


def test_buckets_hold_every_row_once_and_fit():
    lengths = np.random.default_rng(0).integers(0, 40, 101)
    bounds = text.bounds(lengths, 4)
    assert len(bounds) <= 4
    assert bounds[-1] == lengths.max()
    batches = text.bucket(lengths, 8, bounds, np.random.default_rng(1))
    assert sorted(np.concatenate([b.rows for b in batches])) == list(range(101))
    for batch in batches:
        assert len(batch.rows) <= 8
        assert lengths[batch.rows].max() <= batch.length
    again = text.bucket(lengths, 8, bounds, np.random.default_rng(1))
    assert all((a.rows == b.rows).all() for a, b in zip(batches, again, strict=True))


def test_bpe_round_trip():
    pytest.importorskip("tokenizers", reason="the text extra is not installed")
    bpe = text.BPE.train(["low lower lowest", "new newer newest"] * 5, size=40)
    again = text.BPE.from_json(bpe.to_json())
    pieces = again.tokenise("lowest newer")
    assert pieces == bpe.tokenise("lowest newer")
    assert "".join(pieces).replace("▁", " ").strip() == "lowest newer"
