"""Translation: training and search of ours beside the same attention LSTM in PyTorch.

    python benchmarks/bench_translate.py                  # tokens a second in training, sentences a second in search
    python benchmarks/bench_translate.py --quality        # both trained on cmn_eng: chrF and BLEU of characters
    python benchmarks/bench_translate.py --quality --reverse --seeds 0 1 2      # from Chinese to English

One member of `lstmjax.translate` and a PyTorch model of the same sizes train on the same padded batches in the same
order, in turns: a bidirectional encoder, one layer of decoder with "general" attention, tied softmax, AdamW, the same
rates of dropout. With input feeding PyTorch steps through an `LSTMCell`; without, its `LSTM` runs over all at once.
Search is batched in both, over the same sources, and goes to the same number of steps.
"""

import argparse
import json
import math
import statistics
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import timing
from bench_text import _ours
from rich.console import Console
from rich.table import Table

from lstmjax import datasets, members, recipe, translate
from lstmjax.commands.tasks import TASKS
from lstmjax.train import Watch


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="SET", default="cmn_eng", help="(default: %(default)s)")
    parser.add_argument("--widths", type=int, nargs="*", default=[64, 128, 256], help="(default: 64 128 256)")
    parser.add_argument("--batch", type=int, nargs="*", default=[32, 64], help="sizes (default: 32 64)")
    parser.add_argument("--rounds", type=int, default=9, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="in a round (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=4000, help="to take batches from (default: %(default)s)")
    parser.add_argument("--quality", action="store_true", help="train both, and measure them on the test records")
    parser.add_argument("--epochs", type=int, default=15, help="of --quality (default: %(default)s)")
    parser.add_argument("--reverse", action="store_true", help="--quality from the second language into the first")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="of --quality (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    options = parser.parse_args()
    if find_spec("torch") is None:
        parser.error("PyTorch is what it compares with: pip install -e '.[rivals]'")
    import torch

    torch.set_num_threads(timing.cores())
    console, rows = Console(highlight=False), []
    if options.quality:
        for seed in options.seeds:
            rows.append(quality(options, options.widths[-1], options.batch[-1], seed, console))
            console.print(rows[-1])
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1) + "\n")
    else:
        for feeding in (True, False):
            for width in options.widths:
                for size in options.batch:
                    rows.append(compare(options, width, size, feeding))
                    console.print(rows[-1])
        names = [name for name in rows[0] if name.endswith("ratio")]
        table = Table("feeding", "width", "batch", *names)
        for row in rows:
            table.add_row(str(row["feeding"]), str(row["width"]), str(row["batch"]), *(f"{row[n]:.2f}" for n in names))
        console.print(table)
        means = (f"{name} {timing.geometric_mean([row[name] for row in rows]):.2f}" for name in names)
        console.print(f"geometric means: {', '.join(means)}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def settings(width: int, size: int, feeding: bool = True, **changes) -> recipe.Recipe:
    """What both have: no dropout that PyTorch's layers lack."""
    how = dict(tokens="bpe", vocabulary=4000, target_tokens="characters", bleu="zh", variational=False, recurrent=0.0)
    how |= dict(embedding=width, hidden=(width,), decoder=(2 * width,), batch_size=size, feeding=feeding)
    return TASKS["translate"].recipe._replace(**how | changes)


def compare(options: argparse.Namespace, width: int, size: int, feeding: bool) -> dict:
    """Tokens a second of training, and sentences a second of greedy and beam search, with the medians over rounds of
    their time over ours."""
    records = [tuple(one) for one in datasets.load(options.data, "train")["train"]][: options.pairs]
    model, task = translate._task(records, records[:50], settings(width, size, feeding))
    epoch = task.batches(0)
    batches = [epoch[k % len(epoch)] for k in range(options.steps)]
    net = _net(model)
    train = {"lstmjax": _ours(task, batches, None), "torch": _theirs(net, batches, model.recipe)}
    row = {"feeding": feeding, "width": width, "batch": size}
    row |= _timed("train", train, options.rounds, sum(map(task.tokens, batches)))
    params, _ = members._begin(task, task.recipe)
    _adopt(net, jax.tree.map(lambda a: np.array(a[0]), params))  # so that both say the same, for as many steps
    ids, lengths = epoch[0].source, epoch[0].source_lengths
    for beam in (1, 5):
        how = dict(width=beam, length_penalty=1.0, coverage=0.0, steps=30)

        def ours(how=how):
            return jax.block_until_ready(translate._search(params, ids, lengths, **how))

        def theirs(beam=beam):
            return _search(net, ids, lengths, beam, 1.0, 30)

        tokens, n = map(np.asarray, ours())
        same = np.mean([a[:k].tolist() == b for a, k, b in zip(tokens, n, theirs(), strict=True)])
        row |= {f"beam {beam} same": float(same)}
        row |= _timed(f"beam {beam}", {"lstmjax": ours, "torch": theirs}, options.rounds, size)
    return row


def quality(options: argparse.Namespace, width: int, size: int, seed: int, console: Console) -> dict:
    """Both trained on all records for as many epochs, the last weights of each measured on the test records."""
    turn, epochs, held = -1 if options.reverse else 1, options.epochs, datasets.load(options.data)
    training, dev, test = ([tuple(one)[::turn] for one in held[split]] for split in ("train", "dev", "test"))
    how = settings(width, size, epochs=epochs, patience=epochs, average=0.0, seed=seed, best="loss")
    if options.reverse:
        how = how._replace(tokens="characters", target_tokens="bpe", target_vocabulary=4000, bleu="13a")
    began = time.perf_counter()
    model, fitted = translate.fit(training, dev, how, watch=Watch(console))
    row: dict = {"width": width, "epochs": epochs, "seed": seed, "reverse": options.reverse}
    row["lstmjax seconds"] = time.perf_counter() - began
    last = jax.device_get(fitted.state.params)
    row |= {f"lstmjax {name}": value for name, value in translate.evaluate(model._replace(params=last), test).items()}
    return row | their_quality(training, dev, test, how)


def their_quality(training: list, dev: list, test: list, how: recipe.Recipe) -> dict:
    """PyTorch's half: from the weights that ours begins with, over the same batches, by the same schedule."""
    import torch

    torch.manual_seed(how.seed)
    model, task = translate._task(training, dev, how)
    net = _net(model)
    params, _ = members._begin(task, task.recipe)
    _adopt(net, jax.tree.map(lambda a: np.array(a[0]), params))
    began, steps = time.perf_counter(), len(task.batches(0)) * how.epochs
    optimizer = torch.optim.AdamW(net.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
    warm = max(1, steps // 20)
    shape = lambda n: n / warm if n < warm else (1 + np.cos(np.pi * (n - warm) / (steps - warm))) / 2  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, shape)
    for epoch in range(how.epochs):
        for batch in task.batches(epoch):
            _step(net, optimizer, _tensors(batch), how)
            schedule.step()
    row = {"torch seconds": time.perf_counter() - began}
    found = []
    for begin in range(0, len(test), translate.AT_ONCE):
        sources = [translate.ids_of(model.source, pair[0]) for pair in test[begin : begin + translate.AT_ONCE]]
        longest = max(map(len, sources))
        steps = math.ceil(model.ratio * longest) + translate.SPARE
        ids = np.stack([np.pad(one, (0, longest - len(one))) for one in sources])
        found += _search(net, ids, np.array(list(map(len, sources))), how.beam, how.length_penalty, steps)
    scores = translate.score([model.target.write(one) for one in found], [pair[1] for pair in test], how.bleu)
    return row | {f"torch {name}": value for name, value in scores.items()}


def _timed(name, calls, rounds, amount):
    times: dict[str, list[float]] = {who: [] for who in calls}
    for call in calls.values():
        call()
    for n in range(rounds):
        for who in list(calls)[:: 1 if n % 2 else -1]:
            began = time.perf_counter()
            calls[who]()
            times[who].append(time.perf_counter() - began)
    speeds = {f"{name} {who}": amount / statistics.median(seconds) for who, seconds in times.items()}
    ratio = statistics.median(b / a for a, b in zip(times["lstmjax"], times["torch"], strict=True))
    return speeds | {f"{name} ratio": ratio}


def _net(model):
    """The same model in PyTorch."""
    import torch
    from torch import nn

    recipe = model.recipe
    width, (hidden,), (units,) = recipe.embedding, recipe.hidden, recipe.decoder

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.source, self.target = (nn.Embedding(read.size, width) for read in (model.source, model.target))
            self.encoder = nn.LSTM(width, hidden, batch_first=True, bidirectional=True)
            self.bridge = nn.Linear(2 * hidden, 2 * units)
            self.decoder = (
                nn.LSTMCell(width + units, units) if recipe.feeding else nn.LSTM(width, units, batch_first=True)
            )
            self.keys = nn.Linear(2 * hidden, units, bias=False)
            self.combine = nn.Linear(2 * hidden + units, units, bias=False)
            self.project = nn.Linear(units, width, bias=False)
            self.bias = nn.Parameter(torch.zeros(model.target.size))
            self.dropout = nn.Dropout(recipe.dropout)

        def words(self, table, ids):
            if self.training:
                ids = torch.where(torch.rand(ids.shape) < recipe.word_dropout, 1, ids)
            return self.dropout(table(ids))

        def encode(self, ids, lengths):
            packed = nn.utils.rnn.pack_padded_sequence(
                self.words(self.source, ids), lengths.clamp(min=1), True, enforce_sorted=False
            )
            values, (h, _) = self.encoder(packed)
            values, _ = nn.utils.rnn.pad_packed_sequence(values, True, total_length=ids.shape[1])
            h, c = self.bridge(torch.cat([h[0], h[1]], -1)).chunk(2, -1)
            values = self.dropout(values)
            hidden = torch.where(torch.arange(ids.shape[1]) < lengths[:, None], 0.0, -1e9)
            return (values, self.keys(values), hidden), (torch.tanh(h), c, torch.zeros_like(h))

        def look(self, memory, h):  # [B, T, units]
            values, keys, hidden = memory
            a = torch.softmax(h @ keys.transpose(1, 2) + hidden[:, None], -1)
            return torch.tanh(self.combine(torch.cat([a @ values, h], -1)))

        def one(self, memory, state, x):
            h, c, fed = state
            if recipe.feeding:
                h, c = self.decoder(torch.cat([x, fed], -1), (h, c))
            else:
                _, (h, c) = self.decoder(x[:, None], (h[None], c[None]))
                h, c = h[0], c[0]
            fed = self.look(memory, h[:, None])[:, 0]
            return (h, c, fed), fed

        def logits(self, h):
            return nn.functional.linear(self.project(h), self.target.weight, self.bias)

        def forward(self, ids, lengths, target):
            memory, state = self.encode(ids, lengths)
            xs = self.words(self.target, nn.functional.pad(target[:, :-1], (1, 0)))
            if recipe.feeding:
                ys = []
                for x in xs.unbind(1):
                    state, y = self.one(memory, state, x)
                    ys.append(y)
                ys = torch.stack(ys, 1)
            else:
                hs, _ = self.decoder(xs, (state[0][None], state[1][None]))
                ys = self.look(memory, hs)
            return self.logits(self.dropout(ys))

    return Net()


def _adopt(net, params):
    """Give PyTorch our weights, whose gates stand in the same order."""
    import torch

    def layer(of, names, suffix):
        for ours, theirs in zip((of.w_x.T, of.w_h.T, of.b, 0 * of.b), names, strict=True):
            state[f"{theirs}{suffix}"] = ours

    state: dict = {"source.weight": params.embedding, "target.weight": params.target, "bias": params.bias}
    names = [f"{kind}_{which}" for kind in ("weight", "bias") for which in ("ih", "hh")]
    for side, suffix in (("forward", "_l0"), ("backward", "_l0_reverse")):
        layer(getattr(params.encoder[0], side), [f"encoder.{name}" for name in names], suffix)
    is_cell = "decoder.weight_ih" in net.state_dict()
    layer(params.decoder[0], [f"decoder.{name}" for name in names], "" if is_cell else "_l0")
    state |= {"bridge.weight": params.bridge[0].w.T, "bridge.bias": params.bridge[0].b}
    for name, array in (("keys", params.attention.keys), ("combine", params.combine), ("project", params.project)):
        state[f"{name}.weight"] = array.T
    net.load_state_dict({name: torch.tensor(np.ascontiguousarray(array)) for name, array in state.items()})


def _tensors(batch):
    import torch

    return [torch.as_tensor(np.asarray(array).astype("int64")) for array in batch]


def _step(net, optimizer, batch, recipe):
    import torch
    from torch import nn

    ids, lengths, target, target_lengths = batch
    net.train()
    optimizer.zero_grad()
    logits = net(ids, lengths, target)
    there = torch.arange(target.shape[1]) < target_lengths[:, None]
    losses = nn.functional.cross_entropy(
        logits.transpose(1, 2), target, reduction="none", label_smoothing=recipe.smoothing
    )
    ((losses * there).sum() / there.sum()).backward()
    nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
    optimizer.step()


def _theirs(net, batches, recipe):
    import torch

    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    ready = [_tensors(batch) for batch in batches]

    def call():
        for batch in ready:
            _step(net, optimizer, batch, recipe)

    return call


def _search(net, ids, lengths, width, penalty, steps):
    """The tokens of the best translation of each source, by the search of `decoding.beam`, batched."""
    import torch

    net.eval()
    ids, lengths = torch.as_tensor(ids.astype("int64")), torch.as_tensor(np.asarray(lengths).astype("int64"))
    size = len(ids)
    with torch.no_grad():
        memory, state = net.encode(ids, lengths)
        memory, state = ([part.repeat_interleave(width, 0) for part in parts] for parts in (memory, state))
        log_p = torch.full((size, width), -torch.inf)
        log_p[:, 0] = 0
        last, tokens = torch.zeros(size * width, dtype=torch.long), torch.zeros(size, width, 0, dtype=torch.long)
        done: list[list] = [[] for _ in range(size)]
        first = torch.arange(size)[:, None] * width
        for t in range(steps):
            state, h = net.one(memory, state, net.target(last))
            logits = net.logits(h)
            logits[:, 1] = -torch.inf
            ways = (log_p.reshape(-1, 1) + torch.log_softmax(logits, -1)).reshape(size, -1)
            best, at = ways.topk(2 * width if width > 1 else 1, -1)
            parents, chosen = at // logits.shape[-1], at % logits.shape[-1]
            for row, rank in (chosen[:, :width] == 0).nonzero().tolist():
                if len(done[row]) < width and best[row, rank] > -torch.inf:
                    worth = best[row, rank].item() / ((6 + t) / 6) ** penalty
                    done[row].append((worth, tokens[row, parents[row, rank]].tolist()))
            if all(len(one) >= width for one in done):
                break
            log_p, at = torch.where(chosen == 0, -torch.inf, best).topk(width, -1)
            parents, chosen = parents.gather(1, at), chosen.gather(1, at)
            tokens = torch.cat([tokens.gather(1, parents[..., None].expand(-1, -1, t)), chosen[..., None]], -1)
            flat, last = (first + parents).reshape(-1), chosen.reshape(-1)
            state = tuple(part[flat] for part in state)
    return [max(one)[1] if one else rest[0].tolist() for one, rest in zip(done, tokens, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
