"""Losses over examples and steps, each averaged with weights, so that padding counts for nothing.

They are added up in float32 or wider, and come in the dtype of what they are of.
"""

import jax
import jax.numpy as jnp
import optax

from lstmjax import checks

Array = jax.Array


def cross_entropy(logits: Array, labels: Array, weights: Array | None = None, *, smoothing: float = 0.0) -> Array:
    """The mean of -log p(label) over classes K.

    Args:
      logits: [..., K].
      labels: int [...].
      weights: [...]; 0 leaves an example or a step out. None: all 1.
      smoothing: e; the target is 1 - e on the label plus e / K everywhere (Szegedy et al. 2016, section 7).

    Returns:
      A scalar; 0 if all weights are 0.

    Raises:
      TypeError: labels that are no ints. ValueError: shapes that do not fit, or concrete labels outside [0, K); under
        tracing such a label gives NaN.

    >>> round(float(cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3]))), 4)
    1.3863
    """
    logits = checks.as_float_array("logits", logits)
    if logits.ndim == 0:
        raise ValueError("logits should be [..., K], got shape ()")
    classes, dtype = logits.shape[-1], logits.dtype
    _check_targets(logits.shape[:-1], labels, weights)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels should be an array of ints, got {checks.show(labels)}")
    checks.within("labels", labels, classes)
    smoothing = checks.rate("smoothing", smoothing)
    logits, labels = _wide(logits), jnp.asarray(labels)
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels  # which may not hold the classes
    targets = optax.smooth_labels(jax.nn.one_hot(labels, classes, dtype=logits.dtype), smoothing)
    # A class that is ruled out, by a logit of -inf, costs nothing where nothing is asked of it.
    costs = jnp.where(targets > 0, jax.nn.log_softmax(logits), 0)
    losses = -(targets * costs).sum(-1)
    outside = (labels < 0) | (labels >= classes)
    return _mean(jnp.where(outside, jnp.nan, losses), weights).astype(dtype)


def binary_cross_entropy(logits: Array, labels: Array, weights: Array | None = None) -> Array:
    """The mean of -y log s - (1 - y) log(1 - s), s = sigmoid(logit).

    Args:
      logits: [...].
      labels: [...], 0 or 1, or probabilities between.
      weights: [...]; None: all 1.

    Raises:
      ValueError: shapes that do not fit.

    >>> round(float(binary_cross_entropy(jnp.zeros(2), jnp.array([0.0, 1.0]))), 4)
    0.6931
    """
    logits = checks.as_float_array("logits", logits)
    _check_targets(logits.shape, labels, weights)
    wide = _wide(logits)
    losses = optax.sigmoid_binary_cross_entropy(wide, labels.astype(wide.dtype))
    return _mean(losses, weights).astype(logits.dtype)


def squared_error(found: Array, targets: Array, weights: Array | None = None) -> Array:
    """The mean of (found - target)**2.

    Args:
      found: [...].
      targets: float [...].
      weights: [...]; None: all 1.

    Raises:
      TypeError, ValueError: targets that are no floats, shapes that do not fit.

    >>> float(squared_error(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0])))
    2.0
    """
    found, targets = checks.as_float_array("found", found), checks.as_float_array("targets", targets)
    _check_targets(found.shape, targets, weights)
    wide = _wide(found)
    return _mean((wide - targets.astype(wide.dtype)) ** 2, weights).astype(found.dtype)


def activation_penalty(ys: Array, valid: Array | None = None) -> Array:
    """The mean square of outputs, to be added to a loss with a factor: it keeps them small (AR).

        mean over t, units of y_t**2

    Args:
      ys: [T, *batch, H], after dropout.
      valid: bool [T, *batch], which steps count; None: all.

    Returns:
      A scalar in float32 or wider; 0 if no step counts.

    Raises:
      TypeError, ValueError: naming the argument.

    Reference: Merity et al. 2018, section 4.6.

    >>> float(activation_penalty(jnp.array([[3.0, 1.0], [1.0, 1.0]])))
    3.0
    """
    return _penalty(*_steps(ys, valid))


def temporal_activation_penalty(ys: Array, valid: Array | None = None) -> Array:
    """The mean square of the changes of outputs from step to step: it keeps them slow (TAR).

        mean over t, units of (y_{t+1} - y_t)**2

    Args:
      ys: [T, *batch, H], before dropout.
      valid: bool [T, *batch], which steps count; a change counts where both of its steps do. None: all.

    Returns, Raises: as `activation_penalty`; 0 where there is no change to count.

    Reference: Merity et al. 2018, section 4.6.

    >>> float(temporal_activation_penalty(jnp.array([[3.0, 1.0], [1.0, 1.0]])))
    2.0
    """
    ys, valid = _steps(ys, valid)
    return _penalty(ys[1:] - ys[:-1], None if valid is None else valid[1:] & valid[:-1])


def _steps(ys, valid):
    ys = checks.as_float_array("ys", ys)
    if ys.ndim < 2:
        raise ValueError(f"ys should be [T, *batch, H], got shape {ys.shape}")
    ys = _wide(ys)
    if valid is not None:
        valid = checks.bools("valid", valid, ys.shape[:-1], "[T, *batch]")
        ys = jnp.where(valid[..., None], ys, 0)  # before squares: 0 * NaN in the backward pass would spoil the rest
    return ys, valid


def _penalty(ys, valid):
    return _mean((ys * ys).mean(-1), valid)


def _check_targets(shape, labels, weights):
    for name, array in (("labels", labels), ("weights", weights)):
        if array is None and name == "weights":
            continue
        if not checks.is_array(array):
            raise TypeError(f"{name} should be an array of shape {shape}, got {checks.show(array)}")
        if array.shape != shape:
            raise ValueError(f"{name} should have shape {shape} to fit the logits, got {array.shape}")


def _wide(x):
    """In what sums are formed: float32 or wider."""
    return x.astype(x.dtype if x.dtype == jnp.float64 else jnp.float32)


def _mean(losses, weights):
    if weights is None:
        return losses.sum() / max(losses.size, 1)
    weights = weights.astype(losses.dtype)
    total = weights.sum()
    # where, not a product: 0 * NaN of a left-out step would spoil the rest.
    return jnp.where(weights == 0, 0, losses * weights).sum() / jnp.where(total == 0, 1, total)
