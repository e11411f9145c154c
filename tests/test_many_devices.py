"""The same run over one device, over eight, and over two processes of two: the same losses."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


def _run(folder, devices, batch_size, processes=1, shard=False):
    """The losses of the epochs."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    common = [f"--folder={folder}", f"--devices={devices}", f"--batch-size={batch_size}", *["--shard"] * shard]
    if processes > 1:
        common += [f"--processes={processes}", f"--port={port}"]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.processes", *common, f"--process={k}"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for k in range(processes)
    ]
    try:
        said = [process.communicate(timeout=240)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * processes, "\n".join(said)
    final = json.loads((folder / "final.json").read_text())
    return [json.loads(record)["loss"] for name, record in final.items() if name.startswith("epoch")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return _run(tmp_path_factory.mktemp("alone"), 1, 8)


@pytest.mark.parametrize(
    "options",
    [dict(devices=8), dict(devices=4, shard=True), dict(devices=2, processes=2)],
    ids=["8 devices", "4 devices, weights split", "2 processes"],
)
def test_more_devices_give_the_same_losses(alone, tmp_path, options):
    losses = _run(tmp_path, batch_size=8, **options)
    assert len(losses) == 3
    np.testing.assert_allclose(losses, alone, rtol=1e-5)


def test_a_run_goes_on_with_more_devices_or_processes(alone, tmp_path):
    """What a run over two processes saved, one process takes over."""
    from lstmjax.train import Snapshots

    _run(tmp_path, 2, 8, processes=2)
    with Snapshots(tmp_path / "snapshots") as snapshots:
        assert snapshots.steps() == [8, 9]  # 3 steps an epoch; the last was the best
    np.testing.assert_allclose(_run(tmp_path, 1, 8), alone, rtol=1e-5)
