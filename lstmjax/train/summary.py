"""What a step will cost, said before the first one."""

import math
from typing import Any

import jax


def summarise(step: Any, state: Any, batch: Any) -> str:
    """Params, memory and floating-point operations of a jitted step, in a line.

    The step is traced and compiled here as its first call would do it, and that call then finds it done.

    >>> import optax
    >>> from lstmjax.train import init_state, make_step
    >>> step = jax.jit(make_step(lambda w, x, key: (x @ w).sum(), optax.sgd(0.1)))
    >>> w, x = jax.numpy.ones((200, 50)), jax.numpy.ones((30, 200))
    >>> summarise(step, init_state(w, optax.sgd(0.1), jax.random.key(0)), x).split(", ")[0]
    '10,000 params'
    """
    traced = step.trace(state, batch)
    memory = traced.lower().compile().memory_analysis()
    counts = [leaf.size for leaf in jax.tree.leaves(state.params)]
    parts = [f"{sum(counts):,} params", f"state {_bytes(_size(state))}"]
    if memory is not None:
        parts.append(f"{_bytes(memory.temp_size_in_bytes)} more in a step")
    return ", ".join([*parts, f"{_flops(flops(traced.jaxpr))} a step"])


def flops(jaxpr: Any) -> float:
    """The floating-point operations of all matrix products of a jaxpr: 2 M N K for each of [M, K] by [K, N].

    A loop whose length the program does not say counts once.

    >>> flops(jax.make_jaxpr(lambda a, b: a @ b)(jax.numpy.ones((2, 3)), jax.numpy.ones((3, 5))))
    60.0
    """
    total = 0.0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name = equation.primitive.name
        shapes: list[Any] = [getattr(v.aval, "shape", ()) for v in equation.invars]
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shapes[0][axis] for axis in contracted)
        elif name in _OURS:
            first, products = _OURS[name]
            (T, G, B, D), H = shapes[first + 3], shapes[first + 1][1]
            total += products * 2 * T * G * B * (D + H) * 4 * H
        else:
            inner = [v for v in equation.params.values() if hasattr(v, "eqns") or hasattr(v, "jaxpr")]
            branches = [flops(branch) for branch in equation.params.get("branches", ())]
            total += max(branches, default=0.0) + equation.params.get("length", 1) * sum(flops(each) for each in inner)
    return total


# Of a primitive of fused: where its six operands w_x, w_h, b, xs, h0, c0 begin, and how many times the products of a
# forward run it makes. Gradients of weights and those of what they are multiplied by are one each.
_OURS = {"lstm": (0, 1), "lstm_vjp": (3, 2)}


def _size(tree):
    leaves = jax.tree.leaves(tree)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def _bytes(n):
    return f"{n / 2**20:,.1f} MiB"


def _flops(n):
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if n >= unit:
            return f"{n / unit:.1f} {name}FLOP"
    return f"{n:,.0f} FLOP"
