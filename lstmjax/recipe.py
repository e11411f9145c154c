"""What decides a training run beside its data, and the files that say it: one TOML file for each published result."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from lstmjax import checks
from lstmjax.models import attend, classifier, encoder, matcher
from lstmjax.reader import TOKENS


class Recipe(NamedTuple):
    """Everything that decides a training run, beside the data."""

    members: int = 5  # models trained side by side by vmap, whose probabilities are averaged
    tokens: str = "words"  # or another of `reader.TOKENS`
    vocabulary: int = 20000
    min_count: int = 1
    pieces: int = 0  # ids that pieces of words are hashed to (`reader.Reader`); 0: words only
    cell: str = "lstm"
    embedding: int = 64  # features of a word; with vectors, their width
    vectors: str = ""  # file of word vectors to begin with (`vectors.read`)
    tune_vectors: bool = True  # False: the words that were in that file keep their vectors
    hidden: tuple[int, ...] = (64,)
    bidirectional: bool = True  # tag, roles: False is one direction in each layer, the second backward, and so on
    pooling: str = "mean"  # or several with + between, as in `encoder.Options`
    linear_part: bool = False  # classify, match: logits are the mean with those of a logistic regression of words
    several: bool = False  # classify: whether a text may have several labels, or none
    outside: str = ""  # classify: the label of texts that belong to no class, told by a threshold
    balance: float = 0.0  # classify: a class of n texts weighs n**-balance; 0: every text weighs the same
    target: str = "label"  # match: or "score"
    head: str = "align"  # match: one of `matcher.HEADS`
    width: int = 64  # match: units of the head
    overlap: bool = False  # match: whether a word says if it stands in the other text too
    highway: bool = False  # tag, roles: whether each layer has a way round it
    reach: int = 0  # roles: how many words from the predicate words are told apart; 0: there are no predicates
    above: tuple[int, ...] = (64,)  # roles: units of each layer that reads a sentence once more for every predicate
    steps: int = 100  # sequence: T of adding and copy
    drawn: int = 10000  # sequence: how many of these make an epoch
    chunk: int = 1  # sequence: pixels that are read at a step
    permute: int = 0  # sequence: seed of an order of the pixels, the same for all pictures; 0: as they stand
    transpose: int = 0  # sequence: semitones that a piece is moved by at most, up or down, in training
    standardise: bool = False  # sequence: whether features are brought to a mean of 0 and a deviation of 1
    input_gain: float = 1.0  # sequence: what the weights of the inputs are multiplied by at init
    forget_bias: float = 1.0  # sequence: of an LSTM at init
    chrono: int = 0  # sequence: the longest lag to be bridged (`init_lstm`); 0: the forget bias
    dropout: float = 0.5
    variational: bool = False  # dropout of the same features at every step of a text
    recurrent: float = 0.0  # dropout of h where it meets its weights
    word_dropout: float = 0.1
    smoothing: float = 0.0  # classify, match, translate, sequence: of the labels
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
    reverse: bool = False  # translate: from the second language of the data into the first
    shared: bool = False  # translate: one vocabulary, and one table of vectors, for both languages
    target_tokens: str = ""  # translate: tokens of the target; "": as `tokens`
    target_vocabulary: int = 0  # translate: vocabulary of the target; 0: as `vocabulary`
    decoder: tuple[int, ...] = (64,)  # translate: units of each layer of the decoder
    attention: str = "general"  # translate: one of `attend.ATTENTIONS`
    feeding: bool = True  # translate: input feeding
    lexical: bool = False  # translate: a lexical part, as in `seq2seq.init`
    tied: bool = True  # translate, language: whether the weights of the softmax are the embedding
    sampling: float = 0.0  # translate: share of tokens put in that are the model's own in training
    beam: int = 5  # translate: width of the search; 1 is greedy
    length_penalty: float = 1.0  # translate: of the search (`decoding.beam`)
    coverage: float = 0.0  # translate: weight of `decoding.coverage` in the search
    bleu: str = "13a"  # translate: how sacrebleu cuts words; "none" for texts that are cut, "zh", "char"
    optimizer: str = "adamw"  # whose rate rises and falls; or "sgd", without momentum and at one rate
    average_after: int = 0  # NT-ASGD: the mean of the weights, once dev was not better for so many epochs; 0: none
    pretrained: str = ""  # classify: folder of a language model, whose words and first layers are begun with
    bptt: int = 70  # language: steps of a window, within which gradients go back
    random_bptt: bool = False  # language: whether windows have random lengths, about that
    samples: int = 0  # language: words that stand for all others in training; 0: all
    cutoffs: tuple[int, ...] = ()  # language: of an adaptive softmax; none: a plain one
    weight_dropout: float = 0.0  # language: dropout of the weights of h
    ar: float = 0.0  # language: what large outputs cost
    tar: float = 0.0  # language: what outputs that change fast cost


# What a sweep may vary, by the names of the command line: numbers that change no shape.
SWEPT = ("learning_rate", "weight_decay", "clip", "dropout", "recurrent", "word_dropout", "smoothing", "seed")
TARGETS = ("label", "score")
BLEUS = ("13a", "none", "zh", "char")
OPTIMIZERS = ("adamw", "sgd")


class File(NamedTuple):
    """A recipe file: what it trains, on what, and how."""

    task: str
    data: str
    settings: dict[str, Any]  # fields of `Recipe`
    name: str = ""  # of the file, or its path

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
    return File(task, data, held, str(name))


def checked(recipe: Recipe) -> Recipe:
    """A recipe that makes sense, as it was given.

    Raises:
      TypeError, ValueError: naming the field.
    """
    checks.one_of("tokens", recipe.tokens, TOKENS)
    checks.one_of("target", recipe.target, TARGETS)
    checks.one_of("best", recipe.best, ("measure", "loss"))
    checks.one_of("head", recipe.head, matcher.HEADS)
    checks.one_of("optimizer", recipe.optimizer, OPTIMIZERS)
    sizes = ("members", "vocabulary", "min_count", "embedding", "width", "batch_size", "buckets", "epochs", "patience")
    for name in (*sizes, "bptt", "steps", "drawn", "chunk", "beam"):
        checks.size(name, getattr(recipe, name))
    checks.one_of("target_tokens", recipe.target_tokens, ("", *TOKENS))
    checks.one_of("attention", recipe.attention, attend.ATTENTIONS)
    checks.one_of("bleu", recipe.bleu, BLEUS)
    for name in ("hidden", "above", "decoder"):
        encoder.widths_of(getattr(recipe, name), name)
    checks.seed("seed", recipe.seed)
    whole = ("pieces", "reach", "order", "permute", "transpose", "chrono", "target_vocabulary")
    for name in (*whole, "average_after", "samples"):
        checks.size(name, getattr(recipe, name), least=0)
    for name in ("learning_rate", "clip", "input_gain"):
        checks.positive(name, getattr(recipe, name))
    for name in ("dropout", "recurrent", "word_dropout", "smoothing", "average", "sampling", "weight_dropout"):
        checks.rate(name, getattr(recipe, name))
    flags = ("tune_vectors", "bidirectional", "several", "variational", "overlap", "highway", "linear_part")
    for name in (*flags, "reverse", "shared", "feeding", "tied", "lexical", "random_bptt", "standardise"):
        checks.flag(name, getattr(recipe, name))
    checks.finite("forget_bias", recipe.forget_bias)
    for name in ("weight_decay", "balance", "length_penalty", "coverage", "ar", "tar"):
        checks.finite(name, getattr(recipe, name))
        if getattr(recipe, name) < 0:
            raise ValueError(f"{name} should be a number of at least 0, got {getattr(recipe, name)}")
    if recipe.several and recipe.outside:
        raise ValueError("outside is for texts with one label each: where several is True, a text may have none")
    if recipe.head == "manhattan" and recipe.target == "label":
        raise ValueError('head = "manhattan" gives a similarity: target should be "score", got "label"')
    if recipe.average and recipe.average_after:
        raise ValueError("average and average_after are two means of the weights: give one of them")
    if recipe.pretrained and recipe.vectors:
        raise ValueError("pretrained and vectors both say what words begin with: give one of them")
    if recipe.cutoffs and (recipe.tied or recipe.samples):
        raise ValueError("cutoffs are of an adaptive softmax, which is neither tied nor sampled: give tied = False")
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
    fields: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in held.items()}
    return checked(Recipe(**fields))
