"""Decoding against every sequence there is, and against a search written with lists."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstmjax
from lstmjax import decoding

V, STEPS, END = 3, 4, 1
PARAMS = lstmjax.init_rnn(jax.random.key(3), V, 4)
OUT = 2 * jax.random.normal(jax.random.key(7), (4, V))  # drawn so that the best is not always what greedy finds


def step(state, token):
    """A plain RNN: what comes next depends on all that came before."""
    state, y = lstmjax.step(PARAMS, state, jax.nn.one_hot(token, V))
    return state, y @ OUT


def states(n):
    return [lstmjax.RNNState(h) for h in jax.random.normal(jax.random.key(5), (n, 4))]


def after(state, tokens, start=0):
    """The states before each token and log p [V] of it, one step at a time."""
    found = []
    for token in (start, *tokens):
        state, logits = step(state, jnp.asarray(token))
        found.append((state, np.asarray(jax.nn.log_softmax(logits), float)))
    return found


def every(state):
    """tokens -> log p of every sequence that ends within STEPS, and of every one that does not."""
    ended, cut = {}, {}
    log_p = {}  # of the token after a prefix

    def on(prefix, state, total):
        state, logits = step(state, jnp.asarray(prefix[-1] if prefix else 0))
        log_p[prefix] = np.asarray(jax.nn.log_softmax(logits), float)
        ended[prefix] = total + log_p[prefix][END]
        for token in set(range(V)) - {END}:
            longer, sum_ = (*prefix, token), total + log_p[prefix][token]
            if len(longer) < STEPS:
                on(longer, state, sum_)
            else:
                cut[longer] = sum_

    on((), state, 0.0)
    return ended, cut, log_p


def searched(state, width, penalty):
    """The same search with Python's lists and a table of log p."""
    _, _, log_p = every(state)
    alive, done = [((), 0.0)], []
    for _ in range(STEPS):
        ways = [((*p, v), s + log_p[p][v]) for p, s in alive for v in range(V)]
        ways.sort(key=lambda one: -one[1])
        done += [one for one in ways[:width] if one[0][-1] == END]
        alive = [one for one in ways[: 2 * width] if one[0][-1] != END][:width]
        if len(done) >= width:
            break
    rate = lambda one: one[1] / ((5 + len(one[0])) / 6) ** penalty  # noqa: E731
    best = sorted(done, key=rate, reverse=True)[:width]
    best += sorted(alive, key=rate, reverse=True)[: width - len(best)]
    return [([v for v in tokens if v != END], rate((tokens, s))) for tokens, s in best]


def listed(found):
    return [t[:n].tolist() for t, n in zip(np.asarray(found.tokens), np.asarray(found.length), strict=True)]


HOW = {"start": 0, "end": END, "steps": STEPS}


def test_greedy_takes_the_best_of_each_step():
    for state in states(6):
        found = decoding.greedy(step, state, **HOW)
        tokens, total = [], 0.0
        for _ in range(STEPS):
            log_p = after(state, tokens)[-1][1]
            total += log_p.max()
            if log_p.argmax() == END:
                break
            tokens.append(int(log_p.argmax()))
        assert found.tokens.tolist() == tokens + [0] * (STEPS - len(tokens))
        assert int(found.length) == len(tokens)
        np.testing.assert_allclose([found.log_p, found.score], total, rtol=1e-5)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_as_wide_as_all_sequences_finds_the_best(penalty):
    for state in states(3):
        ended, cut, _ = every(state)
        rate = lambda tokens, s, n: s / ((5 + n) / 6) ** penalty  # noqa: E731
        ranked = sorted(((rate(t, s, len(t) + 1), t) for t, s in ended.items()), reverse=True)
        ranked += sorted(((rate(t, s, len(t)), t) for t, s in cut.items()), reverse=True)
        width = len(ranked) + 3
        found = decoding.beam(step, state, **HOW, width=width, length_penalty=penalty)
        assert listed(found)[:-3] == [list(t) for _, t in ranked]
        np.testing.assert_allclose(found.score[:-3], [s for s, _ in ranked], rtol=1e-5)
        assert (found.score[-3:] == -jnp.inf).all()
        assert (found.tokens[-3:] == 0).all()
        log_p = [(ended | cut)[tuple(t)] for t in listed(found)[:-3]]
        np.testing.assert_allclose(found.log_p[:-3], log_p, rtol=1e-5)


