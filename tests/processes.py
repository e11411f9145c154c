"""One of several processes of a run, each with CPU devices of its own; tests/test_many_devices.py starts them."""

import argparse
import sys
from pathlib import Path

import jax
from jax.sharding import PartitionSpec


def main() -> None:
    """The run of tests/kill.py over all devices of all processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--devices", type=int, required=True, help="of this process")
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--shard", action="store_true", help="split w_h over the devices, too")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--process", type=int, default=0)
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", options.devices)
    if options.processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{options.port}", options.processes, options.process)
    import lstmjax
    from tests import kill

    specs = None
    if options.shard:
        specs = lstmjax.LSTMParams(PartitionSpec(), PartitionSpec("batch"), PartitionSpec())
    kill.work(options.folder, mesh=lstmjax.devices.mesh(), batch_size=options.batch_size, specs=specs)
    assert len(jax.devices()) == options.devices * options.processes


if __name__ == "__main__":
    sys.exit(main())
