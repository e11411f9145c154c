"""The one choice between the ways to compute a layer over time."""

from typing import Any

from lstmjax import checks
from lstmjax.backends import associative, fused, persistent, scan

BACKENDS = {"scan": scan, "fused": fused, "persistent": persistent, "associative": associative}

# What backend=None tries, in this order; scan does everything, so the ladder always ends.
LADDER = ("persistent", "fused", "associative", "scan")


def choose(params: Any, xs: Any, *, backend: str | None = None, **options: Any) -> str:
    """The name of the backend that a layer will run on.

    Args:
      params: of one layer.
      xs: [T, *batch, D], or anything with that shape and dtype.
      backend: None tries `LADDER` in order; a name insists.
      options: those of `run`, and the noise of the layer.

    Returns:
      A key of `BACKENDS`.

    Raises:
      ValueError: an unknown name, or a backend that cannot do this, with its reason.
    """
    if backend is None:
        chosen = dict(options, insist=False)
        backend = next((name for name in LADDER if BACKENDS[name].supports(params, xs, **chosen) is None), "scan")
    checks.one_of("backend", backend, (None, *BACKENDS))
    reason = BACKENDS[backend].supports(params, xs, **options)
    if reason is not None:
        raise ValueError(f'backend="{backend}" cannot run this: {reason}')
    return backend


def reasons(params: Any, xs: Any, **options: Any) -> dict[str, str | None]:
    """For each backend why it cannot do this, or None if it can; the arguments are those of `choose`."""
    return {name: module.supports(params, xs, **options) for name, module in BACKENDS.items()}


def run(params, xs, state, *, backend, **options):
    """A layer over time on the backend chosen; arguments and results are those of `scan.run`."""
    name = choose(params, xs, backend=backend, **options)
    return BACKENDS[name].run(params, xs, state, insist=backend is not None, **options)
