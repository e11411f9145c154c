"""What decides a training run beside its data, and the files that say it: one TOML file for each published result."""

import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from lstmjax import checks
from lstmjax.models import classifier, encoder, matcher
from lstmjax.reader import TOKENS


class Recipe(NamedTuple):
    """Everything that decides a training run, beside the data."""

    members: int = 5  # models trained side by side by vmap, whose probabilities are averaged
    tokens: str = "words"  # or "bpe"
    vocabulary: int = 20000
    min_count: int = 1
    pieces: int = 0  # ids that pieces of words are hashed to (`reader.Reader`); 0: words only
    cell: str = "lstm"
    embedding: int = 64  # features of a word; with vectors, their width
    vectors: str = ""  # file of word vectors to begin with (`vectors.read`)
    tune_vectors: bool = True  # False: the words that were in that file keep their vectors
    hidden: tuple[int, ...] = (64,)
    bidirectional: bool = True
    pooling: str = "mean"  # or several with + between, as in `encoder.Options`
    several: bool = False  # classify: whether a text may have several labels, or none
    outside: str = ""  # classify: the label of texts that belong to no class, told by a threshold
    balance: float = 0.0  # classify: a class of n texts weighs n**-balance; 0: every text weighs the same
    target: str = "label"  # match: or "score"
    head: str = "align"  # match: one of `matcher.HEADS`
    width: int = 64  # match: units of the head
    overlap: bool = False  # match: whether a word says if it stands in the other text too
    steps: int = 100  # sequence: T of adding and copy
    drawn: int = 10000  # sequence: how many of these make an epoch
    chunk: int = 1  # sequence: pixels that are read at a step
    permute: int = 0  # sequence: seed of an order of the pixels, the same for all pictures; 0: as they stand
    transpose: int = 0  # sequence: semitones that a piece is moved by at most, up or down, in training
    forget_bias: float = 1.0  # sequence: of an LSTM at init
    chrono: int = 0  # sequence: the longest lag to be bridged (`init_lstm`); 0: the forget bias
    dropout: float = 0.5
    variational: bool = False  # dropout of the same features at every step of a text
    recurrent: float = 0.0  # dropout of h where it meets its weights
    word_dropout: float = 0.1
    smoothing: float = 0.0
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    clip: float = 1.0  # global norm of the gradient
    average: float = 0.0  # of a running mean of the weights, that is used in their place; 0: none
    batch_size: int = 32
    buckets: int = 4
    epochs: int = 30
    patience: int = 6
    best: str = "measure"  # which epoch is kept: of the best measure on dev, or of the least "loss"
    seed: int = 0  # of the weights and of dropout
    order: int = 0  # seed of the order of batches


# What a sweep may vary, by the names of the command line: numbers that change no shape.
SWEPT = ("learning_rate", "weight_decay", "clip", "dropout", "recurrent", "word_dropout", "smoothing", "seed")
TARGETS = ("label", "score")


class File(NamedTuple):
    """A recipe file: what it trains, on what, and how."""

    task: str
    data: str
    settings: dict[str, Any]  # fields of `Recipe`

    def recipe(self, **changes: Any) -> Recipe:
        """The recipe, with changes."""
        return checked(Recipe(**self.settings | changes))


def names() -> tuple[str, ...]:
    """The recipe files that come with the package.

    >>> "snips" in names()
    True
    """
    folder = resources.files("lstmjax") / "recipes"
    return tuple(sorted(path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml")))


def read(name: str | Path) -> File:
    """A recipe file: one that comes with the package, by its name, or any other by its path.

    Raises:
      FileNotFoundError: neither. ValueError: no TOML, or a field that `Recipe` lacks or that is of another kind.

    >>> read("snips").data
    'snips'
    """
    if str(name) in names():
        content = (resources.files("lstmjax") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    elif Path(name).is_file():
        content = Path(name).read_text(encoding="utf-8")
    else:
        raise FileNotFoundError(f"{name} is no file, nor the name of a recipe ({', '.join(names())})")
    try:
        held = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{name} is no TOML: {error}") from None
    task, data = held.pop("task", ""), held.pop("data", "")
    for field, value in held.items():
        if field not in Recipe._fields:
            raise ValueError(f"{name} sets {field}, which is not among task, data, {', '.join(Recipe._fields)}")
        held[field] = tuple(value) if isinstance(value, list) else value
    return File(task, data, held)


def checked(recipe: Recipe) -> Recipe:
    """A recipe that makes sense, as it was given.

    Raises:
      TypeError, ValueError: naming the field.
    """
    checks.one_of("tokens", recipe.tokens, TOKENS)
    checks.one_of("target", recipe.target, TARGETS)
    checks.one_of("best", recipe.best, ("measure", "loss"))
    checks.one_of("head", recipe.head, matcher.HEADS)
    sizes = ("members", "vocabulary", "min_count", "embedding", "width", "batch_size", "buckets", "epochs", "patience")
    for name in sizes:
        checks.size(name, getattr(recipe, name))
    for name in ("steps", "drawn", "chunk"):
        checks.size(name, getattr(recipe, name))
    for name in ("pieces", "seed", "order", "permute", "transpose", "chrono"):
        checks.size(name, getattr(recipe, name), least=0)
    for name in ("learning_rate", "clip"):
        checks.positive(name, getattr(recipe, name))
    for name in ("dropout", "recurrent", "word_dropout", "smoothing", "average"):
        checks.rate(name, getattr(recipe, name))
    for name in ("tune_vectors", "bidirectional", "several", "variational", "overlap"):
        checks.flag(name, getattr(recipe, name))
    checks.finite("forget_bias", recipe.forget_bias)
    for name in ("weight_decay", "balance"):
        checks.finite(name, getattr(recipe, name))
        if getattr(recipe, name) < 0:
            raise ValueError(f"{name} should be a number of at least 0, got {getattr(recipe, name)}")
    if recipe.several and recipe.outside:
        raise ValueError("outside is for texts with one label each: where several is True, a text may have none")
    if recipe.head == "manhattan" and recipe.target == "label":
        raise ValueError('head = "manhattan" gives a similarity: target should be "score", got "label"')
    encoder.check_pooling("pooling", recipe.pooling)
    return recipe


def options(recipe: Recipe) -> classifier.Options:
    """What of a recipe a model needs beside its weights."""
    return classifier.Options(
        recipe.pooling, recipe.dropout, recipe.word_dropout, recipe.smoothing, recipe.recurrent, recipe.variational
    )


def from_json(held: dict[str, Any]) -> Recipe:
    """What `_asdict` gave, after JSON.

    Raises:
      TypeError, ValueError: something else.
    """
    hidden: Sequence[int] = held.get("hidden", ())
    return checked(Recipe(**held | {"hidden": tuple(hidden)}))
