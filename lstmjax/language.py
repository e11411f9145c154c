"""Text in, a model of what comes next out: perplexity, new text, scores of lines; words, or character by character."""

import hashlib
import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lstmjax import cache as caches
from lstmjax import checkpoint, checks, decoding, members, reader, text, train
from lstmjax import recipe as recipes
from lstmjax.cache import Cache as Cache
from lstmjax.models import language_model
from lstmjax.models.language_model import Batch
from lstmjax.reader import Reader
from lstmjax.recipe import Recipe as Recipe
from lstmjax.recipe import checked
from lstmjax.text import BPE, PAD, UNK, Vocabulary
from lstmjax.windows import Windows, cut

END = "\n"  # the word that ends a line, and that a text begins after
COLUMNS = 8  # that a text is measured in: each begins without a past
LONGEST = 128  # steps that are measured at once,
ROOM = 2**24  # or fewer: so many logits
RECIPE = Recipe(
    members=1,
    tokens="characters",
    vocabulary=50000,
    hidden=(256,),
    bidirectional=False,
    tied=False,
    dropout=0.1,
    variational=True,
    word_dropout=0.0,
    weight_decay=0.0,
    bptt=100,
    batch_size=64,
    epochs=20,
    patience=20,
)


class Model(NamedTuple):
    """A trained language model."""

    params: language_model.Params
    recipe: Recipe
    reader: Reader


def read(path: str | Path) -> str:
    """The text of a UTF-8 file.

    Raises:
      FileNotFoundError: no such file. ValueError: no UTF-8, or nothing but blanks.
    """
    found = reader.text_of(path)
    if not found.strip():
        raise ValueError(f"{path} holds no text")
    return found


def split(given: str) -> tuple[str, str, str]:
    """A text as train, dev and test, 80 / 10 / 10 in order, cut at ends of lines where these leave something of each.

    Raises:
      TypeError: no text. ValueError: a part with nothing in it.

    >>> [len(part) for part in split(f"abcd{END}" * 20)]
    [80, 10, 10]
    """
    if not isinstance(given, str):
        raise TypeError(f"given should be a text, got {type(given).__name__}")
    places = [round(share * len(given)) for share in (0.8, 0.9)]
    for first, second in ([_line_end(given, place) for place in places], places):
        parts = given[:first], given[first:second], given[second:]
        if all(parts):
            break
    else:
        raise ValueError(
            f"a text of {len(given)} characters is too short to split off dev and test: give --dev and --test"
        )
    return parts


