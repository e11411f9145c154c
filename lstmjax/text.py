"""Text to numbers: tokenise, count a vocabulary, encode, pad, bucket. NumPy only."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from lstmjax import checks

PAD, UNK = 0, 1  # the ids of padding and of unknown words, in every vocabulary

# Scripts written without spaces are cut into characters; a BMP scan finds the combining marks that \w leaves out.
_SINGLE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_MARKS = "".join(c for c in map(chr, range(0x300, 0x3000)) if unicodedata.category(c).startswith("M"))
_TOKEN = re.compile(
    f"[{_SINGLE}]|(?:(?![{_SINGLE}])[\\w{_MARKS}])+(?:['’](?:(?![{_SINGLE}])[\\w{_MARKS}])+)*|[^\\w\\s]"
)
_PLAIN = re.compile(r"\w+(?:'\w+)*|[^\w\s]")  # what that comes to for ASCII, in half the time
# What the treebanks of English keep together: addresses, numbers, abbreviations, words with a prefix, runs of a mark.
_TOGETHER = re.compile(
    r"""
    (?:https?://|www\.)[^\s<>]*[\w/] | [\w.+-]+@[\w-]+(?:\.[\w-]+)+ | (?<!\w)\w[\w-]*\.(?:com|org|net|edu|gov)(?!\w)
    | (?<!\w)\d+(?:[-.,:/]\d+)+ | (?<!\w)(?:[^\W\d_]\.){2,}
    | (?<!\w)(?:(?i:mr|mrs|ms|dr|prof|st|mt|ft|jr|sr|inc|corp|co|ltd|vs|etc|gen|sen|rep|gov|lt|col|sgt|capt|rev|hon|
      jan|feb|aug|sept?|oct|nov|dec)\.(?=\s*(?:[\w,;:]|$))|(?!I)[A-Z]\.(?=\s*[A-Z]))
    | (?<!\w)(?i:e|co|ex|non|anti|counter|mid|multi|post|pre|pro|re|semi|sub|super|ultra|un|vice|x|inter)-[^\W\d_]+
    | (?<!\w)[^\W\d_]{1,3}&[^\W\d_]{1,2}(?!\w) | ([^\w\s])\1+ | [!?.]{2,} | (?<!\S)[:;]-?[)(DP](?!\w)
    """,
    re.VERBOSE,
)
# And what they write apart: what stands for a word of its own, at the end of another or within one.
_CLITIC = re.compile(r"(?i)(.+?)(n't|'(?:s|re|ve|ll|d|m))$|^(can)(not)$|^(gon|wan)(na)$|^(got)(ta)$")


def normalise(text: str) -> str:
    """Unicode's NFKC form (full-width marks become plain), in lower case, with plain apostrophes.

    >>> normalise("Ｉｔ’s")
    "it's"
    """
    if not isinstance(text, str):
        raise TypeError(f"text should be a str, got {type(text).__name__}")
    return unicodedata.normalize("NFKC", text).lower().replace("’", "'")


def treebank_words(text: str) -> list[str]:
    """Words and marks as the treebanks of English have them: as `tokenise`, but as they are written, with n't, 's, 're,
    've, 'll, 'd and 'm apart, and addresses, numbers, abbreviations with their dots and runs of a mark together.

    Reference: Marcus et al. 1993, section 2.

    >>> treebank_words("She didn't say it's Ann's.")
    ['She', 'did', "n't", 'say', 'it', "'s", 'Ann', "'s", '.']
    >>> treebank_words("Mr. Smith cannot pay $1,000.50 to U.S. firms...")
    ['Mr.', 'Smith', 'can', 'not', 'pay', '$', '1,000.50', 'to', 'U.S.', 'firms', '...']
    """
    if not isinstance(text, str):
        raise TypeError(f"text should be a str, got {type(text).__name__}")
    text, found, done = unicodedata.normalize("NFKC", text).replace("’", "'"), [], 0
    for kept in (*_TOGETHER.finditer(text), None):
        for word in _TOKEN.findall(text[done : kept.start() if kept else len(text)]):
            apart = _CLITIC.match(word)
            found += [part for part in apart.groups() if part] if apart else [word]
        if kept:
            found.append(kept[0])
            done = kept.end()
    return found


def tokenise(text: str) -> list[str]:
    """Words, numbers and punctuation marks; Chinese characters and Japanese kana one by one.

    The text is brought to Unicode's NFKC form (full-width marks become plain) and lower case.

    Raises:
      TypeError: `text` that is no str.

    Reference: Unicode Standard Annex 15 (normal forms).

    >>> tokenise("It isn't bad, 真的不错!")
    ['it', "isn't", 'bad', ',', '真', '的', '不', '错', '!']
    """
    text = normalise(text)
    return (_PLAIN if text.isascii() else _TOKEN).findall(text)


_CLOSE = re.compile(r" (?=[.,!?;:%)\]}…。、，．！？；：）」』】》])|(?<=[(\[{（「『【《]) ")
_APART = re.compile(f"(?<=[{_SINGLE}。、，！？…]) (?=[{_SINGLE}])")


def join(tokens: Sequence[str]) -> str:
    """A text of words and marks, with blanks where most scripts have them: none before a mark that closes, nor between
    Chinese characters or Japanese kana.

    >>> join(["it", "isn't", "bad", ",", "真", "的", "不", "错", "!"])
    "it isn't bad, 真的不错!"
    """
    return _APART.sub("", _CLOSE.sub("", " ".join(tokens)))


class Vocabulary:
    """Words and their ids: 0 is padding, 1 is any unknown word, the rest as given.

    Args:
      words: without the two specials, each once.

    Raises:
      TypeError, ValueError: a word that is no str, is empty, or comes twice.

    >>> vocabulary = Vocabulary.count([["to", "be"], ["not", "to", "be"]], min_count=2)
    >>> len(vocabulary), vocabulary.encode(["to", "be", "or"])
    (4, array([3, 2, 1], dtype=int32))
    """

    def __init__(self, words: Iterable[str]):
        self.words = tuple(words)
        for word in self.words:
            if not isinstance(word, str):
                raise TypeError(f"words should be strings, got {type(word).__name__} {word!r}")
        twice = [word for word, n in Counter(self.words).items() if n > 1 or not word]
        if twice:
            raise ValueError(f"words should be distinct and not empty, got {twice[0]!r} wrongly")

    @classmethod
    def count(cls, texts: Iterable[Sequence[str]], *, size: int | None = None, min_count: int = 1) -> "Vocabulary":
        """The words of tokenised texts that occur at least `min_count` times, most frequent first, at most `size` of
        them with the two specials; ties in the order of the alphabet, so that the same texts give the same ids. A
        `<unk>` in a text is an unknown word."""
        checks.size("min_count", min_count)
        if size is not None and checks.size("size", size) < 2:
            raise ValueError(f"size should be at least 2, for padding and unknown words, got {size}")
        counts = Counter(word for tokens in texts for word in tokens)
        del counts["<unk>"]
        words = sorted((w for w, n in counts.items() if n >= min_count), key=lambda w: (-counts[w], w))
        return cls(words if size is None else words[: size - 2])

    def __len__(self) -> int:
        return len(self.words) + 2

    @cached_property
    def index(self) -> dict[str, int]:
        """The id of each word."""
        return {word: i for i, word in enumerate(self.words, start=2)}

    def encode(self, tokens: Sequence[str]) -> np.ndarray:
        """int32 [T], unknown words as `UNK`."""
        id_of = self.index.get
        return np.array([id_of(token, UNK) for token in tokens], np.int32)

    def decode(self, ids: Sequence[int]) -> list[str]:
        """The words of ids, `<pad>` and `<unk>` for the specials."""
        names = ("<pad>", "<unk>", *self.words)
        for i in ids:
            if isinstance(i, bool) or not isinstance(i, int | np.integer):
                raise TypeError(f"ids should be ints, got {checks.show(i)}")
            if not 0 <= i < len(names):
                raise ValueError(f"ids should lie in [0, {len(names)}), got {i}")
        return [names[i] for i in ids]

    def to_json(self) -> str:
        """All of it as JSON text."""
        return json.dumps({"words": self.words}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Vocabulary":
        """What `to_json` gave."""
        return cls(json.loads(text)["words"])


def pad(sequences: Sequence[np.ndarray], length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of ids as one array, padded at the end.

    Args:
      sequences: int arrays [T_k], or [T_k, F] of one F.
      length: T of the result; None is the longest. Longer sequences are cut.

    Returns:
      ids int32 [B, T] or [B, T, F], and lengths int32 [B].

    Raises:
      ValueError: a negative `length`.

    >>> pad([np.array([5, 6, 7]), np.array([8])])
    (array([[5, 6, 7], [8, 0, 0]], dtype=int32), array([3, 1], dtype=int32))
    """
    if length is None:
        length = max((len(s) for s in sequences), default=0)
    if isinstance(length, bool) or not isinstance(length, int | np.integer):
        raise TypeError(f"length should be an int of at least 0, got {checks.show(length)}")
    if length < 0:
        raise ValueError(f"length should not be negative, got {length}")
    features = np.shape(sequences[0])[1:] if len(sequences) else ()
    ids = np.full((len(sequences), length, *features), PAD, np.int32)
    lengths = np.minimum([len(s) for s in sequences], length).astype(np.int32)
    for row, sequence, n in zip(ids, sequences, lengths, strict=True):
        row[:n] = sequence[:n]
    return ids, lengths


class Bucket(NamedTuple):
    """A batch to be: which sequences, and the length to pad them to."""

    rows: np.ndarray  # int [n], n at most the batch size
    length: int


def bounds(lengths: Sequence[int] | np.ndarray, buckets: int, batch_size: int = 1) -> np.ndarray:
    """Lengths to pad to, for at most so many buckets: int [k], rising.

    Of all choices the one with the fewest padded steps, sum over buckets of n_k b_k, where n_k of the sequences are
    padded to b_k; so one long sequence among many short ones costs a bucket of its own, not a quarter of them its
    length. Where there are more than 256 different lengths, it is the best among 256 of them.

    Args:
      lengths: of all sequences.
      buckets: at most so many.
      batch_size: sequences in a batch, of which the last in a bucket is filled up with empty ones: n_k is then rounded
        up to a multiple of it.

    Raises:
      ValueError: no lengths, or fewer than one bucket.

    >>> bounds([3, 3, 4, 4, 50], buckets=2)
    array([ 4, 50])
    """
    if len(lengths) == 0:
        raise ValueError("lengths should hold at least one length, got none")
    checks.size("buckets", buckets)
    checks.size("batch_size", batch_size)
    ends, counts = np.unique(np.maximum(lengths, 1), return_counts=True)
    before = np.concatenate([[0], np.cumsum(counts)])  # how many are shorter than each
    if len(ends) > 256:
        kept = np.unique(np.linspace(0, len(ends) - 1, 256).round().astype(int))
        ends, before = ends[kept], np.concatenate([[0], before[kept + 1]])
    n = before[None, 1:] - before[:-1, None]  # [i, j]: how many lie in a bucket of the lengths i to j
    steps = np.where(n > 0, -(-n // batch_size) * batch_size * ends, np.inf)
    best, cuts = steps[0], []
    for _ in range(min(buckets, len(ends)) - 1):
        # Up to j: what ends at i - 1 with a bucket less, and a bucket of i to j; or no bucket more.
        total = np.vstack([best, best[:-1, None] + steps[1:]])
        cuts.append(total.argmin(0))
        best = total.min(0)
    chosen, j = [], len(ends) - 1
    for cut in reversed(cuts):
        if cut[j] > 0:
            chosen.append(j)
            j = cut[j] - 1
    return ends[[j, *reversed(chosen)]].astype(int)


def ladder(longest: int) -> list[int]:
    """Lengths to pad to where any may come: powers of two and half as much again, up to the longest.

    >>> ladder(20)
    [8, 12, 16, 24]
    """
    steps = [8, 12]
    while steps[-1] < longest:
        steps.append(2 * steps[-2])
    return steps


def bucket(
    lengths: Sequence[int] | np.ndarray,
    batch_size: int,
    bounds: Sequence[int] | np.ndarray,
    rng: np.random.Generator | None = None,
) -> list[Bucket]:
    """Batches of sequences of like length: each bucket cut into batches of `batch_size`, the last of each smaller.

    Args:
      lengths: of all sequences; one longer than the last bound goes into the last bucket, to be cut.
      batch_size: sequences in a batch.
      bounds: rising lengths to pad to.
      rng: shuffles within buckets and the order of batches; None keeps the order given.

    Raises:
      ValueError: a batch size below 1, bounds that do not rise.

    >>> [b.rows.tolist() for b in bucket([1, 9, 2, 8, 3], batch_size=2, bounds=[4, 9])]
    [[0, 2], [4], [1, 3]]
    """
    checks.size("batch_size", batch_size)
    if len(bounds) == 0 or np.any(np.diff(bounds) <= 0):
        raise ValueError(f"bounds should be rising lengths, got {list(bounds)}")
    place = np.minimum(np.searchsorted(bounds, lengths), len(bounds) - 1)
    batches = []
    for k, length in enumerate(bounds):
        rows = np.flatnonzero(place == k)
        if rng is not None:
            rng.shuffle(rows)
        batches += [Bucket(rows[n : n + batch_size], int(length)) for n in range(0, len(rows), batch_size)]
    if rng is not None:
        rng.shuffle(batches)  # type: ignore[arg-type]
    return batches


class BPE:
    """Subwords by byte-pair encoding. Needs the `text` extra (the `tokenizers` package).

    Args:
      tokenizer: a `tokenizers.Tokenizer`.

    Reference: Sennrich et al. 2016.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    @classmethod
    def train(cls, texts: Iterable[str], size: int) -> "BPE":
        """Learn at most `size` subwords from `texts`."""
        library = _tokenizers()
        tokenizer = library.Tokenizer(library.models.BPE(unk_token="<unk>"))
        tokenizer.normalizer = library.normalizers.Sequence(
            [library.normalizers.NFKC(), library.normalizers.Lowercase()]
        )
        tokenizer.pre_tokenizer = library.pre_tokenizers.Metaspace()
        trainer = library.trainers.BpeTrainer(vocab_size=size, special_tokens=["<unk>"], show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    def tokenise(self, text: str) -> list[str]:
        """The subwords of `text`; a subword that begins a word begins with a low line."""
        return self.tokenizer.encode(text).tokens

    def join(self, tokens: Sequence[str]) -> str:
        """The text of subwords."""
        return "".join(tokens).replace("\u2581", " ").strip()

    def to_json(self) -> str:
        """All of it as JSON text."""
        return self.tokenizer.to_str()

    @classmethod
    def from_json(cls, text: str) -> "BPE":
        """What `to_json` gave."""
        return cls(_tokenizers().Tokenizer.from_str(text))


def _tokenizers():
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError("byte-pair encoding needs the tokenizers package: pip install 'lstmjax[text]'") from error
    return tokenizers
