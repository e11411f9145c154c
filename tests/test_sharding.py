"""Batches sharded over devices: the same numbers, one all-reduce, and nothing gathered."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import lstmjax

jax.config.update("jax_num_cpu_devices", 2)
backend = sys.argv[1]
mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
params = lstmjax.init_lstm(jax.random.key(0), 4, 5)
xs = jax.random.normal(jax.random.key(1), (6, 8, 4))
lengths = jnp.arange(8, dtype=jnp.int32) % 7

def loss(params, xs, lengths):
    state, ys = lstmjax.run(params, xs, lengths=lengths, backend=backend)
    return (ys**2).sum() + state.c.sum()

specs = dict(mesh=mesh, in_specs=(P(), P(None, "data"), P("data")), out_specs=P())
mapped = jax.shard_map(lambda *a: jax.lax.psum(loss(*a), "data"), **specs)
grad = jax.jit(jax.grad(loss))
alone = grad(params, xs, lengths)
place = lambda a, *spec: jax.device_put(a, NamedSharding(mesh, P(*spec)))
split = place(xs, None, "data"), place(lengths, "data")
compiled = grad.lower(params, *split).compile()

def apart(found):
    return max(float(jnp.abs(a - b).max()) for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(found)))

print(json.dumps({
    "shard_map": apart(jax.jit(jax.grad(mapped))(params, xs, lengths)),
    "jit": apart(compiled(params, *split)),
    "gathers": compiled.as_text().count("all-gather("),
}))
"""


@pytest.mark.parametrize("backend", ["scan", "fused"])
def test_two_devices_are_as_one(backend):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, backend],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["shard_map"] < 1e-5
    assert found["jit"] < 1e-5
    assert found["gathers"] == 0
