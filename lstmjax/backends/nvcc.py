"""Kernels of persistent.cu: each is built by nvcc when it is first wanted, kept in the user's cache, and made known to
XLA."""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import jax

SOURCE = Path(__file__).with_name("persistent.cu")

# Hopper (H100, H200): what the kernels were written for and run on.
CAPABILITY = "9.0"


@functools.cache
def missing() -> str | None:
    """Why no kernel can be had in this process, or None."""
    if jax.default_backend() != "gpu":
        return f"it needs an NVIDIA GPU, and JAX runs on {jax.default_backend()}"
    device = jax.devices()[0]
    if "cuda" not in getattr(device.client, "platform_version", "").lower():
        return "it needs an NVIDIA GPU, and this one is not"
    capability = getattr(device, "compute_capability", None)
    if capability != CAPABILITY:
        return f"it is made for compute capability {CAPABILITY}, and the GPU has {capability}"
    if compiler() is None:
        return "it is built by nvcc, which is neither on the PATH nor in CUDA_HOME"
    return None


@functools.cache
def failure(kernel: str) -> str | None:
    """Why a kernel, a line of LSTMJAX_KERNEL, cannot be had, or None once it is built, loaded and known to XLA."""
    try:
        path = library(kernel)
    except RuntimeError as nowhere:
        return f"there is no folder to keep it in: {nowhere}"
    problem = None if path.exists() else build(path, command(compiler() or "nvcc"), kernel)
    return problem or load(path, "CUDA", "_" + path.stem)


def multiprocessors() -> int:
    """How many the GPU has; those of an H100 or H200 where there is none."""
    return getattr(jax.devices()[0], "core_count", None) or 132


def suffix(kernel: str) -> str:
    """What the calls of this kernel are named beside lstmjax_forward and lstmjax_backward."""
    return "_" + library(kernel).stem


def compiler() -> str | None:
    """Where nvcc is, or None."""
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        if home and (Path(home) / "bin" / "nvcc").is_file():
            return str(Path(home) / "bin" / "nvcc")
    return shutil.which("nvcc")


def library(kernel: str) -> Path:
    """Where a built kernel is kept: another source or JAX is another file."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    text = SOURCE.read_bytes() + f"{jax.__version__} {CAPABILITY} {kernel}".encode()
    return cache / "lstmjax" / f"{hashlib.sha256(text).hexdigest()[:20]}.so"


def command(nvcc: str) -> list[str]:
    """How to build it, but for where things are."""
    number = CAPABILITY.replace(".", "")
    code = f"-gencode=arch=compute_{number},code=sm_{number}"
    return [nvcc, "-std=c++17", "-O3", code, "-w", "-shared", "-Xcompiler", "-fPIC"]


def build(path: Path, arguments: list[str], kernels: str) -> str | None:
    """Build a library of `kernels` into `path`, whole or not at all; what the compiler said if it failed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            (Path(folder) / "kernels.inc").write_text(kernels + "\n")
            made = Path(folder) / path.name
            where = ["-I", jax.ffi.include_dir(), "-I", folder, "-o", str(made), str(SOURCE)]
            done = subprocess.run([*arguments, *where], capture_output=True, text=True, check=False)
            if done.returncode:
                return "nvcc could not build it: " + " ".join((done.stderr or done.stdout).split())[:400]
            os.replace(made, path)
    except OSError as problem:
        return f"it could not be built: {problem}"
    return None


def load(path: Path, platform: str, suffix: str = "") -> str | None:
    """Make the calls of a built library known to XLA; why not, or None."""
    try:
        handlers = ctypes.cdll.LoadLibrary(str(path))
    except OSError as problem:
        return f"what was built could not be loaded: {problem}"
    for name in ("lstmjax_forward", "lstmjax_backward"):
        jax.ffi.register_ffi_target(name + suffix, jax.ffi.pycapsule(getattr(handlers, name)), platform=platform)
    return None
