"""The order of the house: who may import whom, what importing costs, and what must not be in the files."""

import ast
import fnmatch
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import mutants

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lstmjax"

# A file imports only from rows above its own; so a cell knows no sequence, a model no training, training no model and
# text no jax-side file, and all meet in the last rows only. `__init__` files are tables of contents and exempt.
ROWS = {
    # what to refuse and in which words; what shard_map asks of a loop; a folder that is one run's; activations by name
    "checks": 0,
    "varying": 0,
    "leaves": 0,
    "train/lock": 0,
    "activations": 1,
    # a step of time: what all are made of, what a cell is, layer norm, the cells, and the table of them
    "cells/products": 1,
    "cells/draw": 2,
    "cells/cell": 2,
    "cells/norm": 3,
    "cells/*": 4,
    "cells/kinds": 5,
    # a pair of directions, a stack
    "containers": 6,
    # one thing each, and none knows another
    "layers": 6,
    "losses": 6,
    "metrics": 6,
    "crf": 6,
    "spans": 6,
    "bleu": 6,
    "decoding": 6,
    "cache": 6,
    "text": 6,
    "vectors": 6,
    "datasets/records": 6,
    "datasets/generated": 6,
    "train/step": 6,
    "train/snapshots": 6,
    "train/feed": 6,
    "train/reports": 6,
    "train/watch": 6,
    "train/stop": 6,
    "train/summary": 6,
    "checkpoint": 6,
    "padding": 6,
    "standardise": 6,
    "devices": 6,
    "allocator": 6,
    "truncation": 6,
    # batches of texts; the loop of training, which puts its parts together
    "batches": 7,
    "packing": 8,
    "asked": 8,
    "datasets/catalogue": 7,
    "datasets/store": 8,
    "train/loop": 7,
    "train/sweeps": 7,
    "train/finder": 7,
    "train/curves": 7,
    # what to beat; what is dropped or held back in a layer; a softmax over many words
    "baselines": 7,
    "regularise": 7,
    "softmax": 7,
    # the ways to compute a layer over time: scan says what is right, fused and associative fall back on it where
    # they have nothing of their own, chunked and abreast are the arithmetic of fused and kernel that of persistent, on
    # a GPU by what nvcc builds; dispatch chooses
    "backends/nvcc": 7,
    "backends/scan": 8,
    "backends/tuning": 7,
    "backends/chunks": 7,
    "backends/chunked": 8,
    "backends/abreast": 8,
    "backends/kernel": 8,
    "backends/fused": 9,
    "backends/associative": 9,
    "backends/persistent": 10,
    "backends/dispatch": 11,
    # the arguments of a run, checked; a layer, a pair, a stack over time
    "call": 12,
    "sequence": 13,
    # whole models, and weights from elsewhere
    "skipgram": 14,
    "gradients": 14,
    "models/encoder": 14,
    "models/bag": 14,
    "models/attend": 15,
    "models/seq2seq": 16,
    "models/*": 15,
    "interop/*": 14,
    # how a text becomes ids, what decides a run, models side by side; text in, a trained model out
    "reader": 14,
    "labelled": 15,
    "tagged": 15,
    "recipe": 16,
    "members": 17,
    "windows": 17,
    "language": 18,
    "match": 18,
    "sequences": 18,
    "tag": 18,
    "translate": 18,
    "classify": 19,
    "explain": 20,
    # the command line
    "commands/tasks": 20,
    "commands/sets": 20,
    "commands/compare": 21,
    "commands/training": 22,
    "commands/using": 22,
    "__main__": 23,
}

# Of row 6, what knows nothing of the others: only row 0 is open to it.
ALONE = {name for name, row in ROWS.items() if row == 6} - {"containers"}

# `import lstmjax` itself is the public face of rows 0 to 13.
FACE = 13

# Needed by some users and slow to load: to be imported by the files and functions that need them, not by the package.
HEAVY = ("flax", "optax", "orbax", "sklearn", "tokenizers", "safetensors", "rich")

