"""Words without their order: linear models of a text and of a pair of texts, to stand beside recurrent ones.

    x_j = n_j r_j / sqrt(sum_t r_{w_t}^2),   logits = x W + b,   r_j = 1 + log((1 + N) / (1 + N_j))

n_j is how often word j is in the text w, and r_j is higher the rarer the word is: N_j of N texts have it.

Reference: Manning, Raghavan and Schuetze 2008, section 6.4 (weights of terms).
"""

from collections.abc import Sequence
from functools import partial
from itertools import combinations_with_replacement
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from lstmjax import baselines, checks, text

Array = jax.Array

OTHERS = 2  # ids below this are no words: padding, and what is unknown


class Bag(NamedTuple):
    """Weights of V words and K classes. Words of an id past V are left out."""

    rarity: Array  # r [V]; 0 leaves a word out
    w: Array  # [V, K]
    b: Array  # [K]


class Pairs(NamedTuple):
    """Weights of V words and pieces of words, and K classes, of a pair of texts. Ids past V are left out."""

    rarity: Array  # r [V]; 0 leaves one out
    apart: Array  # [V, K], of what each has that the other has not
    both: Array  # [V, K], of what both have
    alike: Array  # [14, K], of how much of it that is
    b: Array  # [K]


def init(words: int, classes: int, dtype: DTypeLike = jnp.float32) -> Bag:
    """Zeros, to be filled by `fit` or by what was saved.

    >>> init(5, 2).w.shape
    (5, 2)
    """
    words, classes = checks.size("words", words), checks.size("classes", classes)
    dtype = checks.float_dtype("dtype", dtype)
    return Bag(jnp.zeros(words, dtype), jnp.zeros((words, classes), dtype), jnp.zeros(classes, dtype))


def init_pairs(words: int, classes: int, dtype: DTypeLike = jnp.float32) -> Pairs:
    """Zeros, to be filled by `fit_pairs` or by what was saved.

    >>> init_pairs(5, 2).both.shape
    (5, 2)
    """
    rarity, w, b = init(words, classes, dtype)
    return Pairs(rarity, w, w, jnp.zeros((len(_alike(*jnp.zeros(4))), classes), dtype), b)


def logits(bag: Bag, ids: Array, length: Array) -> Array:
    """[K] of one text: int ids [T], or [T, F] of which the first are words, and the length before padding. Of a text
    without words, b.

    >>> bag = Bag(jnp.array([0.0, 0, 1, 1]), jnp.array([[0.0], [0], [3], [4]]), jnp.array([1.0]))
    >>> logits(bag, jnp.array([2, 2, 3, 3, 0]), jnp.array(4)).tolist()  # (3 + 3 + 4 + 4) / sqrt(4) + 1
    [8.0]
    """
    ids, weights = _counted(bag.rarity, ids if ids.ndim == 1 else ids[:, 0], length)
    return _scaled(weights, weights) @ bag.w[ids] + bag.b


def pair_logits(pairs: Pairs, first: Array, n: Array, second: Array, m: Array) -> Array:
    """[K] of one pair of texts.

        |x - y| W_a + x * y W_b + s W_s + b

    x and y are n r of the words of the two texts and, beside these, of pieces of words, each scaled to length 1; s are
    the cosine of either, the share of the words of each text that are in the other, and the products of any two.

    Args:
      first, second: int ids [T], or [T, F], of which the first are words and the others their pieces; T may differ.
      n, m: their lengths before padding.

    >>> pair_logits(init_pairs(9, 3), jnp.array([4, 0]), jnp.array(1), jnp.array([5]), jnp.array(1)).tolist()
    [0.0, 0.0, 0.0]
    """
    apart, both, alike = _compared(pairs.rarity, first, n, second, m)
    return apart @ pairs.apart + both @ pairs.both + alike @ pairs.alike + pairs.b


