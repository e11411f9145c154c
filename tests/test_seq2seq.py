"""Models of sequence to sequence: against NumPy, a step at a time, blind to padding, with gradients of their own."""

import itertools
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstmjax import decoding
from lstmjax.models import attend, seq2seq
from lstmjax.models.encoder import Options
from lstmjax.models.seq2seq import END, Batch
from tests.problems import QUICK

BATCH = Batch(
    np.array([[5, 7, 3, 0], [2, 0, 9, 9], [4, 4, 9, 8]], np.int32),
    np.array([3, 1, 4], np.int32),
    np.array([[3, 6, END, 7, 7], [2, 5, 5, 1, END], [END, 6, 6, 6, 6]], np.int32),
    np.array([3, 5, 1], np.int32),
)
NOISE = Options(dropout=0.3, word_dropout=0.2, recurrent=0.3, variational=True)

# Every weight that may be there or not is, and is not, in one of these.
MODELS = {
    "dot": dict(attention="dot", hidden=3, decoder=6, feeding=False),
    "dot, fed": dict(attention="dot", hidden=(4, 3), decoder=6, lexical=True),
    "general": dict(hidden=4, decoder=(5, 7), feeding=False, tied=False, lexical=True),
    "general, fed": dict(hidden=(3, 4), decoder=(5, 7)),
    "additive": dict(attention="additive", hidden=4, decoder=5, feeding=False),
    "additive, fed": dict(attention="additive", hidden=4, decoder=(6, 5), tied=False, bidirectional=False),
    "shared": dict(hidden=4, decoder=5, target=None),
}


def model(name, key=0, **changes):
    how = {"target": 8, "embedding": 5} | MODELS[name] | changes
    params = seq2seq.init(jax.random.key(key), 12, **how)
    # Biases of zero would hide a bias that is left out.
    return params._replace(bias=jax.random.normal(jax.random.key(9), params.bias.shape, params.bias.dtype))


