"""What decides a training run beside its data, and the files that say it: one TOML file for each published result."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

from lstmjax import checks
from lstmjax.bleu import CUTS
from lstmjax.models import attend, classifier, encoder, matcher
from lstmjax.reader import TOKENS


class Recipe(NamedTuple):
    """Everything that decides a training run, beside the data."""

    members: Annotated[int, "models trained side by side by vmap, whose probabilities are averaged"] = 5
    tokens: Annotated[str, f"what texts are cut into: one of {', '.join(TOKENS)}"] = "words"
    vocabulary: Annotated[int, "most tokens that have a number of their own"] = 20000
    min_count: Annotated[int, "how often a token stands in the training data at least to have one"] = 1
    pieces: Annotated[int, "ids that pieces of words are hashed to (reader.Reader); 0: words only"] = 0
    cell: Annotated[str, f"of the layers: one of {', '.join(encoder.CELLS)}"] = "lstm"
    embedding: Annotated[int, "features of a word; with vectors, their width"] = 64
    vectors: Annotated[str, "file of word vectors to begin with (vectors.read)"] = ""
    tune_vectors: Annotated[bool, "False: the words that were in that file keep their vectors"] = True
    hidden: Annotated[tuple[int, ...], "units of each layer"] = (64,)
    bidirectional: Annotated[
        bool, "tag, roles: False is one direction in each layer, the second backward, and so on"
    ] = True
    pooling: Annotated[
        str, f"what becomes of the outputs over time: {', '.join(encoder.POOLINGS)}, or several with + between"
    ] = "mean"
    linear_part: Annotated[
        bool, "classify, match: logits are the mean with those of a logistic regression of words"
    ] = False
    several: Annotated[bool, "classify: whether a text may have several labels, or none"] = False
    outside: Annotated[str, "classify: the label of texts that belong to no class, told by a threshold"] = ""
    balance: Annotated[float, "classify: a class of n texts weighs n**-balance; 0: every text weighs the same"] = 0.0
    target: Annotated[str, "match: what is learnt of a pair: label or score"] = "label"
    head: Annotated[str, f"match: how two texts are compared: one of {', '.join(matcher.HEADS)}"] = "align"
    width: Annotated[int, "match: units of the head"] = 64
    overlap: Annotated[bool, "match: whether a word says if it stands in the other text too"] = False
    highway: Annotated[bool, "tag, roles: whether each layer has a way round it"] = False
    reach: Annotated[
        int, "roles: how many words from the predicate words are told apart; 0: there are no predicates"
    ] = 0
    above: Annotated[
        tuple[int, ...], "roles: units of each layer that reads a sentence once more for every predicate"
    ] = (64,)
    steps: Annotated[int, "sequence: T of adding and copy"] = 100
    drawn: Annotated[int, "sequence: how many of these make an epoch"] = 10000
    chunk: Annotated[int, "sequence: pixels that are read at a step"] = 1
    permute: Annotated[int, "sequence: seed of an order of the pixels, the same for all pictures; 0: as they stand"] = 0
    transpose: Annotated[int, "sequence: semitones that a piece is moved by at most, up or down, in training"] = 0
    standardise: Annotated[bool, "sequence: whether features are brought to a mean of 0 and a deviation of 1"] = False
    input_gain: Annotated[float, "sequence: what the weights of the inputs are multiplied by at init"] = 1.0
    forget_bias: Annotated[float, "sequence: of an LSTM at init"] = 1.0
    chrono: Annotated[int, "sequence: the longest lag to be bridged (init_lstm); 0: the forget bias"] = 0
    dropout: Annotated[float, "of the features between layers, and before the last"] = 0.5
    variational: Annotated[bool, "dropout of the same features at every step of a text"] = False
    recurrent: Annotated[float, "dropout of h where it meets its weights"] = 0.0
    word_dropout: Annotated[float, "of whole words"] = 0.1
    smoothing: Annotated[float, "classify, match, translate, sequence: of the labels"] = 0.0
    learning_rate: Annotated[float, "the highest, after a rise and before it falls"] = 2e-3
    weight_decay: Annotated[float, "of AdamW"] = 1e-2
    clip: Annotated[float, "of the global norm of the gradient"] = 1.0
    average: Annotated[float, "of a running mean of the weights, that is used in their place; 0: none"] = 0.0
    batch_size: Annotated[int, "records in a batch"] = 32
    buckets: Annotated[int, "lengths that records are padded to: a program is compiled for each"] = 4
    epochs: Annotated[int, "passes over the training data at most"] = 30
    patience: Annotated[int, "epochs without a better one on dev, after which training ends"] = 6
    best: Annotated[str, "which epoch is kept: of the best measure on dev, or of the least 'loss'"] = "measure"
    seed: Annotated[int, "of the weights and of dropout"] = 0
    order: Annotated[int, "seed of the order of batches"] = 0
    reverse: Annotated[bool, "translate: from the second language of the data into the first"] = False
    shared: Annotated[bool, "translate: one vocabulary, and one table of vectors, for both languages"] = False
    target_tokens: Annotated[str, "translate: tokens of the target; '': as tokens"] = ""
    target_vocabulary: Annotated[int, "translate: vocabulary of the target; 0: as vocabulary"] = 0
    decoder: Annotated[tuple[int, ...], "translate: units of each layer of the decoder"] = (64,)
    attention: Annotated[str, f"translate: one of {', '.join(attend.ATTENTIONS)}"] = "general"
    feeding: Annotated[bool, "translate: input feeding"] = True
    lexical: Annotated[bool, "translate: a lexical part, as in seq2seq.init"] = False
    tied: Annotated[bool, "translate, language: whether the weights of the softmax are the embedding"] = True
    sampling: Annotated[float, "translate: share of tokens put in that are the model's own in training"] = 0.0
    beam: Annotated[int, "translate: width of the search; 1 is greedy"] = 5
    length_penalty: Annotated[float, "translate: of the search (decoding.beam)"] = 1.0
    coverage: Annotated[float, "translate: weight of decoding.coverage in the search"] = 0.0
    bleu: Annotated[str, "translate: how sacrebleu cuts words; 'none' for texts that are cut, 'zh', 'char'"] = "13a"
    optimizer: Annotated[str, "adamw, whose rate rises and falls; or sgd, without momentum and at one rate"] = "adamw"
    average_after: Annotated[
        int, "NT-ASGD: the mean of the weights, once dev was not better for so many epochs; 0: none"
    ] = 0
    pretrained: Annotated[str, "classify: folder of a language model, whose words and first layers are begun with"] = ""
    bptt: Annotated[int, "language: steps of a window, within which gradients go back"] = 70
    random_bptt: Annotated[bool, "language: whether windows have random lengths, about that"] = False
    samples: Annotated[int, "language: words that stand for all others in training; 0: all"] = 0
    cutoffs: Annotated[tuple[int, ...], "language: of an adaptive softmax; none: a plain one"] = ()
    weight_dropout: Annotated[float, "language: dropout of the weights of h"] = 0.0
    ar: Annotated[float, "language: what large outputs cost"] = 0.0
    tar: Annotated[float, "language: what outputs that change fast cost"] = 0.0


# What each field is, for the help of the command line.
ABOUT: dict[str, str] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(Recipe, include_extras=True).items()
}

# What a sweep may vary, by the names of the command line: numbers that change no shape.
SWEPT = ("learning_rate", "weight_decay", "clip", "dropout", "recurrent", "word_dropout", "smoothing", "seed")
TARGETS = ("label", "score")
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
    checks.one_of("bleu", recipe.bleu, CUTS)
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
