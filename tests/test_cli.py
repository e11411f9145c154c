"""The command line, as a person uses it."""

import contextlib
import io
import json
import os
import pty
import signal
import subprocess
import sys

import numpy as np
import pytest

from lstmjax import __main__ as cli
from lstmjax import classify, recipe
from lstmjax.commands import tasks, using
from lstmjax.train import Snapshots, curves

WORDS = {"up": ("good", "great", "fine", "lovely"), "down": ("bad", "poor", "awful", "dull")}
QUICK = [
    "--members",
    "2",
    "--epochs",
    "10",
    "--hidden",
    "8",
    "--embedding",
    "8",
    "--batch-size",
    "8",
    "--buckets",
    "1",
    "--learning-rate",
    "0.02",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(0)
    lines = []
    for label, words in WORDS.items():
        for _ in range(60):
            filler = rng.choice(["it", "was", "the", "a", "day", "我"], 4).tolist()
            lines.append(" ".join([*filler, rng.choice(words), "indeed"]) + f"\t{label}")
    path = tmp_path_factory.mktemp("data") / "data.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model(data):
    out = data.parent / "model"
    assert cli.main(["train", "--data", str(data), "--out", str(out), *QUICK]) == 0
    return out


def test_train_reports_baselines(data, tmp_path, capsys):
    assert cli.main(["train", "--data", str(data), "--out", str(tmp_path / "m"), *QUICK, "--epochs", "1"]) == 0
    said = capsys.readouterr().out
    for part in ("LSTM, 2 together", "TF-IDF + logistic regression", "majority class", "0.5000", "Saved to"):
        assert part in said


def test_predict_from_arguments_and_from_standard_input(model, capsys, monkeypatch, tmp_path):
    assert cli.main(["predict", "--model", str(model), "it was great", "it was awful"]) == 0
    first = capsys.readouterr().out
    rows = [line.split("\t") for line in first.splitlines()]
    assert [row[0] for row in rows] == ["up", "down"]
    assert [row[2] for row in rows] == ["it was great", "it was awful"]
    (tmp_path / "in").write_text("it was great\n\nit was awful\n")
    with open(tmp_path / "in") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert cli.main(["predict", "--model", str(model)]) == 0
    assert capsys.readouterr().out == first


def test_predict_answers_as_lines_come(model, capsys, monkeypatch):
    """So that what cannot be read takes nothing away from the lines before it."""
    monkeypatch.setattr(using, "AT_ONCE", 2)
    lines = b"it was great\nit was awful\nit was great\ncaf\xe9\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert cli.main(["predict", "--model", str(model)]) == 2
    said = capsys.readouterr()
    assert [line.split("\t")[0] for line in said.out.splitlines()] == ["up", "down", "up"]
    assert "line 4, is not UTF-8" in said.err


def test_evaluate(model, data, capsys):
    assert cli.main(["evaluate", "--model", str(model), "--data", str(data), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["records"] == 120
    assert found["accuracy"] > 0.95
    assert np.sum(found["confusion"]) == 120
    assert cli.main(["evaluate", "--model", str(model), "--data", str(data)]) == 0
    assert "120 records, accuracy" in capsys.readouterr().out


def test_predictions_do_not_depend_on_company(model):
    loaded = classify.load(model)
    texts = ["it was great", "a dull day indeed", "", "new words only", "was " * 50 + "good"]
    together = classify.predict(loaded, texts)
    alone = np.concatenate([classify.predict(loaded, [t]) for t in texts])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(together.sum(-1), 1, rtol=1e-5)
    assert classify.predict(loaded, []).shape == (0, 2)


def _file(folder, content):
    path = folder / "bad.tsv"
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds no records"),
        (b"\n \n", "holds no records"),
        (b"good\tup\nno label here\n", "line 2: expected text TAB label"),
        (b"good\tup\nbad\t\n", "line 2: expected text TAB label"),
        (b"good\tup\nfine\tup\nnice\tup\n", "at least two labels, got up"),
        (b"a\tup\nb\tup\nc\tup\nd\tdown\n", "label 'down' has 1 records"),
        ("caf\xe9\tup".encode("latin-1"), "is not UTF-8"),
    ],
)
def test_bad_data_is_a_sentence_and_status_2(tmp_path, capsys, content, says):
    assert cli.main(["train", "--data", _file(tmp_path, content), "--out", str(tmp_path / "m")]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "line", "says"),
    [
        ([], "fine\tneutral", "the test data has the label 'neutral', which is not among down, up"),
        (["match", "--target", "score"], "one\ttwo\tinf", "the test data has the score inf"),
    ],
)
def test_test_records_are_looked_at_before_training(tmp_path, capsys, arguments, line, says):
    training, test = tmp_path / "data.tsv", tmp_path / "test.tsv"
    label = "{}\t{}\t{}" if arguments else "{} {}\t{}"
    training.write_text(
        "".join(label.format(n, n, (n % 3 if arguments else ("up", "down")[n % 2])) + "\n" for n in range(30))
    )
    test.write_text(line + "\n")
    given = ["train", *arguments, "--data", str(training), "--test", str(test), "--out", str(tmp_path / "m")]
    assert cli.main(given) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_recipes_of_a_set_are_named():
    """Where just one is for it, it is taken; where there are several, none is, and all are told."""
    assert tasks.recipe_file(None, "snips", None).name == "snips"
    assert tasks.recipe_file("translate", "cmn_eng", None) == recipe.File("translate", "", {})
    assert set(tasks.recipes_of("translate", "cmn_eng")) == {"en-zh", "zh-en"}
    assert not tasks.recipes_of(None, None)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "--json", "/nonexistent/found.json"], "there is no folder /nonexistent for --json"),
        (["train", "--sweep", "seed=0,1", "--save-every", "3"], "--save-every is for one run"),
        (["train", "--sweep", "seed=0,1", "--patience", "3"], "--patience is for one run"),
        (["train", "--learning-rate", "-1"], "learning_rate should be a number above 0"),
        (["train", "--learning-rate", "nan"], "learning_rate should be a number above 0"),
        (["train", "--epochs", "0"], "epochs should be"),
        (["train", "--batch-size", "0"], "batch_size should be"),
        (["train", "--patience", "0"], "patience should be"),
        (["train", "--clip", "0"], "clip should be"),
        (["train", "--vectors", "/nonexistent"], "is no file"),
        (["train", "--save-every", "0"], "save_every should be"),
        (["train", "--sweep", "lr"], "a sweep should be of the form"),
        (["train", "--dropout", "1.5"], "dropout should be"),
        (["train", "--pooling", "sum"], "pooling should be one of"),
        (["train", "--cell", "mgu"], "cell should be one of"),
        (["train", "--tokens", "letters"], "tokens should be one of"),
        (["train", "--data", "/nonexistent/file"], "is no file"),
        (["predict", "--model", "/nonexistent", "x"], "there is no such folder"),
        (["evaluate", "--model", "/nonexistent", "--data", "x"], "there is no such folder"),
    ],
)
def test_bad_options(arguments, says, capsys):
    assert cli.main(arguments) == 2
    assert says in capsys.readouterr().err


