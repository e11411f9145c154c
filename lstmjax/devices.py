"""Several devices: what a program needs to be told so that each runs a part of every batch, or some of the models."""

import os
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lstmjax import checks

# For `jax.jit(..., compiler_options=GPU_OPTIONS)` of the outermost function, on an NVIDIA GPU. XLA runs a loop there as
# small kernels, one after the other; with two turns of it in one body the buffers of a step need not be copied. As an
# environment variable: XLA_FLAGS="--xla_gpu_enable_while_loop_double_buffering=true". What it gives, and what command
# buffers give instead: benchmarks/README.md. `train.fit` and the command line give it. The persistent
# kernel has no such loop.
GPU_OPTIONS = {"xla_gpu_enable_while_loop_double_buffering": "True"}


def compiler_options() -> dict[str, str] | None:
    """What `jax.jit` should be given as `compiler_options` where JAX runs: `GPU_OPTIONS` on a GPU, else None.

    >>> step = jax.jit(lambda x: 2 * x, compiler_options=compiler_options())
    >>> float(step(3.0))
    6.0
    """
    return GPU_OPTIONS if jax.default_backend() == "gpu" else None


def mesh(devices: list | tuple | None = None) -> Mesh:
    """Devices in a row, that batches are split over.

    Args:
      devices: at least one; None is all devices, which with `jax.distributed` are those of all processes.

    Returns:
      A mesh of one axis, "batch".

    Raises:
      TypeError, ValueError: no list of devices, or an empty one.

    >>> mesh(jax.devices()[:1]).axis_names
    ('batch',)
    """
    devices = jax.devices() if devices is None else devices
    if not isinstance(devices, (list, tuple)) or not all(isinstance(device, jax.Device) for device in devices):
        raise TypeError(f"devices should be a list of JAX devices, got {checks.show(devices)}")
    if not devices:
        raise ValueError("devices should be at least one device, got none")
    return Mesh(np.array(devices), ("batch",), axis_types=(AxisType.Auto,))


def cores() -> int:
    """The cores of the CPU that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share(models: int, most: int) -> int:
    """How many of at most so many devices can share models, as many each.

    >>> share(5, 4), share(6, 4), share(8, 4)
    (1, 3, 4)
    """
    checks.size("models", models)
    return max(n for n in range(1, checks.size("most", most) + 1) if models % n == 0)


def sharing(models: int) -> Mesh | None:
    """The devices that can share so many models, as many each, of those there are; None if that is one.

    >>> sharing(1) is None
    True
    """
    there = jax.devices()
    n = share(models, len(there))
    return mesh(there[:n]) if n > 1 else None


def spread(tree: Any, shardings: Any) -> Any:
    """Copies of arrays, placed as `shardings` say: one for each leaf. Every process gives the same arrays."""
    return jax.jit(lambda tree: tree, out_shardings=shardings)(tree)


def split_batch(tree: Any, *, axis: int = 0, devices: Mesh | list | tuple | None = None) -> Any:
    """Place arrays so that their batch is split over devices; a jitted function of them then runs on all of these.

    XLA runs the products of a small step on one core. With one CPU device per core
    (`jax.config.update("jax_num_cpu_devices", n)` before the first use of JAX) each core runs its part of the batch:

        xs, lengths = split_batch(xs, axis=1), split_batch(lengths)

    Nothing else changes: params and whatever else is not split is copied to every device, gradients are summed over
    them, and results are those of one device up to rounding. It pays where B is large beside H; with B = 8 and H = 1024
    each device reads all the weights for half the rows.

    Args:
      tree: arrays with a batch axis; None is left as it is.
      axis: where the batch is in each of them: 0, or 1 for time-major sequences.
      devices: at least one, or a mesh of them; None is all devices of this process. Over the devices of several
        processes each gives the whole batch, and places its rows.

    Returns:
      The tree with each array on a mesh of one axis, "batch".

    Raises:
      TypeError, ValueError: no int axis, no devices, an array without that axis, or a batch that the devices do not
        divide.

    >>> xs = split_batch(np.zeros((5, 4, 3), np.float32), axis=1)
    >>> tuple(xs.sharding.spec), xs.shape
    ((None, 'batch'), (5, 4, 3))
    """
    if type(axis) is not int or axis < 0:
        raise TypeError(f"axis should be an int from 0 up, got {axis!r}")
    if not isinstance(devices, Mesh):
        devices = mesh(jax.local_devices() if devices is None else devices)
    if (
        devices.explicit_axes
    ):  # as `jax.make_mesh` makes them; of those a program has to say at every step what lies where
        devices = Mesh(devices.devices, devices.axis_names, axis_types=(AxisType.Auto,) * len(devices.axis_names))
    n, sharding = devices.size, NamedSharding(devices, PartitionSpec(*[None] * axis, devices.axis_names[0]))

    def place(path, leaf):
        name = "tree" + jax.tree_util.keystr(path)
        if not checks.is_array(leaf) or leaf.dtype.kind in "OSUMm":  # objects, text and dates are NumPy's only
            raise TypeError(f"{name} should be an array, got {checks.show(leaf)}")
        if leaf.ndim <= axis:
            raise ValueError(f"{name} should have a batch at axis {axis}, got shape {leaf.shape}")
        if leaf.shape[axis] % n:
            raise ValueError(
                f"{name} should have a batch that {n} devices divide, got {leaf.shape[axis]} at axis {axis}"
            )
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda rows: np.asarray(leaf)[rows])

    return jax.tree_util.tree_map_with_path(place, tree)


def copy_to_all(tree: Any, *, devices: Mesh) -> Any:
    """A copy of arrays for each device of a mesh, in half the time that `jax.device_put` takes.

    >>> copy_to_all(np.zeros(3, np.float32), devices=mesh()).is_fully_replicated
    True
    """
    sharding = NamedSharding(devices, PartitionSpec())
    return jax.tree.map(
        lambda rows: jax.make_array_from_callback(np.shape(rows), sharding, lambda _: np.asarray(rows)), tree
    )
