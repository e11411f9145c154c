"""Tags and decoding: the linear chain beside pytorch-crf, greedy and beam search beside the same loops in PyTorch.

    python benchmarks/bench_decoding.py                                     # both parts, all shapes
    python benchmarks/bench_decoding.py --part chain --shape 32,32,9 --json FILE
    python benchmarks/bench_decoding.py --part beam --width 1 5 --batch 1 --vocabulary 1000

The chain: T steps, B sequences of different lengths, K tags, whose scores have a deviation of 1, or of what is given as
a fourth number: then tags are those of spans (BIO), and most of what may follow is forbidden, as in a trained model.
`likelihood` is that of given tags and its gradient by
all scores; `marginals` are in PyTorch the gradient of what pytorch-crf has as its normaliser. A decoder's step is a
word vector, an LSTM of H units and a softmax over V words; the search is that of `lstmjax.decoding.beam`, with its
early stop and length penalty, on both sides for a whole batch at once. Everything is compared with NumPy in float64
first, and what is wrong is not timed. A ratio above 1 says that ours is faster.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import timing
from rich.console import Console
from rich.table import Table

import lstmjax
from lstmjax import crf, decoding

SHAPES = ("32,32,9", "32,32,72", "64,64,125", "128,16,125", "24,1,72", "24,128,107,15")
FORBIDDEN = -1e4  # the score that users of pytorch-crf give to what may not follow
OURS, THEIRS = "lstmjax", "torch"

# Largest error let through, as a share of what is compared (or of 1): float32 sums of T terms are some 1e-6 off. Shares
# are exponentials of such sums, so they are off by as much as these are, and more where the scores are larger.
BOUND = 1e-4

START, END, PENALTY = 1, 0, 0.6
SEARCHED = 4  # sequences of a batch that are searched in float64 too


class Ready(NamedTuple):
    """One implementation of one thing."""

    call: Callable  # (*operands) -> results
    inputs: list[tuple]  # the operands of several runs
    answer: list[np.ndarray]  # to the first of them
    compile_s: float | None = None


class Row(NamedTuple):
    """One implementation of one thing on one shape."""

    what: str
    shape: str
    impl: str
    ms: float | None  # median; None: wrong, and not timed
    ratio: float | None  # to ours: the median over rounds of ms / our ms; above 1 ours is faster
    ratio_low: float | None  # and its 95 % interval
    ratio_high: float | None
    rounds: int
    error: float
    compile_s: float | None


def main() -> int:
    """Run what the command line asks for; 1 if an implementation was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=("chain", "beam"), default=("chain", "beam"))
    parser.add_argument("--shape", nargs="+", default=SHAPES, metavar="T,B,K[,S]", help="of the chain")
    parser.add_argument("--width", nargs="+", type=int, default=[0, 1, 5, 10], help="of the beam; 0 is greedy")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--vocabulary", nargs="+", type=int, default=[1000, 8000])
    parser.add_argument("--size", type=int, default=256, help="H of the decoder (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=32, help="at most (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of timing for each shape (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    args = parser.parse_args()
    work = []
    if "chain" in args.part:
        work += [(shape, partial(chain, *map(int, shape.split(",")))) for shape in args.shape]
    if "beam" in args.part:
        for v in args.vocabulary:
            for b in args.batch:
                for w in args.width:
                    work.append((f"V {v}, B {b}, W {w}", partial(search, v, b, w, args.size, args.steps)))
    if find_spec("torch") is not None:
        import torch

        torch.set_num_threads(timing.cores())
    rows: list[Row] = []
    for k, (shape, run) in enumerate(work):
        _progress(f"{k + 1}/{len(work)} {shape}")
        rows += run(seconds=args.seconds)
        if args.json:  # what is there so far
            args.json.write_text(json.dumps(_plain(rows), indent=1) + "\n")
    _progress("")
    _print(rows)
    return int(any(row.ms is None for row in rows))


# --- the chain -------------------------------------------------------------------------------------------------------


class Chain(NamedTuple):
    """T steps of B sequences, K tags."""

    params: crf.CRF
    emissions: np.ndarray  # [T, B, K]
    tags: np.ndarray  # int32 [T, B]
    lengths: np.ndarray  # int32 [B]


def chain(T: int, B: int, K: int, spread: int = 0, *, seconds: float) -> list[Row]:
    """Likelihood, marginals and best tags, checked and timed."""
    problems = [_draw_chain(T, B, K, spread, seed) for seed in range(3)]
    right = _reference_chain(problems[0])
    built = {OURS: _our_chain(problems)}
    if find_spec("torch") and find_spec("torchcrf"):
        built[THEIRS] = _their_chain(problems)
    rows = []
    for what, known in right.items():
        ready = {impl: ways[what] for impl, ways in built.items()}
        if what == "viterbi":  # paths may differ where they are as good
            for impl, one in ready.items():
                ready[impl] = one._replace(answer=[_scores(problems[0], one.answer[0])])
        shape = f"T {T}, B {B}, K {K}" + f", spans, +-{spread}" * (spread > 0)
        rows += _timed(what, shape, ready, known, seconds / len(right), BOUND * max(1, spread))
    return rows


def _draw_chain(T, B, K, spread, seed):
    params, rng = np.random.default_rng(K), np.random.default_rng(seed)
    lengths = rng.integers(max(1, T // 2), T + 1, B).astype(np.int32)
    lengths[0] = T
    scores = crf.CRF(*(params.normal(size=shape).astype(np.float32) for shape in ((K, K), (K,), (K,))))
    emissions = rng.normal(size=(T, B, K)).astype(np.float32)
    tags = rng.integers(0, K, (T, B)).astype(np.int32)
    if spread:
        may = crf.bio(["O", *(f"{'BI'[k % 2]}-{k // 2}" for k in range(K - 1))])
        scores = scores._replace(
            transitions=np.where(may.transitions, scores.transitions, np.float32(FORBIDDEN)),
            start=np.where(may.start, scores.start, np.float32(FORBIDDEN)),
        )
        for before, tag in zip([np.zeros(B, np.int32), *tags], tags, strict=False):
            tag[:] = np.where(may.transitions[before, tag], tag, before)  # in place: the next is seen beside it
        emissions *= spread
    return Chain(scores, emissions, tags, lengths)


def _our_chain(problems):
    def likelihood(params, emissions, tags, lengths):
        def total(params, emissions):
            found = crf.log_likelihood(params, emissions, tags, lengths)
            return found.sum(), found

        return jax.value_and_grad(total, (0, 1), has_aux=True)(params, emissions)

    inputs = [jax.device_put(tuple(one)) for one in problems]
    without = [(params, emissions, lengths) for params, emissions, _, lengths in inputs]
    first = timing.compile_jax(likelihood, *inputs[0])
    (_, found), (by_params, by_emissions) = first.call(*inputs[0])
    ways = {"likelihood": Ready(first.call, inputs, [found, by_emissions, *by_params], first.compile_s)}
    for what, function in (("marginals", crf.marginals), ("viterbi", crf.viterbi)):
        one = timing.compile_jax(function, *without[0])
        answer = jax.tree.leaves(one.call(*without[0]))
        ways[what] = Ready(one.call, without, answer, one.compile_s)
    return {what: one._replace(answer=[np.asarray(a) for a in one.answer]) for what, one in ways.items()}


def _their_chain(problems):
    import torch
    from torchcrf import CRF

    T, _, K = problems[0].emissions.shape
    model, inputs = CRF(K), []
    weights = model.transitions, model.start_transitions, model.end_transitions
    with torch.no_grad():
        for weight, value in zip(weights, problems[0].params, strict=True):
            weight.copy_(torch.tensor(value))
    for one in problems:
        mask = torch.arange(T)[:, None] < torch.tensor(one.lengths)[None]
        inputs.append((torch.tensor(one.emissions).requires_grad_(), torch.tensor(one.tags).long(), mask))

    def likelihood(emissions, tags, mask):
        found = model(emissions, tags, mask, reduction="none")
        return [found.detach(), *torch.autograd.grad(found.sum(), (emissions, *weights))]

    def marginals(emissions, tags, mask):
        return torch.autograd.grad(model._compute_normalizer(emissions, mask).sum(), emissions)

    @torch.no_grad()
    def viterbi(emissions, tags, mask):
        return model.decode(emissions, mask)

    ways = {}
    for call in (likelihood, marginals, viterbi):
        found = call(*inputs[0])
        if call is viterbi:
            found = [np.array([path + [-1] * (T - len(path)) for path in found]).T]
        ways[call.__name__] = Ready(call, inputs, [np.asarray(a) for a in found])
    return ways


def _reference_chain(problem):
    """What is right, in float64, a sequence and a step at a time; of viterbi the scores."""
    (transitions, start, end), emissions = (jax.tree.map(np.float64, x) for x in problem[:2])
    T, B, K = emissions.shape
    log_p, best, shares = np.zeros(B), np.zeros(B), np.zeros((T, B, K))
    by_emissions, by_params = np.zeros((T, B, K)), [np.zeros((K, K)), np.zeros(K), np.zeros(K)]
    for b, n in enumerate(problem.lengths):
        e, tags = emissions[:n, b], problem.tags[:n, b]
        forward, backward, highest = [start + e[0]], [end], start + e[0]
        for t in range(1, n):
            forward.append(np.logaddexp.reduce(forward[-1][:, None] + transitions, 0) + e[t])
            backward.insert(0, np.logaddexp.reduce(transitions + (e[n - t] + backward[0])[None], 1))
            highest = (highest[:, None] + transitions).max(0) + e[t]
        z = np.logaddexp.reduce(forward[-1] + end)
        shares[:n, b] = np.exp(np.array(forward) + np.array(backward) - z)
        best[b] = (highest + end).max()
        own = np.eye(K)[tags]
        by_emissions[:n, b] = own - shares[:n, b]
        for t in range(1, n):
            pairs = np.exp(forward[t - 1][:, None] + transitions + (e[t] + backward[t])[None] - z)
            by_params[0] += np.outer(own[t - 1], own[t]) - pairs
        by_params[1] += own[0] - shares[0, b]
        by_params[2] += own[-1] - shares[n - 1, b]
        log_p[b] = _score(problem, b, tags) - z
    return {"likelihood": [log_p, by_emissions, *by_params], "marginals": [shares], "viterbi": [best]}


def _scores(problem, tags):
    """In float64, of paths int [T, B]; NaN where one is no path of its length."""
    found = []
    for b, n in enumerate(problem.lengths):
        whole = (tags[:n, b] >= 0).all() and (tags[n:, b] == -1).all()
        found.append(_score(problem, b, tags[:n, b]) if whole else np.nan)
    return np.array(found)


def _score(problem, b, tags):
    (transitions, start, end), emissions = (
        jax.tree.map(np.float64, x) for x in (problem.params, problem.emissions[:, b])
    )
    own = emissions[np.arange(len(tags)), tags].sum()
    return start[tags[0]] + end[tags[-1]] + own + transitions[tags[:-1], tags[1:]].sum()


# --- decoding --------------------------------------------------------------------------------------------------------


class Decoder(NamedTuple):
    """A decoder of V words and H units."""

    embedding: np.ndarray  # [V, H]
    layer: lstmjax.LSTMParams
    w: np.ndarray  # [H, V]
    b: np.ndarray  # [V]


def search(v: int, b: int, w: int, size: int, steps: int, seconds: float) -> list[Row]:
    """Greedy (w = 0) or a beam w wide, checked and timed."""
    decoder = _draw_decoder(v, size)
    states = [np.random.default_rng(seed).normal(size=(2, b, size)).astype(np.float32) * 0.5 for seed in range(3)]
    find = _greedily if w == 0 else partial(_searched, width=w)
    known = np.array([find(decoder, *states[0][:, row], steps) for row in range(min(b, SEARCHED))])
    ready = {OURS: _our_search(decoder, states, w, steps)}
    if find_spec("torch"):
        ready[THEIRS] = _their_search(decoder, states, w, steps)
    for impl, one in ready.items():
        # Its scores have to be those of the search in float64, and those of its tokens.
        tokens, length, score = (a[: len(known)] for a in one.answer)
        again = [
            [_rated(decoder, *states[0][:, row], t[:n], n < steps, w > 0) for t, n in zip(*of_row, strict=True)]
            for row, of_row in enumerate(zip(tokens, length, strict=True))
        ]
        ready[impl] = one._replace(answer=[score, np.array(again)])
    return _timed("beam" if w else "greedy", f"V {v}, B {b}" + f", W {w}" * (w > 0), ready, [known, known], seconds)


def _draw_decoder(v, h):
    """So that an end comes after some ten words, sooner or later."""
    rng = np.random.default_rng(0)
    normal = lambda scale, *shape: (scale * rng.normal(size=shape)).astype(np.float32)  # noqa: E731
    layer = lstmjax.LSTMParams(*(normal(2 * h**-0.5, h, 4 * h) for _ in range(2)), normal(0.1, 4 * h))
    bias = np.zeros(v, np.float32)
    bias[END] = 4
    return Decoder(normal(1, v, h), layer, normal(4 * h**-0.5, h, v), bias)


def _our_search(decoder, states, w, steps):
    how = dict(start=START, end=END, steps=steps)

    def decode(decoder, h, c):
        def step(state, token):
            state, y = lstmjax.step(decoder.layer, state, decoder.embedding[token])
            return state, y @ decoder.w + decoder.b

        def one(h, c):
            state = lstmjax.LSTMState(h, c)
            if w == 0:
                return decoding.greedy(step, state, **how)
            return decoding.beam(step, state, **how, width=w, length_penalty=PENALTY)

        return jax.vmap(one)(h, c)

    weights = jax.device_put(decoder)
    inputs = [(weights, *jax.device_put(tuple(one))) for one in states]
    compiled = timing.compile_jax(decode, *inputs[0])
    found = compiled.call(*inputs[0])
    answer = [np.asarray(a) for a in (found.tokens, found.length, found.score)]
    return Ready(compiled.call, inputs, answer if w else [a[:, None] for a in answer], compiled.compile_s)


def _their_search(decoder, states, w, steps):
    import torch

    h = decoder.w.shape[0]
    embedding, out, bias = map(torch.tensor, (decoder.embedding, decoder.w, decoder.b))
    cell = torch.nn.LSTMCell(h, h)
    with torch.no_grad():
        w_x, w_h, b = decoder.layer[:3]
        for name, value in dict(weight_ih=w_x.T, weight_hh=w_h.T, bias_ih=b, bias_hh=0 * b).items():
            getattr(cell, name).copy_(torch.tensor(value))

    def step(last, state):
        state = cell(embedding[last], state)
        return torch.log_softmax(torch.addmm(bias, state[0], out), -1), state

    @torch.inference_mode()
    def greedy(h, c):
        n = len(h)
        last, state, log_p = torch.full((n,), START), (h, c), torch.zeros(n)
        tokens, length, over = torch.zeros(n, steps, dtype=torch.long), torch.full((n,), steps), torch.zeros(n).bool()
        for t in range(steps):
            found, state = step(last, state)
            best, last = found.max(-1)
            log_p += torch.where(over, 0, best)
            length[(last == END) & ~over] = t
            over |= last == END
            tokens[:, t] = torch.where(over, 0, last)
            if over.all():
                break
        return tokens[:, None], length[:, None], log_p[:, None]

    @torch.inference_mode()
    def beam(h, c):
        n, none = len(h), float("-inf")
        state = [s.repeat_interleave(w, 0) for s in (h, c)]
        first = torch.arange(n)[:, None] * w  # of each sequence's rows in the state
        last, log_p = torch.full((n * w,), START), torch.full((n, w), none)
        log_p[:, 0] = 0
        tokens, done_tokens = torch.zeros(2, n, w, steps, dtype=torch.long)
        done_length, done_score = torch.zeros(n, w, dtype=torch.long), torch.full((n, w), none)
        ended = torch.zeros(n, dtype=torch.long)
        for t in range(steps):
            found, state = step(last, state)
            v = found.shape[-1]
            ways = found.view(n, w, v).add_(log_p[..., None])
            best, at = ways.view(n, -1).topk(min(2 * w, w * v), -1)
            parents, chosen = at // v, at % v
            ends = chosen == END
            closing = torch.where(ends[:, :w] & (ended < w)[:, None], best[:, :w], none)
            if (closing > none).any():
                score = torch.cat([done_score, closing / ((6 + t) / 6) ** PENALTY], 1)
                done_score, order = score.topk(w, -1)
                length = torch.cat([done_length, torch.full((n, w), t)], 1)
                done_length = length.gather(1, order)
                closed = tokens.gather(1, parents[:, :w, None].expand(-1, -1, steps))
                done_tokens = torch.cat([done_tokens, closed], 1).gather(1, order[..., None].expand(-1, -1, steps))
                ended += (closing > none).sum(-1)
            log_p, at = best.masked_fill(ends, none).topk(w, -1)
            parents, chosen = parents.gather(1, at), chosen.gather(1, at)
            tokens = tokens.gather(1, parents[..., None].expand(-1, -1, steps))
            tokens[..., t] = chosen
            rows = (first + parents).view(-1)
            state, last = [s[rows] for s in state], chosen.view(-1)
            if (ended >= w).all():
                break
        # What is alive takes the places that are left; a search that stopped early has none.
        cut = log_p / ((6 + t) / 6) ** PENALTY
        order = torch.cat([done_score == none, torch.ones(n, w).bool()], 1).sort(dim=-1, stable=True)[1][:, :w]
        lengths = torch.cat([done_length, torch.full((n, w), steps)], 1).gather(1, order)
        score = torch.cat([done_score, cut], 1).gather(1, order)
        tokens = torch.cat([done_tokens, tokens], 1).gather(1, order[..., None].expand(-1, -1, steps))
        return tokens, lengths, score

    call = beam if w else greedy
    inputs = [tuple(torch.tensor(one)) for one in states]
    return Ready(call, inputs, [a.numpy() for a in call(*inputs[0])])


def _stepped(decoder, h, c, tokens):
    """In float64: states after `tokens` of several sequences, and log p [N, V] of what comes next."""
    decoder = jax.tree.map(np.float64, decoder)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    z = decoder.embedding[tokens] @ decoder.layer.w_x + h @ decoder.layer.w_h + decoder.layer.b
    i, f, g, o = np.split(z, 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    logits = h @ decoder.w + decoder.b
    logits -= logits.max(-1, keepdims=True)
    return h, c, logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def _greedily(decoder, h, c, steps):
    """The score of the likeliest token at each step, [1]."""
    total, last = 0.0, START
    for _ in range(steps):
        h, c, log_p = _stepped(decoder, h, c, last)
        total, last = total + log_p.max(), log_p.argmax()
        if last == END:
            break
    return [total]


def _searched(decoder, h, c, steps, width):
    """The scores of a beam search with lists, [W]."""
    alive, h, c, done = [(0.0, START)], h[None], c[None], []
    for t in range(steps):
        h, c, log_p = _stepped(decoder, h, c, [token for _, token in alive])
        ways = (np.array([total for total, _ in alive])[:, None] + log_p).ravel()
        order = np.argsort(-ways, kind="stable")[: 2 * width]
        parents, tokens = np.divmod(order, log_p.shape[-1])
        closing = [ways[at] for at, token in zip(order[:width], tokens, strict=False) if token == END]
        done += [total / ((6 + t) / 6) ** PENALTY for total in closing]
        kept = np.flatnonzero(tokens != END)[:width]
        alive = [(ways[order[k]], tokens[k]) for k in kept]
        h, c = h[parents[kept]], c[parents[kept]]
        if len(done) >= width:
            return sorted(done, reverse=True)[:width]
    cut = [total / ((5 + steps) / 6) ** PENALTY for total, _ in alive]
    return (sorted(done, reverse=True) + cut)[:width]


def _rated(decoder, h, c, tokens, ended, penalty):
    """The score of a sequence that was found."""
    put_in, put_out = [START, *tokens], [*tokens, END] if ended else [*tokens]
    total = 0.0
    for token, after in zip(put_in, put_out, strict=False):
        h, c, log_p = _stepped(decoder, h, c, token)
        total += log_p[after]
    return total / ((5 + len(put_out)) / 6) ** PENALTY if penalty else total


# --- what both share -------------------------------------------------------------------------------------------------


def _timed(what, shape, ready, known, seconds, bound=BOUND):
    """A row for each implementation; those that are right are timed in turn."""
    errors = {impl: _error(one.answer, known) for impl, one in ready.items()}
    right = {impl: one for impl, one in ready.items() if errors[impl] <= bound}
    calls, inputs = ({impl: one[k] for impl, one in right.items()} for k in (0, 1))
    pause = 0.003 if THEIRS in calls else 0  # its threads spin for a while
    times = timing.interleave(calls, inputs, seconds, pause) if calls else {}
    rows = []
    for impl, one in ready.items():
        row = Row(what, shape, impl, None, None, None, None, 0, errors[impl], one.compile_s)
        if impl in times:
            row = row._replace(ms=statistics.median(times[impl]), rounds=len(times[impl]))
            if OURS in times:
                ratio = timing.ratio(times[impl], times[OURS])
                row = row._replace(ratio=ratio.median, ratio_low=ratio.low, ratio_high=ratio.high)
        rows.append(row)
    return rows


def _error(found, known):
    """The largest, as a share of the largest that there is, or of 1; infinite for what is no number."""
    errors = [np.abs(a - b).max() / max(1, np.abs(b).max()) for a, b in zip(found, known, strict=True)]
    return float(max(errors)) if np.isfinite(errors).all() else float("inf")


def _progress(doing):
    if sys.stderr.isatty():
        print(f"\r\x1b[K{doing}", end="", file=sys.stderr, flush=True)


def _plain(rows):
    about = {"cpu": timing.cpu_name(), "threads": timing.cores(), "jax": jax.__version__}
    if "torch" in sys.modules:
        about["torch"] = sys.modules["torch"].__version__
    return about | {"rows": [row._asdict() for row in rows]}


def _print(rows):
    table = Table()
    columns = ("what", "shape", "whose", "ms", "ratio to ours (◀ lost)", "95 %", "error", "compile s")
    for k, column in enumerate(columns):
        table.add_column(column, justify="right" if k > 2 else "left")
    for row in rows:
        cells = ["WRONG" if row.ms is None else f"{row.ms:.3f}", "", ""]
        if row.ratio is not None and row.impl != OURS:
            cells[1:] = f"{'◀ ' * (row.ratio < 1)}{row.ratio:.2f}", f"{row.ratio_low:.2f} - {row.ratio_high:.2f}"
        compiled = "" if row.compile_s is None else f"{row.compile_s:.1f}"
        lost = row.ms is None or (row.ratio or 1) < 1
        table.add_row(row.what, row.shape, row.impl, *cells, f"{row.error:.0e}", compiled, style="red" if lost else "")
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(table)
    for what in dict.fromkeys(row.what for row in rows):
        ratios = [row.ratio for row in rows if row.what == what and row.impl != OURS and row.ratio]
        if ratios:
            console.print(f"{what}: geometric mean {timing.geometric_mean(ratios):.2f}")


if __name__ == "__main__":
    sys.exit(main())