def fit(
    training: str,
    dev: str,
    recipe: Recipe | None = None,
    *,
    watch: train.Watch | None = None,
    snapshots: train.Snapshots | None = None,
    save_every: int | None = None,
    resume: bool = False,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[Model, train.Fitted]:
    """Train a language model by truncated backpropagation, the state going on from window to window; the epoch with the
    least loss on dev is kept.

    Args:
      training, dev: texts.
      recipe: see `Recipe`; None is `RECIPE`.
      watch, snapshots, save_every, resume, mesh: as in `train.fit`. A run goes on only with the recipe and the texts
        that it began with.

    Returns:
      The model and the history.

    Raises:
      TypeError, ValueError: no text, or a recipe that makes no sense; it names what. What `train.fit` raises.
    """
    recipe = _checked(recipe or RECIPE)
    for name, given in (("training", training), ("dev", dev)):
        if not isinstance(given, str):
            raise TypeError(f"{name} should be a text, got {type(given).__name__}")
    if mesh is not None and recipe.batch_size % mesh.size:
        raise ValueError(f"batch_size should be one that {mesh.size} devices divide, got {recipe.batch_size}")
    model = Model(None, recipe, _learn(training, recipe))  # type: ignore[arg-type]
    ids, held = (_ids(model, given) for given in (training, dev))
    for name, found in (("training", ids), ("dev", held)):
        if not len(found):
            raise ValueError(f"{name} should hold at least one word, got none")
    windows = Windows(
        cut(ids, recipe.batch_size, _start(model)), recipe.bptt, random=recipe.random_bptt, seed=recipe.order
    )
    k_init, k_train = jax.random.split(jax.random.key(recipe.seed))
    params = _init(k_init, recipe, model.reader.size)

    def evaluate(params: Any) -> dict[str, float]:
        nats = _mean(model._replace(params=params), held)
        return {"dev_perplexity": _exp(nats), "dev_loss": nats}

    fitted = train.fit(
        partial(_loss, recipe=recipe),
        params,
        _optimizer(recipe, sum(len(windows(epoch)) for epoch in range(recipe.epochs))),
        windows,
        key=k_train,
        epochs=recipe.epochs,
        evaluate=evaluate,
        metric="dev_loss",
        patience=recipe.patience,
        average=recipe.average or None,
        average_after=recipe.average_after or None,
        carry=language_model.begin(params, recipe.batch_size),
        mesh=mesh,
        snapshots=snapshots,
        save_every=save_every,
        resume=resume,
        about=json.loads(json.dumps(recipe._asdict() | {"texts": _fingerprint(training, dev)})),
        count=lambda batch: int(batch.weights.sum()),
        watch=watch,
    )
    return model._replace(params=fitted.params), fitted


def evaluate(model: Model, given: str, *, cache: Cache | None = None, columns: int = COLUMNS) -> dict[str, Any]:
    """How well a model tells a text, word by word, the state going on through it: how many tokens, what each costs in
    the mean in nats and in bits, and the perplexity, exp of the nats.

    Args:
      given: a text.
      cache: looks back on what was read in the same column (`cache.mix`); None: none.
      columns: the text is cut into so many, side by side; 1 has one past, and takes longer.

    Raises:
      TypeError, ValueError: naming the argument; a text without a word.
    """
    if not isinstance(given, str):
        raise TypeError(f"given should be a text, got {type(given).__name__}")
    ids = _ids(model, given)
    if not len(ids):
        raise ValueError("given should hold at least one word, got none")
    nats = _mean(model, ids, cache, checks.size("columns", columns))
    return {"tokens": len(ids), "nats": nats, "bits": nats / math.log(2), "perplexity": _exp(nats)}


def score(model: Model, lines: Sequence[str]) -> np.ndarray:
    """-log p of each line and its end, in nats, as if it were the first of a text: [N].

    Raises:
      TypeError: lines that are no sequence of strings.
    """
    sequences = [_ids(model, line + END) for line in checks.strings("lines", lines)]

    def of(bucket: text.Bucket, size: int) -> np.ndarray:
        targets, lengths = members.padded(sequences, bucket, size)
        inputs = np.concatenate([np.full((size, 1), _start(model), np.int32), targets[:, :-1]], 1)
        found = _surprisals(model.params, inputs, targets)
        return np.where(np.arange(bucket.length) < lengths[:, None], found, 0).sum(-1)[None]

    return members.in_batches([len(s) for s in sequences], of, (1,), at_most=COLUMNS)[0]


def unigram(model: Model, training: str, given: str) -> float:
    """What a model has to beat: the perplexity of a text whose words come as often as in the training text, each once
    more, whatever stands before them."""
    seen, ids = (_ids(model, part) for part in (training, given))
    counts = 1 + np.bincount(seen, minlength=model.reader.size)
    return _exp(float(-np.log(counts[ids] / counts.sum()).mean()))


def generate(
    model: Model,
    prompt: str,
    key: jax.Array,
    *,
    tokens: int = 200,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> str:
    """The prompt as it stands, and how the model goes on with it, without unknown words.

    Args:
      prompt: may be empty: the text begins as a line does.
      key: PRNG key; the same key, the same text.
      tokens: how many words are added.
      temperature, top_k, top_p: as in `decoding.sample`; with top_k = 1 it is the likeliest word at each step.

    Raises:
      TypeError, ValueError: naming the argument.
    """
    if not isinstance(prompt, str):
        raise TypeError(f"prompt should be a text, got {type(prompt).__name__}")
    checks.size("tokens", tokens)
    words = _tokens(model.reader, prompt)
    ids = np.array([_start(model), *model.reader.vocabulary.encode(words)], np.int32)
    how = dict(tokens=tokens, temperature=temperature, top_k=top_k, top_p=top_p)
    found = np.asarray(_generated(model.params, ids, key, **how))
    more = model.reader.vocabulary.decode(found.tolist())
    between = " " if prompt and not prompt[-1].isspace() and _apart(model.reader, more[0]) else ""
    return prompt + between + _joined(model.reader, more)


def measure(model: Model) -> str:
    """The key of `evaluate` that a model is compared by."""
    return "perplexity"


def save(model: Model, folder: str | Path) -> Path:
    """Write the model as a folder (see `checkpoint.save`)."""
    about = {"task": "language", "recipe": model.recipe._asdict(), "reader": model.reader.to_json()}
    return checkpoint.save(folder, model.params, about)


def load(folder: str | Path) -> Model:
    """Read what `save` wrote; what it refuses is that of `checkpoint.load_model`."""

    def describe(about: dict[str, Any]) -> tuple[Model, Any]:
        recipe, read = recipes.from_json(about["recipe"]), Reader.from_json(about["reader"])
        shapes = jax.eval_shape(lambda: _init(jax.random.key(0), recipe, read.size))
        return Model(None, recipe, read), shapes  # type: ignore[arg-type]

    return checkpoint.load_model(folder, "language model", ("language",), describe)


def _checked(recipe):
    """A recipe that makes sense for a language model."""
    checked(recipe)
    if recipe.members != 1 or recipe.bidirectional:
        raise ValueError(
            f"a language model is one, and reads forwards: members should be 1 and bidirectional False, got "
            f"{recipe.members} and {recipe.bidirectional}"
        )
    if recipe.vectors or recipe.pretrained or recipe.pieces or recipe.smoothing or recipe.linear_part:
        raise ValueError(
            "a language model begins with nothing and has whole tokens: vectors, pretrained, pieces, smoothing and "
            "linear_part are of other tasks"
        )
    return recipe


def _learn(training, recipe):
    """A reader with the words of a text."""
    bpe = BPE.train(training.split(END), recipe.vocabulary) if recipe.tokens == "bpe" else None
    read = Reader(Vocabulary(()), bpe, 0, recipe.tokens)
    words = _tokens(read, training)
    return read._replace(vocabulary=Vocabulary.count([words], size=recipe.vocabulary, min_count=recipe.min_count))


def _tokens(read, given):
    """The words of a text, with the end of each line among them."""
    found: list[str] = []
    for n, line in enumerate(given.split(END)):
        found += [END] * (n > 0) + read.tokenise(line)
    return found


def _joined(read, words):
    """A text of these words."""
    if read.cut == "characters":
        return "".join(words)
    joined = "".join(words).replace("▁", " ") if read.bpe else " ".join(words)
    return END.join(line.strip() for line in joined.split(END))


def _apart(read, word):
    """Whether a blank stands before a word that does not begin a line."""
    if word == END or read.cut == "characters":
        return False
    return word.startswith("▁") if read.bpe else True


def _ids(model, given):
    return model.reader.vocabulary.encode(_tokens(model.reader, given))


def _start(model):
    """The id of what a text begins after."""
    return int(model.reader.vocabulary.encode([END])[0])


def _line_end(given, place):
    """Where the line ends that this place is in, if it ends before the text does; else the place."""
    found = given.find(END, place - 1) + 1
    return found if 0 < found < len(given) else place


def _init(key, recipe, vocabulary):
    return language_model.init(
        key,
        vocabulary,
        embedding=recipe.embedding,
        hidden=recipe.hidden,
        cell=recipe.cell,
        tied=recipe.tied,
        cutoffs=recipe.cutoffs,
    )


def _options(recipe):
    return language_model.Options(
        recipe.dropout,
        recipe.variational,
        recipe.recurrent,
        recipe.weight_dropout,
        recipe.word_dropout,
        recipe.ar,
        recipe.tar,
        recipe.samples,
    )


def _loss(params, state, batch, key, *, recipe):
    """That of a window, whose columns come as rows, so that devices can share them."""
    inputs, targets, weights = (jnp.swapaxes(part, 0, 1) for part in batch[:3])
    batch = Batch(inputs, targets, weights, batch.lengths)
    value, state = language_model.loss(params, state, batch, key, options=_options(recipe))
    return value, state


def _optimizer(recipe, steps):
    """That of a recipe, over so many steps, of which one over a short window is a short one."""
    one = members.optimizer(recipe, steps)
    return optax.chain(one, _by_length(recipe.bptt)) if recipe.random_bptt else one


def _by_length(bptt):
    """Updates by the share that a window is of `bptt` steps (Merity et al. 2018, section 4.1): there it is of the
    learning rate, which comes after the bound on the gradient and whatever Adam makes of it."""

    def update(updates, state, params=None, *, batch, **_):
        del params
        share = batch.lengths.mean(dtype=jnp.float32) / bptt
        return jax.tree.map(lambda one: one * share.astype(one.dtype), updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _mean(model, ids, cache=None, columns=COLUMNS):
    """-log p of a word of a text, in the mean."""
    inputs, targets, weights = cut(ids, min(columns, len(ids)), _start(model))
    return float(_surprisals(model.params, inputs, targets, cache)[weights > 0].mean())


def _surprisals(params, inputs, targets, cache=None):
    """-log p of targets [B, N], the state going on along N: float64 [B, N], window by window, so that any text is
    measured in the same room."""
    columns, width = inputs.shape
    steps = max(1, min(LONGEST, width, ROOM // (columns * len(params.embedding))))
    inputs, targets = (np.pad(part, ((0, 0), (0, -width % steps))).T for part in (inputs, targets))
    state, memory, found = language_model.begin(params, columns), None, []
    if cache is not None:
        memory = caches.init_memory(cache, columns, state[-1].h.shape[-1])
    for k in range(0, len(inputs), steps):
        state, memory, nats = _window(params, state, memory, inputs[k : k + steps], targets[k : k + steps], cache)
        found.append(np.asarray(nats, np.float64))
    return np.concatenate(found).T[:, :width]


@partial(jax.jit, static_argnames="cache")
def _window(params, state, memory, inputs, targets, cache):
    state, ys = language_model.outputs(params, inputs, state)
    nats = language_model.surprisals(params, ys, targets)
    if cache is not None:
        memory, nats = caches.mix(memory, ys, targets, nats, cache)
    return state, memory, nats


@partial(jax.jit, static_argnames=("tokens", "temperature", "top_k", "top_p"))
def _generated(params, ids, key, tokens, temperature, top_k, top_p):
    state = language_model.begin(params, 1)
    if len(ids) > 1:
        state, _ = language_model.outputs(params, ids[:-1, None], state)

    def step(state, token):
        state, found = language_model.step(params, state, token)
        return state, found.at[jnp.array([PAD, UNK])].set(-jnp.inf)

    found = decoding.sample(
        key,
        step,
        jax.tree.map(lambda a: a[0], state),
        start=ids[-1],
        end=PAD,  # which never comes
        steps=tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
    )
    return found.tokens


def _exp(nats):
    return math.exp(min(nats, 700.0))  # what is greater has no exponential


def _fingerprint(*texts):
    """What tells these texts from others."""
    digest = hashlib.sha256()
    for given in texts:
        digest.update(f"{len(given)}:{given}".encode())
    return digest.hexdigest()[:16]