SOURCES = sorted(PACKAGE.rglob("*.py"))
TEXTS = [
    path
    for folder in ("lstmjax", "tests", "benchmarks", "notebooks", "docs", "examples", ".ci", ".github", ".")
    for path in ((ROOT / folder).glob("*") if folder == "." else (ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".md", ".toml", ".yml", ".yaml", ".ipynb", ".sh", ".txt", ".cfg")
    and "egg-info" not in str(path)
]


def name_of(path):
    """`backends/scan` of `lstmjax/backends/scan.py`."""
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def row_of(name):
    rows = [row for pattern, row in ROWS.items() if fnmatch.fnmatchcase(name, pattern)]
    assert rows, f"lstmjax/{name}.py has no row: give it one in the table of this test"
    return ROWS.get(name, rows[0])


def imports(source, package=()):
    """Every file of lstmjax that a source imports, at its head or within a function; () for the package itself."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [(alias.name.split("."), None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # Relative to the folder of the file that imports: one dot is that folder.
            base = list(package[: len(package) + 1 - node.level]) if node.level else []
            module = base + (node.module.split(".") if node.module else [])
            modules = [(module, alias.name) for alias in node.names]
        else:
            continue
        for module, name in modules:
            if module[0] == "lstmjax":
                inner = [*module[1:], name] if name and is_file([*module[1:], name]) else module[1:]
                yield "/".join(inner)


def is_file(parts):
    path = PACKAGE.joinpath(*parts)
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def too_high(name, source):
    """What a file of this name may not import."""
    package = ("lstmjax", *name.split("/")[:-1])
    wrong = []
    for imported in imports(source, package):
        rows_within = [row for pattern, row in ROWS.items() if pattern.startswith(f"{imported}/")]
        row = FACE if not imported else max(rows_within) if rows_within else row_of(imported)
        if row >= row_of(name) or (name in ALONE and row > 0):
            wrong.append(imported)
    return wrong


@pytest.mark.parametrize("path", [p for p in SOURCES if p.name != "__init__.py"], ids=name_of)
def test_a_file_imports_only_from_rows_above_its_own(path):
    assert too_high(name_of(path), path.read_text()) == []


def test_the_order_is_held():
    """The test above can fail: each of these is against the order, however it is written."""
    assert too_high("cells/gru", "from lstmjax.sequence import run") == ["sequence"]
    assert too_high("cells/gru", "def f():\n    import lstmjax.losses") == ["losses"]
    assert too_high("losses", "from lstmjax.cells import products") == ["cells/products"]
    assert too_high("cells/gru", "from lstmjax.cells.rnn import RNNState") == ["cells/rnn"]
    assert too_high("backends/scan", "from lstmjax.backends import fused") == ["backends/fused"]
    assert too_high("backends/scan", "from . import fused") == ["backends/fused"]
    assert too_high("backends/fused", "from ..cells.lstm import LSTMParams\nfrom .dispatch import run") == [
        "backends/dispatch"
    ]
    assert too_high("sequence", "import lstmjax") == [""]
    assert too_high("train/loop", "from lstmjax.models.classifier import apply") == ["models/classifier"]
    assert too_high("sequence", "from lstmjax.backends import dispatch, scan\nimport jax") == []
    with pytest.raises(AssertionError, match="has no row"):
        too_high("newcomer", "from lstmjax import checks")


def test_no_file_named_after_nothing():
    names = {"utils", "util", "common", "helpers", "helper", "misc", "types", "config", "base", "_src"}
    files = [path for path in TEXTS if path.suffix == ".py"]
    assert [path for path in files if names & {path.stem, *path.relative_to(ROOT).parts[:-1]}] == []


def test_import_loads_nothing_heavy():
    code = f"import lstmjax, sys; print([name for name in {HEAVY} if name in sys.modules])"
    assert python(code) == "[]"


def test_import_is_quick():
    """What it adds to `import jax`, in modules and in calls, since a time is that of whatever else runs here: 60 and
    27,000 take 0.1 s, and twice that is too long."""
    code = """
import sys, jax
before, calls = set(sys.modules), []
sys.setprofile(lambda frame, event, argument: calls.append(event) if event in ("call", "c_call") else None)
import lstmjax
sys.setprofile(None)
print(len(set(sys.modules) - before), len(calls))
"""
    modules, calls = map(int, python(code).split())
    assert 0 < modules < 80
    assert 0 < calls < 55_000


def test_import_makes_no_array():
    """Which would start a backend, and devices could not be asked for any more."""
    code = "import jax, lstmjax; jax.config.update('jax_num_cpu_devices', 2); print(len(jax.devices('cpu')))"
    assert python(code) == "2"


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_the_library_leaves_the_world_alone(path):
    """No pickle; and below the command line nothing prints, seeds, or sets what is global."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    named = {ast.unparse(node.func) for node in calls}
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in getattr(node, "names", []) if isinstance(alias, ast.alias)]
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not {"pickle", "cloudpickle", "dill", "shelve", "marshal"} & {name.split(".")[0] for name in names}
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert ast.unparse(node.value) == "False"
    # The command line is a program, and `--devices` is a wish that JAX hears at its start only.
    allowed = {"jax.config.update"} if name_of(path) == "commands/training" else set()
    assert not {name for name in named if name.endswith((".config.update", "random.seed"))} - allowed
    if path.name == "__init__.py" or row_of(name_of(path)) < ROWS["commands/tasks"]:
        assert "print" not in named


def test_nothing_unfinished():
    # Put together here, so that this file does not hold them.
    markers = ["TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK", "W" + "IP"]
    found = []
    for path in TEXTS:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":  # what was written, not the pictures that came out
            text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
        for number, line in enumerate(text.splitlines(), 1):
            words = set("".join(c if c.isalnum() else " " for c in line).split())
            if words & set(markers):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert found == []


def test_mutants_are_of_the_code_that_is():
    """The code that each mutant breaks is there as it is written in the table, once."""
    assert mutants.stale(mutants.MUTANTS) == []
