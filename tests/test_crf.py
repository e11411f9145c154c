"""The linear chain against every path there is, summed and compared in float64 NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstmjax import crf
from lstmjax.crf import CRF

T, K = 4, 3
LENGTHS = np.array([4, 0, 1, 3, 2])
LABELS = ["O", "B-A", "I-A", "B-B", "I-B"]


def problem(seed=0, k=K, scale=1.0):
    rng = np.random.default_rng(seed)
    params = CRF(*(rng.normal(size=s) for s in ((k, k), (k,), (k,))))
    return params, scale * rng.normal(size=(T, len(LENGTHS), k)), rng.integers(0, k, (T, len(LENGTHS)))


def to_jax(dtype, *trees):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype if x.dtype == np.float64 else jnp.int32), trees)


def paths(params, emissions, n):
    """Every path of n tags, with its score, one addition at a time."""
    for path in itertools.product(range(len(params.start)), repeat=n):
        score = 0.0
        for t, tag in enumerate(path):
            score += emissions[t, tag] + (params.start[tag] if t == 0 else params.transitions[path[t - 1], tag])
        yield path, score + (params.end[path[-1]] if n else 0.0)


def by_enumeration(params, emissions, tags):
    """log Z, log p(tags), marginals and the best path of each row."""
    found = []
    for row, n in enumerate(LENGTHS):
        every = list(paths(params, emissions[:, row], n))
        scores = np.array([score for _, score in every])
        with np.errstate(divide="ignore"):
            total = np.logaddexp.reduce(scores)
        chances = np.exp(scores - total) if total > -np.inf else np.zeros(len(scores))
        shares = np.zeros((T, emissions.shape[-1]))
        for (path, _), chance in zip(every, chances, strict=True):
            for t, tag in enumerate(path):
                shares[t, tag] += chance
        own = dict(every)[tuple(tags[:n, row])] - total
        found.append((total, own, shares, max(every, key=lambda one: one[1])))
    return found


def check(params, emissions, tags, dtype, rtol):
    expected = by_enumeration(params, emissions, tags)
    p, e, y, n = to_jax(dtype, params, emissions, tags, LENGTHS)
    total, own, shares = crf.log_partition(p, e, n), crf.log_likelihood(p, e, y, n), crf.marginals(p, e, n)
    best, score = crf.viterbi(p, e, n)
    assert total.dtype == own.dtype == shares.dtype == score.dtype == dtype
    for row, (z, log_p, share, (path, highest)) in enumerate(expected):
        np.testing.assert_allclose(total[row], z, rtol=rtol, atol=rtol)
        np.testing.assert_allclose(own[row], log_p, rtol=rtol, atol=rtol * max(1, abs(z)))
        np.testing.assert_allclose(shares[:, row], share, rtol=rtol, atol=rtol * max(1, abs(z)))
        np.testing.assert_allclose(score[row], highest, rtol=rtol, atol=rtol)
        assert best[:, row].tolist() == [*path, *[-1] * (T - len(path))]


@pytest.mark.parametrize("seed", range(3))
def test_equals_enumeration(seed):
    check(*problem(seed), jnp.float32, 1e-5)


def test_equals_enumeration_in_float64(x64):
    check(*problem(), jnp.float64, 1e-12)


@pytest.mark.parametrize("scale", [30, 300])
def test_nothing_is_lost_to_underflow(scale):
    """Scores so far apart that exp of their distance is 0, where the way on from the highest is closed."""
    params, emissions, tags = problem(5, scale=scale)
    transitions = np.where(np.eye(K, k=1) + np.eye(K, k=1 - K) > 0, params.transitions, -np.inf)  # 0 to 1 to 2 to 0
    check(params, emissions, tags, jnp.float32, 1e-5)
    tags = (np.arange(T)[:, None] + np.arange(len(LENGTHS))) % K
    check(params._replace(transitions=transitions), emissions, tags, jnp.float32, 1e-5)


def test_a_step_is_a_product_unless_it_underflows():
    """The slower ways are there, a branch in a branch, each of which runs only where it is needed."""
    p, e, n = to_jax(jnp.float32, *problem()[:2], LENGTHS)
    text = str(jax.make_jaxpr(crf.log_partition)(p, e, n))
    assert text.count("dot_general") == text.count("cond[") == 2
    assert text.index("dot_general") < text.index("cond[") < text.rindex("dot_general") < text.rindex("cond[")


def apart(distance):
    """Tags of spans, of which one can only be reached from others that are so far below the best."""
    params, emissions, tags = problem(3, k=len(LABELS))
    params = params._replace(transitions=np.where(crf.bio(LABELS).transitions, params.transitions, -np.inf))
    emissions[..., 1:3] -= distance  # B-A and I-A; I-B has B-B
    emissions[2:, :, 2] += 3 * distance  # then I-A is the best, and how likely B-A was before is all there is to go by
    return params, emissions, np.zeros_like(tags)


@pytest.mark.parametrize("distance", [20, 50, 60, 80, 110, 130, 150, 200])
def test_sums_far_below_the_best(distance, monkeypatch):
    """Values and gradients, and whether a step goes entry by entry: only where raised sums are lost as well."""
    ways = []
    whole = crf._log_sum_exp

    def counted(x, axis):
        if axis == 1:
            jax.debug.callback(ways.append, 0)
        return whole(x, axis)

    check(*apart(distance), jnp.float32, 1e-5)
    monkeypatch.setattr(crf, "_log_sum_exp", counted)
    p, e, n = to_jax(jnp.float32, *apart(distance)[:2], LENGTHS)
    jax.block_until_ready(crf._log_partition.__wrapped__(*crf._problem(p, e, n)[:4]))
    jax.effects_barrier()
    assert bool(ways) == (distance > 130)


def check_gradients(params, emissions):
    """By all scores, in float32 beside float64."""
    found, expected = (
        jax.grad(lambda p, e: crf.log_partition(p, e, LENGTHS).sum(), (0, 1))(*to_jax(dtype, params, emissions))
        for dtype in (jnp.float32, jnp.float64)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-6), found, expected)


@pytest.mark.parametrize("distance", [60, 110, 180])
def test_gradients_of_sums_far_below_the_best(distance, x64):
    check_gradients(*apart(distance)[:2])


def test_sums_far_below_the_best_in_float64(x64):
    check(*apart(700), jnp.float64, 1e-12)


@pytest.mark.parametrize("score", [-15.0, -40, -75, -110, -1e4])
def test_small_weights_of_sums_far_below_the_best(score, x64):
    """Transitions that are all but forbidden, which are the way of most of a sum, of some of it, or of none."""
    params, emissions, tags = apart(90)
    params = params._replace(transitions=np.maximum(params.transitions, score))
    check(params, emissions, tags, jnp.float32, 1e-5)
    check_gradients(params, emissions)


def test_the_gradient_keeps_no_table_of_pairs_for_each_step():
    """The slow way is computed again where it was taken: what it holds, [T, N, K, K], is not kept."""
    p, e, y = jax.eval_shape(lambda: to_jax(jnp.float32, *problem(k=40)))
    e, y = (jax.ShapeDtypeStruct((50, *x.shape[1:]), x.dtype) for x in (e, y))
    gradient = jax.jit(jax.grad(lambda p, e, y: crf.log_likelihood(p, e, y).sum(), (0, 1)))
    kept = gradient.lower(p, e, y).compile().memory_analysis().temp_size_in_bytes
    assert kept < 4 * 50 * len(LENGTHS) * 40 * 40 / 2


def test_likelihoods_sum_to_one():
    params, emissions, _ = problem()
    p, e = to_jax(jnp.float32, params, emissions[:, :1])
    every = jnp.asarray(list(itertools.product(range(K), repeat=T))).T  # [T, K**T]
    chances = jnp.exp(crf.log_likelihood(p, jnp.broadcast_to(e, (T, K**T, K)), every))
    np.testing.assert_allclose(chances.sum(), 1, rtol=1e-5)


def test_gradients_are_those_of_enumeration(x64):
    """Of all params and emissions, differentiated through a sum over paths written out in JAX."""
    params, emissions, tags = problem(1)
    p, e, y, n = to_jax(jnp.float64, params, emissions, tags, LENGTHS)
    every = {m: jnp.asarray(list(itertools.product(range(K), repeat=m))).T for m in range(1, T + 1)}

    def scores(p, e, paths):
        along = sum(e[t, paths[t]] for t in range(len(paths)))
        return along + p.start[paths[0]] + p.end[paths[-1]] + p.transitions[paths[:-1], paths[1:]].sum(0)

    def slow(p, e):
        total = 0.0
        for row, m in enumerate(LENGTHS.tolist()):
            if m:
                z = jax.scipy.special.logsumexp(scores(p, e[:, row], every[m]))
                total += scores(p, e[:, row], y[:m, row][:, None])[0] - z
        return total

    def ours(p, e):
        return crf.log_likelihood(p, e, y, n).sum()

    expected = jax.grad(slow, (0, 1))(p, e)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), jax.grad(ours, (0, 1))(p, e), expected)
    # Curvature too: the marginals differentiate once more.
    twice = jax.jvp(jax.grad(ours, 1), (p, e), (p, e))[1]
    np.testing.assert_allclose(twice, jax.jvp(jax.grad(slow, 1), (p, e), (p, e))[1], atol=1e-12)


def test_bio_is_its_rule():
    allowed = crf.bio(LABELS)
    follows = [[not b.startswith("I-") or a in ("B" + b[1:], b) for b in LABELS] for a in LABELS]
    assert allowed.transitions.tolist() == follows
    assert allowed.start.tolist() == [True, True, False, True, False]


@pytest.mark.parametrize("allow", [True, False])
def test_constraints(allow):
    """Forbidden tags have no share, -inf spoils no gradient, and the best path keeps the rules."""
    params, emissions, _ = problem(2, k=5)
    emissions[:, :, 2] += 20  # I-A where it may not be
    allowed = crf.bio(LABELS)
    p, e, n = to_jax(jnp.float32, params, emissions, LENGTHS)
    gold = jnp.asarray([[1, 0, 3, 3, 0], [2, 0, 0, 4, 1], [2, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    if not allow:
        gold = gold.at[1, 0].set(4)  # I-B after B-A

    def loss(p, e):
        return crf.log_likelihood(crf.constrain(p, allowed), e, gold, n)

    own = loss(p, e)
    assert bool(own[0] == -jnp.inf) is not allow
    assert jnp.isfinite(own[1:]).all()
    for leaf in jax.tree.leaves(jax.grad(lambda p, e: loss(p, e)[np.arange(not allow, 5)].sum(), (0, 1))(p, e)):
        assert jnp.isfinite(leaf).all()
    tight = CRF(*(np.asarray(x, float) for x in crf.constrain(params, allowed)))
    check(tight, emissions, np.asarray(gold), jnp.float32, 1e-5)
    best, _ = crf.viterbi(crf.constrain(p, allowed), e, n)
    for row, m in enumerate(LENGTHS):
        found = [LABELS[tag] for tag in np.asarray(best[:m, row])]
        for before, after in zip(["O", *found], found, strict=False):
            assert not after.startswith("I-") or before[1:] == after[1:]


def test_where_all_is_forbidden():
    """No path of two tags: -inf, shares of 0, a gradient without NaN."""
    p = CRF(jnp.full((2, 2), -jnp.inf), jnp.zeros(2), jnp.zeros(2))
    assert crf.log_partition(p, jnp.zeros((2, 2))) == -jnp.inf
    assert crf.viterbi(p, jnp.zeros((2, 2)))[1] == -jnp.inf
    assert crf.log_likelihood(p, jnp.zeros((2, 2)), jnp.array([0, 1])) == -jnp.inf
    assert (crf.marginals(p, jnp.zeros((2, 2))) == 0).all()


def test_padding_is_not_read():
    params, emissions, tags = problem(3)
    p, e, y, n = to_jax(jnp.float32, params, emissions, tags, LENGTHS)
    past = np.arange(T)[:, None] >= LENGTHS
    dirty, odd = jnp.where(past[..., None], jnp.nan, e), jnp.where(past, 99, y)
    value, gradients = jax.value_and_grad(lambda p, e: crf.log_likelihood(p, e, odd, n).sum(), (0, 1))(p, dirty)
    clean, expected = jax.value_and_grad(lambda p, e: crf.log_likelihood(p, e, y, n).sum(), (0, 1))(p, e)
    assert value == clean
    jax.tree.map(np.testing.assert_array_equal, gradients, expected)
    assert (gradients[1][past] == 0).all()
    for function in (crf.marginals, crf.viterbi, crf.log_partition):
        jax.tree.map(np.testing.assert_array_equal, function(p, dirty, n), function(p, e, n))


def test_batch_jit_vmap_and_no_batch_are_one():
    params, emissions, tags = problem(4)
    p, e, y, n = to_jax(jnp.float32, params, emissions, tags, LENGTHS)

    def all_of(p, e, y, n):
        return crf.log_likelihood(p, e, y, n), crf.marginals(p, e, n), *crf.viterbi(p, e, n)

    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)  # noqa: E731
    expected = all_of(p, e, y, n)
    jax.tree.map(near, jax.jit(all_of)(p, e, y, n), expected)
    jax.tree.map(near, jax.vmap(all_of, (None, 1, 1, 0), (0, 1, 1, 0))(p, e, y, n), expected)
    jax.tree.map(
        near, all_of(p, e[:, 3], y[:, 3], n[3]), (expected[0][3], *(x[:, 3] for x in expected[1:3]), expected[3][3])
    )
    grid = all_of(p, jnp.stack([e, e], 2), jnp.stack([y, y], 2), jnp.stack([n, n], 1))  # two batch axes
    jax.tree.map(near, (grid[0][:, 1], grid[1][:, :, 1], grid[2][:, :, 1], grid[3][:, 1]), expected)

    def loss(p, e, y, n):
        return crf.log_likelihood(p, e, y, n)

    whole = jax.grad(lambda p: loss(p, e, y, n).sum())(p)
    mapped = jax.vmap(loss, (None, 1, 1, 0))
    jax.tree.map(near, jax.grad(lambda p: mapped(p, e, y, n).sum())(p), whole)
    each = jax.vmap(jax.grad(loss), (None, 1, 1, 0))(p, e, y, n)
    jax.tree.map(lambda a, b: near(a.sum(0), b), each, whole)


def test_no_steps_and_narrow_floats():
    p = crf.init_crf(jax.random.key(0), K, jnp.bfloat16)
    nothing = jnp.zeros((0, 2, K), jnp.bfloat16)
    assert crf.log_likelihood(p, nothing, jnp.zeros((0, 2), int)).tolist() == [0, 0]
    assert crf.viterbi(p, nothing)[0].shape == (0, 2)
    assert crf.marginals(p, nothing).shape == (0, 2, K)
    assert crf.log_partition(p, jnp.ones((2, K), jnp.bfloat16)).dtype == jnp.float32


def test_tags_of_few_bits_where_there_are_more():
    p, e, y = crf.init_crf(jax.random.key(0), 200), jnp.ones((3, 200)), np.array([1, 127, 5])
    assert crf.log_likelihood(p, e, y.astype(np.int8)) == crf.log_likelihood(p, e, y)


def test_tags_out_of_range():
    params, emissions, tags = problem()
    p, e, y = to_jax(jnp.float32, params, emissions, tags)
    for tag in (-1, K):
        odd = y.at[2, 1].set(tag)
        with pytest.raises(ValueError, match=r"tags should lie in \[0, 3\)"):
            crf.log_likelihood(p, e, odd)
        assert jnp.isnan(jax.jit(crf.log_likelihood)(p, e, odd)).tolist() == [False, True, False, False, False]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p, e, y: crf.log_partition(p._asdict(), e), TypeError, "params should be CRF"),
        (
            lambda p, e, y: crf.log_partition(p._replace(end=y[0]), e),
            TypeError,
            "params.end should be an array of floats",
        ),
        (lambda p, e, y: crf.log_partition(p._replace(end=e[0, 0, :2]), e), ValueError, "params should be transitions"),
        (
            lambda p, e, y: crf.viterbi(p, e[..., :2]),
            ValueError,
            r"emissions should be \[T, \*batch, K\] with the K = 3",
        ),
        (lambda p, e, y: crf.viterbi(p, y), TypeError, "emissions should be an array of floats"),
        (lambda p, e, y: crf.marginals(p, e, jnp.array([1, 2])), ValueError, "lengths should have the batch shape"),
        (lambda p, e, y: crf.log_likelihood(p, e, y[1:]), ValueError, r"tags should have the shape \[T, \*batch\]"),
        (lambda p, e, y: crf.log_likelihood(p, e, e[..., 0]), TypeError, "tags should be an array of ints"),
        (lambda p, e, y: crf.constrain(p, crf.bio(["O"])), ValueError, "allowed.transitions should have shape"),
        (lambda p, e, y: crf.bio(["O", "X-A"]), ValueError, "labels should be 'O', 'B-NAME' or 'I-NAME', got 'X-A'"),
        (lambda p, e, y: crf.bio(["O", "O"]), ValueError, "labels should differ, got 'O' twice"),
        (lambda p, e, y: crf.init_crf(jax.random.key(0), 0), ValueError, "tags should be an int of at least 1"),
    ],
)
def test_refused(call, error, message):
    given = to_jax(jnp.float32, *problem())
    with pytest.raises(error, match=message):
        call(*given)
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda p, e, y: call(p, e, y), *given)
