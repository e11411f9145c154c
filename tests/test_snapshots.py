"""Snapshots of a run: what was saved comes back or is refused by name, and no accident takes the one before."""

import errno
import fcntl
import json
import os
import pickle
import subprocess

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstmjax.train import Snapshots, State
from tests import kill

STATE = {
    "w/o": jnp.arange(6, dtype=jnp.float32).reshape(2, 3),
    "parts": (jnp.ones(3, jnp.bfloat16), jnp.int32(16777217), jnp.zeros((0, 4))),
    "key": jax.random.key(5),
    "yes": jnp.array([True, False]),
}


def _plain(state):
    return state | {"key": jax.random.key_data(state["key"])}


@pytest.fixture
def snapshots(tmp_path):
    with Snapshots(tmp_path / "run") as snapshots:
        snapshots.save(3, STATE, {"note": "先"})
        snapshots.save(5, jax.tree.map(lambda x: x, STATE), {"note": "后"})
        snapshots.wait()
        yield snapshots


def test_round_trip(snapshots):
    loaded = snapshots.load(STATE)
    chex.assert_trees_all_equal(_plain(loaded.state), _plain(STATE))
    chex.assert_trees_all_equal_shapes_and_dtypes(_plain(loaded.state), _plain(STATE))
    assert jax.random.key_impl(loaded.state["key"]) == jax.random.key_impl(STATE["key"])
    assert (loaded.about, loaded.step) == ({"note": "后"}, 5)
    shapes = jax.eval_shape(lambda: _plain(STATE)) | {"key": STATE["key"]}
    assert snapshots.load(shapes, step=3).about == {"note": "先"}


def test_what_is_given_may_change_as_soon_as_save_returns(tmp_path):
    bump = jax.jit(lambda w: w + 1, donate_argnums=0)
    with Snapshots(tmp_path) as snapshots:
        w, history = jnp.zeros(100_000), [1]
        snapshots.save(1, {"w": w}, history)
        history.append(2)
        bump(w)
        loaded = snapshots.load({"w": jax.ShapeDtypeStruct((100_000,), jnp.float32)})
    assert (loaded.state["w"] == 0).all()
    assert loaded.about == [1]


def test_the_last_and_the_best_are_kept(tmp_path):
    with Snapshots(tmp_path, keep=2) as snapshots:
        for step in range(1, 7):
            snapshots.save(step, {"w": jnp.float32(step)}, best=step in (1, 3))
        snapshots.wait()
        assert snapshots.steps() == [3, 5, 6]
        assert float(snapshots.load({"w": jnp.float32(0)}, step=3).state["w"]) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000003", "00000005", "00000006"]


def test_one_is_due_when_it_costs_little_of_the_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("lstmjax.train.snapshots.time.monotonic", lambda: now[0])
    with Snapshots(tmp_path, share=0.1) as snapshots:
        assert snapshots.due()
        monkeypatch.setattr(snapshots, "_forget", lambda: now.__setitem__(0, 2.0))  # it takes 2 seconds
        snapshots.save(1, {"w": jnp.zeros(2)})
        snapshots.wait()
        now[0] = 2 + 19.9
        assert not snapshots.due()
        now[0] = 2 + 20.1
        assert snapshots.due()
    with pytest.raises(ValueError, match="share should be a number above 0"):
        Snapshots(tmp_path, share=0.0)


def _files(snapshots):
    folder = snapshots.folder / "00000005"
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (_flip, "was (cut or )?changed"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "was cut or changed"),
        (lambda path: path.write_bytes(pickle.dumps([1])), "was (cut or )?changed"),
        (lambda path: path.unlink(), "is missing"),
    ],
    ids=["a flipped bit", "cut", "a pickle in its place", "removed"],
)
def test_harm_to_any_file_is_refused_and_the_good_one_offered(snapshots, harm, says):
    for name, path in _files(snapshots).items():
        whole = path.read_bytes()
        harm(path)
        if name == "snapshot.json" and not path.exists():
            assert snapshots.steps() == [3]  # without it there is no snapshot
        else:
            with pytest.raises(ValueError, match=says) as refused:
                snapshots.load(STATE)
            assert name in str(refused.value)
            assert "the last good snapshot is of step 3" in str(refused.value)
        chex.assert_trees_all_equal(_plain(snapshots.load(STATE, step=3).state), _plain(STATE))
        path.write_bytes(whole)
    chex.assert_trees_all_equal(_plain(snapshots.load(STATE).state), _plain(STATE))


def test_the_leaf_of_a_harmed_file_is_named(snapshots):
    _flip(_files(snapshots)["arrays/00004/0.0"])
    with pytest.raises(ValueError, match=r"arrays/00004/0\.0 \(leaf w/o\) was changed"):
        snapshots.load(STATE)


def test_a_file_that_was_put_there_is_refused(snapshots):
    planted = snapshots.folder / "00000005" / "arrays" / "00004" / "weights.pkl"
    planted.write_bytes(pickle.dumps(print))
    with pytest.raises(ValueError, match=r"weights\.pkl \(leaf w/o\) is no part of the snapshot"):
        snapshots.load(STATE)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"more": jnp.ones(2)}, r"has no leaf more, expected float32\[2\]"),
        ({"yes": None}, "has a leaf yes that the run does not know"),
        ({"w/o": jnp.ones((3, 2))}, r"leaf w/o should be float32\[3,2\], got float32\[2,3\]"),
        ({"w/o": jnp.ones((2, 3), jnp.bfloat16)}, r"leaf w/o should be bfloat16\[2,3\], got float32\[2,3\]"),
        ({"key": jax.random.key(0, impl="rbg")}, r"leaf key should be key<rbg>\[\], got key<fry>\[\]"),
    ],
)
def test_another_state_is_refused(snapshots, changes, says):
    like = {name: leaf for name, leaf in (STATE | changes).items() if leaf is not None}
    with pytest.raises(ValueError, match=says):
        snapshots.load(like)


