"""A decoder that attends: one step of it, and all the steps of a batch, where what a step makes goes into the next.

`lstmjax.models.seq2seq` says what is computed; `params` are its `Params`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstmjax import varying
from lstmjax.cells.cell import How, recurrent
from lstmjax.cells.lstm import LSTM, LSTMParams
from lstmjax.cells.products import biased
from lstmjax.layers import dropout
from lstmjax.models import encoder

Array = jax.Array

ATTENTIONS = ("dot", "general", "additive")


class Attention(NamedTuple):
    """Weights of the scores; those that are there say how scores are made:

    dot: h . m,   general: h . (m W_m),   additive: v . tanh(h W_h + m W_m)
    """

    keys: Array | None = None  # W_m [F, H]
    query: Array | None = None  # W_h [H, H]
    v: Array | None = None  # [H]


class Memory(NamedTuple):
    """What there is of a source to attend to."""

    values: Array  # m [S, F], 0 at padding
    keys: Array  # [S, H], what a query meets
    hidden: Array  # [S], what is added to scores: so little at padding that nothing is attended to there
    words: Array | None  # [S, E], where there is a lexical shortcut


def feeds(params: Any) -> bool:
    """Whether h~ goes into the next step."""
    return params.decoder[0].w_x.shape[-2] > params.embedding.shape[-1]


def step(params: Any, memory: Memory, states: tuple, fed: Array, x: Array) -> tuple[tuple, Array, Array]:
    """One step of one sequence, where h~ is fed: the states of the layers, h~ [H] and attention [S] that the vector
    x [E] of a token leads to."""
    rows = {"scores": memory.hidden} | _gates(params, x)
    (states, h), (_, attention), _ = _one(_weights(params, memory), _fixed(params, memory), (states, fed), rows)
    return states, h, attention


def look(params: Any, memory: Memory, h: Array) -> tuple[Array, Array]:
    """h~ [H] and attention [S] of the last layer's h [H] at one step."""
    return _look(_weights(params, memory), _fixed(params, memory), {"scores": memory.hidden}, h)[0]


def over_time(
    params: Any, memory: Memory, states: tuple, fed: Array, xs: Array, options: encoder.Options, keys: Array | None
) -> tuple[Array, Array]:
    """h~ [T, B, H] and attention [T, B, S] over the vectors of tokens [T, B, E], where h~ is fed; memory, states, fed
    and keys are of B sequences."""
    steps, size = xs.shape[:2]
    masks = jax.vmap(lambda _, key: _masks(params, steps, options, key, xs.dtype), (0, None if keys is None else 0))
    between, of_layers, of_fed = masks(fed, keys)
    weights = _weights(params, memory)
    fixed = _fixed(params, memory)._replace(layers=of_layers, fed=of_fed)
    rows = {name: jnp.moveaxis(mask, 0, 1) for name, mask in between.items()} | _gates(params, xs)
    # A row for each product that a step makes, of zeros too: its gradient is that of the product.
    rows["scores"] = jnp.broadcast_to(memory.hidden, (steps, *memory.hidden.shape))
    for name in weights.keys() - rows.keys():
        rows[name] = jnp.zeros((steps, size, weights[name][0].shape[-1]), xs.dtype)
    # Zeros made on the way vary over no mesh axis: under shard_map the loop, and its gradients, need all alike.
    return _unroll(*varying.alike(weights, fixed, (states, fed), rows))


@jax.custom_vjp
def _unroll(weights, fixed, carry, rows):
    """The loop over time of `_one` on a batch: h~ [T, B, H] and attention [T, B, S].

    JAX would add the gradient of each weight up in the loop that goes backward, a pass over the weight at every step.
    Of z = u w + r the gradients are dr = dz and dw = u^T dz, so the rows r that come from outside bring dz out of the
    loop, and dw is one product over all steps after it.

    Args:
      weights: by the name of a product, those that it sums over; [U, Z], or [B, U, Z] if each sequence has its own.
      fixed: `_Fixed`.
      carry: states of the layers and h~.
      rows: by the name of a product, what is added to it, [T, B, Z].
    """
    return _loop(weights, fixed, carry, rows)[0]


def _loop(weights, fixed, carry, rows):
    """h~ and attention, and what each product was made of, over time."""
    own = jax.tree.map(lambda w: None if w.ndim == 2 else 0, weights)
    fixed_axes: Any = _Fixed(0, None, 0, 0)  # type: ignore[arg-type]
    one = jax.vmap(_one, (own, fixed_axes, 0, 0))

    def body(carry, row):
        carry, found, inputs = one(weights, fixed, carry, row)
        return carry, (found, inputs)

    return jax.lax.scan(body, carry, rows)[1]


def _forward(weights, fixed, carry, rows):
    found, backward, inputs = jax.vjp(partial(_loop, weights), fixed, carry, rows, has_aux=True)
    return found, (backward, inputs, weights)


