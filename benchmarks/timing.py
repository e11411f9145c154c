"""Timing that compares: every implementation in one process, in turn, in an order drawn anew each round.

A machine's speed drifts over seconds, by its clock and by its neighbours. Times taken one implementation after the
other compare the drift too; the ratio of two times of one round does not.
"""

import gc
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstmjax.devices import compiler_options
from lstmjax.devices import cores as cores


class Compiled(NamedTuple):
    """A function ready to be timed."""

    call: Callable  # (*operands) -> results, which on a CPU are there when it returns; on a GPU see `finish`
    compile_s: float | None  # None: nothing was compiled
    temp_bytes: int | None  # memory it takes beside operands and results; None: not known


class Gemm(NamedTuple):
    """A matrix product ready to be timed."""

    call: Callable
    operands: tuple
    flops: float


class Ratio(NamedTuple):
    """How many times as long one implementation takes as another: the median over rounds and its 95 % interval."""

    median: float
    low: float
    high: float


def compile_jax(function: Callable, *operands: Any) -> Compiled:
    """Trace and compile, apart from any run; how long that took and what memory the result needs."""
    start = time.perf_counter()
    # The same options for all that XLA compiles, ours and others'.
    compiled = jax.jit(function, compiler_options=compiler_options()).lower(*operands).compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()

    def call(*operands):
        return jax.block_until_ready(compiled(*operands))

    on_gpu = jax.default_backend() == "gpu"
    return Compiled(compiled if on_gpu else call, seconds, None if memory is None else memory.temp_size_in_bytes)


def interleave(
    calls: dict[str, Callable], inputs: dict[str, list], seconds: float, pause: float = 0.0
) -> dict[str, list[float]]:
    """Times in ms of each of `calls`, one for each round.

    Args:
      calls: by name, what is timed; on a CPU it returns when its results are there. On a GPU a sample is of many calls,
        which are waited for together: that is the time of the device where a call is longer than its launch.
      inputs: by name, the operands of several runs; they take turns, so that no run finds all its data in the cache.
      seconds: about how long it may take; there are 15 rounds at least and 200 at most.
      pause: seconds before every sample, for the threads of the one before to go to sleep.
    """
    single = {name: _warm(call, inputs[name]) for name, call in calls.items()}
    # A sample of many short calls: the clock, and what the last implementation left in the caches, weigh less.
    enough = 0.01 if jax.default_backend() == "gpu" else 0.002
    repeats = {name: max(1, min(50, int(enough / t))) for name, t in single.items()}
    a_round = sum(single[name] * repeats[name] + pause for name in calls)
    rounds = max(15, min(200, int(seconds / a_round)))
    order, times, turn = list(calls), {name: [] for name in calls}, random.Random(0)
    gc.collect()
    gc.disable()
    try:
        for k in range(rounds):
            turn.shuffle(order)
            for name in order:
                time.sleep(pause)
                times[name].append(sample(calls[name], inputs[name], k, repeats[name]))
    finally:
        gc.enable()
    return times


def finish(result: Any) -> None:
    """Wait until a result is there, whether it is JAX's or torch's."""
    jax.block_until_ready(result)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def sample(call: Callable, inputs: list, first: int, repeats: int) -> float:
    """Milliseconds of a call, over `repeats` of them in turn over the inputs, waited for together."""
    operands = [inputs[(first + k) % len(inputs)] for k in range(repeats)]
    start = time.perf_counter()
    for each in operands:
        result = call(*each)
    finish(result)
    return (time.perf_counter() - start) / repeats * 1000


def ratio(times: list[float], ours: list[float]) -> Ratio:
    """The ratio of times that were taken in the same rounds; the interval is that of order statistics."""
    ratios = sorted(a / b for a, b in zip(times, ours, strict=True))
    n = len(ratios)
    margin = 0.98 * n**0.5  # half of 1.96 standard deviations of a fair coin thrown n times
    return Ratio(
        statistics.median(ratios), ratios[max(0, int(n / 2 - margin))], ratios[min(n - 1, int(n / 2 + margin))]
    )


def geometric_mean(values: list[float]) -> float:
    """The mean of ratios: it says the same of a/b and of b/a."""
    return statistics.geometric_mean(values)


def gemm(dtype: str) -> Gemm:
    """A large matrix product, whose speed is what the machine can do at its best: timed among the implementations."""
    # Large enough to reach the peak, on a CPU small enough to be timed in every round.
    size = 8192 if jax.default_backend() == "gpu" else 1024
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)  # ones would draw less power, and be faster
    compiled = compile_jax(lambda a, b: jnp.dot(a, b, preferred_element_type=jnp.float32), a, a)
    return Gemm(compiled.call, (a, a), 2.0 * size**3)


def cpu_name() -> str:
    """Of the processor, as the system has it; with its family and model, since clouds give several kinds one name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    kind = [f"{word} {fields[name]}" for word, name in (("family", "cpu family"), ("model", "model")) if name in fields]
    name = fields.get("model name", platform.processor())
    return f"{name} ({', '.join(kind)})" if kind else name


def cpu_seconds() -> tuple[float, float] | None:
    """The CPU time that all processes took since boot, and this one since its start; None where nobody counts."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    user, nice, system = map(int, path.read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK"), time.process_time()


def _warm(call, inputs):
    """Seconds of a call, after two that do not count."""
    for k in range(2):
        call(*inputs[k % len(inputs)])
    return sample(call, inputs, 0, 1) / 1000