def fit(
    texts: Sequence[np.ndarray],
    targets: np.ndarray,
    words: int,
    classes: int,
    *,
    weights: np.ndarray | None = None,
    strength: float = 3.0,
) -> Bag:
    """Logistic regression of texts, to the optimum. Needs the `text` extra.

    Args:
      texts: ids as in `logits`, N of them.
      targets: int [N], the class of each; or [N, K], 1 for each of the classes of a text: a model for each then.
      words: V; ids past it are left out, and those below `OTHERS`.
      classes: K.
      weights: [N], what each text counts; None: the same.
      strength: C, the inverse of the penalty on W^2 / 2.

    Raises:
      ValueError: naming the argument. ImportError: scikit-learn is not installed.

    >>> found = fit([np.array([2, 3]), np.array([2, 4])], np.array([0, 1]), words=5, classes=2)
    >>> logits(found, jnp.array([3]), jnp.array(1)).argmax().tolist()
    0
    """
    targets = _targets(targets, texts, classes)
    texts = [ids if ids.ndim == 1 else ids[:, 0] for ids in texts]
    rarity = _rarity(texts, words)

    def vector(ids, n):
        ids, counted = _counted(rarity, ids, n)
        return (jnp.zeros_like(rarity).at[ids].add(_scaled(counted, counted)),)

    features = _rows(vector, texts)
    if targets.ndim == 1:
        w, b = _solve(features, targets, classes, weights, strength)
    else:
        w, b = np.zeros((words, classes)), np.zeros(classes)
        for k, answers in enumerate(targets.T > 0):
            if answers.all() or not answers.any():  # nothing to tell apart: how often it is, with one more of each
                b[k] = np.log((answers.sum() + 1) / ((~answers).sum() + 1))
            else:  # the difference of two logits
                of_both, bias = _solve(features, answers.astype(int), 2, weights, strength)
                w[:, k], b[k] = of_both[:, 1] - of_both[:, 0], bias[1] - bias[0]
    return Bag(rarity, *(jnp.asarray(array, jnp.float32) for array in (w, b)))


def fit_pairs(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    targets: np.ndarray,
    words: int,
    classes: int,
    *,
    strength: float = 3.0,
) -> Pairs:
    """Logistic regression of pairs of texts, to the optimum. Needs the `text` extra.

    Args:
      pairs: ids as in `pair_logits`, N of them.
      targets: int [N], the class of each; or [N, K], how likely each class is.
      words, classes, strength: as in `fit`.

    Raises:
      ValueError: naming the argument. ImportError: scikit-learn is not installed.

    >>> same, other = (np.array([2]), np.array([2])), (np.array([2]), np.array([3]))
    >>> found = fit_pairs([same, other], np.array([1, 0]), words=5, classes=2)
    >>> pair_logits(found, jnp.array([4]), jnp.array(1), jnp.array([4]), jnp.array(1)).argmax().tolist()
    1
    """
    targets = _targets(targets, pairs, classes)
    sides = [[pair[side] for pair in pairs] for side in (0, 1)]
    rarity = _rarity([ids for side in sides for ids in side], words)
    features = _rows(partial(_compared, rarity), *sides)
    if targets.ndim == 2:  # a row for each class that may be, of its weight
        row, answers = np.nonzero(targets)
        w, b = _solve(features[row], answers, classes, targets[row, answers], strength)
    else:
        w, b = _solve(features, targets, classes, None, strength)
    apart, both, alike = np.split(w, [words, 2 * words])
    return Pairs(rarity, *(jnp.asarray(array, jnp.float32) for array in (apart, both, alike, b)))


def _counted(rarity, ids, length):
    """Ids and their r, [T] or [T, F] both; 0 where nothing counts."""
    there = (jnp.arange(len(ids), dtype=jnp.int32) < length).reshape(-1, *(1,) * (ids.ndim - 1)) & (ids < len(rarity))
    ids = jnp.where(there, ids, 0)
    return ids, jnp.where(there, rarity[ids], 0)


def _scaled(x, by):
    """x over the length of another; 0 if that is 0."""
    squared = (by**2).sum()
    return x * jax.lax.rsqrt(jnp.where(squared > 0, squared, 1))