@pytest.mark.parametrize("width", [1, 2, 3, 5])
@pytest.mark.parametrize("penalty", [0.0, 0.8])
def test_beam_is_the_search_with_lists(width, penalty):
    search = jax.jit(lambda s: decoding.beam(step, s, **HOW, width=width, length_penalty=penalty))
    for state in states(8):
        found, expected = search(state), searched(state, width, penalty)
        assert listed(found)[: len(expected)] == [tokens for tokens, _ in expected]
        np.testing.assert_allclose(found.score[: len(expected)], [s for _, s in expected], rtol=1e-5)


def test_a_beam_of_one_is_greedy_and_a_wider_one_finds_more():
    better = 0
    for state in states(8):
        one, wide = (decoding.beam(step, state, **HOW, width=w) for w in (1, 6))
        plain = decoding.greedy(step, state, **HOW)
        assert one.tokens[0].tolist() == plain.tokens.tolist()
        np.testing.assert_allclose(one.log_p[0], plain.log_p, rtol=1e-6)
        better += bool(wide.log_p[0] > plain.log_p + 1e-3)
    assert better


def test_a_limit_of_its_own_is_as_so_many_steps():
    """Of each sequence of a batch, though the program has steps for more."""
    many = states(8)
    batch, keys = jax.tree.map(lambda *x: jnp.stack(x), *many), jax.random.split(jax.random.key(2), 8)
    limits = jnp.array([1, 2, 3, 4] * 2, jnp.int32)
    calls = (
        lambda s, k, **how: decoding.greedy(step, s, start=0, end=END, **how),
        lambda s, k, **how: decoding.sample(k, step, s, start=0, end=END, **how),
        lambda s, k, **how: decoding.beam(
            step, s, start=0, end=END, width=3, length_penalty=0.8, bonus=lambda s: s.h.sum(), **how
        ),
    )
    for call in calls:
        found = jax.jit(jax.vmap(lambda s, k, n, call=call: call(s, k, steps=6, limit=n)))(batch, keys, limits)
        for row, (state, n) in enumerate(zip(many, limits.tolist(), strict=True)):
            alone = call(state, keys[row], steps=n)
            assert (found.tokens[row][..., :n] == alone.tokens).all()
            assert (found.tokens[row][..., n:] == 0).all()
            assert found.length[row].tolist() == alone.length.tolist()
            np.testing.assert_allclose(found.log_p[row], alone.log_p, rtol=1e-5)
            np.testing.assert_allclose(found.score[row], alone.score, rtol=1e-5)
        assert (call(many[0], keys[0], steps=3, limit=0).tokens == 0).all()
        far = jax.jit(lambda n, call=call: call(many[0], keys[0], steps=3, limit=n))(9)
        assert far.tokens.tolist() == call(many[0], keys[0], steps=3).tokens.tolist()


def of_table(table):
    """A step that knows the last token alone."""
    return lambda state, token: (state + 1, jnp.log(jnp.array(table))[token])


def test_no_sequence_goes_through_a_dead_end():
    alive = of_table([[0, 0.6, 0.4], [0, 0, 0], [1.0, 0, 0]])  # nothing follows 1
    found = decoding.beam(alive, jnp.array(0), start=0, end=0, steps=4, width=2)
    assert found.tokens.tolist() == [[2, 0, 0, 0], [0] * 4]
    np.testing.assert_allclose(found.score, [np.log(0.4), -np.inf], rtol=1e-6)
    np.testing.assert_allclose(found.log_p, [np.log(0.4), -np.inf], rtol=1e-6)
    many = jnp.full((3, 1300), 1e-9).at[0, 1:3].set(jnp.array([0.6, 0.4])).at[1].set(0).at[2, 0].set(1)
    found = decoding.beam(of_table(many), jnp.array(0), start=0, end=0, steps=2, width=2)  # in blocks, one of both
    assert found.tokens[0].tolist() == [2, 0]
    np.testing.assert_allclose(found.score[0], np.log(0.4), rtol=1e-5)
    none = decoding.beam(of_table([[0, 1.0, 0], [0, 0, 0], [0, 0, 0]]), jnp.array(0), start=0, end=0, steps=4, width=2)
    assert (none.score == -jnp.inf).all()
    assert (none.tokens == 0).all()


