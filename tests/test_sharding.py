"""Batches sharded over devices: the same numbers, one all-reduce, and nothing gathered."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lstmjax

PROGRAM = """
import json, sys
import jax, jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec as P
import lstmjax
from lstmjax import crf, softmax
from lstmjax.backends import tuning

jax.config.update("jax_num_cpu_devices", 2)
tuning._avx512, tuning.cores = lambda: False, lambda: 2
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
split = lstmjax.split_batch(xs, axis=1), lstmjax.split_batch(lengths)
compiled = grad.lower(params, *split).compile()

def refused(tree):
    try:
        lstmjax.split_batch(tree, axis=1)
    except ValueError as problem:
        return str(problem)

def apart(found, alone=alone):
    return max(float(jnp.abs(a - b).max()) for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(found)))

# Of a size that one CPU takes in two lanes, and whose weights come first in a product, on two devices too.
wide = lstmjax.init_lstm(jax.random.key(0), 4, 129)
many = jnp.tile(xs, (3, 4, 1)), jnp.tile(lengths, 4)
both = lstmjax.split_batch(many[0], axis=1), lstmjax.split_batch(many[1])
lowered = grad.lower(wide, *both)
tuned = lowered.compile()


def loops():  # under shard_map, with a run whose weights come first there: how far from those alone
    chain, emissions = crf.init_crf(jax.random.key(0), 3), jax.random.normal(jax.random.key(1), (6, 8, 3))
    words = softmax.init_adaptive(jax.random.key(0), 4, 20, (4, 10))
    targets = jnp.arange(48).reshape(6, 8) % 20

    def over(f, *given, out):
        mapped = jax.shard_map(f, mesh=mesh, in_specs=P(None, "data"), out_specs=out)
        return apart(jax.jit(mapped)(*given), jax.jit(f)(*given))

    def windows(params, xs):
        def of_window(params, xs, state):
            state, ys = lstmjax.run(params, xs, state)
            return (ys**2).sum(), state

        return lstmjax.truncated_value_and_grad(of_window, 4)(params, xs, lstmjax.init_state(params, xs.shape[1]))[1]

    # Of a size that has a loop for each half of a batch.
    small = lstmjax.init_lstm(jax.random.key(0), 4, 128)

    def of_halves(params, xs):
        return (lstmjax.run(params, xs, backend=backend)[1] ** 2).sum() / 1000

    specs = dict(mesh=mesh, in_specs=(P(), P(None, "data")), out_specs=(P(), P(None, "data")))
    halves = jax.grad(of_halves, (0, 1))
    of_windows = jax.shard_map(windows, mesh=mesh, in_specs=(P(), P(None, "data")), out_specs=P())
    return [
        over(lambda e: crf.viterbi(chain, e), emissions, out=(P(None, "data"), P("data"))),
        over(lambda h, y: softmax.adaptive_surprisal(words, h, y), xs, targets, out=P(None, "data")),
        apart(jax.jit(of_windows)(params, xs), jax.jit(windows)(params, xs)),
        over(lambda xs: lstmjax.run(wide, xs, backend=backend)[1], many[0], out=P(None, "data")),
        apart(jax.jit(jax.shard_map(halves, **specs))(small, many[0]), jax.jit(halves)(small, many[0])),
    ]

print(json.dumps({
    "shard_map": apart(jax.jit(jax.grad(mapped))(params, xs, lengths)),
    "jit": apart(compiled(params, *split)),
    "gathers": compiled.as_text().count("all-gather("),
    "moved": sum(tuned.as_text().count(name + "(") for name in ("all-gather", "all-to-all", "collective-permute")),
    "first": "tensor<516x129xf32>, tensor<129x32xf32>" in lowered.as_text(),
    "tuned": apart(tuned(wide, *both), grad(wide, *many)),
    "loops": loops(),
    "on": [len(a.sharding.device_set) for a in jax.tree.leaves((split, compiled(params, *split)))],
    "rows": [s.data.shape for s in split[0].addressable_shards],
    "refused": refused({"xs": xs[:, :7]}),
}))
"""


# A task in whose batches sentences and predicates, which are not equally many, are both dealt to the devices.
ROLES = """
import json
import jax, jax.numpy as jnp
jax.config.update("jax_num_cpu_devices", 2)
from lstmjax import devices, tag
from tests.test_tagger import SMALL, _said