def _vector(rarity, ids, length):
    """n r [V] of a text, of length 1; zeros if none of the ids counts."""
    ids, counted = _counted(rarity, ids, length)
    x = jnp.zeros_like(rarity).at[ids].add(counted)
    return _scaled(x, x)


def _compared(rarity, first, n, second, m):
    """|x - y| [V], x * y [V] and s of a pair."""
    (x, more_x), (y, more_y) = (
        (_vector(rarity, ids if ids.ndim == 1 else ids[:, 0], length), _vector(rarity, ids[:, 1:], length))
        if ids.ndim == 2
        else (_vector(rarity, ids, length), jnp.zeros_like(rarity))
        for ids, length in ((first, n), (second, m))
    )
    shared = ((x > 0) & (y > 0)).sum()
    shares = (shared / jnp.maximum((z > 0).sum(), 1) for z in (x, y))
    alike = _alike(x @ y, more_x @ more_y, *(share.astype(rarity.dtype) for share in shares))
    x, y = x + more_x, y + more_y  # no id is that of a word and of a piece
    return jnp.abs(x - y), x * y, alike


def _alike(*measures):
    """Measures, and the products of any two of them."""
    pairs = combinations_with_replacement(measures, 2)
    return jnp.stack([*measures, *(a * b for a, b in pairs)])


def _targets(targets, things, classes):
    targets, classes = np.asarray(targets), checks.size("classes", classes)
    if not len(things) or len(targets) != len(things) or targets.shape[1:] not in ((), (classes,)):
        raise ValueError(
            f"targets should be [N] or [N, K], N = {len(things)} above 0 and K = {classes}, got shape {targets.shape}"
        )
    return targets


def _rarity(texts, words):
    """r [V]."""
    once = [np.unique(ids) for ids in texts]
    counted = np.bincount(np.concatenate(once), minlength=checks.size("words", words))[:words]
    rarity = 1 + np.log((1 + len(texts)) / (1 + counted))
    rarity[:OTHERS] = 0
    return jnp.asarray(rarity, jnp.float32)


def _rows(features, *sides, size=64):
    """The features of texts, or of pairs, as a sparse matrix: made as an answer makes them, a batch at a time."""
    baselines.scikit_learn()  # says what to install; SciPy comes with it
    import scipy.sparse

    rows = []
    of_batch = jax.jit(jax.vmap(lambda *one: jnp.concatenate(features(*one))))
    lengths = [max(map(len, one)) for one in zip(*sides, strict=True)]
    order = np.argsort(lengths, kind="stable")
    for begin in range(0, len(order), size):
        chosen = order[begin : begin + size]
        longest = max(8, 1 << (lengths[chosen[-1]] - 1).bit_length())  # few lengths, each compiled once
        filled = [[side[n] for n in chosen] + [side[0][:0]] * (size - len(chosen)) for side in sides]
        batch = [array for side in filled for array in text.pad(side, longest)]
        rows.append(scipy.sparse.csr_matrix(np.asarray(of_batch(*batch))[: len(chosen)]))
    return scipy.sparse.vstack(rows).tocsr()[np.argsort(order)]


def _solve(features, targets, classes, weights, strength):
    """w [D, K] and b [K] of classes int [N]; a class that does not occur is far behind the others."""
    checks.positive("strength", strength)
    sklearn = baselines.scikit_learn()
    w, b = np.zeros((features.shape[1], classes)), np.zeros(classes)
    present = np.unique(targets)
    if len(present) > 1:
        model = sklearn.linear_model.LogisticRegression(C=strength, max_iter=1000)
        model.fit(features, targets, sample_weight=weights)
        of_words, bias = model.coef_.T, model.intercept_
        if len(present) == 2:  # one row, of the second
            of_words, bias = of_words * [[-0.5, 0.5]], bias * [-0.5, 0.5]
        w[:, present], b[present] = of_words, bias
    b[np.setdiff1d(np.arange(classes), present)] = b.min() - 10
    return w, b