def _backward(held, gradient):
    backward, inputs, weights = held
    fixed, carry, rows = backward(gradient)

    def of(w, u, dz):
        u = u.astype(dz.dtype)  # h is kept wide, and meets the weights in their dtype
        return jnp.einsum("tbu,tbz->uz" if w.ndim == 2 else "tbu,tbz->buz", u, dz)

    products = {
        name: tuple(of(w, u, rows[name]) for w, u in zip(ws, inputs[name], strict=True)) for name, ws in weights.items()
    }
    return products, fixed, carry, rows


_unroll.defvjp(_forward, _backward)


class _Fixed(NamedTuple):
    """What is the same at every step of a sequence, beside the weights of products."""

    keys: Array | None = None  # "additive": [S, H]
    v: Array | None = None  # "additive": [H]
    layers: tuple | None = None  # of each layer, what h is multiplied by before it meets weights, [H] or None
    fed: Array | None = None  # h~ likewise, [H]


def _fixed(params, memory):
    return _Fixed() if params.attention.v is None else _Fixed(memory.keys, params.attention.v)


def _weights(params, memory):
    """The weights of the products of a step, by name. What is attended to is one: that of the attention with it."""
    weights: dict[str, tuple] = {"context": (memory.values,), "combine": (params.combine,)}
    if params.attention.v is None:
        weights["scores"] = (jnp.swapaxes(memory.keys, -1, -2),)
    else:
        weights["query"] = (params.attention.query,)
    if feeds(params):
        features = params.embedding.shape[1]
        for n, layer in enumerate(params.decoder):
            weights[f"gates{n}"] = (layer.w_x[features:] if n == 0 else layer.w_x, layer.w_h)
    return weights


def _gates(params, xs):
    """What is added to the gates of each layer: of the first, all that does not depend on the step before."""
    first, *others = params.decoder
    of_x = xs @ first.w_x[: xs.shape[-1]]
    rows = {"gates0": biased(of_x, first.b)}
    return rows | {
        f"gates{n}": jnp.broadcast_to(layer.b, (*xs.shape[:-1], *layer.b.shape))
        for n, layer in enumerate(others, start=1)
    }


def _masks(params, steps, options, key, dtype):
    """Of one sequence what is dropped between the layers [T, H] by name, of h in each layer [H], and of h~ [H]."""
    widths = [layer.w_h.shape[0] for layer in params.decoder]
    if key is None:
        return {}, None, None
    keys, k_fed = jax.random.split(key, (2, len(widths))), jax.random.fold_in(key, 0)
    between = {
        f"between{n}": jnp.broadcast_to(
            dropout(k, options.dropout, jnp.ones((steps, width), dtype), shared=encoder.shared(options)), (steps, width)
        )
        for n, (k, width) in enumerate(zip(keys[0, 1:], widths[:-1], strict=True), start=1)
    }
    of_layers = tuple(
        dropout(k, options.recurrent, jnp.ones(width, dtype)) for k, width in zip(keys[1], widths, strict=True)
    )
    return between, of_layers, dropout(k_fed, options.recurrent, jnp.ones(widths[-1], dtype))


def _one(weights, fixed, carry, rows):
    """A step of one sequence: (states, h~), (h~, attention), and what each product was made of."""
    states, fed = carry
    fixed = fixed._replace(layers=jax.lax.stop_gradient(fixed.layers), fed=jax.lax.stop_gradient(fixed.fed))
    x, after, inputs = fed if fixed.fed is None else fed * fixed.fed, [], {}
    for n, state in enumerate(states):
        if f"between{n}" in rows:
            x = x * jax.lax.stop_gradient(rows[f"between{n}"])
        name, how = f"gates{n}", How(recurrent=None if fixed.layers is None else fixed.layers[n].astype(state.h.dtype))
        inputs[name] = (x, recurrent(state, how))
        w_x, w_h = weights[name]
        state, _ = LSTM.advance(LSTMParams(w_x, w_h, rows[name]), state, x, how)
        after.append(state)
        x = state.h.astype(fed.dtype)
    found, others = _look(weights, fixed, rows, x)
    return (tuple(after), found[0]), found, inputs | others


def _look(weights, fixed, rows, h):
    """What is made of the h [H] of one step: (h~, attention), and what each product was made of."""
    inputs = {}

    def product(name, u):
        inputs[name] = (u,)
        z = u @ weights[name][0]
        return z + rows[name] if name in rows else z

    if fixed.v is None:
        scores = product("scores", h)
    else:
        scores = jnp.tanh(fixed.keys + product("query", h)[None]) @ fixed.v + rows["scores"]
    attention = jax.nn.softmax(scores)
    context = product("context", attention)
    return (jnp.tanh(product("combine", jnp.concatenate([context, h]))), attention), inputs
