"""The notebooks run from the first cell to the last, and are kept with what came out of them."""

import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the notebooks draw with matplotlib")
nbclient = pytest.importorskip("nbclient", reason="the notebooks are run by nbclient")
nbformat = pytest.importorskip("nbformat", reason="the notebooks are read by nbformat")
kernelspec = pytest.importorskip("ipykernel.kernelspec", reason="the notebooks run in an ipykernel")

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LINES = 25  # of a cell, so that it can be read beside its text
BYTES = 400_000  # of a file, outputs included


def read(path):
    return nbformat.read(path, as_version=4)


def codes(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(notebook):
    outputs = [output for cell in codes(notebook) for output in cell.outputs]
    return [output for output in outputs if "image/png" in output.get("data", {})]


def test_there_are_notebooks():
    assert [path.name for path in NOTEBOOKS] == [
        "1-gates.ipynb",
        "2-classify.ipynb",
        "3-sentiment.ipynb",
        "4-match.ipynb",
        "5-translate.ipynb",
        "6-roles.ipynb",
        "7-long-memory.ipynb",
    ]


# Those that train models of their own take a minute each and more: -m slow runs them.
RUNS = [pytest.param(path, marks=[pytest.mark.slow] * (path.stem[0] > "2"), id=path.stem) for path in NOTEBOOKS]


@pytest.mark.parametrize("path", RUNS)
def test_runs(path, tmp_path, monkeypatch):
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    # A kernel of this interpreter, whatever kernels are installed for the user.
    kernelspec.write_kernel_spec(tmp_path / "kernels" / "python3")
    specs = KernelSpecManager(kernel_dirs=[str(tmp_path / "kernels")])
    assert specs.get_kernel_spec("python3").argv[0] == sys.executable
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))  # no settings of the user's either
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")  # older jupyter_core warns where it is not set
    # Agg as ipykernel has it: no window is opened, and the pictures come back as outputs.
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.delenv("LSTMJAX_DATA", raising=False)  # on what comes along, and not for as long as real data take
    # As the notebooks were written; and a GPU has no memory for a second process beside the tests.
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")

    kept, notebook = read(path), read(path)
    for cell in codes(notebook):
        cell.outputs = []
    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs)
    client = nbclient.NotebookClient(notebook, km=kernel, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    # A manager that is handed in is left running, with its sockets open, unless told otherwise.
    client.execute(cleanup_kc=True, env=dict(os.environ))
    assert len(pictures(notebook)) == len(pictures(kept))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_kept_with_its_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert path.stat().st_size < BYTES
    assert [cell.execution_count for cell in codes(notebook)] == list(range(1, len(codes(notebook)) + 1))
    assert len(pictures(notebook)) >= 3
    for output in [output for cell in codes(notebook) for output in cell.outputs]:
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_can_be_read(path):
    """Text before code, no long cells, no long lines."""
    cells = read(path).cells
    assert cells[0].cell_type == "markdown"
    for cell in codes(read(path)):
        lines = cell.source.splitlines()
        assert len(lines) <= LINES
        assert max(map(len, lines)) <= 120
