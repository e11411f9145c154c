"""How far whole runs of `bench_scan.py` agree: the geometric mean of every run, and the largest over the smallest.

    python benchmarks/agree.py first.json second.json third.json
    python benchmarks/agree.py first.json second.json third.json --rows flax-linen torch   # shape by shape

Means are over the shapes that every run has; a row is the median of the runs, and from the smallest to the largest.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import timing
from rich.console import Console
from rich.table import Table


def main() -> int:
    """Print the table; 1 if there is nothing to compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="that `bench_scan.py --json` wrote")
    parser.add_argument(
        "--rows", nargs="+", default=[], metavar="NAME", help="every shape too, of these implementations"
    )
    args = parser.parse_args()
    files = args.files
    reports = []
    for file in files:
        if not file.exists():
            parser.error(f"there is no file {file}")
        reports.append(json.loads(file.read_text()))
    known = {row["impl"] for report in reports for row in report["rows"]}
    if set(args.rows) - known:
        parser.error(f"--rows should name some of {', '.join(sorted(known))}, got {' '.join(args.rows)}")
    found = means([report["rows"] for report in reports])
    if not found:
        print("these runs have no row in common", file=sys.stderr)
        return 1
    table = Table("against", "mode", "dtype", "shapes", *(file.stem for file in files), "largest / smallest")
    for (impl, mode, dtype), (shapes, values) in found.items():
        spread = max(values) / min(values)
        table.add_row(impl, mode, dtype, str(shapes), *(f"{value:.2f}" for value in values), f"{spread:.2f}")
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(table)
    if args.rows:
        listed = Table("T,B,D,H", "mode", "dtype", *args.rows)
        for row, cells in by_shape([report["rows"] for report in reports], args.rows).items():
            listed.add_row(*row, *cells)
        console.print(listed)
    for file, report in zip(files, reports, strict=True):
        taken = report["machine"].get("cpu_taken_by_others")
        share = "an unknown part" if taken is None else f"{100 * taken:.0f} %"
        console.print(f"{file.stem}: {report['machine']['cpu']}; others had {share} of the CPU")
    return 0


def means(runs: list[list[dict]]) -> dict[tuple[str, str, str], tuple[int, list[float]]]:
    """By implementation, mode and dtype: how many shapes all runs have, and the geometric mean of each run over them.

    >>> row = dict(impl="torch", mode="train", dtype="float32", T=1, B=1, D=1, H=1, variant="plain")
    >>> means([[row | {"ratio": 2.0}, row | {"ratio": 8.0, "H": 2}], [row | {"ratio": 3.0}]])
    {('torch', 'train', 'float32'): (1, [2.0, 3.0])}
    """
    ratios = [{_key(row): row["ratio"] for row in rows} for rows in runs]
    shared = [key for key in ratios[0] if all(key in run for run in ratios)]
    groups = dict.fromkeys(key[:3] for key in shared)
    return {group: _of_each(ratios, [key for key in shared if key[:3] == group]) for group in groups}


def by_shape(runs: list[list[dict]], names: list[str]) -> dict[tuple[str, str, str], list[str]]:
    """By shape, mode and dtype: of each of these implementations the ratio, "" where a run has none.

    >>> row = dict(impl="torch", mode="train", dtype="float32", T=1, B=1, D=1, H=1, variant="plain")
    >>> by_shape([[row | {"ratio": ratio}] for ratio in (2.0, 9.0, 3.0)], ["torch", "keras"])
    {('1,1,1,1', 'train', 'float32'): ['3.00 (2.00 to 9.00)', '']}
    """
    ratios = [{_key(row): row["ratio"] for row in rows} for rows in runs]
    found: dict[tuple[str, str, str], list[str]] = {}
    for impl, mode, dtype, *sizes, variant in ratios[0]:
        shape = ",".join(map(str, sizes if variant == "plain" else (*sizes, variant)))
        cells = found.setdefault((shape, mode, dtype), [""] * len(names))
        values = [run.get((impl, mode, dtype, *sizes, variant)) for run in ratios]
        if impl in names and None not in values:
            cells[names.index(impl)] = f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
    return found


def _key(row):
    return tuple(row[name] for name in ("impl", "mode", "dtype", "T", "B", "D", "H", "variant"))


def _of_each(ratios, keys):
    return len(keys), [timing.geometric_mean([run[key] for key in keys]) for run in ratios]


if __name__ == "__main__":
    sys.exit(main())