def test_a_label_the_model_does_not_know(model, tmp_path, capsys):
    assert cli.main(["evaluate", "--model", str(model), "--data", _file(tmp_path, b"good\tsideways\n")]) == 2
    assert "'sideways', which is not among down, up" in capsys.readouterr().err


def test_ctrl_c_in_a_terminal_keeps_the_best_epoch(data, tmp_path):
    """A real terminal, a real interrupt: the bar is shown, the model is saved, the status is 130."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "lstmjax", "train", "--data", str(data), "--out", str(tmp_path / "m"), *QUICK]
    command[command.index("--epochs") + 1] = "100000"
    command += ["--patience", "100000"]
    # A shell has what it starts in the background ignore Ctrl-C, these tests may be that, and a child inherits it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, start_new_session=True)
    signal.signal(signal.SIGINT, before)
    os.close(theirs)
    seen = b""
    while b"epoch   3/" not in seen:
        part = os.read(ours, 4096)
        assert part, seen.decode()
        seen += part
    os.killpg(process.pid, 2)
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    assert process.wait(60) == 130
    assert "Stopped by Ctrl-C; kept epoch" in seen.decode()
    assert "tokens/s" in seen.decode()
    assert set(classify.load(tmp_path / "m").labels) == {"up", "down"}


def test_the_embedded_sample_is_what_it_says():
    splits = {part: classify.sample(part) for part in ("train", "dev", "test")}
    records = [record for part in splits.values() for record in part]
    assert len(records) == len({text for text, _ in records}) == 1200
    for part in splits.values():
        chinese = [any("\u4e00" <= c <= "\u9fff" for c in text) for text, _ in part]
        positive = [label == "positive" for _, label in part]
        assert np.mean(chinese) == np.mean(positive) == 0.5
    with pytest.raises(ValueError, match="split should be one of"):
        classify.sample("all")


def test_a_run_that_was_stopped_goes_on(data, tmp_path, capsys):
    """SIGTERM in the middle; the same command refuses to begin anew, and with --resume ends as one that was not cut."""
    command = ["train", "--data", str(data), "--out", str(tmp_path / "m"), *QUICK, "--members", "1", "--patience", "9"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lstmjax", *command, "--save-every", "5"], stdout=subprocess.PIPE, text=True
    )
    said = ""
    while "epoch   3/" not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    process.terminate()
    said += process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert "the same command with --resume goes on from" in said
    assert cli.main(command) == 2
    assert "holds a run that was not finished: --resume goes on with it" in capsys.readouterr().err
    assert cli.main([*command, "--learning-rate", "0.1", "--resume"]) == 2
    assert "learning_rate was 0.02 and is now 0.1" in capsys.readouterr().err
    assert cli.main([*command, "--resume"]) == 0
    assert "Saved to" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "m.run").iterdir()] == ["log.jsonl"]
    whole = [*command[:4], str(tmp_path / "whole"), *command[5:]]
    assert cli.main(whole) == 0
    one, two = (classify.load(tmp_path / name).params for name in ("m", "whole"))
    np.testing.assert_array_equal(one.embedding, two.embedding)
    assert cli.main(["plot", str(tmp_path / "m"), str(tmp_path / "whole.run"), "--out", str(tmp_path / "c.png")]) == 0
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main(["plot", str(tmp_path)]) == 2
    assert "it is no run" in capsys.readouterr().err


def test_what_cannot_be_written_to_is_said_before_training(data, tmp_path, capsys):
    out = tmp_path / "m"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    command = ["train", "--data", str(data), *QUICK, "--members", "1"]
    assert cli.main([*command, "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert "exists and is no model folder" in said.err
    assert "epoch" not in said.out
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert cli.main([*command, "--epochs", "1", "--out", f"{tmp_path / 'slash'}/"]) == 0
    assert classify.load(tmp_path / "slash").labels == ("down", "up")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "slash", "slash.run"]
    assert cli.main(["plot", f"{tmp_path / 'slash'}/", "--out", str(tmp_path / "c.png")]) == 0


def test_a_model_that_could_not_be_saved_is_not_lost(data, tmp_path, capsys, monkeypatch):
    command = ["train", "--data", str(data), "--out", str(tmp_path / "m"), *QUICK, "--members", "1"]

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(classify, "save", full)
        assert cli.main(command) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
    assert cli.main([*command, "--resume"]) == 0
    assert "Kept epoch" in capsys.readouterr().out
    assert classify.load(tmp_path / "m").labels == ("down", "up")
    assert [p.name for p in (tmp_path / "m.run").iterdir()] == ["log.jsonl"]


def test_a_run_that_is_going_on_is_not_disturbed_by_another(data, tmp_path, capsys):
    run = tmp_path / "m.run"
    command = ["train", "--data", str(data), "--out", str(tmp_path / "m"), *QUICK, "--members", "1"]
    with Snapshots(run / "snapshots") as going:  # its first epoch: there is no snapshot yet
        going.claim()
        (run / "log.jsonl").write_text("{}\n")
        for more in ([], ["--resume"], ["--sweep", "dropout=0.1,0.2"]):
            assert cli.main([*command, *more]) == 2
            said = capsys.readouterr()
            assert f"snapshots should be of no other run, but process {os.getpid()} on " in said.err
            assert "epoch" not in said.out
        assert (run / "log.jsonl").read_text() == "{}\n"
        going.save(1, {"w": np.zeros(3)})
        going.wait()
        assert going.steps() == [1]


def test_what_a_run_has_written_is_not_touched_by_one_that_is_refused(data, tmp_path, capsys):
    command = ["train", "--data", str(data), "--out", str(tmp_path / "m"), *QUICK, "--members", "1", "--epochs", "2"]
    assert cli.main(command) == 0
    log = (tmp_path / "m.run" / "log.jsonl").read_text()
    for wrong in (["--dropout", "2"], ["--data", "/nonexistent"]):
        assert cli.main([*command, *wrong]) == 2
        assert (tmp_path / "m.run" / "log.jsonl").read_text() == log
    # There is nothing to go on from: it begins anew, and its log too.
    assert cli.main([*command, "--epochs", "1", "--resume"]) == 0
    assert len(curves.read(tmp_path / "m")[1]) == 1


def test_labels_are_no_markup(data, tmp_path, capsys):
    other, out = tmp_path / "data.tsv", str(tmp_path / "m")
    other.write_text(data.read_text().replace("\tup", "\t[/x]").replace("\tdown", "\t[pos]"))
    assert cli.main(["train", "--data", str(other), "--out", out, *QUICK, "--members", "1", "--epochs", "1"]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", "--model", out, "--data", str(other)]) == 0
    said = capsys.readouterr().out
    for label in ("[/x]", "[pos]"):
        assert label in said


def test_a_reader_that_has_enough_is_no_error(model):
    """As in `... | lstmjax predict | head -1`."""
    command = [sys.executable, "-m", "lstmjax", "predict", "--model", str(model)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    with contextlib.suppress(BrokenPipeError):  # it may have ended before it has read all
        process.stdin.write(b"it was good indeed\n" * 9999)
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    assert process.wait(timeout=120) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_sweep_ends_with_a_table_and_the_best_model(data, tmp_path, capsys):
    out = tmp_path / "m"
    options = [*QUICK[:-2], "--epochs", "3", "--members", "1"]
    assert cli.main(["train", "--data", str(data), "--out", str(out), "--sweep", "lr=1e-6,0.03", *options]) == 0
    said = capsys.readouterr().out
    assert "learning_rate" in said
    assert "best epoch" in said
    assert classify.load(out).recipe.learning_rate == 0.03
    assert (tmp_path / "m.run" / "sweep.png").is_file()
    assert cli.main(["train", "--sweep", "hidden=3", "--data", str(data), "--out", str(out)]) == 2
    assert "a setting of the sweep should be one of" in capsys.readouterr().err
    assert cli.main(["train", "--devices", "3", "--data", str(data), "--out", str(out)]) == 2
    assert "devices should be from 1 to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "asked", "members", "size"),
    [
        ({}, None, 4, 2),  # of two cores
        ({}, None, 3, 1),
        ({}, None, 1, 1),
        ({}, 2, 3, 2),  # batches are split
        ({"JAX_NUM_CPU_DEVICES": "3"}, None, 6, 3),  # who has said how many devices there are is not overruled
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}, None, 8, 4),
    ],
)
def test_members_are_shared_by_cores_unless_told_otherwise(environment, asked, members, size):
    code = f"""
from lstmjax import devices
from lstmjax.commands import training
devices.cores = lambda: 2
mesh = training._mesh({asked}, {members})
print(mesh.size if mesh else 1)
"""
    env = {name: value for name, value in os.environ.items() if name not in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env | environment
    )
    assert done.stdout.split() == [str(size)], done.stderr
