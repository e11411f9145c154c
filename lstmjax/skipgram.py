"""Word vectors of a text of one's own: skip-gram with negative sampling.

    maximise over the pairs (w, c) of a word and one near it:
        log s(v_w . u_c) + sum over n noise words c' of log s(-v_w . u_c'),   s(x) = 1 / (1 + exp(-x))

Noise words are drawn by their count to the power 3/4. Reference: Mikolov et al. 2013, Distributed Representations of
Words and Phrases and their Compositionality, section 2.2 and 2.3.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lstmjax import checks

Array = jax.Array


def train(
    sequences: Sequence[np.ndarray],
    vocabulary: int,
    *,
    features: int = 100,
    window: int = 5,
    negatives: int = 5,
    epochs: int = 10,
    learning_rate: float = 0.025,
    subsample: float = 1e-3,
    batch_size: int = 256,
    seed: int = 0,
) -> np.ndarray:
    """Vectors [V, E] of words, from which words stand near which.

    Args:
      sequences: ids int [T_k] in [0, V); 0 is padding and 1 any unknown word, which are passed over.
      vocabulary: V.
      features: E.
      window: words on either side that are near; for each word, a number from 1 to that is drawn.
      negatives: n, noise words for each pair.
      epochs: passes.
      learning_rate: at the beginning; it falls to nothing, linearly.
      subsample: t; a word of frequency f is passed over with probability 1 - sqrt(t / f).
      batch_size: pairs whose updates are summed.
      seed: of all that is drawn.

    Returns:
      float32 [V, E]; the rows of words that do not occur are zeros.

    Raises:
      TypeError, ValueError: naming the argument.

    >>> train([np.array([2, 3, 2, 3])] * 50, 5, features=8, epochs=2).shape
    (5, 8)
    """
    for name, size in dict(vocabulary=vocabulary, features=features, window=window, negatives=negatives).items():
        checks.size(name, size)
    checks.size("epochs", epochs)
    checks.size("batch_size", batch_size)
    checks.positive("learning_rate", learning_rate)
    checks.positive("subsample", subsample)
    rng = np.random.default_rng(checks.size("seed", seed, least=0))
    words = [np.asarray(sequence)[np.asarray(sequence) > 1] for sequence in sequences]
    counts = np.bincount(np.concatenate([*words, np.zeros(0, int)]).astype(int), minlength=vocabulary)
    if len(counts) > vocabulary:
        raise ValueError(f"sequences should hold ids in [0, {vocabulary}), got {len(counts) - 1}")
    if not counts.any():
        raise ValueError("sequences should hold words that are known, got none")
    kept = np.minimum(1, np.sqrt(subsample / np.maximum(counts / counts.sum(), 1e-12)))
    noise = np.cumsum(counts**0.75 / (counts**0.75).sum()).astype(np.float32)
    inner = (rng.random((vocabulary, features), np.float32) - 0.5) / features
    tables = jnp.asarray(inner), jnp.zeros((vocabulary, features), jnp.float32)
    key = jax.random.key(seed)
    for epoch in range(epochs):
        pairs = _pairs(words, kept, window, rng)
        if not len(pairs):
            continue
        short = -len(pairs) % batch_size
        batches = np.concatenate([pairs, pairs[rng.integers(0, len(pairs), short)]]).reshape(-1, batch_size, 2)
        # As many batches in a call as a power of two, so that few lengths are compiled.
        at, rates = 0, learning_rate * (1 - (epoch + np.arange(len(batches)) / len(batches)) / epochs)
        while at < len(batches):
            n = 2 ** ((len(batches) - at).bit_length() - 1)
            key, k = jax.random.split(key)
            part = slice(at, at + n)
            tables = _update(tables, batches[part], rates[part].astype(np.float32), noise, k, negatives)
            at += n
    return np.where(counts[:, None] > 0, np.asarray(tables[0]), 0)


def _pairs(words, kept, window, rng):
    """Of an epoch, int32 [N, 2], in random order."""
    found = []
    for sequence in words:
        sequence = sequence[rng.random(len(sequence)) < kept[sequence]]
        reach = rng.integers(1, window + 1, len(sequence))
        for apart in range(1, min(window, len(sequence) - 1) + 1):
            left, right = sequence[:-apart], sequence[apart:]
            forward, backward = reach[:-apart] >= apart, reach[apart:] >= apart
            found += [np.stack([left, right], 1)[forward], np.stack([right, left], 1)[backward]]
    pairs = np.concatenate([*found, np.zeros((0, 2), int)]).astype(np.int32)
    return rng.permutation(pairs)


@partial(jax.jit, static_argnums=5, donate_argnums=0)
def _update(tables, batches, rates, noise, key, negatives):
    """Steps of gradient descent on the rows of a batch, one batch after the other."""

    def step(tables, batch_and_rate):
        inner, outer = tables
        pairs, rate, key = batch_and_rate
        word, near = pairs[:, 0], pairs[:, 1]
        drawn = jnp.searchsorted(noise, jax.random.uniform(key, (len(pairs), negatives)))
        other = jnp.concatenate([near[:, None], jnp.minimum(drawn, len(noise) - 1).astype(near.dtype)], 1)
        v, u = inner[word], outer[other]
        right = jnp.zeros(other.shape, jnp.float32).at[:, 0].set(1)
        slope = (right - jax.nn.sigmoid(jnp.einsum("be,bne->bn", v, u))) * rate
        inner = inner.at[word].add(jnp.einsum("bn,bne->be", slope, u))
        return (inner, outer.at[other].add(slope[..., None] * v[:, None])), None

    return jax.lax.scan(step, tables, (batches, rates, jax.random.split(key, len(batches))))[0]