training, dev = (tag.frames(_said(n, n)) for n in (25, 8))
recipe = SMALL._replace(reach=2, epochs=2, hidden=(8,), above=(8,), batch_size=14, dropout=0.0, word_dropout=0.0)
alone, both = (jax.tree.leaves(tag.fit(training, dev, recipe, mesh=m)[0].params) for m in (None, devices.mesh()))
print(json.dumps({
    "apart": max(float(jnp.abs(a - b).max()) for a, b in zip(alone, both, strict=True)),
    "on": [len(a.sharding.device_set) for a in both],
}))
"""


# Members that two devices share, each with the whole of every batch: of a tagger, trained one after the other, and of a
# classifier, by `vmap`. The batches are odd, so that none could be split.
MEMBERS = """
import json, pathlib, sys
import jax, jax.numpy as jnp
jax.config.update("jax_num_cpu_devices", 2)
from lstmjax import classify, devices, members, tag
from lstmjax.train import Snapshots
from tests.test_tagger import SMALL, _said
from tests.test_train import RECORDS, SMALL as TEXTS

mesh, found = devices.sharing(4), []
tagged = tuple(tag.frames(_said(n, n)) for n in (25, 8))
for module, records, recipe in (
    (tag, tagged, SMALL._replace(members=2, reach=2, epochs=2, hidden=(8,), above=(8,), batch_size=13, average=0.9)),
    (classify, (RECORDS, RECORDS), TEXTS._replace(members=4, batch_size=5, dropout=0.3, clip=0.1)),
):
    with Snapshots(pathlib.Path(sys.argv[1]) / module.__name__) as snapshots:
        (alone, before), (both, fitted) = (
            module.fit(*records, recipe, **how) for how in ({}, {"mesh": mesh, "snapshots": snapshots})
        )
        again = module.fit(*records, recipe, mesh=mesh, snapshots=snapshots, resume=True)[0]
    leaves = [jax.tree.leaves(model.params) for model in (alone, both, again)]
    found.append({
        "apart": max(float(jnp.abs(a - b).max()) for a, b in zip(*leaves[:2], strict=True)),
        "losses": max(abs(a["loss"] / b["loss"] - 1) for a, b in zip(before.history, fitted.history, strict=True)),
        "again": max(float(jnp.abs(a - b).max()) for a, b in zip(*leaves[1:], strict=True)),
        "on": [len(a.sharding.device_set) for a in leaves[1]],
        "trained on": [len(a.sharding.device_set) for a in jax.tree.leaves(fitted.state.params)],
        "members of each": [a.addressable_shards[0].data.shape[0] for a in jax.tree.leaves(fitted.state.optimizer)],
    })
print(json.dumps({"found": found, "sharing": [devices.sharing(3) is None, mesh.size]}))
"""


def _found(program, *arguments):
    """What a program of its own process prints, since devices are counted once in each."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_roles_learnt_on_two_devices_are_as_on_one():
    found = _found(ROLES)
    assert found["apart"] < 1e-5
    assert set(found["on"]) == {2}


def test_members_shared_by_two_devices_are_as_on_one(tmp_path):
    both = _found(MEMBERS, str(tmp_path))
    assert both["sharing"] == [True, 2]
    for found, members in zip(both["found"], (2, 4), strict=True):
        assert found["apart"] < 1e-5
        assert found["losses"] < 1e-5
        assert found["again"] == 0
        assert set(found["on"]) == {1}
        assert set(found["trained on"]) == {2}
        assert set(found["members of each"]) == {members // 2}


@pytest.mark.parametrize("backend", ["scan", "fused"])
def test_two_devices_are_as_one(backend):
    found = _found(PROGRAM, backend)
    assert found["shard_map"] < 1e-5
    assert found["jit"] < 1e-5
    assert max(found["loops"]) < 1e-4
    assert found["gathers"] == 0
    assert found["moved"] == 0
    assert found["first"] == (backend == "fused")
    assert found["tuned"] < 1e-4
    assert set(found["on"]) == {2}
    assert found["rows"] == [[6, 4, 4], [6, 4, 4]]
    assert found["refused"] == "tree['xs'] should have a batch that 2 devices divide, got 7 at axis 1"


@pytest.mark.parametrize(
    ("tree", "options", "error", "words"),
    [
        ([1.0], {}, TypeError, r"tree\[0\] should be an array"),
        (np.zeros(3), dict(axis=1), ValueError, r"a batch at axis 1, got shape \(3,\)"),
        (np.zeros(3), dict(axis=-1), TypeError, "axis should be an int from 0 up, got -1"),
        (np.zeros(3), dict(axis=True), TypeError, "axis should be an int from 0 up, got True"),
        (np.zeros(3), dict(devices=[]), ValueError, "devices should be at least one"),
        (np.zeros(3), dict(devices=2), TypeError, "devices should be a list of JAX devices, got"),
        (np.full(3, None), {}, TypeError, "tree should be an array"),
    ],
)
def test_what_cannot_be_split_is_refused(tree, options, error, words):
    with pytest.raises(error, match=words):
        lstmjax.split_batch(tree, **options)
