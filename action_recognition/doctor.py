"""What this machine has for this program, and what it lacks: what that would make possible, and how to get it.

In: nothing but the machine. Out: Findings. Imports nothing that may be missing, writes nothing, and asks no network.
"""

import ctypes
import importlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from action_recognition.machine import num_cores

OK, NOTE, MISSING, BROKEN = "ok", "note", "missing", "broken"
_CODECS = ("h264", "hevc", "vp9", "av1", "mpeg4", "mjpeg")
_GIB = 2**30
_LITTLE_DISK, _LITTLE_SHARED = 10 * _GIB, _GIB


@dataclass(frozen=True)
class Finding:
    """One thing: its `state`, what was seen, and what to do about it. `needed`: nothing works without."""

    part: str
    name: str
    state: str
    seen: str
    advice: str = ""
    needed: bool = False


@dataclass(frozen=True)
class Package:
    """A Python package: the module that is imported, what it makes possible, and how it is installed."""

    name: str
    module: str
    purpose: str
    install: str
    needed: bool = False


PACKAGES = (
    Package("torch", "torch", "training, evaluation, export", 'pip install -e "."', True),
    Package("torchvision", "torchvision", "the networks and their published weights", 'pip install -e "."', True),
    Package("numpy", "numpy", "everything", 'pip install -e "."', True),
    Package("pillow", "PIL", "reading images", 'pip install -e "."', True),
    Package("pyyaml", "yaml", "reading specs", 'pip install -e "."', True),
    Package("tqdm", "tqdm", "progress bars", 'pip install -e "."', True),
    Package("onnx", "onnx", "export", 'pip install -e "."', True),
    Package("av", "av", "video files, and videos written by tools/live.py", 'pip install -e ".[video]"'),
    Package("opencv", "cv2", "preprocessing, DIS optical flow, images read faster", 'pip install -e ".[video]"'),
    Package("onnxruntime", "onnxruntime", "exported models, checked and run", 'pip install -e ".[deploy]"'),
    Package("onnxscript", "onnxscript", "export", 'pip install -e ".[deploy]"'),
    Package("tensorrt", "tensorrt", "TensorRT engines, on an NVIDIA GPU", 'pip install -e ".[trt]"'),
    Package("cuda-python", "cuda.bindings", "running TensorRT engines", 'pip install -e ".[trt]"'),
    Package("matplotlib", "matplotlib", "plots as pictures", 'pip install -e ".[report]"'),
    Package("tensorboard", "torch.utils.tensorboard", "training curves in TensorBoard", 'pip install -e ".[report]"'),
    Package("wandb", "wandb", "each epoch's figures in Weights & Biases", 'pip install -e ".[wandb]"'),
    Package("cryptography", "cryptography", "encrypted checkpoints and exports", 'pip install -e ".[crypto]"'),
    Package("modelopt", "modelopt.onnx", "int8 exports", 'pip install -e ".[quant]", in an environment of its own'),
)
_DISTRIBUTIONS = {
    "opencv": ("opencv-python-headless", "opencv-python", "opencv-contrib-python"),
    "cuda-python": ("cuda-python", "cuda-bindings"),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "modelopt": ("nvidia-modelopt",),
}


def examine(folder: Path) -> Iterator[Finding]:
    """Everything, part by part. `folder`: where data and results are to lie."""
    yield from _machine(folder)
    yield from map(examine_package, PACKAGES)
    yield from _decoders()
    yield from _gpus()
    yield from _runtimes()
    yield from _flow_engines()


def examine_package(package: Package) -> Finding:
    """Whether a package can be imported; one that is installed and can't be is broken, with the reason."""
    installed = _version(package)
    advice = f"for {package.purpose}: {package.install}"
    try:
        importlib.import_module(package.module)
    except Exception as error:  # a library of the system is missing, or versions disagree, which can raise anything
        if installed is None:
            return Finding("packages", package.name, MISSING, "not installed", advice, package.needed)
        seen = f"{installed} can't be imported: {' '.join(str(error).split())[:200]}"
        return Finding("packages", package.name, BROKEN, seen, f"install it anew, {advice}", package.needed)
    return Finding("packages", package.name, OK, installed or "", needed=package.needed)


