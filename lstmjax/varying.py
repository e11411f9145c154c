"""Under `jax.shard_map` an array's type says over which mesh axes it varies, and a loop's carry must not change it."""

from typing import Any

import jax
from jax import lax


def axes(*trees: Any) -> frozenset:
    """The mesh axes over which any leaf varies; none outside of `shard_map`."""
    return frozenset().union(*(jax.typeof(a).manual_axis_type.varying for a in jax.tree.leaves(trees)))


def over(names: frozenset, tree: Any) -> Any:
    """`tree` with every leaf varying over `names` too; in reverse mode this is where their gradients are summed."""

    def cast(a):
        missing = names - axes(a)
        return lax.pcast(a, tuple(sorted(missing)), to="varying") if missing else a

    return jax.tree.map(cast, tree)


def alike(*trees: Any) -> tuple:
    """The trees with every leaf varying over the axes of all."""
    names = axes(*trees)
    return tuple(over(names, tree) for tree in trees) if names else trees
