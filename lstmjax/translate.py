"""Text in one language in, text in another out: vocabularies, model, training and search put together."""

import unicodedata
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstmjax import bleu, checkpoint, checks, decoding, members, reader, train
from lstmjax import recipe as recipes
from lstmjax.batches import Batches
from lstmjax.bleu import score as score
from lstmjax.models import seq2seq
from lstmjax.models.seq2seq import END
from lstmjax.reader import Reader
from lstmjax.recipe import Recipe as Recipe
from lstmjax.recipe import checked
from lstmjax.text import UNK

Record = tuple[str, str]  # a text, and what it means in the other language
AT_ONCE = 64  # texts in a batch where nothing is trained
SPARE = 10  # tokens that even the shortest text may take


class Model(NamedTuple):
    """A trained translator."""

    params: seq2seq.Params  # each weight with a leading axis of the recipe's members
    recipe: Recipe
    source: Reader
    target: Reader
    ratio: float = 2.0  # a translation of n tokens has at most ratio n + `SPARE`: as in training, but at least 2


class Candidate(NamedTuple):
    """One of the translations of a text."""

    text: str
    score: float  # what `decoding.beam` orders by; of a greedy search log_p
    log_p: float  # of its tokens and its end, in nats, where no unknown word is allowed


def read(path: str | Path) -> list[Record]:
    """The records of a UTF-8 file with `source TAB target` on each line; blank lines are passed over.

    Raises:
      FileNotFoundError: no such file. ValueError: a line with a part missing; it names the line.
    """
    records: list[Record] = []
    for number, line in reader.lines_of(path, "source TAB target"):
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) != 2 or not all(parts):
            raise ValueError(f"{path}, line {number}: expected source TAB target, got {line[:60]!r}")
        records.append((parts[0], parts[1]))
    return records