def _version(package: Package) -> str | None:
    for name in _DISTRIBUTIONS.get(package.name, (package.name,)):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def _machine(folder: Path) -> Iterator[Finding]:
    yield Finding("machine", "Python", OK, f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("machine", "cores", OK, f"{num_cores()} for this process")
    free = shutil.disk_usage(folder).free
    little = "frames of long videos and checkpoints may not fit: choose another results_dir and dataset.cache_dir"
    yield _size("free disk", free, _LITTLE_DISK, f"in {folder}", little)
    shared = Path("/dev/shm")
    if shared.is_dir():
        advice = "processes that read data hand clips over in it: docker run --shm-size=8g, or dataset.workers=0"
        yield _size("shared memory", shutil.disk_usage(shared).free, _LITTLE_SHARED, f"free in {shared}", advice)


def _size(name: str, num_bytes: int, enough: int, where: str, advice: str) -> Finding:
    seen = f"{num_bytes / _GIB:.1f} GiB {where}"
    return Finding("machine", name, OK, seen) if num_bytes >= enough else Finding("machine", name, NOTE, seen, advice)


def _decoders() -> Iterator[Finding]:
    """What PyAV's FFmpeg can read of what cameras and phones write."""
    av = _imported("av")
    if av is None:
        return
    lacking = [name for name in _CODECS if name not in av.codecs_available]
    seen = f"reads {', '.join(name for name in _CODECS if name not in lacking)}"
    advice = f"files of {', '.join(lacking)} can't be read: pip install av brings an FFmpeg that has them"
    yield Finding("decoders", "video", NOTE if lacking else OK, seen, advice if lacking else "")


def _gpus() -> Iterator[Finding]:
    driver, torch = _nvidia_smi(), _imported("torch")
    if driver is None and not (torch and torch.cuda.is_available()):  # Jetsons may have no nvidia-smi
        advice = "for fast training and TensorRT: an NVIDIA GPU and its driver, in a container docker run --gpus all"
        yield Finding("GPU", "NVIDIA driver", MISSING, "nvidia-smi is not there, or finds no GPU", advice)
    for line in driver or ():
        yield Finding("GPU", "NVIDIA driver", OK, line)
    if torch is None:
        return
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(i)
            bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16"
            seen = f"{torch.cuda.get_device_name(i)}, compute capability {major}.{minor}, {bf16}"
            yield Finding("GPU", f"torch, cuda:{i}", OK, f"{seen}; torch is built for CUDA {torch.version.cuda}")
    elif driver:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        advice = "install the build of torch that fits the driver; PyTorch's install page has the command"
        yield Finding("GPU", "torch", BROKEN, f"sees no GPU; it is {built}", advice)
    elif torch.backends.mps.is_available():
        yield Finding("GPU", "torch, mps", OK, "Apple's GPU: train.device=mps")
    else:
        yield Finding("GPU", "torch", NOTE, "runs on the CPU")


def _nvidia_smi() -> list[str] | None:
    """A line a GPU: name, driver, memory; None without the program or a GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = "--query-gpu=name,driver_version,memory.total"
    try:
        done = subprocess.run(
            [program, query, "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return lines if done.returncode == 0 and lines else None


def _runtimes() -> Iterator[Finding]:
    runtime = _imported("onnxruntime")
    if runtime is not None:
        providers = [name.removesuffix("ExecutionProvider") for name in runtime.get_available_providers()]
        providers = [name for name in providers if name != "Azure"]  # in every build, and a service elsewhere
        has_gpu = "CUDA" in providers
        instead = "pip uninstall onnxruntime; pip install onnxruntime-gpu"
        advice = "" if has_gpu else f"exported models run on the CPU; on an NVIDIA GPU: {instead}"
        seen = f"runs on {', '.join(providers)}"
        yield Finding("runtimes", "ONNX Runtime", OK if has_gpu else NOTE, seen, advice)
    if _imported("tensorrt") is not None:
        library = _loads("nvinfer.dll", "libnvinfer.so.11", "libnvinfer.so.10")
        seen = f"library {library}" if library else "installed with its own library"
        yield Finding("runtimes", "TensorRT", OK, seen)


def _flow_engines() -> Iterator[Finding]:
    if _imported("cv2") is not None:
        yield Finding("optical flow", "dis", OK, "on the CPU: tools/preprocess.py --flow dis")
    else:
        yield Finding("optical flow", "dis", MISSING, "needs OpenCV", 'for flow on a CPU: pip install -e ".[flow]"')
    torch = _imported("torch")
    if torch is not None and _imported("torchvision") is not None:
        where = "on the GPU" if torch.cuda.is_available() else "on the CPU, slowly"
        yield Finding("optical flow", "raft", OK, f"{where}; downloads its weights the first time, or takes a file")
    library = _loads("nvofapi64.dll", "libnvidia-opticalflow.so.1", "libnvidia-opticalflow.so")
    if library:
        yield Finding("optical flow", "nvof", OK, library)
    else:
        container = "docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
        advice = f"for NVIDIA's engine: a GPU from Turing on and its driver, in a container {container}"
        yield Finding("optical flow", "nvof", MISSING, "the driver's optical flow library is not there", advice)


def _imported(name: str) -> Any:
    """The module, or None where it can't be imported; examine_package has said why."""
    try:
        return importlib.import_module(name)
    except Exception:  # as there
        return None


def _loads(*names: str) -> str | None:
    """The first of these shared libraries that can be loaded."""
    for name in names:
        if name.endswith(".dll") != (os.name == "nt"):
            continue
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return name
    return None
