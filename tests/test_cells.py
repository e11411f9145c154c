"""One step of time: against NumPy, against other frameworks, and what the inits draw."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstmjax
from lstmjax import GRUParams, LSTMParams, RNNParams
from tests import reference
from tests.problems import B, D, H, problem

STEPS = {"lstm": lstmjax.lstm_step, "gru": lstmjax.gru_step, "rnn": lstmjax.rnn_step}
GATES = {"lstm": (lstmjax.lstm_gates, reference.lstm_gates), "gru": (lstmjax.gru_gates, reference.gru_gates)}
INITS = {"lstm": lstmjax.init_lstm, "gru": lstmjax.init_gru, "rnn": lstmjax.init_rnn}
BLOCKS = {"lstm": 4, "gru": 3, "rnn": 1}

every_cell = pytest.mark.parametrize("cell", STEPS)

# --- steps -----------------------------------------------------------------------------------------------------------


@every_cell
@pytest.mark.parametrize("bias", [True, False])
def test_step_equals_numpy(x64, cell, bias):
    params, (x, *_), state, *_ = problem(cell, dtype=np.float64, bias=bias)
    want, want_y = reference.run(params, x[None], state)
    # Through run's door and through the cell's own: the same step.
    for step in (STEPS[cell], lstmjax.step):
        got, y = jax.jit(step)(params, state, x)
        chex.assert_trees_all_close((got, y), (want, want_y[0]), rtol=0, atol=1e-14)


@every_cell
def test_step_takes_any_batch(x64, cell):
    params, xs, state, *_ = problem(cell, dtype=np.float64)
    many, ys = STEPS[cell](params, state, xs[0])
    one, y = STEPS[cell](params, jax.tree.map(lambda s: s[1], state), xs[0, 1])
    chex.assert_trees_all_close((one, y), jax.tree.map(lambda a: a[1], (many, ys)), rtol=0, atol=1e-14)
    square = jax.tree.map(lambda s: s.reshape(2, 2, H), state)
    folded = STEPS[cell](params, square, xs[0].reshape(2, 2, D))
    chex.assert_trees_all_close(folded, jax.tree.map(lambda a: a.reshape(2, 2, H), (many, ys)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("bias", [True, False])
def test_gates_equal_numpy(x64, cell, bias):
    params, (x, *_), state, *_ = problem(cell, dtype=np.float64, bias=bias)
    gates, slow_gates = GATES[cell]
    for n in range(B):
        want = slow_gates(params, jax.tree.map(lambda s, n=n: s[n], state), x[n])
        chex.assert_trees_all_close(jax.tree.map(lambda a, n=n: a[n], gates(params, state, x)), want, atol=1e-14)


def test_streaming_equals_run(x64):
    """Step by step through a stack of all cells gives what run gives."""
    rng = np.random.default_rng(0)
    widths = [("lstm", D, 4), ("gru", 4, 6), ("rnn", 6, 3), ("lstm", 3, H)]
    params = tuple(problem(cell, inputs=i, hidden=h, dtype=np.float64).params for cell, i, h in widths)
    xs = rng.normal(size=(5, 2, D))
    want, want_ys = lstmjax.run(params, xs)
    state, step, ys = lstmjax.init_state(params, 2, jnp.float64), jax.jit(lstmjax.step), []
    for x in xs:
        state, y = step(params, state, x)
        ys.append(y)
    chex.assert_trees_all_close((state, jnp.stack(ys)), (want, want_ys), rtol=0, atol=1e-13)


@every_cell
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_dtype_in_is_dtype_out(cell, dtype, weights):
    """y has the dtype of x whatever the weights have; the state is float32, or wider where x is."""
    with jax.enable_x64(dtype == "float64"):
        params = jax.tree.map(lambda w: jnp.asarray(w, weights), problem(cell).params)
        state = lstmjax.init_state(params, B, dtype)
        wide = "float64" if dtype == "float64" else "float32"
        chex.assert_type(jax.tree.leaves(state), wide)
        after, y = jax.eval_shape(STEPS[cell], params, state, jnp.ones((B, D), dtype))
        assert y.dtype == dtype
        assert {s.dtype.name for s in after} == {wide}
        # A state in the dtype of half-precision inputs is widened, not refused.
        narrow = jax.tree.map(lambda s: s.astype(dtype), state)
        assert jax.eval_shape(STEPS[cell], params, narrow, jnp.ones((B, D), dtype))[0][0].dtype == wide


@every_cell
def test_half_precision_step_is_near(cell):
    """compute_dtype rounds what the products see, and nothing else."""
    params, (x, *_), state, *_ = problem(cell)
    state = state._replace(h=rounded(state.h))  # h enters the update of a GRU too, which is not rounded
    got = STEPS[cell](params, state, x, compute_dtype="bfloat16")
    by_hand = params._replace(w_x=rounded(params.w_x), w_h=rounded(params.w_h))
    want = STEPS[cell](by_hand, state, rounded(x), precision="highest")
    chex.assert_trees_all_close(got, want, atol=1e-6)
    full = STEPS[cell](params, state, x, precision="highest")
    assert 1e-4 < float(jnp.abs(got[1] - full[1]).max()) < 0.05


def test_step_is_a_scan_body():
    params, xs, state, *_ = problem("lstm")
    want = lstmjax.run(params, xs, state, backend="scan")
    got = jax.lax.scan(lambda state, x: lstmjax.lstm_step(params, state, x), jax.tree.map(jnp.asarray, state), xs)
    chex.assert_trees_all_close(got, want, atol=1e-6)


def rounded(a):
    return jnp.asarray(a).astype(jnp.bfloat16).astype(jnp.float32)


# --- inits -----------------------------------------------------------------------------------------------------------


@every_cell
@pytest.mark.parametrize("init", ["glorot", "keras", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_init_shapes_and_dtypes(cell, init, dtype):
    K = BLOCKS[cell] * H
    want = {"w_x": (D, K), "w_h": (H, K), "b": (K,), "b_n": (H,)}
    with jax.enable_x64(dtype == "float64"):
        params = INITS[cell](jax.random.key(0), D, H, init=init, dtype=dtype)
        assert {name: a.shape for name, a in params._asdict().items()} == {name: want[name] for name in params._fields}
        assert {a.dtype.name for a in params} == {dtype}
        chex.assert_tree_all_finite(params)
        # Without a bias the weights are the same draw.
        without = INITS[cell](jax.random.key(0), D, H, init=init, bias=False, dtype=dtype)
        assert set(without[2:]) == {None}
        chex.assert_trees_all_equal(without[:2], params[:2])


@every_cell
@pytest.mark.parametrize("init", ["glorot", "keras", "torch"])
def test_init_draws_every_weight_of_a_key_apart(cell, init):
    one, other = (INITS[cell](jax.random.key(k), H, H, init=init) for k in (0, 1))
    chex.assert_trees_all_equal(one, INITS[cell](jax.random.key(0), H, H, init=init))
    blocks = [w for params in (one, other) for a in (params.w_x, params.w_h) for w in jnp.split(a, BLOCKS[cell], 1)]
    if init == "torch":
        blocks += [b for params in (one, other) for b in params[2:]]
    numbers = np.concatenate([np.asarray(b).ravel() for b in blocks])
    assert len(np.unique(numbers)) > 0.99 * len(numbers)  # a key used twice gives a block twice


@every_cell
def test_glorot_init(cell):
    """Each gate on its own: w_x in the bounds of [D, H] and filling them, w_h orthogonal; the forget bias is 1."""
    inputs, hidden = 30, 50
    params = INITS[cell](jax.random.key(0), inputs, hidden)
    bound = np.sqrt(6 / (inputs + hidden))
    for w_x, w_h in zip(*(jnp.split(w, BLOCKS[cell], 1) for w in params[:2]), strict=True):
        is_uniform(w_x, bound)
        chex.assert_trees_all_close(w_h @ w_h.T, jnp.eye(hidden), atol=1e-5)
    zeros = np.zeros(BLOCKS[cell] * hidden, np.float32)
    if cell == "lstm":
        zeros[hidden : 2 * hidden] = 1
    np.testing.assert_array_equal(params.b, zeros)
    if cell == "gru":
        np.testing.assert_array_equal(params.b_n, np.zeros(hidden))


def test_forget_bias():
    b = lstmjax.init_lstm(jax.random.key(0), D, H, forget_bias=2.5).b.reshape(4, H)
    np.testing.assert_array_equal(b, np.outer([0, 2.5, 0, 0], np.ones(H)))
    assert lstmjax.init_lstm(jax.random.key(0), D, H, bias=False).b is None
    params = lstmjax.init_lstm(jax.random.key(0), D, H)
    gates = lstmjax.lstm_gates(params, lstmjax.init_state(params), 0.1 * jnp.ones(D))
    assert float(gates.f.mean()) > 0.7


def is_keras(cell, w_x, w_h, b):
    """The three draws of Keras: Glorot over all columns, one orthogonal matrix, zeros and a forget bias of 1."""
    (inputs, columns), hidden = w_x.shape, w_h.shape[0]
    is_uniform(w_x, np.sqrt(6 / (inputs + columns)))
    np.testing.assert_allclose(w_h @ w_h.T, np.eye(hidden), atol=1e-5)
    want = np.zeros(columns)
    if cell == "lstm":
        want[hidden : 2 * hidden] = 1
    np.testing.assert_array_equal(b, want)


@every_cell
def test_keras_init(cell):
    is_keras(cell, *map(np.asarray, INITS[cell](jax.random.key(0), 30, 50, init="keras")[:3]))


def is_torch(hidden, arrays, sums):
    """All of torch's draws are uniform in +-H**-0.5, and the sum of its two biases is a triangle."""
    bound = hidden**-0.5
    for a in arrays:
        is_uniform(a, bound)
    for b in sums:
        assert np.abs(b).max() <= 2 * bound
        assert np.abs(b).max() > 1.4 * bound
        np.testing.assert_allclose(np.std(b), bound * np.sqrt(2 / 3), rtol=0.08)
        np.testing.assert_allclose(np.mean(np.abs(b)), bound * 2 / 3, rtol=0.08)