def fit(
    training: Sequence[Record],
    dev: Sequence[Record],
    recipe: Recipe | None = None,
    *,
    watch: train.Watch | None = None,
    snapshots: train.Snapshots | None = None,
    save_every: int | None = None,
    resume: bool = False,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[Model, train.Fitted]:
    """Train a translator; the epoch that is best on dev is kept.

    With `best = "loss"` that is the one of least -log p of a token: it costs a pass over dev and has little noise.
    With `best = "measure"` it is the one of highest BLEU of greedy translations of dev, which is what will be asked of
    the model, and which goes on rising for some epochs after the loss has begun to.

    Args:
      training, dev: records.
      recipe: see `Recipe`; None is `Recipe()`.
      watch, snapshots, save_every, resume, mesh: as in `train.fit`. A run goes on only with the recipe and the records
        that it began with.

    Returns:
      The model and the history.

    Raises:
      TypeError: records that are no pairs of strings. ValueError: no records, a text without words, or a recipe that
        makes no sense; it names what. ImportError: BLEU and no sacrebleu, "bpe" and no tokenizers. What `train.fit`
        raises.
    """
    model, task = _task(training, dev, checked(recipe or Recipe()))
    fitted = members.fit(task, watch=watch, snapshots=snapshots, save_every=save_every, resume=resume, mesh=mesh)
    return model._replace(params=fitted.params), fitted


def sweep(
    training: Sequence[Record],
    dev: Sequence[Record],
    settings: dict[str, Sequence[float | int]],
    recipe: Recipe | None = None,
    *,
    watch: train.Watch | None = None,
    snapshots: train.Snapshots | None = None,
    resume: bool = False,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[list[Model], train.Swept]:
    """Train k translators side by side, as `classify.sweep` does classifiers."""
    each = members.recipes_of(recipe or Recipe(), settings)
    model, task = _task(training, dev, checked(recipe or Recipe()))
    swept = members.sweep(task, settings, watch=watch, snapshots=snapshots, resume=resume, mesh=mesh)
    return members.models_of(model, task, swept, each), swept


def translate(
    model: Model,
    texts: Sequence[str],
    *,
    width: int | None = None,
    length_penalty: float | None = None,
    coverage: float | None = None,
    longest: int | None = None,
) -> list[str]:
    """The translation of each text. Of several members the probabilities are averaged at every step.

    Args:
      model: a translator.
      texts: blank ones come back blank.
      width: of the beam; 1 is greedy.
      length_penalty: as in `decoding.beam`.
      coverage: the weight of `decoding.coverage`.
      longest: most tokens of a translation, its end among them; None: what the model's `ratio` gives a text of this
        length. One that has not ended by then is cut.

    Where the first three are None, they are the recipe's.

    Raises:
      TypeError: texts that are no sequence of strings. TypeError, ValueError: another argument, by its name.
    """
    found = _found(model, texts, 1, width, length_penalty, coverage, longest)
    return [best[0].text if best else "" for best in found]


def candidates(
    model: Model,
    texts: Sequence[str],
    n: int,
    *,
    width: int | None = None,
    length_penalty: float | None = None,
    coverage: float | None = None,
    longest: int | None = None,
) -> list[list[Candidate]]:
    """The n best translations of each text that the search finds, by falling score: to choose among, or to rank anew.

    Args:
      model, texts, length_penalty, coverage, longest: as in `translate`.
      n: how many, at most the width.
      width: of the beam; None is the recipe's, or n where that is more.

    Returns:
      For each text n candidates, fewer where there are no more sequences, none of a blank text. Those that were cut
      come after all that ended. With pieces of words two may be cut differently and read alike.

    Raises:
      As `translate`; ValueError: n is more than the width.
    """
    return _found(model, texts, n, width, length_penalty, coverage, longest)


def _found(model, texts, n, width, length_penalty, coverage, longest):
    """The n best candidates of each text."""
    texts, recipe = checks.strings("texts", texts), model.recipe
    n = checks.size("n", n)
    width = max(recipe.beam, n) if width is None else checks.size("width", width)
    if n > width:
        raise ValueError(f"n should be at most the width, which is {width}, got {n}")
    how = {
        "length_penalty": recipe.length_penalty if length_penalty is None else length_penalty,
        "coverage": recipe.coverage if coverage is None else coverage,
    }
    for name, given in how.items():
        checks.finite(name, given)
        if given < 0:
            raise ValueError(f"{name} should be a number of at least 0, got {given}")
    if longest is not None:
        longest = checks.size("longest", longest)

    def most(length):
        return np.full_like(length, longest) if longest else np.ceil(model.ratio * length).astype(np.int32) + SPARE

    rows = [row for row, words in enumerate(texts) if words.strip()]
    sequences = [ids_of(model.source, texts[row]) for row in rows]
    found: list[list[Candidate]] = [[] for _ in texts]
    for bucket, size in members.buckets_of([len(s) for s in sequences], AT_ONCE):
        ids, lengths = members.padded(sequences, bucket, size)
        steps = int(most(np.int32(bucket.length)))  # of the bucket, so that few programs are compiled
        given = _search(model.params, ids, lengths, most(lengths), n=n, width=width, steps=steps, **how)
        for row, *best in zip(bucket.rows, *map(np.asarray, given), strict=False):
            found[rows[row]] = [
                Candidate(model.target.write(tokens[:length]).strip(), float(score), float(log_p))
                for tokens, length, log_p, score in zip(*best, strict=True)
                if score != -np.inf
            ]
    return found


def evaluate(model: Model, records: Sequence[Record]) -> dict[str, Any]:
    """How good translations of records are, found as the recipe says: BLEU of the corpus, words cut by the recipe's
    `bleu`, and chrF, both without regard to case, of 100.

    Raises:
      TypeError: records that are no pairs of strings. ValueError: no records. ImportError: sacrebleu is not there.

    References: Papineni et al. 2002; Popovic 2015; Post 2018 (sacrebleu).
    """
    _check_records(records, "the data")
    bleu.library()  # before the search, which takes longer
    found = translate(model, [record[0] for record in records])
    return {"records": len(records)} | score(found, [record[1] for record in records], model.recipe.bleu)


def measure(model: Model) -> str:
    """The key of `evaluate` that a model is compared by."""
    return "bleu"


def save(model: Model, folder: str | Path) -> Path:
    """Write the model as a folder (see `checkpoint.save`)."""
    about = {
        "task": "translate",
        "recipe": model.recipe._asdict(),
        "source": model.source.to_json(),
        "target": model.target.to_json(),
        "ratio": model.ratio,
    }
    return checkpoint.save(folder, model.params, about)


def load(folder: str | Path) -> Model:
    """Read what `save` wrote; what it refuses is that of `checkpoint.load_model`."""

    def describe(about: dict[str, Any]) -> tuple[Model, Any]:
        recipe = recipes.from_json(about["recipe"])
        source, target = (Reader.from_json(about[side]) for side in ("source", "target"))
        ratio = checks.positive("ratio", about.get("ratio", 2.0))  # models of before have none
        model = Model(None, recipe, source, target, ratio)  # type: ignore[arg-type]
        return model, members.shapes(partial(_init, model=model), recipe)

    return checkpoint.load_model(folder, "translator", ("translate",), describe)


def ids_of(read: Reader, words: str) -> np.ndarray:
    """The ids [T] of a text, its blanks made single, and its end."""
    return np.append(read.read(tidy(words)), END).astype(np.int32)


def tidy(words: str) -> str:
    """A text in Unicode's NFC form, with single blanks: where characters are words, others would count."""
    return " ".join(unicodedata.normalize("NFC", words).split())


def _task(training, dev, recipe):
    """A model without params, and its records made ready for training."""
    _check_records(training, "the training data")
    _check_records(dev, "the dev data")
    model = Model(None, recipe, *_readers(training, recipe))  # type: ignore[arg-type]
    sides, dev_sides = _sides(model, training, "the training data"), _sides(model, dev, "the dev data")
    lengths, dev_lengths = (np.array([[len(s) for s in side] for side in both]) for both in (sides, dev_sides))
    model = model._replace(ratio=max(2.0, float(((lengths[1] - SPARE) / lengths[0]).max())))

    def batch(bucket):
        return _batch(sides, bucket, recipe.batch_size, of_bucket[bucket.length])

    batches = Batches(lengths.max(0), batch, batch_size=recipe.batch_size, buckets=recipe.buckets, seed=recipe.order)
    # Each side is padded to the longest of its own in a bucket, since one language may take fewer words.
    place = np.searchsorted(batches.bounds, lengths.max(0))
    of_bucket = {int(n): lengths[:, place == k].max(1).tolist() for k, n in enumerate(batches.bounds)}

    def evaluate(params):
        def of(bucket, size):
            return _log_p(params, _batch(dev_sides, bucket, size, (bucket.length, bucket.length)))

        k = len(params.embedding)
        log_p = members.in_batches(dev_lengths.max(0).tolist(), of, (k,), AT_ONCE)
        found = {"dev_loss": -log_p.sum(-1) / dev_lengths[1].sum()}
        if recipe.best == "measure":
            each = (model._replace(params=jax.tree.map(lambda a, n=n: a[n], params)) for n in range(k))
            texts, targets = ([record[side] for record in dev] for side in (0, 1))
            scores = [score(translate(one, texts, width=1), targets, recipe.bleu) for one in each]
            found["dev_bleu"] = np.array([one["bleu"] for one in scores])
        return found

    if recipe.best == "measure":
        bleu.library()  # before an epoch is spent
    task = members.Task(
        recipe,
        batches,
        partial(_init, model=model),
        lambda params, batch, key, recipe: seq2seq.loss(
            params, batch, key, options=recipes.options(recipe), sampling=recipe.sampling
        ),
        evaluate,
        "dev_bleu",
        lambda batch: int(batch.source_lengths.sum() + batch.target_lengths.sum()),
        None,
        members.fingerprint(training, dev),
    )
    return model, task


def _readers(training, recipe):
    """The readers of source and target."""
    tokens = recipe.target_tokens or recipe.tokens
    sizes = recipe.vocabulary, recipe.target_vocabulary or recipe.vocabulary
    for name, given in (("vectors", recipe.vectors), ("pieces", recipe.pieces), ("pretrained", recipe.pretrained)):
        if given:
            raise ValueError(f"{name} is not for translate, got {given!r}")
    for name, size in zip(("vocabulary", "target_vocabulary"), sizes, strict=True):
        if size < 2:
            raise ValueError(f"{name} should be at least 2, for padding and unknown words, got {size}")
    if recipe.cell != "lstm":
        raise ValueError(f'cell should be "lstm" for translate, got {recipe.cell!r}')
    sides = [[tidy(record[side]) for record in training] for side in (0, 1)]
    if not recipe.shared:
        return [
            reader.learn(texts, tokens=how, size=size, min_count=recipe.min_count)[0]
            for texts, how, size in zip(sides, (recipe.tokens, tokens), sizes, strict=True)
        ]
    if tokens != recipe.tokens or len(set(sizes)) > 1:
        raise ValueError("shared is True: target_tokens and target_vocabulary should be left out")
    return [reader.learn([*sides[0], *sides[1]], tokens=tokens, size=sizes[0], min_count=recipe.min_count)[0]] * 2


def _check_records(records, where):
    if isinstance(records, str) or not isinstance(records, Sequence):
        raise TypeError(f"{where} should be a sequence of pairs of strings, got {checks.show(records)}")
    if not len(records):
        raise ValueError(f"{where} should hold at least one record, got none")
    for n, pair in enumerate(records):
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(words, str) for words in pair):
            raise TypeError(f"{where} should hold pairs of strings, got {pair!r}"[:200] + f" as record {n}")


def _sides(model, records, where):
    """The ids of the sources, and of the targets."""
    for pair in records:
        if not all(words.strip() for words in pair):
            raise ValueError(f"{where} should have words on both sides, got the pair {tuple(pair)!r}"[:200])
    return [[ids_of(model.source, pair[0]) for pair in records], [ids_of(model.target, pair[1]) for pair in records]]


def _batch(sides, bucket, size, lengths):
    """The pairs of a bucket, each side padded to its length."""
    source, target = (
        members.padded(side, bucket._replace(length=n), size) for side, n in zip(sides, lengths, strict=True)
    )
    return seq2seq.Batch(*source, *target)


@jax.jit
def _log_p(params, batch):
    """The mean over members of log p of the targets, of each of k models: [k, B]."""
    return members.mean_over(seq2seq.log_p, params, batch)


@partial(jax.jit, static_argnames=("n", "width", "length_penalty", "coverage", "steps"))
def _search(params, ids, lengths, limits=None, *, n=1, width, length_penalty, coverage, steps):
    """The n best translations of each of B sources, of at most `limits` [B] tokens, as decoded: leaves [B, n, ...]."""

    def one(ids, length, limit):
        memory, state = jax.vmap(lambda params: seq2seq.encode(params, ids, length))(params)

        def step(state, token):
            state, logits = jax.vmap(seq2seq.step, (0, 0, 0, None))(params, memory, state, token)
            log_p = jax.nn.log_softmax(logits.at[:, UNK].set(-jnp.inf))  # nobody wants to read <unk>
            return state, jax.nn.logsumexp(log_p, 0)

        def bonus(state):
            return decoding.coverage(state.attention.mean(0), length, coverage)

        how = {"start": END, "end": END, "steps": steps, "limit": limit}
        if width == 1:
            return jax.tree.map(lambda x: x[None], decoding.greedy(step, state, **how))
        found = decoding.beam(
            step, state, **how, width=width, length_penalty=length_penalty, bonus=bonus if coverage else None
        )
        return jax.tree.map(lambda x: x[:n], found)

    return jax.vmap(one)(ids, lengths, limits)


def _init(key, *, model):
    recipe = model.recipe
    return seq2seq.init(
        key,
        model.source.size,
        None if recipe.shared else model.target.size,
        embedding=recipe.embedding,
        hidden=recipe.hidden,
        decoder=recipe.decoder,
        attention=recipe.attention,
        feeding=recipe.feeding,
        tied=recipe.tied,
        lexical=recipe.lexical,
        bidirectional=recipe.bidirectional,
    )
