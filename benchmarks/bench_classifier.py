"""What `vmap` costs the classifier: the gradient of its loss, written for one sequence and mapped over the batch,
against the same model with the batch written out by hand.

    python benchmarks/bench_classifier.py

A ratio of 1 means that mapping is free; above 1 it costs.
"""

import jax
import jax.numpy as jnp
import numpy as np
import timing
from rich.console import Console
from rich.table import Table

import lstmjax
from lstmjax import layers
from lstmjax.models import classifier

SHAPES = ((32, 24, 64, 64), (64, 50, 128, 128), (16, 100, 128, 256))  # B, T, E, H


def explicit(params: classifier.Params, batch: classifier.Batch) -> jax.Array:
    """The classifier's loss with max pooling, time first and the batch in its own axis throughout."""
    xs = layers.embed(params.embedding, batch.ids.T)
    for layer in params.layers:
        _, xs = lstmjax.run(layer, xs, lengths=batch.lengths)
    valid = jnp.arange(len(xs))[:, None] < batch.lengths
    pooled = jnp.where(valid[..., None], xs, -jnp.inf).max(0)
    logits = layers.linear(params.head, pooled)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch.labels[:, None], 1).mean()


def main() -> None:
    """Check that both give the same gradient, then time them interleaved."""
    table = Table("B", "T", "E", "H", "by hand, ms", "vmap, ms", "ratio", "95 %")
    for B, T, E, H in SHAPES:
        rng = np.random.default_rng(0)
        batch = classifier.Batch(
            jnp.asarray(rng.integers(2, 1000, (B, T)), jnp.int32),
            jnp.asarray(rng.integers(1, T + 1, B), jnp.int32),
            jnp.asarray(rng.integers(0, 2, B), jnp.int32),
            jnp.ones(B),
        )
        params = classifier.init(jax.random.key(0), 1000, 2, embedding=E, hidden=H)
        calls = {
            name: timing.compile_jax(jax.grad(loss), params, batch).call
            for name, loss in (("by hand", explicit), ("vmap", classifier.loss))
        }
        one, two = (jax.tree.leaves(call(params, batch)) for call in calls.values())
        error = max(float(jnp.abs(a - b).max()) for a, b in zip(one, two, strict=True))
        if error > 1e-5:
            raise SystemExit(f"the two gradients differ by {error}")
        times = timing.interleave(calls, {name: [(params, batch)] for name in calls}, seconds=5)
        found = timing.ratio(times["vmap"], times["by hand"])
        medians = [f"{np.median(times[name]):.2f}" for name in calls]
        table.add_row(*map(str, (B, T, E, H)), *medians, f"{found.median:.3f}", f"{found.low:.3f} - {found.high:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