@every_cell
def test_torch_init(cell):
    hidden = 400
    params = INITS[cell](jax.random.key(0), 30, hidden, init="torch")
    if cell == "gru":
        r_and_z, n = jnp.split(params.b, [2 * hidden])
        is_torch(hidden, [params.w_x, params.w_h, n, params.b_n], [r_and_z])
    else:
        is_torch(hidden, [params.w_x, params.w_h], [params.b])


def is_uniform(a, bound):
    """Within +-bound, filling it, with the spread of a uniform draw, to four standard errors."""
    a = np.asarray(a)
    assert np.abs(a).max() <= bound
    assert np.abs(a).max() > 0.98 * bound
    np.testing.assert_allclose(np.std(a), bound / np.sqrt(3), rtol=4 * np.sqrt(0.2 / a.size))


@every_cell
def test_init_state_has_the_containers_of_params(cell):
    params = INITS[cell](jax.random.key(0), D, H)
    pair = lstmjax.Bidirectional(params, params)
    state = lstmjax.init_state((params, pair), batch=(2, 3))
    assert jax.tree.structure(state[0]) == jax.tree.structure(state[1].forward)
    assert type(state[1]) is lstmjax.Bidirectional
    chex.assert_shape(jax.tree.leaves(state), (2, 3, H))
    chex.assert_trees_all_equal(state, jax.tree.map(jnp.zeros_like, state))
    chex.assert_shape(jax.tree.leaves(lstmjax.init_state(params)), (H,))
    chex.assert_shape(jax.tree.leaves(lstmjax.init_state(params, 0)), (0, H))


