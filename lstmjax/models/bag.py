"""Words without their order: a linear model, to stand beside a recurrent one.

    x_j = n_j r_j / sqrt(sum_t r_{w_t}^2),   logits = x W + b,   r_j = 1 + log((1 + N) / (1 + N_j))

n_j is how often word j is in the sequence w, and r_j is higher the rarer the word is: N_j of N sequences have it.

Reference: Manning, Raghavan and Schuetze 2008, section 6.4 (weights of terms).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from lstmjax import baselines, checks

Array = jax.Array

OTHERS = 2  # ids below this are no words: padding, and what is unknown


class Bag(NamedTuple):
    """Weights of V words and K classes. Words of an id past V are left out."""

    rarity: Array  # r [V]; 0 leaves a word out
    w: Array  # [V, K]
    b: Array  # [K]


def init(words: int, classes: int, dtype: DTypeLike = jnp.float32) -> Bag:
    """Zeros, to be filled by `fit` or by what was saved.

    >>> init(5, 2).w.shape
    (5, 2)
    """
    words, classes = checks.size("words", words), checks.size("classes", classes)
    dtype = checks.float_dtype("dtype", dtype)
    return Bag(jnp.zeros(words, dtype), jnp.zeros((words, classes), dtype), jnp.zeros(classes, dtype))


def logits(bag: Bag, ids: Array, length: Array) -> Array:
    """[K] of one sequence: int ids [T] and the length before padding. Of one without words, b.

    >>> import jax.numpy as jnp
    >>> bag = Bag(jnp.array([0.0, 0, 1, 1]), jnp.array([[0.0], [0], [3], [4]]), jnp.array([1.0]))
    >>> logits(bag, jnp.array([2, 2, 3, 3, 0]), jnp.array(4)).tolist()  # (3 + 3 + 4 + 4) / sqrt(4) + 1
    [8.0]
    """
    there = (jnp.arange(len(ids), dtype=jnp.int32) < length) & (ids < len(bag.rarity))
    ids = jnp.where(there, ids, 0)
    rarity = jnp.where(there, bag.rarity[ids], 0)
    squared = (rarity**2).sum()
    return (rarity @ bag.w[ids]) * jax.lax.rsqrt(jnp.where(squared > 0, squared, 1)) + bag.b


def fit(
    sequences: Sequence[np.ndarray],
    targets: np.ndarray,
    words: int,
    classes: int,
    *,
    weights: np.ndarray | None = None,
    strength: float = 3.0,
) -> Bag:
    """Logistic regression, to the optimum. Needs the `text` extra.

    Args:
      sequences: int ids [T] each, N of them.
      targets: int [N], the class of each; or [N, K], 1 for each of the classes of a sequence: a model for each then.
      words: V; ids past it are left out, and those below `OTHERS`.
      classes: K.
      weights: [N], what each sequence counts; None: the same.
      strength: C, the inverse of the penalty on W^2 / 2.

    Raises:
      ValueError: naming the argument. ImportError: scikit-learn is not installed.

    >>> found = fit([np.array([2, 3]), np.array([2, 4])], np.array([0, 1]), words=5, classes=2)
    >>> logits(found, jnp.array([3]), jnp.array(1)).argmax().tolist()
    0
    """
    classes, words = checks.size("classes", classes), checks.size("words", words)
    checks.positive("strength", strength)
    targets = np.asarray(targets)
    if len(targets) != len(sequences) or targets.shape[1:] not in ((), (classes,)):
        raise ValueError(
            f"targets should be [N] or [N, K], N = {len(sequences)} and K = {classes}, got shape {targets.shape}"
        )
    sklearn = baselines.scikit_learn()
    import scipy.sparse

    row = np.repeat(np.arange(len(sequences)), [len(ids) for ids in sequences])
    column = np.concatenate([np.asarray(ids) for ids in sequences]) if len(sequences) else row
    kept = (column >= OTHERS) & (column < words)
    row, column, shape = row[kept], column[kept], (len(sequences), words)
    once = np.unique(row.astype(np.int64) * words + column)
    rarity = 1 + np.log((1 + len(sequences)) / (1 + np.bincount(once % words, minlength=words)))
    rarity[:OTHERS] = 0
    of_words = rarity[column]
    length = np.sqrt(np.bincount(row, of_words**2, minlength=len(sequences)))
    features = scipy.sparse.csr_matrix((of_words / length[row], (row, column)), shape)
    w, b = np.zeros((words, classes)), np.zeros(classes)

    def solve(answers):
        model = sklearn.linear_model.LogisticRegression(C=strength, max_iter=1000)
        model.fit(features, answers, sample_weight=weights)
        return model.classes_, model.coef_.T, model.intercept_

    if targets.ndim == 2:
        for k, answers in enumerate(targets.T > 0):
            if answers.all() or not answers.any():  # nothing to tell apart: how often it is, with one more of each
                b[k] = np.log((answers.sum() + 1) / ((~answers).sum() + 1))
            else:
                _, of_words, b[k : k + 1] = solve(answers)
                w[:, k] = of_words[:, 0]
    else:
        present, of_words, intercepts = solve(targets)
        if len(present) == 2:  # one row, of the second
            of_words, intercepts = of_words * [[-0.5, 0.5]], intercepts * [-0.5, 0.5]
        b[:] = intercepts.min() - 10  # of a class that does not occur
        w[:, present], b[present] = of_words, intercepts
    return Bag(*(jnp.asarray(array, jnp.float32) for array in (rarity, w, b)))
