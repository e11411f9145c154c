"""The kernel of persistent.cu: built by nvcc when it is first wanted, kept in the user's cache, and made known to XLA."""

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
TARGETS = ("lstmjax_forward", "lstmjax_backward")

# Of the least that the kernel asks for: max.s16x2, and the shared memory of Hopper.
CAPABILITY = 9.0


@functools.cache
def missing() -> str | None:
    """Why the kernel cannot be had in this process, or None once it is built, loaded and known to XLA."""
    if jax.default_backend() != "gpu":
        return f"it needs an NVIDIA GPU, and JAX runs on {jax.default_backend()}"
    capability = getattr(jax.devices()[0], "compute_capability", "")
    if "cuda" not in getattr(jax.devices()[0].client, "platform_version", "").lower():
        return "it needs an NVIDIA GPU, and this one is not"
    if not capability or float(capability) < CAPABILITY:
        return f"it needs compute capability {CAPABILITY}, and the GPU has {capability or 'none'}"
    path = library(capability)
    if not path.exists():
        compiler = nvcc()
        if compiler is None:
            return "it is built by nvcc, which is neither on the PATH nor in CUDA_HOME"
        problem = build(path, command(compiler, capability))
        if problem is not None:
            return f"nvcc could not build it: {problem}"
    return load(path, "CUDA")


def nvcc() -> str | None:
    """Where the compiler is, or None."""
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        if home and (Path(home) / "bin" / "nvcc").is_file():
            return str(Path(home) / "bin" / "nvcc")
    return shutil.which("nvcc")


def library(capability: str) -> Path:
    """Where the built kernel is kept: another source, JAX or GPU is another file."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    text = SOURCE.read_bytes() + f"{jax.__version__} {capability}".encode()
    return cache / "lstmjax" / f"persistent-{hashlib.sha256(text).hexdigest()[:16]}.so"


def command(compiler: str, capability: str) -> list[str]:
    """How to build it, but for the file that it goes to."""
    number = capability.replace(".", "")
    code = f"-gencode=arch=compute_{number},code=sm_{number}"
    return [compiler, "-std=c++17", "-O3", code, "-w", "-shared", "-Xcompiler", "-fPIC", "--split-compile=0"]


def build(path: Path, arguments: list[str]) -> str | None:
    """Build the source into `path`, whole or not at all; the last of what the compiler said if it failed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            # What follows -x goes for the files after it.
            done = subprocess.run(
                [*arguments, "-I", jax.ffi.include_dir(), "-o", str(made), str(SOURCE)],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                return " ".join((done.stderr or done.stdout).split())[-400:]
            os.replace(made, path)
    except OSError as problem:
        return str(problem)
    return None


def load(path: Path, platform: str) -> str | None:
    """Make the calls of a built kernel known to XLA; why not, or None."""
    try:
        handlers = ctypes.cdll.LoadLibrary(str(path))
    except OSError as problem:
        return f"the built kernel could not be loaded: {problem}"
    for name in TARGETS:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(handlers, name)), platform=platform)
    return None