def test_nan_is_seen():
    """Though it comes from one of the sequences of a beam, after others have ended or without an end."""
    for table in ([[0.3, 0.3, 0.4], [0.5, 0.5, 0], [jnp.nan] * 3], [[0, 0.6, 0.4], [0, jnp.nan, 0.4], [0, 0.5, 0.5]]):
        found = decoding.beam(of_table(table), jnp.array(0), start=0, end=0, steps=3, width=2)
        assert jnp.isnan(found.log_p[0])
        assert jnp.isnan(found.score[0])


def test_what_ends_with_a_score_of_minus_infinity_does_not_end_the_search():
    table = of_table([[0.6, 0, 0.4], [1.0, 0, 0], [0.9, 0.1, 0]])
    long = lambda steps: jnp.where(steps > 1, 0.0, -jnp.inf)  # noqa: E731
    found = decoding.beam(table, jnp.array(0), start=0, end=0, steps=4, width=1, bonus=long)
    assert found.tokens.tolist() == [[2, 0, 0, 0]]
    np.testing.assert_allclose(found.score, [np.log(0.36)], rtol=1e-5)


def test_a_bonus_decides_among_what_ended():
    """Attention that the state adds up: a sequence is worth what of its source it has seen."""
    see = jnp.array([[1.0, 0], [0, 0], [0, 1]])  # a token looks at one of two words

    def attending(state, token):
        inner, seen = state
        inner, logits = step(inner, token)
        return (inner, seen + see[token]), logits

    def bonus(state):
        return decoding.coverage(state[1], jnp.array(2), 5.0)

    for inner in states(3):
        ended, cut, _ = every(inner)
        ranked = []
        for tokens, s in (ended | cut).items():
            put_in = (0, *tokens)[:STEPS]  # what went into the steps
            seen = sum(np.asarray(see)[list(put_in)])
            worth = 5 * np.log(np.clip(seen, np.exp(-20), 1)).sum()
            ranked.append((tokens in ended, s + worth, tokens))
        ranked.sort(reverse=True)
        found = decoding.beam(attending, (inner, jnp.zeros(2)), **HOW, width=len(ranked), bonus=bonus)
        assert listed(found)[:5] == [list(tokens) for *_, tokens in ranked[:5]]
        np.testing.assert_allclose(found.score, [s for _, s, _ in ranked], rtol=1e-4)


