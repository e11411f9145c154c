"""The command line: `python -m lstmjax train | predict | ... | data`, also installed as `lstmjax`."""

import argparse
import os
import sys
from collections.abc import Sequence

from lstmjax import allocator
from lstmjax.commands import sets, training, using
from lstmjax.commands.tasks import TASKS
from lstmjax.recipe import ABOUT, Recipe, names


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, or 2 for what the caller can mend."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if arguments is None:  # of a program, and not of one that calls this: it is of the whole process
        allocator.keep_memory()
    try:
        return options.run(options)
    except (
        BrokenPipeError
    ):  # who reads has read enough, as head does; what is left unwritten is not to be complained of
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        print(f"lstmjax {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"lstmjax {options.command}: stopped", file=sys.stderr)
        return 130


def _parser():
    parser = argparse.ArgumentParser(prog="lstmjax", description="LSTMs for JAX: train and use models of texts.")
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("train", help="train a model; with no argument, on the embedded sample")
    command.set_defaults(run=training.train)
    command.add_argument("task", nargs="?", choices=tuple(TASKS), help="(default: that of the recipe, or classify)")
    command.add_argument(
        "--data",
        metavar="SET",
        help="a set (data list), or a file: text TAB label; of match text TAB text TAB label, of translate source TAB "
        "target, of language any text",
    )
    command.add_argument(
        "--config", metavar="RECIPE", help=f"a TOML file, or one that comes along: {', '.join(names())}"
    )
    command.add_argument("--dev", metavar="FILE", help="records to choose the best epoch by (default: 10 %% of --data)")
    command.add_argument("--test", metavar="FILE", help="records to measure on (default: 10 %% of --data)")
    command.add_argument(
        "--out", metavar="DIR", default="runs/model", help="folder of the model (default: %(default)s)"
    )
    command.add_argument("--resume", action="store_true", help="go on with a run that was stopped or killed")
    command.add_argument("--save-every", type=int, metavar="N", help="save the run every N steps, beside every epoch")
    command.add_argument(
        "--devices",
        type=int,
        metavar="N",
        help="split the members or the models of a sweep, else batches, over N devices, on a CPU cores (default: as "
        "many as can share the members; of a sweep 1)",
    )
    command.add_argument(
        "--sweep", metavar="SETTINGS", help='train all of these at once, keep the best: "lr=1e-3,3e-3 seed=0..3"'
    )
    command.add_argument("--tensorboard", metavar="DIR", help="write TensorBoard's files too")
    command.add_argument("--baselines", action="store_true", help="fit all linear baselines, not the quickest alone")
    command.add_argument("--json", metavar="FILE", help="write what was measured on the test records")
    group = command.add_argument_group(
        "recipe", "What is not given is as the recipe of the set or of --config says, else as the task begins with it."
    )
    for name, default in Recipe()._asdict().items():
        flag, about = "--" + name.replace("_", "-"), f"{ABOUT[name]} ({_defaults(name)})".replace("%", "%%")
        if isinstance(default, bool):
            group.add_argument(flag, action=argparse.BooleanOptionalAction, help=about)
        elif isinstance(default, tuple):
            group.add_argument(flag, type=_widths, metavar="H,...", help=about)
        else:
            group.add_argument(flag, type=type(default), metavar=type(default).__name__, help=about)

    command = commands.add_parser("predict", help="label texts, or pairs of texts")
    command.set_defaults(run=using.predict)
    command.add_argument("--model", metavar="DIR", required=True)
    command.add_argument("text", nargs="*", help="texts, two for each pair; none: lines of standard input")

    command = commands.add_parser("roles", help="find the predicates of texts, and who does what to whom")
    command.set_defaults(run=using.roles)
    command.add_argument("--model", metavar="DIR", required=True, help="one of the task roles")
    command.add_argument("--cut", action="store_true", help="words have blanks between them: cut them nowhere else")
    command.add_argument("--json", action="store_true", help="print a JSON object for each text")
    command.add_argument("text", nargs="*", help="texts; none: lines of standard input")

    command = commands.add_parser("translate", help="translate texts, or lines of standard input, a line each")
    command.set_defaults(run=using.translations)
    command.add_argument("--model", metavar="DIR", required=True, help="one of the task translate")
    command.add_argument(
        "--beam", type=int, metavar="N", help="width of the search, 1 is greedy (default: the model's)"
    )
    command.add_argument("--length-penalty", type=float, metavar="X", help="(default: the model's)")
    command.add_argument(
        "--longest", type=int, metavar="N", help="most tokens of a translation (default: by the length of the text)"
    )
    command.add_argument("--coverage", type=float, metavar="X", help="(default: the model's)")
    command.add_argument(
        "--n-best", type=int, metavar="N", help="print the N best of each text: its number TAB score TAB translation"
    )
    command.add_argument("text", nargs="*", help="texts; none: lines of standard input")

    command = commands.add_parser("evaluate", help="measure a model on records")
    command.set_defaults(run=using.evaluate)
    command.add_argument("--model", metavar="DIR", required=True)
    command.add_argument("--data", metavar="SET", required=True, help="a set, or a file of records, as for train")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.add_argument(
        "--cache", metavar="N,T,L", help="of a language model: look back N steps, with theta T and share L"
    )

    command = commands.add_parser("explain", help="what a model looks at in a text, or in a pair of texts")
    command.set_defaults(run=using.show)
    command.add_argument("--model", metavar="DIR", required=True)
    command.add_argument("--out", metavar="FILE", help="a page or picture too: .html, .png, .svg, .pdf")
    command.add_argument("text", nargs="+", help="a text, to be translated by a translator; of a model of pairs, two")

    command = commands.add_parser("search", help="rank the lines of a file by how near they are to a text")
    command.set_defaults(run=using.search)
    command.add_argument("--model", metavar="DIR", required=True, help="one of the task match")
    command.add_argument("--corpus", metavar="FILE", required=True, help="a text on each line")
    command.add_argument("--top", type=int, metavar="N", default=10, help="(default: %(default)s)")
    command.add_argument("query", help="the text to find the like of")

    command = commands.add_parser("generate", help="go on with a text")
    command.set_defaults(run=using.generate)
    command.add_argument("--model", metavar="DIR", required=True, help="one of the task language")
    command.add_argument("--prompt", metavar="TEXT", default="", help="what the text begins with (default: nothing)")
    command.add_argument("--tokens", type=int, metavar="N", default=200, help="how many more (default: %(default)s)")
    command.add_argument("--temperature", type=float, metavar="T", default=1.0, help="(default: %(default)s)")
    command.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest (default: all)")
    command.add_argument(
        "--top-p", type=float, metavar="P", default=0.95, help="and from the likeliest that make up P (default: 0.95)"
    )
    command.add_argument("--seed", type=int, metavar="S", default=0, help="(default: %(default)s)")

    command = commands.add_parser(
        "data", help="the data sets that are known, their licences, and whether they are here"
    )
    command.set_defaults(run=sets.data)
    command.add_argument("action", choices=("list", "show"))
    command.add_argument("name", nargs="?", help="of the set to show")

    command = commands.add_parser("plot", help="draw the curves of runs")
    command.set_defaults(run=training.plot)
    command.add_argument("run_folders", nargs="+", metavar="RUN", help="folder of a model, of its run, or a log")
    command.add_argument("--out", metavar="FILE", default="curves.png", help="(default: %(default)s)")
    return parser


def _defaults(name):
    """What a field is where nobody says it, and in which tasks it is something else."""
    plain = getattr(Recipe(), name)
    others: dict[str, list[str]] = {}
    for task, about in TASKS.items():
        value = getattr(about.recipe, name)
        if value != plain:
            others.setdefault(_shown(value), []).append(task)
    return "; ".join([f"default: {_shown(plain)}", *(f"{', '.join(of)}: {value}" for value, of in others.items())])


def _shown(value):
    return (",".join(map(str, value)) if isinstance(value, tuple) else str(value)) or "none"


def _widths(given):
    return tuple(int(width) for width in given.split(","))


if __name__ == "__main__":
    sys.exit(main())