# --- other frameworks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_weights_carried_into_torch(cell):
    torch = pytest.importorskip("torch")
    params, xs, state, *_ = problem(cell)
    layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[cell](D, H)
    b_hh = np.zeros_like(params.b)
    if cell == "gru":
        b_hh[2 * H :] = params.b_n
    with torch.no_grad():
        for ours, theirs in zip((params.w_x.T, params.w_h.T, params.b, b_hh), layer.parameters(), strict=True):
            theirs.copy_(torch.tensor(ours))
        initial = tuple(torch.tensor(s)[None] for s in state)
        ys, final = layer(torch.tensor(xs), initial if cell == "lstm" else initial[0])
    want = type(state)(*(s[0].numpy() for s in (final if cell == "lstm" else (final,))))
    got = lstmjax.run(params, xs, state, precision="highest")
    chex.assert_trees_all_close(got, (want, ys.numpy()), atol=2e-6)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_torch_init_is_that_of_torch(cell):
    """What `is_torch` says of our draw is true of torch's own."""
    torch = pytest.importorskip("torch")
    hidden = 400
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[cell](30, hidden)
    w_x, w_h, b_ih, b_hh = (p.detach().numpy() for p in layer.parameters())
    is_torch(hidden, [w_x, w_h, b_ih, b_hh], [b_ih + b_hh])


