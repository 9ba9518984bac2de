"""CUDA's runtime and TensorRT as the executor and the builder use them: loaded when needed, every failure told.

Owns how a failed CUDA call becomes an error, and where TensorRT's messages go; holds no memory and runs nothing.
"""

import logging
from collections.abc import Callable
from typing import Any

from action_recognition.errors import DeployError

_NOT_INSTALLED = "{0} is not installed: pip install {0}"
_ADVICE = {
    "cudaErrorInsufficientDriver": "the NVIDIA driver is missing or older than CUDA 13 needs; see nvidia-smi",
    "cudaErrorNoDevice": "there is no NVIDIA GPU; see nvidia-smi and CUDA_VISIBLE_DEVICES",
    "cudaErrorMemoryAllocation": "the GPU is full; stop other programs there, or build with a smaller --max-batch",
}


def load_cuda() -> Any:
    """CUDA's runtime, as cuda-python has it: each call returns (error, result ...)."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise DeployError(_NOT_INSTALLED.format("cuda-python")) from error
    return runtime


def load_tensorrt() -> Any:
    """The tensorrt module. Needs version 10 or newer, whose calls go by tensor name."""
    try:
        import tensorrt
    except ImportError as error:
        raise DeployError(_NOT_INSTALLED.format("tensorrt")) from error
    if int(tensorrt.__version__.split(".")[0]) < 10:
        raise DeployError(f"TensorRT {tensorrt.__version__} is too old: 10.14 or newer is needed")
    return tensorrt


def check(call: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """Make a call of CUDA's runtime and return its result, or None where it has none.

    DeployError names the call and CUDA's error.
    """
    error, *results = call(*arguments)
    if int(error) != 0:
        _, text = load_cuda().cudaGetErrorString(error)
        advice = _ADVICE.get(error.name)
        raise DeployError(f"{call.__name__}: {error.name}: {text.decode()}" + (f"; {advice}" if advice else ""))
    return results[0] if results else None


def choose_gpu(cuda: Any, device_id: int) -> str:
    """Make GPU `device_id` this thread's, and return its name."""
    num_gpus = check(cuda.cudaGetDeviceCount)
    if not 0 <= device_id < num_gpus:
        raise DeployError(f"GPU {device_id}: there are {num_gpus}, counted from 0; see nvidia-smi")
    check(cuda.cudaSetDevice, device_id)
    name: bytes = check(cuda.cudaGetDeviceProperties, device_id).name
    return name.decode()


def make_logger(trt: Any) -> Any:
    """A TensorRT logger that keeps errors in its list `errors` and hands the rest to Python's logging."""
    severity = trt.ILogger.Severity
    levels = {severity.WARNING: logging.WARNING, severity.INFO: logging.INFO, severity.VERBOSE: logging.DEBUG}
    log = logging.getLogger(__name__)

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity in levels:
                log.log(levels[severity], text)
            else:
                self.errors.append(text)

    return Logger()


def because(logger: Any) -> str:
    """What TensorRT said went wrong since the last time, as the end of a sentence."""
    texts, logger.errors[:] = list(logger.errors), []
    return f"; TensorRT says: {'; '.join(texts)}" if texts else ""
