"""The leaves of a pytree: their names, what kind of array each is, and whether its numbers are finite."""

from typing import Any

import jax
import jax.numpy as jnp


def named(tree: Any) -> dict[str, Any]:
    """Each leaf under its path, in the order of the leaves.

    >>> list(named({"layers": (1.0, 2.0)}))
    ['layers.0', 'layers.1']
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def kind(array: Any) -> str:
    """Dtype and shape in short: `float32[3,4]`."""
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def finite(tree: Any) -> jax.Array:
    """Whether all numbers of each leaf are finite: bool [leaves]. What is no float always is.

    >>> finite({"a": jnp.array([1.0, jnp.inf]), "b": jnp.array([1, 2])})
    Array([False,  True], dtype=bool)
    """
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return jnp.array([jnp.isfinite(leaf).all() if inexact(leaf) else jnp.bool(True) for leaf in leaves], bool)


def inexact(array: Any) -> bool:
    """Whether it holds floats, or complex numbers."""
    return jnp.issubdtype(array.dtype, jnp.inexact)


def is_key(array: Any) -> bool:
    """Whether it is an array of PRNG keys, whose bits are no numbers."""
    return jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