def test_vmap_and_jit_are_one_at_a_time():
    many = states(7)
    batch = jax.tree.map(lambda *x: jnp.stack(x), *many)
    keys = jax.random.split(jax.random.key(9), 7)
    for each in (
        lambda s, k: decoding.greedy(step, s, **HOW),
        lambda s, k: decoding.beam(step, s, **HOW, width=3, length_penalty=0.6),
        lambda s, k: decoding.sample(k, step, s, **HOW, top_p=0.9),
    ):
        found = jax.jit(jax.vmap(each))(batch, keys)
        for row, state in enumerate(many):
            alone = each(state, keys[row])
            assert found.tokens[row].tolist() == alone.tokens.tolist()
            assert found.length[row].tolist() == alone.length.tolist()
            np.testing.assert_allclose(found.score[row], alone.score, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_samples_come_as_often_as_they_should(temperature):
    state = states(1)[0]
    _, _, log_p = every(state)

    def chance(tokens):
        p = 1.0
        for n, token in enumerate(tokens):
            q = np.exp(log_p[tokens[:n]] / temperature)
            p *= q[token] / q.sum()
        return p

    n = 4000
    draw = jax.jit(jax.vmap(lambda k: decoding.sample(k, step, state, **HOW, temperature=temperature)))
    found = draw(jax.random.split(jax.random.key(0), n))
    counts = {}
    for tokens, length, total in zip(
        np.asarray(found.tokens), found.length.tolist(), found.log_p.tolist(), strict=True
    ):
        whole = (*tokens[:length].tolist(), *([END] if length < STEPS else []))
        counts[whole] = counts.get(whole, 0) + 1
        if counts[whole] == 1:  # log p is the model's own, whatever the temperature
            np.testing.assert_allclose(total, sum(log_p[whole[:i]][t] for i, t in enumerate(whole)), rtol=1e-4)
    ended, cut, _ = every(state)
    chances = {t: chance(t) for t in [*((*t, END) for t in ended), *cut]}
    assert abs(sum(chances.values()) - 1) < 1e-5
    for tokens, p in chances.items():
        assert abs(counts.get(tokens, 0) / n - p) < 5 * np.sqrt(p * (1 - p) / n) + 1e-3


def test_likeliest_against_a_loop():
    rng = np.random.default_rng(0)
    for k, p in itertools.product((None, 1, 2, 5, 9), (None, 1e-6, 0.3, 0.8, 1.0)):
        logits = rng.normal(size=6).astype(np.float32)
        order = sorted(range(6), key=lambda i: -logits[i])[: k or 6]
        q = np.exp(logits[order].astype(float))
        q, kept, mass = q / q.sum(), [], 0.0
        for i, share in zip(order, q, strict=True):
            if p is None or mass < p or not kept:
                kept.append(i)
            mass += share
        found = decoding.likeliest(jnp.asarray(logits), top_k=k, top_p=p)
        expected = np.where(np.isin(np.arange(6), kept), logits, -np.inf)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(decoding.likeliest(jnp.asarray(logits)[None], top_k=k, top_p=p)[0], expected)


def test_likeliest_of_all_leaves_all_and_narrow_logits_add_up():
    steep = jnp.linspace(0, -30, 50)
    assert jnp.isfinite(decoding.likeliest(steep, top_p=1.0)).all()
    assert jnp.isfinite(decoding.likeliest(steep, top_k=40, top_p=1.0)).sum() == 40
    kept = decoding.likeliest(jnp.zeros(1000, jnp.bfloat16), top_p=0.9)
    assert kept.dtype == jnp.bfloat16
    assert abs(jnp.isfinite(kept).sum() - 900) <= 1


@pytest.mark.parametrize(("n", "k"), [(3, 2), (64, 4), (65, 4), (259, 16), (1000, 1), (1000, 31)])
@pytest.mark.parametrize("values", [4, 40, 10**6])
def test_the_highest_are_those_of_top_k(n, k, values):
    """The lower of equals first, however many there are, and in whichever block."""
    x = jax.random.randint(jax.random.key(n + k), (5, n), 0, values).astype(jnp.float32)
    x = x.at[4].set(-jnp.inf).at[3, ::3].set(-jnp.inf).at[2, -1].set(values)
    found = jax.jit(jax.vmap(lambda x: decoding._highest(x, k, block=4)))(x)
    for row, best, at in zip(np.asarray(x), *map(np.asarray, found), strict=True):
        order = np.argsort(-row, kind="stable")[:k]
        assert at.tolist() == order.tolist()
        np.testing.assert_array_equal(best, row[order])


def test_many_words():
    """So many that blocks of them are looked at: greedy and beam are as in a loop over all."""
    table = np.asarray(jax.random.normal(jax.random.key(1), (5, 1300)))
    over = lambda state, token: (state + 1, jnp.asarray(table)[state])  # noqa: E731
    found = decoding.greedy(over, jnp.array(0), start=0, end=1299, steps=5)
    assert found.tokens.tolist() == table.argmax(-1).tolist()
    log_p = table - np.log(np.exp(table).sum(-1, keepdims=True))
    np.testing.assert_allclose(found.log_p, log_p.max(-1).sum(), rtol=1e-5)
    ranked = np.sort(log_p, -1)[:, ::-1]
    second = ranked[:, 0].sum() - (ranked[:, 0] - ranked[:, 1]).min()  # one step not at its best
    beam = decoding.beam(over, jnp.array(0), start=0, end=1299, steps=5, width=2)
    np.testing.assert_allclose(beam.log_p, [ranked[:, 0].sum(), second], rtol=1e-5)


def test_top_1_is_greedy():
    for state, key in zip(states(4), jax.random.split(jax.random.key(1), 4), strict=True):
        plain = decoding.greedy(step, state, **HOW)
        for how in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-3}):
            assert decoding.sample(key, step, state, **HOW, **how).tokens.tolist() == plain.tokens.tolist()