def slow(params, source, target):
    """Logits [T, V] and attention [T, S] of one pair without padding, in float64 and loops."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def cell(layer, h, c, x):
        i, f, g, o = np.split(x @ layer.w_x + h @ layer.w_h + layer.b, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    def layer_of(layer, xs):
        h = c = np.zeros(len(layer.w_h))
        ys = []
        for x in xs:
            h, c = cell(layer, h, c, x)
            ys.append(h)
        return np.array(ys)

    words = p.embedding[source]
    values = words
    for layer in p.encoder:
        if hasattr(layer, "forward"):
            there, back = layer_of(layer.forward, values), layer_of(layer.backward, values[::-1])[::-1]
            values, end = np.concatenate([there, back], 1), np.concatenate([there[-1], back[0]])
        else:
            values = layer_of(layer, values)
            end = values[-1]
    states = []
    for bridge in p.bridge:
        h, c = np.split(end @ bridge.w + bridge.b, 2)
        states.append((np.tanh(h), c))
    table = p.embedding if p.target is None else p.target
    fed, logits, attention = np.zeros(p.combine.shape[1]), [], []
    for token in [END, *target[:-1]]:
        x = table[token]
        if p.decoder[0].w_x.shape[0] > len(x):
            x = np.concatenate([x, fed])
        for n, layer in enumerate(p.decoder):
            states[n] = cell(layer, *states[n], x)
            x = states[n][0]
        if p.attention.v is not None:
            scores = [np.tanh(x @ p.attention.query + m @ p.attention.keys) @ p.attention.v for m in values]
        elif p.attention.keys is not None:
            scores = [x @ (m @ p.attention.keys) for m in values]
        else:
            scores = [x @ m for m in values]
        a = np.exp(scores) / np.exp(scores).sum()
        fed = np.tanh(np.concatenate([a @ values, x]) @ p.combine)
        out = fed if p.project is None else fed @ p.project
        row = out @ (table.T if p.out is None else p.out) + p.bias
        if p.lexical is not None:
            named = np.tanh(a @ words)
            row = row + (np.tanh(named @ p.lexical.hidden) + named) @ p.lexical.out
        logits.append(row)
        attention.append(a)
    return np.array(logits), np.array(attention)


_loss_of = jax.jit(seq2seq.loss, static_argnames=("options", "sampling"), compiler_options=QUICK)
_taught = jax.jit(seq2seq._teach, static_argnums=(2, 4), compiler_options=QUICK)  # one program for two tests


def rows(batch=BATCH):
    """The pairs without padding."""
    for source, n, target, m in zip(*batch, strict=True):
        yield source[:n], target[:m]


@pytest.mark.parametrize("name", MODELS)
def test_it_is_its_equations(name):
    params = model(name)
    found, attention = (jnp.swapaxes(part, 0, 1) for part in _taught(params, BATCH, Options(), None, 0.0))
    for k, (source, target) in enumerate(rows()):
        logits, looks = slow(params, source, target)
        np.testing.assert_allclose(found[k, : len(target)], logits, atol=1e-5)
        np.testing.assert_allclose(attention[k, : len(target), : len(source)], looks, atol=1e-6)
        assert (attention[k, :, len(source) :] == 0).all()


def test_what_is_made_of_logits():
    params = model("dot")
    total = 0.0
    found, log_p = seq2seq.apply(params, BATCH), seq2seq.log_p(params, BATCH)
    for k, (source, target) in enumerate(rows()):
        logits, _ = slow(params, source, target)
        np.testing.assert_allclose(found[k, : len(target)], logits, atol=1e-5)
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        each = np.log(p[np.arange(len(target)), target])
        np.testing.assert_allclose(log_p[k], each.sum(), rtol=1e-5)
        total += each.sum()
    np.testing.assert_allclose(seq2seq.loss(params, BATCH), -total / 9, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_step_at_a_time_is_the_same(name):
    params = model(name)
    together, looks = (jnp.swapaxes(part, 0, 1) for part in _taught(params, BATCH, Options(), None, 0.0))
    step = jax.jit(seq2seq.step, compiler_options=QUICK)
    for k, (_, target) in enumerate(rows()):
        memory, state = seq2seq.encode(params, jnp.asarray(BATCH.source[k]), jnp.asarray(BATCH.source_lengths[k]))
        for t, token in enumerate([END, *target[:-1]]):
            state, logits = step(params, memory, state, jnp.int32(token))
            np.testing.assert_allclose(logits, together[k, t], atol=1e-5)
            np.testing.assert_allclose(state.attention, looks[k, : t + 1].sum(0), atol=1e-5)


@pytest.mark.parametrize("name", ["dot", "general, fed", "additive, fed"])
def test_padding_changes_nothing(name):
    params = model(name)
    value = jax.jit(jax.value_and_grad(seq2seq.loss), compiler_options=QUICK)
    wider = Batch(
        np.pad(BATCH.source, ((0, 0), (0, 3)), constant_values=11),
        BATCH.source_lengths,
        np.pad(BATCH.target, ((0, 0), (0, 2)), constant_values=6),
        BATCH.target_lengths,
    )
    more = jax.tree.map(lambda a: np.concatenate([a, np.zeros_like(a)]), BATCH)  # and pairs without words
    for other in (wider, more):
        chex.assert_trees_all_close(value(params, other), value(params, BATCH), atol=1e-6)
    chex.assert_tree_all_finite(value(params, more))


@pytest.mark.parametrize("name", ["dot, fed", "general, fed", "additive, fed", "general"])
def test_gradients_by_differences(name, x64):
    """Along a random line through all weights, with dropout at work."""
    params, key = model(name, dtype="float64"), jax.random.key(3)
    plain = partial(seq2seq.loss, options=NOISE._replace(variational=False))
    loss = jax.jit(plain, compiler_options=QUICK)
    gradient = jax.jit(jax.grad(plain), compiler_options=QUICK)(params, BATCH, key)
    leaves, tree = jax.tree.flatten(params)
    for field in (None, *params._fields):
        line = [jax.random.normal(jax.random.key(n), a.shape, a.dtype) for n, a in enumerate(leaves)]
        line = jax.tree.unflatten(tree, line)
        if field is not None:  # this weight alone
            line = jax.tree.map(jnp.zeros_like, line)._replace(**{field: getattr(line, field)})
        ahead, behind = (jax.tree.map(lambda a, d, s=s: a + s * 1e-5 * d, params, line) for s in (1, -1))
        slope = (loss(ahead, BATCH, key) - loss(behind, BATCH, key)) / 2e-5
        along = sum((g * d).sum() for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(line), strict=True))
        np.testing.assert_allclose(along, slope, rtol=1e-5, atol=1e-8)


def _carried(function, *args):
    """The shapes that the loops of a function carry."""
    found = set()

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "scan":
                first, n = equation.params["num_consts"], equation.params["num_carry"]
                found.update(v.aval.shape for v in equation.invars[first : first + n])
            for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
                walk(inner) if hasattr(inner, "eqns") else walk(inner.jaxpr) if hasattr(inner, "jaxpr") else None

    walk(jax.make_jaxpr(function)(*args).jaxpr)
    return found


def test_no_gradient_of_a_weight_is_carried_by_the_loop(monkeypatch):
    params = model("general, fed")
    weights = {params.combine.shape, params.decoder[1].w_x.shape, params.decoder[1].w_h.shape}
    held = {(3, 4, 8), (3, 7, 4)}  # what is attended to, and its keys
    assert not _carried(jax.grad(seq2seq.loss), params, BATCH) & (weights | held)
    monkeypatch.setattr(attend, "_unroll", lambda *args: attend._loop(*args)[0])
    assert _carried(jax.grad(seq2seq.loss), params, BATCH) >= weights


@pytest.mark.parametrize("name", ["general", "additive, fed"])
def test_models_side_by_side_are_each_alone(name):
    keys = jax.random.split(jax.random.key(1), 2)
    how = {"target": 8, "embedding": 5} | MODELS[name]
    both = jax.vmap(lambda key: seq2seq.init(key, 12, **how))(keys)
    value = jax.value_and_grad(lambda params, key: seq2seq.loss(params, BATCH, key, options=NOISE))
    together = jax.jit(jax.vmap(value), compiler_options=QUICK)(both, keys)
    alone = jax.jit(value, compiler_options=QUICK)(jax.tree.map(lambda a: a[1], both), keys[1])
    chex.assert_trees_all_close(jax.tree.map(lambda a: a[1], together), alone, atol=1e-5)


def test_dropout_is_of_the_key_alone():
    for name in ("general", "general, fed"):
        params = model(name)
        one, two, again = (_loss_of(params, BATCH, jax.random.key(n), options=NOISE) for n in (0, 1, 0))
        assert one == again
        assert one != two
        plain = _loss_of(params, BATCH)
        assert _loss_of(params, BATCH, options=NOISE) == plain
        for field in ("dropout", "word_dropout", "recurrent"):  # each does something by itself
            assert _loss_of(params, BATCH, jax.random.key(0), options=Options(**{field: 0.5})) != plain


def test_variational_masks_are_the_same_at_every_step():
    params = seq2seq.init(jax.random.key(0), 12, 8, decoder=(64, 32))
    for variational in (True, False):
        options = NOISE._replace(variational=variational)
        between, layers, fed = attend._masks(params, 6, options, jax.random.key(0), jnp.float32)
        mask = between["between1"]
        assert mask.shape == (6, 64)
        assert bool((mask == mask[:1]).all()) == variational
        for part in (mask, *layers, fed):
            assert 0 < (part == 0).mean() < 0.6
            np.testing.assert_allclose(jnp.unique(part), [0, 1 / 0.7], rtol=1e-6)
        assert [len(part) for part in (*layers, fed)] == [64, 32, 32]


def test_sampling_puts_in_what_the_model_says():
    params = model("general, fed")
    params = params._replace(bias=jnp.zeros(8).at[3].set(40))  # it always says 3
    key = jax.random.key(0)
    found = _taught(params, BATCH, Options(), key, 0.99999)[0]
    said = _taught(params, BATCH._replace(target=np.full_like(BATCH.target, 3)), Options(), None, 0.0)[0]
    np.testing.assert_allclose(found, said, atol=1e-4)
    taught = _taught(params, BATCH, Options(), None, 0.0)[0]
    assert abs(found - taught).max() > 1e-3
    np.testing.assert_allclose(_taught(params, BATCH, Options(), key, 0.0)[0], taught, atol=1e-6)
    np.testing.assert_allclose(_taught(params, BATCH, Options(), None, 0.5)[0], taught, atol=1e-6)


def test_sampling_draws_by_keys_of_its_own(monkeypatch):
    """No key that is made from the one given is made twice."""
    made = []

    def watched(name):
        plain = getattr(jax.random, name)

        def make(key, *args):
            keys = plain(key, *args)
            if not isinstance(keys, jax.core.Tracer):
                made.extend(map(tuple, np.asarray(jax.random.key_data(keys)).reshape(-1, 2).tolist()))
            return keys

        monkeypatch.setattr(jax.random, name, make)

    watched("split")
    watched("fold_in")
    params, key = model("general, fed"), jax.random.key(3)
    del made[:]
    jax.random.split(key, (2, 3))
    seq2seq.loss(params, BATCH, key)
    assert made[:6] == made[6:12]  # of these all else is made, as it was before there was sampling
    del made[:]
    seq2seq.loss(params, BATCH, key, sampling=0.5)
    assert len(made) == len(set(made)) > 6


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["dot, fed", "additive, fed", "general"])
def test_narrow_models_keep_what_they_add_up_wide(name, dtype):
    params = model(name, dtype=dtype)
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), params)
    source, n = jnp.asarray(BATCH.source[0]), jnp.asarray(BATCH.source_lengths[0])

    @partial(jax.jit, compiler_options=QUICK)
    def found(params):
        memory, state = seq2seq.encode(params, source, n)
        step = partial(seq2seq.step, params, memory)
        after, logits = step(state, jnp.int32(3))
        return after, logits, decoding.greedy(step, state, start=END, end=END, steps=6)

    (state, logits, searched), (_, plain, _) = found(params), found(wide)
    assert {a.dtype.name for a in jax.tree.leaves((state.layers, state.attention, searched.log_p))} == {"float32"}
    assert logits.dtype == dtype
    np.testing.assert_allclose(logits.astype(jnp.float32), plain, atol=0.05)
    value = jax.jit(jax.value_and_grad(partial(seq2seq.loss, options=NOISE)), compiler_options=QUICK)
    (loss, gradient), (other, expected) = (value(p, BATCH, jax.random.key(1)) for p in (params, wide))
    np.testing.assert_allclose(loss.astype(jnp.float32), other, rtol=0.02)
    for one, two in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        assert one.dtype == dtype
        np.testing.assert_allclose(one.astype(jnp.float32), two, atol=0.05)


def test_a_source_without_words_has_no_name_for_what_stands_in_it():
    """Of a lexical model, that looks at padding where there is nothing else."""
    params = model("dot, fed")
    value = jax.jit(jax.value_and_grad(lambda p, ids: seq2seq.loss(p, empty._replace(source=ids))))
    empty = BATCH._replace(source_lengths=np.array([0, 1, 0], np.int32))
    expected = value(params, jnp.zeros((3, 4), jnp.int32).at[1, 0].set(2))
    chex.assert_tree_all_finite(expected)
    for padding in (7, 99):  # 99 is no word, and its vector NaN
        ids = jnp.full((3, 4), padding, jnp.int32).at[1, 0].set(2)
        chex.assert_trees_all_equal(value(params, ids), expected)


@pytest.mark.parametrize("token", [-1, 8])
def test_a_token_out_of_range_is_nan(token):
    """The last of a target, so that it is not put in; of padding it is nothing."""
    params, log_p = model("dot"), jax.jit(seq2seq.log_p, compiler_options=QUICK)
    target = jnp.asarray(BATCH.target)
    plain = log_p(params, BATCH)
    np.testing.assert_allclose(log_p(params, BATCH._replace(target=target.at[0, 3].set(token))), plain, rtol=1e-6)
    found = log_p(params, BATCH._replace(target=target.at[0, 2].set(token)))
    assert jnp.isnan(found).tolist() == [True, False, False]
    narrow = BATCH._replace(target=BATCH.target.astype(np.uint8))
    np.testing.assert_array_equal(log_p(params, narrow), plain)


def test_forward_mode_is_refused_where_h_is_fed():
    params = model("dot, fed")
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(lambda p: seq2seq.loss(p, BATCH), (params,), (params,))


PROGRAM = """
import json
from functools import partial
import jax, jax.numpy as jnp
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
from jax.sharding import AxisType, PartitionSpec as P
from lstmjax import decoding
from lstmjax.models import seq2seq

mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
params = seq2seq.init(jax.random.key(0), 12, 8, embedding=5, hidden=4, decoder=(5, 6), lexical=True)
source, n = jax.random.randint(jax.random.key(1), (4, 6), 1, 12), jnp.array([6, 3, 5, 1])
target, m = jax.random.randint(jax.random.key(2), (4, 5), 1, 8), jnp.array([2, 5, 4, 3])
batch, keys = seq2seq.Batch(source, n, target, m), jax.random.split(jax.random.key(3), 4)

def loss(params, batch):
    return -seq2seq.log_p(params, batch).sum() + 14 * seq2seq.loss(params, batch)  # 7 tokens on each device

def searched(params, source, n, keys):
    def one(ids, n, key):
        memory, state = seq2seq.encode(params, ids, n)
        step, how = partial(seq2seq.step, params, memory), dict(start=0, end=0, steps=9, limit=n + 3)
        bonus = lambda state: decoding.coverage(state.attention, n, 0.2)
        return (
            decoding.greedy(step, state, **how),
            decoding.beam(step, state, **how, width=3, bonus=bonus),
            decoding.sample(key, step, state, **how, top_k=5, top_p=0.9),
        )
    return jax.vmap(one)(source, n, keys)

def apart(one, two):
    return max(float(jnp.abs(a - b).max()) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True))

