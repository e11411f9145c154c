"""Model folders: what is saved comes back; what was harmed is refused by name."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstmjax import checkpoint, classify

TREE = {"a": jnp.arange(6, dtype=jnp.float32).reshape(2, 3), "b": (jnp.ones(2, jnp.bfloat16), jnp.int32(3))}


def _template(about):
    return jax.eval_shape(lambda: TREE)


@pytest.fixture
def folder(tmp_path):
    return checkpoint.save(tmp_path / "model", TREE, {"name": "模型"})


def test_round_trip(folder):
    params, about = checkpoint.load(folder, _template)
    chex.assert_trees_all_equal(params, TREE)
    chex.assert_trees_all_equal_dtypes(params, TREE)
    assert about == {"name": "模型"}


def test_saving_again_gives_the_same_bytes_and_replaces(folder):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    checkpoint.save(folder, *checkpoint.load(folder, _template))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == ["model"]  # nothing left lying about


def _flip(path, at=-3):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def _set(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("harm", "kind", "says"),
    [
        (lambda f: _flip(f / "weights.safetensors"), ValueError, "weights.safetensors is not what was saved"),
        (lambda f: (f / "weights.safetensors").write_bytes(b"\x80\x04."), ValueError, "is not what was saved"),
        (lambda f: (f / "weights.safetensors").unlink(), FileNotFoundError, "has no weights.safetensors"),
        (lambda f: (f / "model.json").unlink(), FileNotFoundError, "has no model.json"),
        (lambda f: (f / "model.json").write_text("{"), ValueError, "cannot be read as JSON"),
        (lambda f: (f / "model.json").write_text("[]"), ValueError, "no model of lstmjax"),
        (lambda f: _set(f / "model.json", format=99), ValueError, "has format 99"),
    ],
)
def test_harm_is_refused(folder, harm, kind, says):
    harm(folder)
    with pytest.raises(kind, match=says):
        checkpoint.load(folder, _template)


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        (TREE | {"c": jnp.ones(1)}, "has no weight c"),
        ({"a": TREE["a"]}, "has a weight b.0 that the model does not know"),
        (TREE | {"a": jnp.ones((3, 2))}, r"a should be float32\[3,2\], got float32\[2,3\]"),
        (TREE | {"a": TREE["a"].astype(jnp.bfloat16)}, r"a should be bfloat16\[2,3\], got float32\[2,3\]"),
    ],
)
def test_other_weights_are_refused(folder, tree, says):
    with pytest.raises(ValueError, match=says):
        checkpoint.load(folder, lambda about: jax.eval_shape(lambda: tree))


def test_save_refuses(tmp_path, folder):
    with pytest.raises(ValueError, match=r"b\.0 holds values that are not finite"):
        checkpoint.save(folder, TREE | {"b": (jnp.array([jnp.nan]), 3)}, {})
    with pytest.raises(ValueError, match="about should hold only what JSON can"):
        checkpoint.save(folder, TREE, {"x": np.ones(2)})
    chex.assert_trees_all_equal(checkpoint.load(folder, _template)[0], TREE)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="is no model folder"):
        checkpoint.save(tmp_path / "file", TREE, {})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    with pytest.raises(FileExistsError, match="is no model folder"):
        checkpoint.save(tmp_path / "full", TREE, {})
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        checkpoint.load(tmp_path / "none", _template)


def test_a_folder_of_something_else_is_no_classifier(folder):
    with pytest.raises(ValueError, match="describes no text classifier"):
        classify.load(folder)
