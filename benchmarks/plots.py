"""Pictures of the rows of bench_scan.py. They are written to a file; matplotlib is imported by whoever asks for one."""

from pathlib import Path

from rivals import REFERENCE


def ratios(rows: list, path: Path) -> None:
    """Bars of each implementation's time as a multiple of ours, by shape."""
    groups = list(dict.fromkeys((row.mode, row.dtype) for row in rows))
    names = list(dict.fromkeys(row.impl for row in rows if row.impl != REFERENCE))
    shapes = list(dict.fromkeys(row.case for row in rows))
    if not groups or not names:
        return
    size = (max(7, 0.16 * len(shapes) * (len(names) + 2)), 3.2 * len(groups) + 0.8)
    figure, axes = _pyplot().subplots(len(groups), 1, figsize=size, sharex=True, squeeze=False, layout="constrained")
    for axis, (mode, dtype) in zip(axes[:, 0], groups, strict=True):
        for k, name in enumerate(names):
            found = [row for row in rows if (row.impl, row.mode, row.dtype) == (name, mode, dtype)]
            places = [shapes.index(row.case) + (k - (len(names) - 1) / 2) * 0.8 / len(names) for row in found]
            # Bars from 1, on a logarithmic axis: half and double are as far from it.
            axis.bar(places, [row.ratio - 1 for row in found], 0.8 / len(names), bottom=1, label=name)
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_yscale("log", base=2)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_ylabel("time / our time")
        axis.set_title(f"{mode}, {dtype} (above 1: ours is faster)", loc="left")
    axes[-1, 0].set_xticks(range(len(shapes)), shapes, rotation=30 if len(shapes) < 8 else 90, ha="right")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=120)


def growth(rows: list, path: Path) -> None:
    """Time and temporary memory of training against each of T, B and H, the other sizes being those that most rows
    have; the dashed line is the products alone at the speed of a large GEMM. Both axes are logarithmic."""
    rows = [row for row in rows if row.mode == "train"]
    if not rows:
        return
    usual = {size: _most([getattr(row, size) for row in rows]) for size in "TBDH"}
    figure, axes = _pyplot().subplots(2, 3, figsize=(13, 7.5), sharex="col", sharey="row", layout="constrained")
    for column, varied in zip(axes.T, "TBH", strict=True):
        others = [size for size in "TBDH" if size != varied]
        line = [row for row in rows if all(getattr(row, size) == usual[size] for size in others)]
        for name in dict.fromkeys(row.impl for row in line):
            own = sorted((row for row in line if row.impl == name), key=lambda row: getattr(row, varied))
            sizes = [getattr(row, varied) for row in own]
            column[0].plot(sizes, [row.ms for row in own], marker="o", label=name)
            if name == REFERENCE:
                bound = [row.ms * row.peak_share for row in own]
                column[0].plot(sizes, bound, color="black", linestyle="--", label="GEMM bound")
            known = [(size, row.temp_bytes / 2**20) for size, row in zip(sizes, own, strict=True) if row.temp_bytes]
            if known:
                column[1].plot(*zip(*known, strict=True), marker="o", label=name)
        fixed = ", ".join(f"{size} = {usual[size]}" for size in others)
        column[0].set_title(fixed, loc="left", fontsize="medium")
        column[1].set_xlabel(varied)
    axes[0, 0].set_ylabel("forward and all gradients, ms")
    axes[1, 0].set_ylabel("temporary memory, MiB")
    for axis in axes.flat:
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.grid(alpha=0.3)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    figure.savefig(path, dpi=120)


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _most(values):
    return max(set(values), key=values.count)