def test_a_newer_format_is_refused(snapshots):
    from lstmjax.train import snapshots as module

    path = _files(snapshots)["snapshot.json"]
    record = json.loads(path.read_text().partition("\n")[2]) | {"format": 9}
    path.write_text(module._sealed(record))
    with pytest.raises(ValueError, match="has format 9, this version of lstmjax reads format 1"):
        snapshots.load(STATE)


def test_what_is_not_finite_is_not_saved(snapshots):
    with pytest.raises(ValueError, match="step 7 was not saved: w/o holds values that are not finite"):
        snapshots.save(7, STATE | {"w/o": jnp.array([1, jnp.nan])})
    odd = State(*[jnp.ones(2)] * 9)  # its fields stand in no order of the alphabet
    with pytest.raises(ValueError, match="not saved: key holds values that are not finite"):
        snapshots.save(7, odd._replace(key=jnp.array([1, jnp.nan])))
    assert snapshots.steps() == [3, 5]
    snapshots.save(8, STATE)
    snapshots.wait()
    assert snapshots.steps() == [5, 8]


def test_refusals(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="is a file"):
        Snapshots(tmp_path / "file")
    with pytest.raises(TypeError, match="folder should be a path"):
        Snapshots(3)
    with pytest.raises(ValueError, match="keep should be an int of at least 1, got 0"):
        Snapshots(tmp_path / "run", keep=0)
    with Snapshots(tmp_path / "run") as snapshots:
        with pytest.raises(FileNotFoundError, match="holds no snapshot"):
            snapshots.load(STATE)
        with pytest.raises(ValueError, match="about should hold only what JSON can"):
            snapshots.save(1, STATE, {"x": np.ones(2)})
        with pytest.raises(ValueError, match="step should be an int of at least 0, got -1"):
            snapshots.save(-1, STATE)
        snapshots.save(1, STATE)
        with pytest.raises(FileNotFoundError, match=r"no snapshot of step 2, only of \[1\]"):
            snapshots.load(STATE, step=2)


def test_what_an_interrupted_save_left_is_none_and_is_swept(snapshots):
    left = snapshots.folder / ".00000009.partial" / "arrays"
    left.mkdir(parents=True)
    assert snapshots.steps() == [3, 5]
    snapshots.close()
    with Snapshots(snapshots.folder) as after:
        assert left.exists()  # somebody who reads takes nothing away
        after.claim()
        assert not left.exists()


def test_one_run_saves_in_a_folder_at_a_time(snapshots):
    saving = snapshots.folder / ".00000009.partial"  # of a run that goes on
    saving.mkdir()
    with Snapshots(snapshots.folder) as other:
        for ask in (other.claim, lambda: other.begin(True), lambda: other.save(7, STATE)):
            with pytest.raises(BlockingIOError, match=rf"run should be of no other run, but process {os.getpid()} on "):
                ask()
        assert other.load(STATE).step == 5
        assert saving.exists()
        snapshots.close()
        other.save(7, STATE)
        other.wait()
        assert other.steps() == [5, 7]
        with pytest.raises(BlockingIOError):
            snapshots.save(9, STATE)
    assert not (snapshots.folder / ".lock").exists()
    snapshots.claim()


def test_a_disk_or_a_system_without_locks_keeps_nobody_out(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    with Snapshots(tmp_path) as one, Snapshots(tmp_path) as other, Snapshots(tmp_path) as third:
        one.claim()
        monkeypatch.setattr("lstmjax.train.lock.fcntl.flock", none)
        other.claim()
        monkeypatch.setattr("lstmjax.train.lock.fcntl", None)
        third.claim()


def test_a_lock_that_was_removed_meanwhile_is_none(tmp_path, monkeypatch):
    flock, asked = fcntl.flock, []

    def late(file, how):
        if not asked:  # whoever had it ends just now
            (tmp_path / ".lock").unlink()
        asked.append(how)
        flock(file, how)

    monkeypatch.setattr("lstmjax.train.lock.fcntl.flock", late)
    with Snapshots(tmp_path) as one, Snapshots(tmp_path) as other:
        one.claim()
        assert len(asked) == 2
        with pytest.raises(BlockingIOError):
            other.claim()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 200 KB; a function that mounts it again with other options."""

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(tmp_path)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=20)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"this machine mounts no tmpfs for us: {error}")

    mount("size=200k")
    yield tmp_path, lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", str(tmp_path)], check=True, capture_output=True, timeout=20)


def test_a_full_disk_takes_nothing_away(small_disk):
    folder, _ = small_disk
    small, large = {"w": jnp.ones(100)}, {"w": jax.random.normal(jax.random.key(0), (200_000,))}
    with Snapshots(folder / "run") as snapshots:
        snapshots.save(1, small)
        snapshots.save(2, large)
        with pytest.raises(OSError, match=r"the snapshot of step 2 was not saved in .*/run"):
            snapshots.wait()
        assert snapshots.steps() == [1]
        chex.assert_trees_all_equal(snapshots.load(small).state, small)
        assert sorted(p.name for p in (folder / "run").iterdir()) == [".lock", "00000001"]


def test_a_folder_that_cannot_be_written_is_refused_at_once(small_disk):
    folder, remount = small_disk
    with Snapshots(folder / "run") as snapshots:
        snapshots.save(1, {"w": jnp.ones(3)})
    remount("ro")
    with pytest.raises(OSError, match="/run cannot be written: Read-only file system"):
        Snapshots(folder / "run")


def test_five_kills():
    assert kill.campaign(5, seed=0) == []
