"""A cache of what a language model has just read: words that came after a state like this one are likely again."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lstmjax import checks

Array = jax.Array


class Cache(NamedTuple):
    """How it looks back."""

    window: int  # steps that are remembered
    theta: float  # how sharply it tells like states from others
    share: float  # lambda, of its probability in the mixture; in [0, 1)


class Memory(NamedTuple):
    """The last N steps of each sequence, the latest last."""

    hs: Array  # [N, B, H]
    words: Array  # int32 [N, B]: what came after; -1 where nothing has been read yet


def check_cache(cache: Any) -> Cache:
    """The cache, if it makes sense.

    Raises:
      TypeError, ValueError: naming the field.
    """
    if type(cache) is not Cache:
        raise TypeError(f"cache should be Cache(window, theta, share), got {checks.show(cache)}")
    checks.size("cache.window", cache.window)
    checks.finite("cache.theta", cache.theta)
    checks.rate("cache.share", cache.share)
    return cache


def init_memory(cache: Cache, batch: int, features: int, dtype: DTypeLike = jnp.float32) -> Memory:
    """A memory with nothing in it.

    >>> init_memory(Cache(100, 0.3, 0.1), 2, 5).hs.shape
    (100, 2, 5)
    """
    shape = check_cache(cache).window, checks.size("batch", batch)
    return Memory(jnp.zeros((*shape, checks.size("features", features)), dtype), jnp.full(shape, -1, jnp.int32))


def mix(memory: Memory, hs: Array, targets: Array, surprisals: Array, cache: Cache) -> tuple[Memory, Array]:
    """-log p of each target where the cache has its share in p.

        p_cache(w) ~ sum over the last N steps i < t of [w = word_i] exp(theta h_t . h_i)
        p = (1 - lambda) p_model + lambda p_cache,   and p_model alone where nothing is remembered

    Args:
      memory: of the steps before.
      hs: [T, B, H], the outputs from which the model tells the next words.
      targets: int [T, B], those words.
      surprisals: [T, B], -log p_model of them.
      cache: window, theta and lambda.

    Returns:
      The memory after these steps, and [T, B] in nats.

    Raises:
      TypeError, ValueError: naming the argument.

    Reference: Grave et al. 2017 (Improving neural language models with a continuous cache), eqs. 2 to 5.

    >>> cache = Cache(window=9, theta=1.0, share=0.5)
    >>> again = jnp.full((3, 1), 7)
    >>> _, nats = mix(init_memory(cache, 1, 2), jnp.ones((3, 1, 2)), again, jnp.full((3, 1), jnp.log(4.0)), cache)
    >>> jnp.exp(-nats[:, 0]).tolist()
    [0.25, 0.625, 0.625]
    """
    check_cache(cache)
    if type(memory) is not Memory:
        raise TypeError(f"memory should be Memory(hs, words), got {checks.show(memory)}")
    hs, surprisals = checks.as_float_array("hs", hs), checks.as_float_array("surprisals", surprisals)
    if not checks.is_array(targets) or not jnp.issubdtype(targets.dtype, jnp.integer):
        raise TypeError(f"targets should be an array of ints, got {checks.show(targets)}")
    if hs.ndim != 3 or targets.shape != hs.shape[:2] or surprisals.shape != hs.shape[:2]:
        raise ValueError(
            "hs, targets and surprisals should be [T, B, H], [T, B] and [T, B], got shapes "
            f"{hs.shape}, {targets.shape} and {surprisals.shape}"
        )
    for name, held, shape in (
        ("hs", memory.hs, (cache.window, *hs.shape[1:])),
        ("words", memory.words, (cache.window, hs.shape[1])),
    ):
        if held.shape != shape:
            raise ValueError(f"memory.{name} should be {shape}, got {held.shape}")
    time, window = len(hs), cache.window
    keys = jnp.concatenate([memory.hs, hs.astype(memory.hs.dtype)])  # [N + T, B, H]
    words = jnp.concatenate([memory.words, targets.astype(jnp.int32)])
    t, i = jnp.arange(time, dtype=jnp.int32)[:, None], jnp.arange(window + time, dtype=jnp.int32)[None]
    near = ((i >= t) & (i < t + window))[:, None] & (words >= 0).T[None]  # [T, B, N + T]
    scores = jnp.where(near, cache.theta * jnp.einsum("tbh,ibh->tbi", keys[window:], keys), -jnp.inf)
    top = jnp.maximum(scores.max(-1, keepdims=True), jnp.finfo(scores.dtype).min)
    weights = jnp.exp(scores - top)
    total = weights.sum(-1)
    right = jnp.where(words.T[None] == targets.astype(jnp.int32)[..., None], weights, 0).sum(-1)
    # By logarithms, since exp(-surprisal) may be 0.
    alone = surprisals - jnp.where(total == 0, 0.0, jnp.log1p(-cache.share))
    part = cache.share * right / jnp.where(total == 0, 1, total)
    mixed = jnp.where(part > 0, -jnp.logaddexp(-alone, jnp.log(jnp.where(part > 0, part, 1))), alone)
    return Memory(keys[time:], words[time:]), mixed
