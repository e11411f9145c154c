"""Data sets: what is read from a folder, what is refused and where, and every set as its README counts it."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from lstmjax import classify, datasets
from lstmjax.__main__ import main
from lstmjax.datasets import records, store

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(datasets.FOLDER, str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "data"


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def test_a_set_is_read_from_the_folder_packed_or_not(folder):
    _write(folder / "mt_ja_en_10k" / "train.ja.gz", "一 つ\n二 つ\n")
    _write(folder / "mt_ja_en_10k" / "train.en", "one\ntwo\n")
    found = datasets.load("ja_en_10k", "train")
    assert found == {"train": [("一 つ", "one"), ("二 つ", "two")]}
    assert datasets.where("ja_en_10k") is None  # not all of it is there


def test_what_is_not_there_is_named(folder):
    with pytest.raises(FileNotFoundError, match=r"sick needs semmatch_sick/SICK_test_public.txt, .* set LSTMJAX_DATA"):
        datasets.load("sick", "test")
    with pytest.raises(ValueError, match="name should be one of 'snips', 'clinc150'"):
        datasets.load("imdb")
    with pytest.raises(ValueError, match="split should be one of 'train', 'dev', 'test', got 'valid'"):
        datasets.load("sick", "valid")


def test_a_file_that_can_be_had_comes_from_its_origin_by_its_hash(folder, monkeypatch):
    pooch = pytest.importorskip("pooch")
    asked = {}

    def retrieve(url, known_hash, fname, path):
        asked.update(url=url, known_hash=known_hash)
        return str(_write(Path(path) / fname, "a\n"))

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert datasets.load("wikitext2", "dev") == {"dev": ["a"]}
    assert asked["url"] == (
        "https://raw.githubusercontent.com/pytorch/examples/77f55b912142e11fcfdf5b530231fb9c52f181e8"
        "/word_language_model/data/wikitext-2/valid.txt"
    )
    assert asked["known_hash"] == "sha256:f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8"
    asked.clear()
    assert datasets.load("wikitext2", "dev") == {"dev": ["a"]}  # from the cache
    assert not asked


def test_every_file_of_every_set_has_a_hash():
    known = store._files()
    used = {
        f"{one.folder}/{path}"
        for one in map(datasets.about, datasets.names())
        for s in one.splits.values()
        for path in s.paths
    }
    assert used == set(known)
    assert all(len(file.sha256) == 64 for file in known.values())


def test_formats(tmp_path):
    def at(name, text):
        return _write(tmp_path / name, text)

    (tagged,) = records.snips(at("a", "play  it now \n"), at("b", "O O B-time \n"), at("c", "Play\n"))
    assert tagged == (("play", "it", "now"), ("O", "O", "B-time"), "Play")
    assert (tagged.text, tagged.labels) == ("play it now", ("Play",))
    lists = json.dumps({"val": [["hi", "greet"]], "oos_val": [["x", "oos"]]})
    assert records.clinc150("val", "oos_val")(at("d", lists)) == [("hi", ("greet",)), ("x", ("oos",))]
    names = at("e", "id\temotion\n0\tjoy\n3\tfear\n")
    assert records.goemotions(at("f", "oh no\t3,0\tid1\n"), names) == [("oh no", ("fear", "joy"))]
    header = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
    assert records.sick(at("g", header + "7\ta\tb\t4.5\tNEUTRAL\n")) == [("a", "b", "neutral", 4.5)]
    assert records.snli_numbered(at("h", "3\t3\ta\tb\n")) == [("a", "b", "entailment", None)]
    assert records.snli_named(at("i", "1\ta\tb\tCONTRADICTION\n")) == [("a", "b", "contradiction", None)]
    pairs = [{"sentence1": "甲", "sentence2": "乙", "label": label} for label in ("-", "neutral")]
    assert records.ocnli(at("j", "\n".join(map(json.dumps, pairs)))) == [("甲", "乙", "neutral", None)]
    assert records.translations(at("k", "Hi.\t嗨。\tby someone\n")) == [("Hi.", "嗨。")]
    assert records.poems(at("l", "醉花阴\t某\t一二三。\n")) == [("醉花阴", "某", "一二三。")]
    assert records.lines(at("m", "a\n\nb\n")) == records.lines(at("m2", "a\r\n\r\nb\r\n")) == ["a", "", "b"]
    assert records.goemotions(at("f", "oh no\t3\r\n"), at("e2", "id\temotion\r\n3\tfear\r\n")) == [("oh no", ("fear",))]
    text = at("n", "0123456789")
    assert [records.part_of_text(*part)(text) for part in ((0, 0.8), (0.8, 0.9), (0.9, 1))] == ["01234567", "8", "9"]
    pixels = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
    idx = at("o", struct.pack(">HBB3I", 0, 8, 3, 2, 28, 28) + pixels.tobytes())
    images = records.images(idx, at("p.gz", struct.pack(">HBBI", 0, 8, 1, 2) + bytes([4, 9])))
    np.testing.assert_array_equal(images.pixels, pixels)
    assert images.labels.tolist() == [4, 9]
    assert records.chorales("train")(at("q", '{"train": [[[60, 64], []]]}')) == [[[60, 64], []]]


def test_roles_are_read_column_by_column(tmp_path):
    lines = [
        "# sent_id = 1",
        "1\tShe\tPRP\t-\t-\t(ARG0*)\t(ARG0*)",
        "2\twants\tVBZ\twant\twant.01\t(V*)\t*",
        "3\tto\tTO\t-\t-\t(ARG1*\t*",
        "4\tgo\tVB\tgo\tgo.02\t*)\t(V*)",
        "",
        "# sent_id = 2",
        "1\tYes\tUH\t-\t-",
    ]
    one, two = records.roles(_write(tmp_path / "a", "\n".join(lines)))
    assert one.words == ("She", "wants", "to", "go")
    assert one.pos == ("PRP", "VBZ", "TO", "VB")
    assert one.predicates == (
        (1, "want", "want.01", ("B-ARG0", "B-V", "B-ARG1", "I-ARG1")),
        (3, "go", "go.02", ("B-ARG0", "O", "O", "B-V")),
    )
    assert two == (("Yes",), ("UH",), ())
    with pytest.raises(ValueError, match=r"line 3: expected 7 columns, got '2\\twants"):
        records.roles(_write(tmp_path / "b", "\n".join([*lines[:2], lines[2].rpartition("\t")[0]])))
    # "#" is a word of the Wall Street Journal, and not what begins a comment.
    pound = [
        "# text = cost",
        "It\t-\t(A0*)",
        "cost\tcost\t(V*)",
        "#\t-\t(A1*",
        "5\t-\t*)",
        "",
        "#\t-\t(A1*)",
        "up\tup\t(V*)",
    ]
    pound += ["", "# text = #", "#\t-", "", "# the end", ""]
    for ends in ("\n", "\r\n"):
        for lines_of in (pound, [line.replace("\t", "  ") for line in pound]):
            found = records.roles(_write(tmp_path / "d", ends.join(lines_of)))
            assert [one.words for one in found] == [("It", "cost", "#", "5"), ("#", "up"), ("#",)]
            assert found[0].predicates[0].tags == ("B-A0", "B-V", "B-A1", "I-A1")
            assert found[1].predicates[0].tags == ("B-A1", "B-V")
    with pytest.raises(ValueError, match="line 3: expected 3 columns, got '# some comment here'"):
        records.roles(_write(tmp_path / "e", "\n".join([*pound[1:3], "# some comment here", *pound[3:5]])))
    with pytest.raises(ValueError, match="1 predicates and 2 columns of roles"):
        records.roles(_write(tmp_path / "c", "\n".join([*lines[:4], lines[4].replace("go.02", "-")])))


@pytest.mark.parametrize(
    ("read", "files", "message"),
    [
        (records.parallel, ["a\nb\n", "a\n"], "parallel files should have a line each"),
        (records.snips, ["a b\n", "O\n", "X\n"], "line 1: expected 2 tags, got 1"),
        (records.translations, ["a\tb\tc\nonly\n"], r"line 2: expected 2 fields with tabs between, got 'only'"),
        (records.goemotions, ["a\t7\t-\n", "id\tname\n0\tjoy\n"], "line 1: expected label numbers of .* got '7'"),
        (records.ocnli, ['{"sentence1": "a", "sentence2": "b", "label": "-"}\n{"label"\n'], "line 2 is no JSON"),
        (records.clinc150("val"), ['{"train": []}'], "should hold the list 'val', got train"),
        (records.images, [b"\x00\x00\x09\x03" + bytes(12), b""], "should be an IDX file of bytes with 3 axes"),
        (records.lines, [b"\xff\xfe"], "is not UTF-8 text"),
        (records.part_of_text(0, 1), [b"\xff\xfe"], "is not UTF-8 text"),
        (
            records.clinc150("val"),
            ['{"val": [["a", "b", "c"]]}'],
            r"lists of a text and its label, got \['a', 'b', 'c'\]",
        ),
        (records.clinc150("val"), ["[1]"], "should hold the list 'val', got list"),
        (records.chorales("train"), ['{"test": []}'], "should hold the list 'train', got test"),
        (records.snli_numbered, ["3\t3\ta\tb\n4\t4\ta\tb\n"], "line 2: expected a label number of 1, 2, 3, got '4'"),
        (records.sick, ["a\nb\ta\tb\tx\tNEUTRAL\n"], "line 2: expected a score in the fourth field, got 'x'"),
        (records.ocnli, ['{"sentence1": "a", "sentence2": "b"}\n'], "line 1: expected texts named .*label, got"),
        (records.ocnli, ["[1]\n"], "line 1: expected texts named"),
        (records.images, [b"\x00\x00", b""], "should be an IDX file"),
        (
            records.images,
            [struct.pack(">HBB3I", 0, 8, 3, 2, 4, 4) + bytes(9), b""],
            r"should hold \(2, 4, 4\) bytes after its head, got 9",
        ),
    ],
)
def test_what_is_not_as_it_should_be_is_refused_with_its_place(tmp_path, read, files, message):
    paths = [_write(tmp_path / str(k), text) for k, text in enumerate(files)]
    with pytest.raises(ValueError, match=message):
        read(*paths)


def test_a_packed_file_that_was_cut_off(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"one\ntwo\n" * 99)[:-20])
    with pytest.raises(ValueError, match=r"a\.gz is no whole gzip file"):
        records.lines(path)


def test_columns_of_a_text_are_dealt_in_windows(tmp_path):
    # Two columns of five windows of two characters, and one character that is left over.
    path = _write(tmp_path / "t", "abcdefghi\nABCDEFGHI")
    parts = [(0.0, 0.6), (0.6, 0.8), (0.8, 1.0)]
    found = [records.part_of_columns(*part, columns=2, steps=2)(path) for part in parts]
    assert found == ["abcdef\nABCDE", "ghFG", "i\rHI"]


COUNTS = {
    "snips": dict(train=13084, dev=700, test=700),
    "clinc150": dict(train=15000, dev=3000, test=4500, oos_train=100, oos_dev=100, oos_test=1000),
    "goemotions": dict(train=43410, dev=5426),
    "sick": dict(train=4500, dev=500),
    "snli20k": dict(train=18000, dev=2000, test=9824),
    "ocnli": dict(train=9985, dev=2950),
    "cmn_eng": dict(train=26155, dev=1000),
    "ja_en_10k": dict(train=10000, dev=500, test=500),
    "ja_en_50k": dict(train=50000, dev=500, test=500),
    "ewt_propbank": dict(train=12506, dev=1961, test=2056),
    "zh_up": dict(train=3992, dev=499, test=498),
    "wikitext2": dict(train=36718, dev=3760, test=4358),
    "songci": dict(train=17749, dev=985, test=985),
    "jsb_chorales": dict(train=229, dev=76, test=77),
}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the folder of data sets is not beside this checkout")
@pytest.mark.parametrize("name", datasets.names())
def test_every_set_is_as_it_is_described(name, monkeypatch):
    monkeypatch.setenv(datasets.FOLDER, str(SHARED))
    found = datasets.load(name)
    assert found.keys() == datasets.about(name).splits.keys()
    counts = {split: len(part.labels) if name == "mnist" else len(part) for split, part in found.items()}
    known = COUNTS.get(name, dict(train=60000, test=10000) if name == "mnist" else {})
    assert counts == counts | known
    assert min(counts.values()) > 0
    if name == "goemotions":
        assert len({label for record in found["train"] for label in record.labels}) == 28
    if name == "ewt_propbank":
        assert [sum(len(s.predicates) for s in found[split]) for split in found] == [40369, 4945, 4795]
    if name == "wikitext2":
        assert sum(len(line.split()) + 1 for line in found["train"]) == 2088628
    if name == "warpeace":
        assert sum(counts.values()) == 3196211
    if name == "warpeace_2015":  # of 3,258,225 characters 325 whole windows of 100 columns
        assert counts == {"train": 2600000, "dev": 320000, "test": 330000}
    assert datasets.where(name) == SHARED / datasets.about(name).folder


def test_a_classifier_is_trained_on_a_set_by_name(folder, tmp_path, capsys):
    for split, n in (("train", 12), ("valid", 4), ("test", 4)):
        rows = [("turn it up", "O O O", "Up"), ("turn it down", "O O O", "Down")] * n
        for name, column in zip(("seq.in", "seq.out", "label"), zip(*rows, strict=True), strict=True):
            _write(folder / "textcls_snips" / split / name, "\n".join(column))
    out = tmp_path / "m"
    how = ["--out", str(out), "--epochs", "8", "--members", "1", "--hidden", "8", "--embedding", "8"]
    how += ["--buckets", "1", "--learning-rate", "0.03", "--no-bidirectional"]
    assert main(["train", "--data", "snips", *how]) == 0
    said = capsys.readouterr().out
    assert "Data: snips, CC0 1.0; Coucke et al. 2018" in said
    assert "train 24, dev 8, test 8 records" in said
    assert classify.evaluate(classify.load(out), [("turn it down", "Down"), ("turn it up", "Up")])["accuracy"] == 1
    assert main(["evaluate", "--model", str(out), "--data", "snips"]) == 0
    assert "8 records, accuracy 1.0000" in capsys.readouterr().out
    assert main(["train", "--data", "snips", "--dev", "x", *how]) == 2
    assert "snips has dev and test records of its own" in capsys.readouterr().err
    for split in ("train", "dev", "test"):
        for language in ("ja", "en"):
            _write(folder / "mt_ja_en_10k" / f"{split}.{language}", "a")
    assert main(["train", "classify", "--data", "ja_en_10k", *how]) == 2
    assert "is no set of texts with labels" in capsys.readouterr().err


def test_the_command_line_shows_sets_and_their_licences(folder, capsys):
    assert main(["data", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in datasets.names())
    assert main(["data", "show", "ocnli"]) == 0
    shown = capsys.readouterr().out
    assert "CC BY-NC 2.0" in shown
    assert "not for commercial use" in shown
    assert "Hu et al. 2020" in shown
    assert "not here" in shown
    assert main(["data", "show", "imdb"]) == 2
    assert "name should be one of 'snips'" in capsys.readouterr().err
