"""SIGKILL at random moments of a run that saves at every step: each start after one goes on from a whole snapshot, and
the run ends with the bits of one that nothing disturbed.

    python -m tests.kill                 # 50 kills
    python -m tests.kill --kills 5 --seed 3
"""

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lstmjax
from lstmjax import leaves, train
from lstmjax.batches import Batches

ROOT = Path(__file__).parents[1]
EPOCHS, RECORDS = 3, 24  # of 6 steps each


def work(folder: Path, stop_after: int | None = None, mesh=None, batch_size: int = 4, specs=None) -> train.Fitted:
    """A small run that goes on from what is in `folder`; the digest of all it comes to is written there at the end."""
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(RECORDS, 4, 3)).astype(np.float32)
    params = lstmjax.init_lstm(jax.random.key(0), 3, 4)

    def loss(params, batch, key):
        noise = 0.1 * jax.random.normal(key, batch.shape)
        state, _ = lstmjax.run(params, jnp.swapaxes(batch + noise, 0, 1))
        return (state.h**2).mean()

    batches = Batches(rng.integers(1, 5, RECORDS), lambda cut: xs[cut.rows], batch_size=batch_size, buckets=1)

    class Few(train.Watch):
        ready = False

        def stepped(self, epoch, step, *rest):
            super().stepped(epoch, step, *rest)
            if not self.ready:
                self.ready = True
                print("ready", flush=True)
            if step == stop_after:
                signal.raise_signal(signal.SIGTERM)

    with train.Snapshots(folder / "snapshots", keep=2) as snapshots:
        fitted = train.fit(
            loss,
            params,
            optax.adam(1e-2),
            batches,
            key=jax.random.key(1),
            epochs=EPOCHS,
            snapshots=snapshots,
            save_every=1,
            resume=True,
            mesh=mesh,
            specs=specs,
            watch=Few(log=folder / "log.jsonl"),
        )
    if not fitted.interrupted and jax.process_index() == 0:
        (folder / "final.json").write_text(json.dumps(bits(fitted)))
    return fitted


def bits(fitted: train.Fitted) -> dict[str, str]:
    """All that a run comes to, to the last bit: the last state, the best params and the history without its times."""
    state = fitted.state._replace(key=jax.random.key_data(fitted.state.key))
    named = leaves.named({"state": state, "best": fitted.params})
    found = {name: hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest() for name, leaf in named.items()}
    for record in fitted.history:
        timeless = {k: v for k, v in record.items() if k not in ("seconds", "tokens_per_second")}
        found[f"epoch {record['epoch']}"] = json.dumps(timeless)
    return found


def start(folder: Path, **options) -> subprocess.Popen:
    """The run in a process of its own, at the moment of its first step or at its end."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "tests.kill", "--work", str(folder), *flags]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def finish(process: subprocess.Popen) -> None:
    """Wait for a run that nobody kills."""
    _, errors = process.communicate(timeout=300)
    if process.returncode:
        raise RuntimeError(f"the run ended with {process.returncode}:\n{errors}")


def campaign(kills: int, seed: int, show=lambda line: None) -> list[str]:
    """What went wrong in so many kills."""
    rng, wrong, done, resumed = random.Random(seed), [], 0, 0
    home = Path(tempfile.mkdtemp(prefix="kill."))
    try:
        undisturbed = home / "undisturbed"
        undisturbed.mkdir()
        finish(start(undisturbed))
        right = json.loads((undisturbed / "final.json").read_text())
        run = 0
        while done < kills:
            run += 1
            folder = home / f"run{run}"
            folder.mkdir()
            while True:
                process = start(folder)
                # The first snapshot takes longest, on a slow machine most of the time: half of the kills come later.
                late = rng.random() < 0.5
                while late and done < kills and process.poll() is None and not _steps(folder):
                    time.sleep(0.01)
                try:
                    process.wait(timeout=rng.uniform(0, 1.2) if done < kills else 300)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()
                    done += 1
                    resumed += bool(_steps(folder))
                    show(f"kill {done} of {kills}: run {run}, snapshots of steps {_steps(folder)}")
                    continue
                _, errors = process.communicate()
                if process.returncode:
                    wrong.append(f"run {run} ended with {process.returncode} after a kill:\n{errors}")
                else:
                    final = json.loads((folder / "final.json").read_text())
                    other = [name for name in right if final.get(name) != right[name]]
                    if other or len(final) != len(right):
                        wrong.append(f"run {run} ended with other bits in {', '.join(other)}")
                break
        if not resumed:
            wrong.append("no kill left a snapshot to go on from: it was no trial")
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return wrong


def _steps(folder):
    return sorted(int(path.name) for path in (folder / "snapshots").glob("[0-9]*"))


def main() -> int:
    """Kill, or do the work that is killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--stop-after", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.stop_after)
        return 0
    began = time.perf_counter()
    wrong = campaign(options.kills, options.seed, lambda line: print(line, flush=True))
    print(f"{options.kills} kills, {len(wrong)} runs wrong, {time.perf_counter() - began:.0f} s")
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
