"""What a trained model looks at: what each word does to the answer, attention, gates, and what is aligned with what."""

import html
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstmjax import checks, classify, match, translate
from lstmjax.layers import attend
from lstmjax.models import classifier, encoder, matcher, seq2seq
from lstmjax.recipe import options
from lstmjax.sequence import trace

UNK = 1
# Fonts that have Chinese characters, of which one is there on most systems: matplotlib's own has none.
FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "SimHei",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "WenQuanYi Zen Hei",
    "Arial Unicode MS",
)
NAMES = {"i": "input", "f": "forget", "o": "output", "z": "update", "r": "reset"}  # of gates, by their letters


class Seen(NamedTuple):
    """One text, word by word, in the eyes of a model."""

    words: tuple[str, ...]
    effect: np.ndarray  # [T]: what the answer would lose without the word
    measures: dict[str, np.ndarray]  # [T] each, in [0, 1]: attention, and the mean of each gate of the last layer


class Explanation(NamedTuple):
    """An answer and how it came about; of two texts with an alignment, if the model has one."""

    answer: str
    unit: str  # of `effect`
    texts: tuple[Seen, ...]
    alignment: np.ndarray | None = None  # [T, S]: how much each word of the first looks at those of the second


def text(model: classify.Model, words: str) -> Explanation:
    """A text in the eyes of a classifier.

    The effect of a word is log p - log p', where p is the probability of the label given, and p' the one it has when
    the word is unknown. Attention is there where the pooling has it. All are means over the members.

    Raises:
      TypeError: words that are no str. ValueError: no word.
    """
    ids, tokens = _read(model.reader, words)
    found = _with_each_left_out(lambda ids, lengths: _class_probabilities(model, ids, lengths), ids)
    k = int(found[0].argmax())
    effect = np.log(found[0, k] + 1e-12) - np.log(found[1:, k] + 1e-12)
    labels = classify.decide(model, found[:1])[0]
    answer = ", ".join(f"{label} ({found[0, n]:.2f})" for n, label in enumerate(model.labels) if label in labels)
    answer = answer or f"{', '.join(labels) or 'none'}, nearest {model.labels[k]} ({found[0, k]:.2f})"

    def inside(params):
        xs = encoder.lookup(params.embedding, jnp.asarray(ids))
        gates = _gates(trace(params.layers, xs))
        if params.query is not None:
            outputs, _ = encoder.states(
                params.embedding, params.layers, jnp.asarray(ids), jnp.int32(len(ids)), options(model.recipe), None
            )
            gates["attention"] = attend(params.query, outputs, jnp.ones(len(ids), bool))[1]
        return gates

    measures = {name: np.asarray(rows.mean(0)) for name, rows in jax.vmap(inside)(model.params).items()}
    unit = f"log p({model.labels[k]}) lost without the word"
    return Explanation(answer, unit, (Seen(tuple(tokens), effect, measures),))


def pair(model: match.Model, first: str, second: str) -> Explanation:
    """A pair of texts in the eyes of a matcher; what its words are aligned with, if its head is "align".

    Raises:
      TypeError: texts that are no str. ValueError: no word.
    """
    read = [_read(model.reader, words) for words in (first, second)]
    a, b = match.ids_of(model, first, second)
    sides, answer, unit = [], "", ""
    for side, (ids, (_, tokens)) in enumerate(zip((a, b), read, strict=True)):
        other = (b, a)[side]

        def outputs(ids, lengths, other=other, side=side):
            others = np.broadcast_to(other, (len(ids), *other.shape)), np.full(len(ids), len(other), np.int32)
            texts = (matcher.Text(ids, lengths), matcher.Text(*others))
            return match.outputs_of(model, *(texts if side == 0 else texts[::-1]))

        found = _with_each_left_out(outputs, ids)
        if found.ndim == 1:
            effect, answer, unit = found[0] - found[1:], f"{found[0]:.2f}", "score lost without the word"
        else:
            k = int(found[0].argmax())
            effect = np.log(found[0, k] + 1e-12) - np.log(found[1:, k] + 1e-12)
            answer = f"{model.labels[k]} ({found[0, k]:.2f})"
            unit = f"log p({model.labels[k]}) lost without the word"
        sides.append(Seen(tuple(tokens), effect, {}))
    alignment = None
    if model.recipe.head == "align":

        def inside(params):
            one, two = (
                encoder.states(
                    params.embedding, params.layers, jnp.asarray(x), jnp.int32(len(x)), options(model.recipe), None
                )[0]
                for x in (a, b)
            )
            return matcher.align(one, two, jnp.int32(len(a)), jnp.int32(len(b)))[2]

        alignment = np.asarray(jax.vmap(inside)(model.params).mean(0))
    return Explanation(answer, unit, tuple(sides), alignment)