@pytest.fixture
def keras():
    """Keras as its users have it: on the backend chosen in conftest, and with JAX's promotion as JAX has it."""
    found = pytest.importorskip("keras")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield found


# Keras 3.15 reads its own variables by a protocol that NumPy 2 deprecates.
from_keras = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@from_keras
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_weights_carried_into_keras(keras, cell):
    params, xs, state, *_ = problem(cell)
    kind = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "rnn": keras.layers.SimpleRNN}[cell]
    layer = kind(H, return_sequences=True, return_state=True)
    layer.build((B, len(xs), D))
    if cell == "gru":
        # Keras has z before r, and h' = z h + (1 - z) n as we have it; its second bias row is the recurrent one.
        b_h = np.concatenate([np.zeros(2 * H, np.float32), params.b_n])
        weights = [swap_rz(params.w_x), swap_rz(params.w_h), np.stack([swap_rz(params.b), b_h])]
    else:
        weights = list(params)
    layer.set_weights(weights)
    ys, *final = layer(xs.swapaxes(0, 1), initial_state=[jnp.asarray(s) for s in state])
    want = type(state)(*(np.asarray(s) for s in final)), np.asarray(ys).swapaxes(0, 1)
    chex.assert_trees_all_close(lstmjax.run(params, xs, state, precision="highest"), want, atol=2e-6)


def swap_rz(w):
    r, z, n = np.split(w, 3, -1)
    return np.concatenate([z, r, n], -1)


@from_keras
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_keras_init_is_that_of_keras(keras, cell):
    """What `is_keras` says of our draw is true of Keras' own."""
    kind = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "rnn": keras.layers.SimpleRNN}[cell]
    layer = kind(50)
    layer.build((None, None, 30))
    w_x, w_h, b = (np.asarray(w) for w in layer.get_weights())
    is_keras(cell, w_x, w_h, b.reshape(-1, w_x.shape[1])[0])


def test_params_and_states_are_pytrees_of_arrays():
    """The order of the fields is the order that every importer and every checkpoint relies on."""
    assert LSTMParams._fields == ("w_x", "w_h", "b")
    assert GRUParams._fields == ("w_x", "w_h", "b", "b_n")
    assert RNNParams._fields == ("w_x", "w_h", "b")
    assert lstmjax.LSTMState._fields == ("h", "c")
    assert lstmjax.LSTMGates._fields == ("i", "f", "g", "o")
    assert lstmjax.GRUGates._fields == ("r", "z", "n")