def test_coverage():
    """Of words past the length nothing is asked; of what got nothing the worth is finite, and so is the gradient."""
    seen, n = jnp.array([0.5, 3.0, 0.0, jnp.nan]), jnp.array(3)
    np.testing.assert_allclose(decoding.coverage(seen, n, 0.2), 0.2 * (np.log(0.5) - 20), rtol=1e-6)
    assert jnp.isfinite(jax.grad(lambda x: decoding.coverage(x, n, 0.2))(seen)).all()
    narrow = decoding.coverage(seen.astype(jnp.float16), n, 0.2)
    np.testing.assert_allclose(narrow, 0.2 * (np.log(0.5) - 20), rtol=1e-6)


def test_narrow_logits_add_up_in_float32():
    narrow = lambda state, token: (state, OUT[token].astype(jnp.bfloat16))  # noqa: E731
    for found in (
        decoding.greedy(narrow, (), **HOW),
        decoding.beam(narrow, (), **HOW, width=2),
        decoding.sample(jax.random.key(0), narrow, (), **HOW),
    ):
        assert found.log_p.dtype == jnp.float32


def other(state, token):
    return (state, state), jnp.zeros(V)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: decoding.greedy(None, s, **HOW), TypeError, "step should be a function"),
        (lambda s: decoding.greedy(other, s, **HOW), ValueError, "step should give a state like the one it gets"),
        (lambda s: decoding.greedy(lambda s, t: s, s, **HOW), TypeError, r"step should give \(state, logits\)"),
        (lambda s: decoding.greedy(lambda s, t: (s, t), s, **HOW), ValueError, r"step should give logits \[V\]"),
        (lambda s: decoding.greedy(step, s, start=0, end=V, steps=2), ValueError, r"end should lie in \[0, 3\)"),
        (lambda s: decoding.greedy(step, s, start=V, end=0, steps=2), ValueError, r"start should lie in \[0, 3\)"),
        (lambda s: decoding.greedy(step, s, start=1.0, end=0, steps=2), TypeError, "start should be an int"),
        (
            lambda s: decoding.greedy(step, s, start=0, end=0, steps=0),
            ValueError,
            "steps should be an int of at least 1",
        ),
        (lambda s: decoding.beam(step, s, **HOW, width=0), ValueError, "width should be an int of at least 1"),
        (
            lambda s: decoding.beam(step, s, **HOW, width=1, length_penalty=-1),
            ValueError,
            "length_penalty should be at",
        ),
        (lambda s: decoding.beam(step, s, **HOW, width=1, bonus=lambda s: s), ValueError, "bonus should give a scalar"),
        (lambda s: decoding.beam(step, s, **HOW, width=1, bonus=3), TypeError, "bonus should be a function of a state"),
        (lambda s: decoding.greedy(step, s, **HOW, limit=5), ValueError, "limit should lie in .* 4, got"),
        (lambda s: decoding.beam(step, s, **HOW, width=1, limit=1.0), TypeError, "limit should be an array of ints"),
        (lambda s: decoding.sample(0, step, s, **HOW), TypeError, "key should be a PRNG key"),
        (
            lambda s: decoding.sample(jax.random.key(0), step, s, **HOW, temperature=1e-38),
            ValueError,
            "temperature should be a number that float32 can hold, from 1.2e-38 to 3.4e38, got 1e-38",
        ),
        (
            lambda s: decoding.sample(jax.random.key(0), step, s, **HOW, temperature=1e39),
            ValueError,
            "temperature should be a number that float32 can hold",
        ),
        (lambda s: decoding.likeliest(jnp.ones((2, 0))), ValueError, r"with V at least 1, got shape \(2, 0\)"),
        (lambda s: decoding.sample(jax.random.key(0), step, s, **HOW, temperature=0), ValueError, "temperature should"),
        (lambda s: decoding.sample(jax.random.key(0), step, s, **HOW, top_k=0), ValueError, "top_k should be an int"),
        (
            lambda s: decoding.sample(jax.random.key(0), step, s, **HOW, top_p=1.5),
            ValueError,
            r"top_p should be in \(0, 1\]",
        ),
        (lambda s: decoding.coverage(jnp.ones((2, 2)), jnp.array(1), 0.2), ValueError, r"attention should be \[S\]"),
        (lambda s: decoding.coverage(jnp.ones(2), jnp.array(1), -0.2), ValueError, "beta should be at least 0"),
    ],
)
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(states(1)[0])
    with pytest.raises(error, match=message):
        jax.eval_shape(call, states(1)[0])
