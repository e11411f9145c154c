"""The language model and its softmaxes and cache, against NumPy in float64 and brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstmjax
from lstmjax import decoding, losses, regularise, softmax
from lstmjax.cache import Cache, init_memory, mix
from lstmjax.layers import dropout, embed
from lstmjax.models import language_model
from lstmjax.models.language_model import Batch, Options
from lstmjax.softmax import Negatives
from tests.problems import cast

V, T, B = 11, 6, 3


def _params(seed=0, **options):
    """Weights, none of them zero."""
    options = dict(embedding=4, hidden=(5, 5)) | options
    params = language_model.init(jax.random.key(seed), V, **options)
    return jax.tree.map(lambda a: a + 0.1 * jax.random.normal(jax.random.key(1), a.shape, a.dtype), params)


def _batch(seed=0, time=T, columns=B):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, V, (time + 1, columns)).astype(np.int32)
    weights = np.ones((time, columns), np.float32)
    weights[-2:, 0] = 0
    return Batch(ids[:-1], ids[1:], weights)


def _state(params, columns=B):
    state = language_model.begin(params, columns)
    return jax.tree.map(lambda a: 0.3 * jax.random.normal(jax.random.key(2), a.shape, a.dtype), state)


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


def _slow_loss(params, state, batch, ar, tar):
    """Loop by loop; the second result is the state."""
    xs = np.array([[params.embedding[word] for word in row] for row in batch.inputs])
    after = []
    for layer, (h, c) in zip(params.layers, jax.tree.map(np.asarray, state), strict=True):
        ys = []
        for x in xs:
            i, f, g, o = np.split(x @ layer.w_x + h @ layer.w_h + layer.b, 4, -1)
            c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
            h = _sigmoid(o) * np.tanh(c)
            ys.append(h)
        after.append((h, c))
        xs = np.array(ys)
    total, changes, squares = 0.0, [], []
    for t in range(len(xs)):
        for b in range(xs.shape[1]):
            if not batch.weights[t, b]:
                continue
            h = xs[t, b] if params.projection is None else xs[t, b] @ params.projection
            words = params.embedding if params.head.w is None else params.head.w
            scores = words @ h + params.head.b
            total += np.log(np.exp(scores).sum()) - scores[batch.targets[t, b]]
            squares.append((xs[t, b] ** 2).mean())
            if t and batch.weights[t - 1, b]:
                changes.append(((xs[t, b] - xs[t - 1, b]) ** 2).mean())
    return total / batch.weights.sum() + ar * np.mean(squares) + tar * np.mean(changes), after


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [dict(), dict(tied=False), dict(embedding=5)], ids=["projected", "untied", "tied"])
def test_loss_and_gradient_equal_numpy(shape):
    """With a part of w_h dropped, and what outputs cost."""
    params = cast(_params(**shape), np.float64)
    assert (params.projection is not None) == (shape == {})
    state, batch, key = cast(_state(params), np.float64), _batch(), jax.random.key(3)
    options = Options(weights=0.4, ar=2.0, tar=3.0)

    def loss(params):
        return language_model.loss(params, state, batch, key, options=options)

    (value, after), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    work = regularise.Training(regularise.Regularisers(weights=0.4), jax.random.split(key, 5)[2])

    def slow(params):
        layers = []
        for k, layer in enumerate(params.layers):
            ones = layer._replace(w_h=jnp.ones(layer.w_h.shape))
            mask = regularise.of_layer(work.below(k), ones, jnp.ones((1, 1, layer.w_x.shape[0])), jnp.float64)[0].w_h
            assert 0.2 < float((mask == 0).mean()) < 0.6
            layers.append(layer._replace(w_h=layer.w_h * np.asarray(mask)))
        return _slow_loss(params._replace(layers=tuple(layers)), state, batch, 2.0, 3.0)

    params = jax.tree.map(np.asarray, params)
    expected, states = slow(params)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(after[1].c, states[1][1], rtol=1e-12)
    rng = np.random.default_rng(0)
    for _ in range(3):
        way = jax.tree.map(lambda a: rng.normal(size=a.shape), params)
        sides = [slow(jax.tree.map(lambda a, d, e=e: a + e * d, params, way))[0] for e in (1e-6, -1e-6)]
        found = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), gradients, way)))
        np.testing.assert_allclose(found, (sides[0] - sides[1]) / 2e-6, rtol=1e-6)


def test_without_a_key_nothing_is_dropped_and_nothing_added():
    params, batch = _params(), _batch()
    loud = Options(dropout=0.5, recurrent=0.5, weights=0.5, words=0.5, ar=9.0, tar=9.0, samples=2)
    one, _ = language_model.loss(params, _state(params), batch, options=loud)
    two, _ = language_model.loss(params, _state(params), batch)
    assert float(one) == float(two)
    three, _ = language_model.loss(params, _state(params), batch, jax.random.key(0), options=loud)
    assert float(three) != float(one)


def test_large_outputs_cost_after_dropout_and_changes_before_it():
    params, batch, key = _params(), _batch(), jax.random.key(4)
    plain = Options(dropout=0.5)
    base, _ = language_model.loss(params, _state(params), batch, key, options=plain)
    _, ys = language_model.outputs(params, batch.inputs, _state(params), plain, key)
    dropped, counts = dropout(jax.random.split(key, 5)[3], 0.5, ys, shared=(0,)), jnp.asarray(batch.weights > 0)
    for options, expected in (
        (plain._replace(ar=1.0), losses.activation_penalty(dropped, counts)),
        (plain._replace(tar=1.0), losses.temporal_activation_penalty(ys, counts)),
    ):
        found, _ = language_model.loss(params, _state(params), batch, key, options=options)
        np.testing.assert_allclose(found - base, expected, rtol=1e-4)


def test_what_a_window_is_filled_up_with_changes_nothing():
    params, batch = _params(), _batch()
    batch = batch._replace(weights=np.ones_like(batch.weights))
    long = Batch(
        *(
            np.concatenate([part, np.full((4, B), fill, part.dtype)])
            for part, fill in zip(batch[:3], (7, 3, 0), strict=True)
        )
    )
    options, key = Options(ar=1.0, tar=1.0), jax.random.key(0)
    found = []
    for one in (batch, long._replace(lengths=np.full(B, T, np.int32))):
        (value, state), gradients = jax.value_and_grad(
            lambda p, one=one: language_model.loss(p, _state(p), one, key, options=options), has_aux=True
        )(params)
        found.append((value, state, gradients))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_whole_words_are_dropped_wherever_they_are_read():
    """The gradient of a word that is dropped is zero, though it is read six times."""
    params = _params(tied=False, hidden=(5,))
    ids = jnp.broadcast_to(jnp.arange(V, dtype=jnp.int32), (6, V))
    batch = Batch(ids, ids, jnp.ones(ids.shape))
    state, options = language_model.begin(params, V), Options(words=0.5)

    def table(key):
        return jax.grad(lambda p: language_model.loss(p, state, batch, key, options=options)[0])(params).embedding

    gone = np.array(
        [(np.asarray(row) == 0).all(-1) for row in jax.vmap(table)(jax.random.split(jax.random.key(0), 60))]
    )
    assert 0.4 < gone.mean() < 0.6
    assert len(np.unique(gone, axis=0)) > 10


def test_variational_dropout_is_the_same_at_every_step():
    """Of the same word at each step."""
    params = _params(hidden=(5,), embedding=5)
    params = params._replace(embedding=jnp.ones((V, 5)))
    ids = jnp.zeros((4, 2), jnp.int32)
    # With weights of h and forget gates shut, the outputs of all steps are one function of what is dropped.
    layer = params.layers[0]._replace(w_h=jnp.zeros((5, 20)), b=jnp.repeat(jnp.array([0.0, -99, 0, 0]), 5))
    params = params._replace(layers=(layer,))
    for variational in (True, False):
        options = Options(dropout=0.5, variational=variational)
        _, ys = language_model.outputs(params, ids, None, options, jax.random.key(0))
        assert bool((ys == ys[:1]).all()) == variational
        assert not bool((ys[:, 0] == ys[:, 1]).all())  # each column has its own


# --- softmaxes over many words ---------------------------------------------------------------------------------------


def _rows(n=7, classes=V, features=4, seed=0):
    rng = np.random.default_rng(seed)
    h, w, b = (rng.normal(size=shape).astype(np.float32) for shape in ((n, features), (classes, features), (classes,)))
    return h, w, b, rng.integers(0, classes, n).astype(np.int32)


def test_a_sample_of_all_words_is_the_softmax():
    h, w, b, targets = _rows()
    everything = softmax.draw_negatives(jax.random.key(0), V, V)
    shuffled = everything._replace(ids=jax.random.permutation(jax.random.key(1), everything.ids))

    def full(h, w, b):
        return softmax.surprisal(h @ w.T + b[None], targets).sum()

    def sampled(h, w, b):
        return softmax.sampled_surprisal(h, w, b, targets, shuffled).sum()

    one, two = (jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(h, w, b) for loss in (full, sampled))
    for a, b in zip(*map(jax.tree.leaves, (one, two)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_sample_equals_loops():
    """One negative is the target of a row, where it does not count twice."""
    h, w, b, targets = _rows()
    counts = np.linspace(0.1, 1.0, V).astype(np.float32)
    ids = np.array([targets[0], (targets[0] + 1) % V, (targets[0] + 5) % V], np.int32)
    found = softmax.sampled_surprisal(h, w, b, targets, softmax.Negatives(ids, jnp.log(counts)))
    for row, target in enumerate(targets):
        s = (h[row].astype(float) @ w.T + b) - np.log(counts)
        others = [k for k in ids if k != target]
        expected = np.log(np.exp(s[target]) + np.exp(s[others]).sum()) - s[target]
        np.testing.assert_allclose(found[row], expected, rtol=1e-5)
    again = jax.vmap(lambda h, y: softmax.sampled_surprisal(h, w, b, y, softmax.Negatives(ids, jnp.log(counts))))
    np.testing.assert_allclose(again(h, targets), found, rtol=1e-6)


def test_a_row_whose_only_negative_is_its_target_has_a_gradient():
    h, w, b, _ = _rows(1)
    negatives = softmax.Negatives(jnp.array([3], jnp.int32), jnp.zeros(V))
    value, gradient = jax.value_and_grad(
        lambda h: softmax.sampled_surprisal(h, w, b, jnp.array([3], jnp.int32), negatives).sum()
    )(h)
    assert float(value) == 0
    assert (gradient == 0).all()


def test_sums_over_a_sample_are_right_in_the_mean():
    """Each word counts once in the mean, when it is divided by its expected count; none is drawn twice."""
    classes, samples, draws = 50, 10, 20000

    def found(key):
        ids, log_counts = softmax.draw_negatives(key, classes, samples)
        there = jnp.zeros(classes).at[ids].add(1)
        return there, there / jnp.exp(log_counts)

    there, counted = jax.jit(jax.vmap(found))(jax.random.split(jax.random.key(0), draws))
    assert float(there.max()) == 1
    assert (there.sum(-1) == samples).all()
    spread = np.asarray(counted).std(0) / np.sqrt(draws)
    np.testing.assert_array_less(np.abs(np.asarray(counted).mean(0) - 1), 4 * spread)
    often = np.asarray(there).mean(0)
    assert often[0] > 0.8 > 0.2 > often[-1]  # the frequent ones first


def test_a_small_sample_has_its_least_at_the_right_softmax():
    """Trained on words drawn from p with 4 negatives of 11, the logits come to log p."""
    p = np.arange(1, V + 1)[::-1] / np.arange(1, V + 1).sum()
    w, h = jnp.zeros((V, 1)), jnp.ones((512, 1))

    def loss(b, key):
        k_words, k_samples = jax.random.split(key)
        words = jax.random.categorical(k_words, jnp.log(jnp.asarray(p, jnp.float32)), shape=(512,)).astype(jnp.int32)
        return softmax.sampled_surprisal(h, w, b, words, softmax.draw_negatives(k_samples, V, 4)).mean()

    def step(carry, k):
        b, mean = carry
        b = b - 1.0 * jax.grad(loss)(b, jax.random.fold_in(jax.random.key(0), k))
        return (b, mean + jnp.where(k >= 500, b / 1500, 0)), None

    (_, b), _ = jax.jit(lambda: jax.lax.scan(step, (jnp.zeros(V), jnp.zeros(V)), jnp.arange(2000)))()
    np.testing.assert_allclose(jax.nn.softmax(b), p, rtol=0.15)  # without the counts the first would be a twentieth


def _adaptive(classes=40, features=8):
    params = softmax.init_adaptive(jax.random.key(0), features, classes, (10, 25))
    return jax.tree.map(lambda a: a + 0.3 * jax.random.normal(jax.random.key(1), a.shape, a.dtype), params)


def test_adaptive_equals_loops_and_sums_to_one():
    params, h = _adaptive(), _rows(5, features=8)[0]
    found = softmax.adaptive_log_p(params, h)
    assert found.shape == (5, 40)
    np.testing.assert_allclose(np.exp(found).sum(-1), 1, rtol=1e-5)
    w, b = np.asarray(params.head.w, float), np.asarray(params.head.b, float)
    for row in range(5):
        head = np.exp(h[row] @ w + b)
        head = head / head.sum()
        expected = list(head[:10])
        for k, tail in enumerate(params.tails):
            within = np.exp(h[row] @ np.asarray(tail.narrow, float) @ np.asarray(tail.words, float))
            expected += list(head[10 + k] * within / within.sum())
        np.testing.assert_allclose(found[row], np.log(expected), rtol=1e-4)
    assert [tail.narrow.shape[1] for tail in params.tails] == [2, 1]


@pytest.mark.parametrize("where", ["all", "head only", "last tail only"])
def test_adaptive_surprisal_is_exact(where):
    """With blocks that are full, in part and not at all of a tail; value and gradient."""
    n = 300
    params, h = _adaptive(), _rows(n, features=8)[0]
    low, high = {"all": (0, 40), "head only": (0, 10), "last tail only": (25, 40)}[where]
    targets = np.random.default_rng(0).integers(low, high, n).astype(np.int32)

    def slow(params, h):
        return -softmax.adaptive_log_p(params, h)[jnp.arange(n), targets].mean()

    def quick(params, h):
        return softmax.adaptive_surprisal(params, h, targets).mean()

    one, two = (jax.jit(jax.value_and_grad(loss, (0, 1)))(params, h) for loss in (slow, quick))
    for a, b in zip(*map(jax.tree.leaves, (one, two)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    mapped = jax.vmap(lambda h, y: softmax.adaptive_surprisal(params, h, y))(h[:6], targets[:6])
    np.testing.assert_allclose(mapped, softmax.adaptive_surprisal(params, h[:6], targets[:6]), rtol=1e-5)


def test_a_target_out_of_range_is_nan_under_tracing():
    h, w, b, _ = _rows(3)
    for targets in (jnp.array([0, -1, V], jnp.int32),):
        found = jax.jit(softmax.surprisal)(h @ w.T + b, targets)
        assert np.isnan(np.asarray(found)).tolist() == [False, True, True]
    found = jax.jit(softmax.adaptive_surprisal)(
        _adaptive(), _rows(3, features=8)[0], jnp.array([39, 40, -1], jnp.int32)
    )
    assert np.isnan(np.asarray(found)).tolist() == [False, True, True]
    sample = softmax.draw_negatives(jax.random.key(0), V, 4)
    found = jax.jit(softmax.sampled_surprisal)(h, w, b, jnp.array([0, -1, V], jnp.int32), sample)
    assert np.isnan(np.asarray(found)).tolist() == [False, True, True]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16])
def test_narrow_ids_of_a_table_that_is_wider(dtype):
    """300 words, more than 8 bits count, though these ids need no more."""
    params, h = softmax.init_adaptive(jax.random.key(0), 8, 300, (10, 100)), jnp.ones((3, 8))
    targets = np.array([5, 50, 120])
    expected = softmax.adaptive_surprisal(params, h, targets)
    for of in (softmax.adaptive_surprisal, jax.jit(softmax.adaptive_surprisal)):
        np.testing.assert_array_equal(of(params, h, targets.astype(dtype)), expected)
    table = jnp.arange(600.0).reshape(300, 2)
    np.testing.assert_array_equal(jax.jit(embed)(table, targets.astype(dtype)), table[targets])
    if dtype != np.uint8:
        minus = jnp.array([-1], dtype)
        assert np.isnan(jax.jit(embed)(table, minus)).all()
        assert np.isnan(jax.jit(softmax.surprisal)(jnp.zeros((1, 300)), minus)).all()


def test_no_rows_cost_nothing():
    params = softmax.init_adaptive(jax.random.key(0), 8, 300, (10, 100))
    assert softmax.adaptive_surprisal(params, jnp.ones((0, 8)), jnp.zeros(0, jnp.int32)).shape == (0,)


@pytest.mark.parametrize("share", [0.01, 1.0, 7.0])
def test_weights_of_any_size_make_a_mean(share):
    """Also where they add up to less than 1, and where one is below 0, which leaves its word out."""
    params, batch = _params(), _batch()
    state = language_model.begin(params, B)
    expected = language_model.loss(params, state, batch)[0]
    found = language_model.loss(params, state, batch._replace(weights=share * batch.weights))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    negative = np.where(batch.weights == 0, -1.0, batch.weights).astype(np.float32)
    np.testing.assert_allclose(
        language_model.loss(params, state, batch._replace(weights=negative))[0], expected, rtol=1e-6
    )
    nothing = batch._replace(weights=np.zeros_like(batch.weights))
    assert float(language_model.loss(params, state, nothing)[0]) == 0


def test_a_model_with_an_adaptive_softmax():
    params, batch = _params(tied=False, cutoffs=(4, 8)), _batch()
    _, ys = language_model.outputs(params, batch.inputs)
    log_p = language_model.logits(params, ys)
    expected = -np.take_along_axis(np.asarray(log_p), batch.targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(language_model.surprisals(params, ys, batch.targets), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="samples should be 0 with an adaptive softmax"):
        language_model.loss(params, None, batch, jax.random.key(0), options=Options(samples=3))


# --- time ------------------------------------------------------------------------------------------------------------


def test_windows_one_after_the_other_are_one_long_run():
    params, batch = _params(), _batch(time=9)
    batch = batch._replace(weights=np.ones_like(batch.weights))
    whole, end = language_model.loss(params, _state(params), batch)
    state, total = _state(params), 0.0
    for low, high in ((0, 4), (4, 6), (6, 9)):
        part = Batch(*(a[low:high] for a in batch[:3]))
        value, state = language_model.loss(params, state, part)
        total += float(value) * (high - low)
    np.testing.assert_allclose(total / 9, whole, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(end), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_the_gradient_of_windows_is_truncated_backpropagation():
    params, batch = _params(), _batch(time=9)
    batch = batch._replace(weights=np.ones_like(batch.weights))

    def loss(params, data, state):
        return language_model.loss(params, state, Batch(*data))

    truncated = lstmjax.truncated_value_and_grad(loss, window=3)
    (total, _), expected = jax.jit(truncated)(params, batch[:3], _state(params))
    state, sums = _state(params), jax.tree.map(jnp.zeros_like, params)
    for low in (0, 3, 6):
        part = Batch(*(a[low : low + 3] for a in batch[:3]))
        (value, state), found = jax.value_and_grad(
            lambda p, s=state, part=part: language_model.loss(p, s, part), has_aux=True
        )(params)
        total -= value
        sums = jax.tree.map(jnp.add, sums, found)
    np.testing.assert_allclose(total, 0, atol=1e-5)
    for a, b in zip(jax.tree.leaves(sums), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_steps_are_the_run():
    params, batch = _params(), _batch()
    _, ys = language_model.outputs(params, batch.inputs)
    state, found = language_model.begin(params, B), []
    for t in range(T):
        state, logits = language_model.step(params, state, jnp.asarray(batch.inputs[t]))
        found.append(logits)
    np.testing.assert_allclose(jnp.stack(found), language_model.logits(params, ys), rtol=1e-4, atol=1e-6)
    greedy = decoding.greedy(
        lambda state, token: language_model.step(params, state, token),
        language_model.begin(params),
        start=3,
        end=0,
        steps=5,
    )
    assert greedy.tokens.shape == (5,)


# --- the cache -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 4, 50])
def test_cache_equals_loops(window):
    """In pieces of several lengths, some longer and some shorter than the window."""
    rng = np.random.default_rng(0)
    time, columns, cache = 14, 2, Cache(window, 0.7, 0.3)
    hs = rng.normal(size=(time, columns, 3)).astype(np.float32)
    words = rng.integers(0, 4, (time, columns)).astype(np.int32)
    nats = rng.uniform(0.5, 3, (time, columns)).astype(np.float32)
    expected = np.zeros((time, columns))
    for b in range(columns):
        for t in range(time):
            p = np.exp(-nats[t, b].astype(float))
            seen = range(max(0, t - window), t)
            scores = {i: np.exp(0.7 * hs[t, b].astype(float) @ hs[i, b]) for i in seen}
            if scores:
                right = sum(s for i, s in scores.items() if words[i, b] == words[t, b])
                p = 0.7 * p + 0.3 * right / sum(scores.values())
            expected[t, b] = -np.log(p)
    memory, found = init_memory(cache, columns, 3), []
    for low, high in ((0, 6), (6, 7), (7, 14)):
        memory, part = jax.jit(mix, static_argnames="cache")(
            memory, hs[low:high], words[low:high], nats[low:high], cache=cache
        )
        found.append(part)
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-5)


def test_a_cache_with_no_share_changes_nothing_and_no_word_costs_infinity():
    memory = init_memory(Cache(3, 1.0, 0.0), 1, 2)
    nats = jnp.full((3, 1), 200.0)  # exp(-200) is 0 in float32
    words = jnp.array([[1], [1], [2]], jnp.int32)
    _, found = mix(memory, jnp.ones((3, 1, 2)), words, nats, Cache(3, 1.0, 0.0))
    np.testing.assert_allclose(found, nats)
    slope = jax.grad(lambda nats: mix(memory, jnp.ones((3, 1, 2)), words, nats, Cache(3, 1.0, 0.0))[1].sum())(nats)
    np.testing.assert_allclose(slope, 1)
    _, found = mix(init_memory(Cache(3, 1.0, 0.5), 1, 2), jnp.ones((3, 1, 2)), words, nats, Cache(3, 1.0, 0.5))
    np.testing.assert_allclose(found[:, 0], [200, np.log(2), 200 + np.log(2)], rtol=1e-5)


SMALL = Cache(3, 1.0, 0.1)


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda: language_model.init(jax.random.key(0), 9, cutoffs=(3,)), ValueError, "tied should be False with"),
        (lambda: language_model.init(jax.random.key(0), 9, hidden=()), ValueError, "at least one layer"),
        (lambda: language_model.init(jax.random.key(0), 9, cell="mlp"), ValueError, "cell should be one of"),
        (lambda: language_model.outputs(_params(), jnp.zeros(3, jnp.int32)), ValueError, r"ids should be \[T, B\]"),
        (lambda: language_model.outputs(_params(), jnp.full((2, 1), V)), ValueError, r"ids should lie in \[0, 11\)"),
        (lambda: language_model.check_options(Options(ar=-1.0)), ValueError, "options.ar should be a number of at lea"),
        (lambda: language_model.check_options(Options(words=1.0)), ValueError, "options.words should be a float in"),
        (lambda: language_model.check_options(Options(samples=-1)), ValueError, "options.samples should be an int"),
        (lambda: softmax.surprisal(jnp.zeros((2, 3)), jnp.zeros(3, jnp.int32)), ValueError, "targets should have the"),
        (lambda: softmax.surprisal(jnp.zeros((1, 3)), jnp.array([3])), ValueError, r"targets should lie in \[0, 3\)"),
        (lambda: softmax.draw_negatives(jax.random.key(0), 9, 0), ValueError, "samples should be an int of at least 1"),
        (lambda: softmax.init_adaptive(jax.random.key(0), 4, 9, (5, 3)), ValueError, "cutoffs should rise and lie in"),
        (lambda: softmax.init_adaptive(jax.random.key(0), 4, 9, (9,)), ValueError, "cutoffs should rise and lie in"),
        (lambda: softmax.adaptive_log_p((), jnp.ones(4)), TypeError, "params should be Adaptive"),
        (lambda: softmax.sampled_surprisal(*_rows()[:2], jnp.zeros(3), _rows()[3], None), ValueError, "h, w and b sho"),
        (lambda: softmax.sampled_surprisal(*_rows(), None), TypeError, "negatives should be Negatives of 11 words"),
        (lambda: init_memory((3, 1.0, 0.1), 1, 2), TypeError, "cache should be Cache"),
        (lambda: init_memory(Cache(0, 1.0, 0.1), 1, 2), ValueError, "cache.window should be"),
        (lambda: init_memory(Cache(3, 1.0, 1.0), 1, 2), ValueError, "cache.share should be a float in"),
        (lambda: _mixed(2, 2), ValueError, r"memory.hs should be \(3, 2, 2\)"),
        (lambda: _mixed(1, 3), ValueError, "hs, targets and surprisals should be"),
        (lambda: mix((1, 2), *_of_mix()), TypeError, "memory should be Memory"),
        (
            lambda: mix(init_memory(SMALL, 1, 2), *_of_mix(words=jnp.ones((2, 1)))),
            TypeError,
            "targets should be an arr",
        ),
        (
            lambda: mix(init_memory(SMALL, 1, 2)._replace(words=jnp.zeros((2, 1), jnp.int32)), *_of_mix()),
            ValueError,
            r"memory.words should be \(3, 1\), got \(2, 1\)",
        ),
        (lambda: _weighed(jnp.ones((4, 1))), ValueError, r"batch.weights should be an array of the shape \(4, 3\)"),
        (lambda: _weighed(jnp.ones(3)), ValueError, "batch.weights should be an array of the shape"),
        (lambda: _weighed([[1.0]]), ValueError, "batch.weights should be an array of the shape .* got list"),
        (lambda: language_model.loss(_params(), None, (1, 2, 3)), TypeError, "batch should be Batch"),
        (
            lambda: softmax.sampled_surprisal(*_rows(), Negatives(jnp.array([50]), jnp.zeros(V))),
            ValueError,
            r"negatives.ids should lie in \[0, 11\)",
        ),
        (
            lambda: softmax.adaptive_surprisal(
                softmax.init_adaptive(jax.random.key(0), 4, 9, (5,)), jnp.ones(3), jnp.int32(1)
            ),
            ValueError,
            "h should be .* with H = 4",
        ),
    ],
)
def test_refusals(call, kind, says):
    with pytest.raises(kind, match=says):
        call()


def _of_mix(words=None):
    return jnp.ones((2, 1, 2)), jnp.zeros((2, 1), jnp.int32) if words is None else words, jnp.ones((2, 1)), SMALL


def _weighed(weights):
    ids = jnp.ones((4, 3), jnp.int32)
    return language_model.loss(_params(), language_model.begin(_params(), 3), language_model.Batch(ids, ids, weights))


def _mixed(columns, time):
    words, nats = jnp.zeros((time, columns), jnp.int32), jnp.ones((time, columns))
    return mix(init_memory(SMALL, 1, 2), jnp.ones((2, columns, 2)), words, nats, SMALL)
