"""One step of time: against NumPy, against other frameworks, and what the inits draw."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstmjax
from lstmjax import GRUForm, LSTMForm, RNNForm
from tests import reference
from tests.problems import CELLS, QUICK, B, D, H, problem

# Of each cell in `problems`: its step, and its gates if it has any.
STEPS = {cell: getattr(lstmjax, f"{cell.partition('-')[0]}_step") for cell in CELLS}
GATES = {cell: getattr(lstmjax, f"{cell.partition('-')[0]}_gates") for cell in CELLS if cell != "rnn"}

# Of each init: the blocks of columns, and which one has a forget bias.
INITS = {
    "lstm": (lstmjax.init_lstm, 4, 1),
    "gru": (lstmjax.init_gru, 3, None),
    "rnn": (lstmjax.init_rnn, 1, None),
    "minlstm": (lstmjax.init_minlstm, 3, 0),
    "slstm": (lstmjax.init_slstm, 4, 1),
}

every_cell = pytest.mark.parametrize("cell", STEPS)
every_init = pytest.mark.parametrize("cell", INITS)

# --- steps -----------------------------------------------------------------------------------------------------------


@every_cell
@pytest.mark.parametrize("bias", [True, False])
def test_step_equals_numpy(x64, cell, bias):
    params, (x, *_), state, *_ = problem(cell, dtype=np.float64, bias=bias)
    want, want_y = reference.run(params, x[None], state)
    # Through run's door and through the cell's own: the same step.
    for step in (STEPS[cell], lstmjax.step):
        got, y = jax.jit(step, compiler_options=QUICK)(params, state, x)
        chex.assert_trees_all_close((got, y), (want, want_y[0]), rtol=0, atol=1e-14)


@every_cell
def test_step_takes_any_batch(x64, cell):
    params, xs, state, *_ = problem(cell, dtype=np.float64)
    step = jax.jit(STEPS[cell], compiler_options=QUICK)
    many, ys = jax.device_get(step(params, state, xs[0]))
    one, y = step(params, jax.tree.map(lambda s: s[1], state), xs[0, 1])
    chex.assert_trees_all_close((one, y), jax.tree.map(lambda a: a[1], (many, ys)), rtol=0, atol=1e-14)
    square = jax.tree.map(lambda s: s.reshape(2, 2, -1), state)
    folded = step(params, square, xs[0].reshape(2, 2, D))
    chex.assert_trees_all_close(folded, jax.tree.map(lambda a: a.reshape(2, 2, -1), (many, ys)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("bias", [True, False])
def test_gates_equal_numpy(x64, cell, bias):
    params, (x, *_), state, *_ = problem(cell, dtype=np.float64, bias=bias)
    gates = jax.device_get(jax.jit(GATES[cell], compiler_options=QUICK)(params, state, x))
    for n in range(B):
        want = reference.gates(params, jax.tree.map(lambda s, n=n: s[n], state), x[n])
        chex.assert_trees_all_close(jax.tree.map(lambda a, n=n: a[n], gates), want, rtol=0, atol=1e-14)


def test_streaming_equals_run(x64):
    """Step by step through a stack of all cells gives what run gives."""
    rng = np.random.default_rng(0)
    widths = [
        ("lstm", D, 4),
        ("gru", 4, 6),
        ("rnn", 6, 3),
        ("lstm-everything", 3, 2),
        ("minlstm", 2, 4),
        ("slstm", 4, H),
    ]
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
    options = dict(compiler_options=QUICK, static_argnames=("compute_dtype", "precision"))
    step = jax.jit(STEPS[cell], **options)
    got = step(params, state, x, compute_dtype="bfloat16")
    if cell not in ("lstm-everything", "gru-before"):  # of which one product is of what another one gave
        weights = {name: rounded(getattr(params, name)) for name in ("w_x", "w_h") if hasattr(params, name)}
        want = step(params._replace(**weights), state, rounded(x), precision="highest")
        chex.assert_trees_all_close(got, want, rtol=1e-6, atol=1e-6)
    full = step(params, state, x, precision="highest")
    assert 1e-4 < float(jnp.abs(got[1] - full[1]).max()) < 0.05


def test_step_is_a_scan_body():
    params, xs, state, *_ = problem("lstm")
    want = lstmjax.run(params, xs, state, backend="scan")
    got = jax.lax.scan(lambda state, x: lstmjax.lstm_step(params, state, x), jax.tree.map(jnp.asarray, state), xs)
    chex.assert_trees_all_close(got, want, atol=1e-6)


def rounded(a):
    return jnp.asarray(a).astype(jnp.bfloat16).astype(jnp.float32)


# --- inits -----------------------------------------------------------------------------------------------------------


@every_init
@pytest.mark.parametrize("init", ["glorot", "keras", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_init_shapes_and_dtypes(cell, init, dtype):
    draw, blocks, _ = INITS[cell]
    K = blocks * H
    want = {"w_x": (D, K), "w_h": (1, H, K) if cell == "slstm" else (H, K), "b": (K,), "b_n": (H,)}
    with jax.enable_x64(dtype == "float64"):
        params = draw(jax.random.key(0), D, H, init=init, dtype=dtype)
        arrays = {name: a for name, a in params._asdict().items() if a is not None}
        assert {name: a.shape for name, a in arrays.items()} == {k: v for k, v in want.items() if hasattr(params, k)}
        assert {a.dtype.name for a in arrays.values()} == {dtype}
        chex.assert_tree_all_finite(params)
        # Without a bias the weights are the same draw.
        without = draw(jax.random.key(0), D, H, init=init, bias=False, dtype=dtype)
        assert without.b is None
        chex.assert_trees_all_equal(without, params._replace(**{name: None for name in arrays if name[0] == "b"}))


@every_init
@pytest.mark.parametrize("init", ["glorot", "keras", "torch"])
def test_init_draws_every_weight_of_a_key_apart(cell, init):
    draw, blocks, _ = INITS[cell]
    one, other = (draw(jax.random.key(k), H, H, init=init) for k in (0, 1))
    chex.assert_trees_all_equal(one, draw(jax.random.key(0), H, H, init=init))
    found = [block for params in (one, other) for w in matrices(params) for block in jnp.split(w, blocks, 1)]
    if init == "torch":
        biases = [(params.b, getattr(params, "b_n", None)) for params in (one, other)]
        found += [b for pair in biases for b in pair if b is not None]
    numbers = np.concatenate([np.asarray(a).ravel() for a in found])
    assert len(np.unique(numbers)) > 0.99 * len(numbers)  # a key used twice gives a block twice


def matrices(params):
    """w_x, and w_h where there is one, of one head where there are heads."""
    w_h = getattr(params, "w_h", None)
    return [params.w_x] if w_h is None else [params.w_x, w_h[0] if w_h.ndim == 3 else w_h]


@every_init
def test_glorot_init(cell):
    """Each gate on its own: w_x in the bounds of [D, H] and filling them, w_h orthogonal; the forget bias is 1."""
    inputs, hidden = 30, 50
    draw, blocks, forget = INITS[cell]
    params = draw(jax.random.key(0), inputs, hidden)
    bound = np.sqrt(6 / (inputs + hidden))
    for w_x in jnp.split(params.w_x, blocks, 1):
        is_uniform(w_x, bound)
    for w in matrices(params)[1:]:
        for w_h in jnp.split(w, blocks, 1):
            chex.assert_trees_all_close(w_h @ w_h.T, jnp.eye(hidden), atol=1e-5)
    np.testing.assert_array_equal(params.b, forget_bias(blocks, hidden, forget))
    if cell == "gru":
        np.testing.assert_array_equal(params.b_n, np.zeros(hidden))


def forget_bias(blocks, hidden, block, value=1.0):
    """Zeros, with a value in one block."""
    b = np.zeros((blocks, hidden), np.float32)
    if block is not None:
        b[block] = value
    return b.reshape(-1)


@pytest.mark.parametrize("cell", [cell for cell, (_, _, forget) in INITS.items() if forget is not None])
def test_forget_bias(cell):
    draw, blocks, forget = INITS[cell]
    b = draw(jax.random.key(0), D, H, forget_bias=2.5).b
    np.testing.assert_array_equal(b, forget_bias(blocks, H, forget, 2.5))
    assert draw(jax.random.key(0), D, H, bias=False).b is None


@pytest.mark.parametrize(("coupling", "value"), [(None, 1.0), ("i=1-f", 1.0), ("f=1-i", -1.0)])
def test_the_forget_gate_is_open_at_first(coupling, value):
    """Where f is 1 - i, it is the input gate that has a bias, of the other sign."""
    params = lstmjax.init_lstm(jax.random.key(0), D, H, coupling=coupling)
    blocks = 4 if coupling is None else 3
    np.testing.assert_array_equal(params.b, forget_bias(blocks, H, 1 if coupling is None else 0, value))
    gates = lstmjax.lstm_gates(params, lstmjax.init_state(params), 0.1 * jnp.ones(D))
    assert float(gates.f.mean()) > 0.7
    assert coupling is None or np.allclose(gates.f + gates.i, 1)


@pytest.mark.parametrize("coupling", [None, "f=1-i"])
@pytest.mark.parametrize("layer_norm", [None, "gates", "gates+cell", "inputs+cell"])
def test_init_of_the_variants_of_an_lstm(coupling, layer_norm):
    """What is asked for is there and begins where it changes least; the plain weights are the same draw."""
    blocks, outputs = (4, 2) if coupling is None else (3, 2)
    K = blocks * H
    options = dict(peephole=True, projection=outputs, projection_bias=True, layer_norm=layer_norm, coupling=coupling)
    form = dict(activations=("hard_sigmoid", "tanh", "relu"), clip=3, clip_cell=2.0, clip_projection=1.5, epsilon=0.1)
    params = lstmjax.init_lstm(jax.random.key(0), D, H, **options, **form)
    assert params.form == LSTMForm(coupling, **form)
    assert params.form.clip == 3.0
    assert (params.w_x.shape, params.w_h.shape, params.projection.shape) == ((D, K), (outputs, K), (H, outputs))
    np.testing.assert_array_equal(params.peephole, np.zeros(K - H))
    np.testing.assert_array_equal(params.projection_b, np.zeros(outputs))
    is_uniform(lstmjax.init_lstm(jax.random.key(0), D, 90, projection=60).projection, np.sqrt(6 / 150))
    ones = {"gates": K, "x": K, "h": K, "cell": H}
    normed = {None: [], "gates": ["gates"], "gates+cell": ["gates", "cell"], "inputs+cell": ["x", "h", "cell"]}[
        layer_norm
    ]
    assert [field for field in ones if getattr(params.norm, field, None) is not None] == normed or not normed
    assert (params.norm is None) == (layer_norm is None)
    for field in normed:
        scale, shift = getattr(params.norm, field)
        np.testing.assert_array_equal(scale, np.ones(ones[field]))
        if layer_norm == "gates":
            assert shift is None
        else:
            np.testing.assert_array_equal(shift, np.zeros(ones[field]))
    plain = lstmjax.init_lstm(jax.random.key(0), D, H, coupling=coupling)
    chex.assert_trees_all_equal((params.w_x, params.b), (plain.w_x, plain.b))
    assert lstmjax.init_lstm(jax.random.key(0), D, H).form is None


def test_init_of_the_variants_of_the_others():
    key = jax.random.key(0)
    params = lstmjax.init_gru(key, D, H, reset="before", activations=("hard_sigmoid", "relu"))
    assert params.form == GRUForm("before", ("hard_sigmoid", "relu"))
    assert params.b_n is None
    chex.assert_trees_all_equal(params[:3], lstmjax.init_gru(key, D, H)[:3])
    assert lstmjax.init_rnn(key, D, H, activation="relu").form == RNNForm("relu")
    assert lstmjax.init_minlstm(key, D, H, candidate="tanh").form == lstmjax.MinLSTMForm("tanh")
    params = lstmjax.init_slstm(key, D, 6, heads=3, forget="exp")
    assert params.form == lstmjax.SLSTMForm("exp")
    assert params.w_h.shape == (3, 2, 8)
    for head in params.w_h:  # each gate of each head on its own
        for w_h in jnp.split(head, 4, 1):
            chex.assert_trees_all_close(w_h @ w_h.T, jnp.eye(2), atol=1e-5)
    assert len(np.unique(params.w_h)) > 0.9 * params.w_h.size / 2  # heads are drawn apart
    for draw, _, _ in INITS.values():
        assert draw(key, D, H).form is None


def is_keras(w_x, w_h, b, forget=None):
    """The three draws of Keras: Glorot over all columns, one orthogonal matrix, zeros and a forget bias of 1."""
    inputs, columns = w_x.shape
    is_uniform(w_x, np.sqrt(6 / (inputs + columns)))
    if w_h is not None:
        np.testing.assert_allclose(w_h @ w_h.T, np.eye(len(w_h)), atol=1e-5)
    hidden = 50
    np.testing.assert_array_equal(b, forget_bias(columns // hidden, hidden, forget))


@pytest.mark.parametrize("cell", [cell for cell in INITS if cell != "minlstm"])  # which has no w_h
def test_draws_side_by_side_are_those_of_each_and_decompose_no_batch(cell):
    """A program with several batches of QR decompositions never ends on a CPU: all its threads wait for each other."""
    draw = INITS[cell][0]
    more = {"heads": 2} if cell == "slstm" else {}

    def layers(key):
        return [draw(one, 3, 50, **more) for one in jax.random.split(key, 3)]

    keys = jax.random.split(jax.random.key(0), 2)
    program = jax.jit(jax.vmap(layers)).lower(keys)
    decomposed = re.findall(r"custom_call @lapack_sgeqrf\S* .*: \(tensor<([0-9x]+)xf32>\)", program.as_text())
    assert decomposed
    assert all(shape.count("x") == 1 for shape in decomposed), decomposed
    for row, key in enumerate(keys):
        got = jax.tree.map(lambda a, row=row: a[row], program.compile()(keys))
        chex.assert_trees_all_close(got, layers(key), atol=1e-6)


@every_init
def test_keras_init(cell):
    draw, _, forget = INITS[cell]
    params = draw(jax.random.key(0), 30, 50, init="keras")
    w_x, *w_h = map(np.asarray, matrices(params))
    is_keras(w_x, *w_h or [None], params.b, forget)


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


@every_init
def test_torch_init(cell):
    hidden = 400
    params = INITS[cell][0](jax.random.key(0), 30, hidden, init="torch")
    if cell == "gru":
        r_and_z, n = jnp.split(params.b, [2 * hidden])
        is_torch(hidden, [*matrices(params), n, params.b_n], [r_and_z])
    else:
        is_torch(hidden, matrices(params), [params.b])


def is_uniform(a, bound):
    """Within +-bound, filling it, with the spread of a uniform draw, to four standard errors."""
    a = np.asarray(a)
    assert np.abs(a).max() <= bound
    assert np.abs(a).max() > 0.98 * bound
    np.testing.assert_allclose(np.std(a), bound / np.sqrt(3), rtol=4 * np.sqrt(0.2 / a.size))


@every_cell
def test_init_state_has_the_containers_of_params(cell):
    params = problem(cell).params
    like = problem(cell, batch=(2, 3)).state
    pair = lstmjax.Bidirectional(params, params)
    state = lstmjax.init_state((params, pair), batch=(2, 3))
    assert type(state[1]) is lstmjax.Bidirectional
    zeros = jax.tree.map(jnp.zeros_like, like)
    chex.assert_trees_all_equal(state, (zeros, lstmjax.Bidirectional(zeros, zeros)))
    for batch in ((), (0,)):
        chex.assert_trees_all_equal_shapes(lstmjax.init_state(params, batch), problem(cell, batch=batch).state)


# --- other frameworks ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("cell", ["lstm", "lstm of a projection", "gru", "rnn", "rnn of relu"])
def test_weights_carried_into_torch(cell):
    torch = pytest.importorskip("torch")
    params, xs, state, *_ = problem(cell.split()[0])
    b_hh = np.zeros_like(params.b)
    weights = [params.w_x.T, params.w_h.T, params.b, b_hh]
    if cell == "lstm":
        layer = torch.nn.LSTM(D, H)
    elif cell == "lstm of a projection":
        layer = torch.nn.LSTM(D, H, proj_size=2)
        params = params._replace(w_h=params.w_h[:2], projection=params.w_h[:, :2])
        weights[1:2] = [params.w_h.T]
        weights.append(params.projection.T)
        state = state._replace(h=state.h[:, :2])
    elif cell == "gru":
        layer = torch.nn.GRU(D, H)
        b_hh[2 * H :] = params.b_n
    else:
        layer = torch.nn.RNN(D, H, nonlinearity="relu" if cell == "rnn of relu" else "tanh")
        params = params._replace(form=RNNForm("relu") if cell == "rnn of relu" else None)
    with torch.no_grad():
        for ours, theirs in zip(weights, layer.parameters(), strict=True):
            theirs.copy_(torch.tensor(ours))
        initial = tuple(torch.tensor(s)[None] for s in state)
        ys, final = layer(torch.tensor(xs), initial if len(initial) > 1 else initial[0])
    want = type(state)(*(s[0].numpy() for s in (final if len(initial) > 1 else (final,))))
    got = lstmjax.run(params, xs, state, precision="highest")
    chex.assert_trees_all_close(got, (want, ys.numpy()), rtol=1e-6, atol=2e-6)


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
    if cell == "gru":
        # Keras has z before r, and h' = z h + (1 - z) n as we have it; its second bias row is the recurrent one.
        b_h = np.concatenate([np.zeros(2 * H, np.float32), params.b_n])
        weights = [swap_rz(params.w_x), swap_rz(params.w_h), np.stack([swap_rz(params.b), b_h])]
    else:
        weights = [params.w_x, params.w_h, params.b]
    agrees_with_keras(kind(H, return_sequences=True, return_state=True), weights, params, xs, state)


# The hard sigmoid of Keras, relu6(x + 3) / 6.
HARD_SIGMOID = ("hard_sigmoid", 1 / 6, 0.5)


@from_keras
def test_gru_with_the_reset_before_the_product_as_in_keras(keras):
    params, xs, state, *_ = problem("gru-before")
    params = params._replace(form=GRUForm("before", (HARD_SIGMOID, "softsign")))
    activations = dict(activation="softsign", recurrent_activation="hard_sigmoid")
    layer = keras.layers.GRU(H, reset_after=False, return_sequences=True, return_state=True, **activations)
    agrees_with_keras(layer, [swap_rz(w) for w in (params.w_x, params.w_h, params.b)], params, xs, state)


@from_keras
def test_other_activations_as_in_keras(keras):
    params, xs, state, *_ = problem("lstm")
    params = params._replace(form=LSTMForm(activations=(HARD_SIGMOID, "elu", "elu")))
    activations = dict(activation="elu", recurrent_activation="hard_sigmoid")
    layer = keras.layers.LSTM(H, return_sequences=True, return_state=True, **activations)
    agrees_with_keras(layer, [params.w_x, params.w_h, params.b], params, xs, state)


@from_keras
@pytest.mark.parametrize("padding", ["zero", "hold"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_masks_as_in_keras(keras, padding, reverse):
    """Gaps, padding at either end, and a sample of which no step counts."""
    params, xs, *_ = problem("lstm", time=4)
    mask = np.array([[1, 0, 0, 1], [1, 1, 0, 0], [0, 1, 0, 1], [1, 1, 0, 0]], bool)
    options = dict(return_sequences=True, return_state=True, use_cudnn=False)
    layer = keras.layers.LSTM(H, go_backwards=reverse, zero_output_for_mask=padding == "zero", **options)
    weights = [params.w_x, params.w_h, params.b]
    agrees_with_keras(layer, weights, params, xs, None, mask=mask, padding=padding, reverse=reverse)


def agrees_with_keras(layer, weights, params, xs, state, mask=None, reverse=False, **options):
    layer.build((B, len(xs), D))
    layer.set_weights(weights)
    initial = None if state is None else [jnp.asarray(s) for s in state]
    ys, *final = layer(xs.swapaxes(0, 1), initial_state=initial, mask=None if mask is None else jnp.asarray(mask.T))
    ys = np.asarray(ys).swapaxes(0, 1)
    ys = ys[::-1] if reverse else ys  # Keras leaves them in the order of processing
    got, got_ys = lstmjax.run(params, xs, state, mask=mask, reverse=reverse, **options, precision="highest")
    want = type(got)(*(np.asarray(s) for s in final))
    chex.assert_trees_all_close((got, got_ys), (want, ys), rtol=1e-6, atol=2e-6)


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
    is_keras(w_x, w_h, b.reshape(-1, w_x.shape[1])[0], INITS[cell][2])


def test_params_and_states_are_pytrees_of_arrays():
    """The order of the fields is the order that every importer and every checkpoint relies on."""
    weights, form = ("w_x", "w_h", "b"), ("form",)
    variants = ("peephole", "projection", "projection_b", "norm")
    fields = {
        "LSTMParams": (*weights, *variants, *form),
        "GRUParams": (*weights, "b_n", *form),
        "RNNParams": (*weights, *form),
        "MinLSTMParams": ("w_x", "b", *form),
        "SLSTMParams": (*weights, *form),
        "LayerNorm": ("gates", "x", "h", "cell"),
        "Norm": ("scale", "shift"),
        "LSTMState": ("h", "c"),
        "GRUState": ("h",),
        "RNNState": ("h",),
        "MinLSTMState": ("h",),
        "SLSTMState": ("h", "c", "n", "m"),
        "LSTMGates": ("i", "f", "g", "o"),
        "GRUGates": ("r", "z", "n"),
        "RNNGates": (),
        "MinLSTMGates": ("f", "i", "g"),
        "SLSTMGates": ("i", "f", "g", "o"),
    }
    assert {name: getattr(lstmjax, name)._fields for name in fields} == fields