def translation(model: translate.Model, words: str) -> Explanation:
    """A text in the eyes of a translator: the translation and its words, and how much each looks at those of the text.

    The effect of a word of the text is what log p of this translation loses when the word is unknown; that of a word of
    the translation is its share of log p.

    Raises:
      TypeError: words that are no str. ValueError: no word.
    """
    ids, tokens = _read(model.source, words, translate.tidy)
    found = translate.translate(model, [words])[0]
    target = translate.ids_of(model.target, found)

    def of(ids):
        n = len(ids)
        sources = np.append(ids, np.zeros((n, 1), np.int32), 1)  # and its end
        lengths = np.full(n, sources.shape[1], np.int32)
        return seq2seq.Batch(sources, lengths, np.stack([target] * n), np.full(n, len(target), np.int32))

    def inside(params):
        of_words = jnp.take_along_axis(jax.nn.log_softmax(seq2seq.apply(params, of(ids[None]))[0]), target[:, None], -1)
        return of_words[:, 0], seq2seq.attention(params, of(ids[None]))[0]

    log_p = _with_each_left_out(
        lambda rows, _: jax.vmap(lambda params: seq2seq.log_p(params, of(rows)))(model.params).mean(0), ids
    )
    of_words, attention = (np.asarray(part.mean(0)) for part in jax.vmap(inside)(model.params))
    texts = (
        Seen((*model.target.tokenise(translate.tidy(found)), "(end)"), of_words, {}),
        Seen((*tokens, "(end)"), np.append(log_p[0] - log_p[1:], 0.0), {}),
    )
    return Explanation(found, "log p, or lost without the word", texts, attention)


def to_terminal(found: Explanation, console: Any) -> None:
    """Tables on a rich console: a word a line, its effect and the rest; and the alignment."""
    from rich.markup import escape
    from rich.table import Table

    console.print(found.answer, highlight=False, markup=False)
    for seen in found.texts:
        table = Table("word", escape(found.unit), *map(escape, seen.measures))
        most = max(1e-9, np.abs(seen.effect).max())
        for n, word in enumerate(seen.words):
            strong = abs(seen.effect[n]) > most / 2
            style = ("bold green" if seen.effect[n] > 0 else "bold red") if strong else None
            row = [f"{seen.effect[n]:+.3f}", *(f"{rows[n]:.3f}" for rows in seen.measures.values())]
            table.add_row(escape(word), *row, style=style)
        console.print(table)
    if found.alignment is not None:
        one, two = (seen.words for seen in found.texts)
        for word, row in zip(one, found.alignment, strict=True):
            best = np.argsort(-row)[:3]
            near = ", ".join(f"{two[n]} ({row[n]:.2f})" for n in best)
            console.print(f"{word} -> {near}", highlight=False, markup=False)


def to_file(found: Explanation, path: str | Path) -> None:
    """A page (.html), or a picture by matplotlib (.png, .svg, .pdf).

    Raises:
      ValueError: another ending. ImportError: a picture, and matplotlib is not there.
    """
    ending = Path(path).suffix
    if ending == ".html":
        Path(path).write_text(to_html(found), encoding="utf-8")
    elif ending in (".png", ".svg", ".pdf"):
        figure = to_figure(found)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # `to_figure` has said it, once
            figure.savefig(path, bbox_inches="tight", dpi=150)
    else:
        raise ValueError(f"path should end in .html, .png, .svg or .pdf, got {str(path)!r}")


def to_html(found: Explanation) -> str:
    """A page of its own, without scripts: words coloured by their effect, a table of the measures, the alignment."""
    parts = [f"<h2>{html.escape(found.answer)}</h2>", f"<p>green: {html.escape(found.unit)}; red: gained</p>"]
    for seen in found.texts:
        most = max(1e-9, np.abs(seen.effect).max())
        words = (
            f'<span style="background:{_colour(value / most)};padding:2px">{html.escape(word)}</span>'
            for word, value in zip(seen.words, seen.effect, strict=True)
        )
        parts.append(f"<p>{' '.join(words)}</p>")
        if seen.measures:
            parts.append(_table(seen.measures, seen.words, seen.measures.values()))
    if found.alignment is not None:
        one, two = (seen.words for seen in found.texts)
        parts.append(_table(one, two, found.alignment))
    body = "\n".join(parts)
    return (
        '<!doctype html><html><head><meta charset="utf-8"><title>lstmjax</title></head>'
        f'<body style="font-family:sans-serif">\n{body}\n</body></html>\n'
    )


