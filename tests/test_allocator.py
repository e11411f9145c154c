"""That memory which is freed is kept: what Linux hands out anew is counted in page faults."""

import json
import subprocess
import sys

import pytest

# What is between the two products takes 71 MB; up to 32 glibc keeps by itself, and up to 64 in arenas of threads.
PROGRAM = """
import json, resource, statistics, sys
import jax, jax.numpy as jnp
from lstmjax import allocator

kept = allocator.keep_memory() if sys.argv[1] == "keep" else None
f, x = jax.jit(lambda x: ((x @ x.T) @ x).sum()), jnp.ones((4200, 50))


def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    f(x).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


for _ in range(20):  # until each thread has held what it needs
    faults()
print(json.dumps([kept, statistics.median(faults() for _ in range(9))]))
"""


def _ran(how):
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="says something to glibc, of Linux")
def test_pages_are_touched_for_the_first_time_once():
    kept, faults = _ran("keep")
    if not kept:
        pytest.skip("the C library is not glibc")
    assert faults < 100
    assert _ran("leave")[1] > 2000  # else the test says nothing