split = partial(jax.shard_map, mesh=mesh)
over_both = split(lambda *a: jax.lax.psum(loss(*a), "data") - 0.0, in_specs=(P(), P("data")), out_specs=P())
parts = dict(in_specs=(P(), P("data"), P("data"), P("data")), out_specs=P("data"))
given = params, source, n, keys
print(json.dumps({
    "loss": apart(*(jax.jit(jax.value_and_grad(f))(params, batch) for f in (over_both, lambda p, b: sum(
        loss(p, jax.tree.map(lambda a: a[rows], b)) for rows in (slice(0, 2), slice(2, 4))
    )))),
    "search": apart(jax.jit(split(searched, **parts))(*given), jax.jit(searched)(*given)),
}))
"""


def test_batches_split_over_devices():
    """Under shard_map: the loss and its gradient, and every search."""
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["loss"] < 1e-4
    assert found["search"] < 1e-5


@partial(jax.jit, static_argnums=3, compiler_options=QUICK)
def _searched(params, source, n, steps):
    """What a beam as wide as all sequences finds, and greedy search."""
    memory, state = seq2seq.encode(params, source, n)
    step, how = partial(seq2seq.step, params, memory), dict(start=END, end=END, steps=steps)
    return decoding.beam(step, state, **how, width=3**steps), decoding.greedy(step, state, **how)


def test_search_against_every_sequence_there_is():
    """Of a vocabulary of 4 and at most 4 tokens, the end among them."""
    steps, sizes = 4, set()
    for key, name in itertools.product((1, 2), ("general, fed", "dot")):
        params = jax.tree.map(lambda a: 3 * a, model(name, key=key, target=4))  # so that they have an opinion
        params = params._replace(bias=jnp.zeros(4).at[END].set(-0.5))
        source, n = jnp.array([5, 7, 3, 0]), jnp.array(3)
        every = [(*tokens, END) for size in range(steps) for tokens in itertools.product(range(1, 4), repeat=size)]
        target = np.array([[*tokens, *[0] * (steps - len(tokens))] for tokens in every], np.int32)
        many = len(every)
        batch = Batch(
            np.broadcast_to(source, (many, 4)),
            np.full(many, 3, np.int32),
            target,
            np.array(list(map(len, every)), np.int32),
        )
        log_p = np.asarray(jax.jit(seq2seq.log_p, compiler_options=QUICK)(params, batch))
        wide, greedy = _searched(params, source, n, steps)
        order = np.argsort(-log_p)
        for rank in range(5):
            best = every[order[rank]][:-1]
            assert wide.tokens[rank, : len(best)].tolist() == list(best)
            assert int(wide.length[rank]) == len(best)
            np.testing.assert_allclose(wide.log_p[rank], log_p[order[rank]], rtol=1e-5)
        tokens = []
        for t in range(steps):
            prefix = np.array([[*tokens, *[0] * (steps - t)]], np.int32)
            one = Batch(source[None], n[None], prefix, np.array([t + 1], np.int32))
            tokens.append(int(_taught(params, one, Options(), None, 0.0)[0][t, 0].argmax()))
            if tokens[-1] == END:
                break
        tokens = [token for token in tokens if token != END]
        assert greedy.tokens[: len(tokens)].tolist() == tokens
        sizes |= {int(wide.length[0]), int(greedy.length)}
    assert len(sizes) > 2


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: model("dot", attention="cosine"), ValueError, "attention should be one of 'dot'"),
        (lambda: model("dot", decoder=5), ValueError, "as wide as the outputs of the encoder, 6, got 5"),
        (lambda: model("dot", decoder=()), ValueError, "decoder should hold the width of at least one layer"),
        (lambda: model("general", decoder=(4, 0)), ValueError, "decoder should be an int of at least 1"),
        (lambda: model("dot", bidirectional=1), TypeError, "bidirectional should be True or False"),
        (lambda: model("dot", feeding=1), TypeError, "feeding should be True or False"),
        (lambda: model("dot", target=0), ValueError, "target should be an int of at least 1"),
        (lambda: _loss(source=BATCH.source + 9), ValueError, "batch.source should"),
        (lambda: _loss(target=BATCH.target + 3), ValueError, "batch.target should"),
        (
            lambda: _loss(target=BATCH.target[:2], target_lengths=BATCH.target_lengths[:2]),
            ValueError,
            "as many sources",
        ),
        (lambda: _loss(source=BATCH.source[0]), ValueError, r"batch.source should be \[B, T\]"),
        (lambda: _loss(source_lengths=BATCH.source_lengths + 2), ValueError, "batch.source_lengths should"),
        (lambda: seq2seq.loss(model("dot"), BATCH, 3), TypeError, "key should be"),
        (lambda: seq2seq.loss(model("dot"), BATCH, options=Options(recurrent=1.0)), ValueError, "options.recurrent"),
        (lambda: seq2seq.loss(model("dot"), BATCH, sampling=2.0), ValueError, "sampling should"),
        (lambda: seq2seq.apply(model("dot"), BATCH, Options(smoothing=2.0)), ValueError, "options.smoothing should"),
        (
            lambda: seq2seq.apply(model("dot"), BATCH, {"dropout": 0.1}),
            TypeError,
            r"options should be Options\(.* dict",
        ),
        (lambda: seq2seq.loss(model("dot"), tuple(BATCH)), TypeError, r"batch should be Batch\(source, .* got tuple"),
        (lambda: seq2seq.loss(None, BATCH), TypeError, r"params should be Params\(embedding, .* got NoneType"),
        (lambda: seq2seq.encode(model("dot"), jnp.array([1]), 1, key=3), TypeError, "key should be a PRNG key"),
        (lambda: seq2seq.encode(None, jnp.array([1]), 1), TypeError, "params should be Params"),
        (lambda: _step(8), ValueError, r"token should lie in \[0, 8\)"),
        (lambda: _step(1.0), TypeError, "token should be an array of ints"),
        (lambda: _step([1]), ValueError, r"token should be one int, got shape \(1,\)"),
        (
            lambda: seq2seq.encode(model("dot"), jnp.zeros((2, 2), int), jnp.array(1)),
            ValueError,
            r"ids should be \[S\]",
        ),
    ],
)
def test_refusals(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def _step(token):
    params = model("dot")
    return seq2seq.step(params, *seq2seq.encode(params, jnp.array([1]), 1), jnp.asarray(token))


def _loss(**changes):
    return seq2seq.loss(model("dot"), BATCH._replace(**changes))