def to_figure(found: Explanation) -> Any:
    """A matplotlib figure: the effect of each word and the measures as rows of colour, the alignment as a matrix. It
    warns of characters that no font has.

    Raises:
      ImportError: matplotlib is not there.
    """
    try:
        from matplotlib.figure import Figure  # not pyplot: it would choose a backend for the whole process
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'lstmjax[plot]'") from error
    rows = len(found.texts) + (found.alignment is not None)
    longest = max(len(seen.words) for seen in found.texts)
    figure = Figure(figsize=(max(5, 0.7 * longest), 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
    font = {"fontfamily": _families("".join((found.answer, *(word for seen in found.texts for word in seen.words))))}
    for axis, seen in zip(axes, found.texts, strict=False):
        most = max(1e-9, np.abs(seen.effect).max())
        grid = np.stack([seen.effect / most, *seen.measures.values()])
        axis.imshow(grid, aspect="auto", cmap="RdYlGn", vmin=-1, vmax=1)
        axis.set_yticks(range(len(grid)), ["effect", *seen.measures])
        axis.set_xticks(range(len(seen.words)), seen.words, rotation=45, ha="right", **font)
    axes[0].set_title(found.answer, **font)
    if found.alignment is not None:
        one, two = (seen.words for seen in found.texts)
        axes[-1].imshow(found.alignment, aspect="auto", cmap="Greens", vmin=0, vmax=1)
        axes[-1].set_yticks(range(len(one)), one, **font)
        axes[-1].set_xticks(range(len(two)), two, rotation=45, ha="right", **font)
    return figure


def _read(reader, words, tidy=str):
    """The ids and the words of a text, brought to the form that the model reads."""
    if not isinstance(words, str):
        raise TypeError(f"the text should be a str, got {checks.show(words)}")
    tokens = reader.tokenise(tidy(words))
    if not tokens:
        raise ValueError(f"the text should hold at least one word, got {words!r}")
    return reader.read(tidy(words)), tokens


def _families(characters):
    """The fonts to write these with: matplotlib's own, and behind it those of `FONTS` that are there."""
    from matplotlib import font_manager, rcParams

    there = {font.name for font in font_manager.fontManager.ttflist}
    families = [*rcParams["font.family"], *(name for name in FONTS if name in there)]
    known: set[int] = set()
    for family in families:
        path = font_manager.findfont(font_manager.FontProperties(family=[family]))
        known |= font_manager.get_font(path).get_charmap().keys()
    missing = sorted({one for one in characters if ord(one) not in known and not one.isspace()})
    if missing:
        warnings.warn(
            f"no font that is installed has {''.join(missing[:20])}: a page (.html) shows what a picture cannot",
            stacklevel=3,
        )
    return families


def _with_each_left_out(outputs, ids):
    """What a model gives for a sequence, and for it with each of its steps unknown: [1 + T, ...]."""
    rows = np.stack([ids] * (len(ids) + 1))
    for n in range(len(ids)):
        rows[n + 1, n] = UNK if ids.ndim == 1 else [UNK] + [0] * (ids.shape[1] - 1)
    return np.asarray(outputs(rows, np.full(len(rows), len(ids), np.int32)))


def _class_probabilities(model, ids, lengths):
    def one(params):
        return classifier.predict(params, ids, lengths, options(model.recipe), several=model.recipe.several)

    return jax.vmap(one)(model.params).mean(0)


def _gates(traced):
    """The mean over units of each gate of the last layer, [T] each, by name and direction."""
    last = traced[-1]
    directions = {"": last} if hasattr(last[1], "_fields") else {" forward": last[0], " backward": last[1]}
    found = {}
    for direction, (_, gates) in directions.items():
        for letter in gates._fields:
            if letter in NAMES:
                found[f"{NAMES[letter]} gate{direction}"] = getattr(gates, letter).mean(-1)
    return found


def _colour(share):
    """Green above zero, red below, the stronger the further from it."""
    red, green, blue = (60, 170, 80) if share > 0 else (210, 70, 60)
    return f"rgba({red},{green},{blue},{min(1, abs(share)):.2f})"


def _table(names: Sequence[str] | Any, words: Sequence[str], rows: Any) -> str:
    head = "".join(f"<th>{html.escape(word)}</th>" for word in words)
    lines = [
        f"<tr><th>{html.escape(name)}</th>"
        + "".join(f'<td style="background:{_colour(float(x))}">{float(x):.2f}</td>' for x in row)
        + "</tr>"
        for name, row in zip(names, rows, strict=True)
    ]
    return f"<table><tr><th></th>{head}</tr>{''.join(lines)}</table>"
