"""The names that deployment uses, in the real libraries: simulated_tensorrt.py has no name or parameter of its own.

The other tests run our code on the simulation alone, so what is there is all that our code can use. cuda-python imports
without a GPU. So do TensorRT's Python bindings without TensorRT, once three empty libraries are in its place, which are
made here with a C compiler. To try the bindings of a version:

  pip download --no-deps -d wheel "tensorrt_cu13_bindings==11.4.*" && python -m zipfile -e wheel/*.whl bindings
  AR_TENSORRT_BINDINGS=bindings python -m pytest tests/test_bindings.py -rs

An installed TensorRT is taken as it is. Nothing is computed: a Builder or a Runtime can't be had this way.
"""

import ctypes
import enum
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import simulated_tensorrt

from action_recognition.deploy.engine import _monitor, _Progress
from action_recognition.deploy.gpu import because, make_logger

# What the bindings link to, by library; the names carry the major version.
LIBRARIES = {
    "nvinfer": (
        *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
        *("getBuilderPluginRegistry", "getPluginRegistry"),
    ),
    "nvonnxparser": (
        *("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion"),
    ),
    "nvinfer_plugin": ("initLibNvInferPlugins",),
}


def names_of(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """("Runtime.deserialize_cuda_engine", function) and so on: every public name that is simulated."""
    for name, thing in vars(module).items():
        if name.startswith("_"):
            continue
        yield name, thing
        if isinstance(thing, type):
            members = thing.__members__ if issubclass(thing, enum.Enum) else vars(thing)
            yield from ((f"{name}.{member}", value) for member, value in members.items() if member[0] != "_")


CUDA_NAMES = dict(names_of(simulated_tensorrt.CUDA))
TENSORRT_NAMES = dict(names_of(simulated_tensorrt.TENSORRT))


@pytest.fixture(scope="module")
def cuda() -> ModuleType:
    return pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python: pip install .[trt]")


@pytest.fixture(scope="module")
def tensorrt(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    folder = os.environ.get("AR_TENSORRT_BINDINGS")
    if not folder:
        return pytest.importorskip("tensorrt", reason="needs TensorRT or AR_TENSORRT_BINDINGS: see the top of the file")
    version = re.search(r'__version__ = "(\d+)\.', (Path(folder) / "tensorrt_bindings/__init__.py").read_text())
    assert version
    load_empty_libraries(tmp_path_factory.mktemp("libraries"), int(version[1]))
    sys.path.insert(0, folder)
    try:
        return import_module("tensorrt_bindings")
    finally:
        sys.path.remove(folder)


def load_empty_libraries(folder: Path, major: int) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, cc")
    for library, functions in LIBRARIES.items():
        name = f"lib{library}.so.{major}"
        (folder / "empty.c").write_text("".join(f"void *{f}(void) {{ return 0; }}\n" for f in functions))
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / name, folder / "empty.c"]
        subprocess.run(command, check=True)
        ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)  # found again by its name when the bindings are loaded


def look_up(module: ModuleType, name: str) -> Any:
    thing: Any = module
    for part in name.split("."):
        thing = getattr(thing, part)
    return thing


def test_the_simulation_is_large_enough_to_mean_something() -> None:
    assert {"cudaMalloc", "cudaGraphLaunch", "cudaError_t.cudaSuccess"} <= set(CUDA_NAMES)
    assert {"IExecutionContext.execute_async_v3", "BuilderFlag.TF32", "ParserError.desc"} <= set(TENSORRT_NAMES)
    assert "IBuilderConfig.builder_optimization_level" in TENSORRT_NAMES


@pytest.mark.parametrize("name", CUDA_NAMES)
def test_cuda_has_the_name_with_these_parameters_or_this_value(cuda: ModuleType, name: str) -> None:
    real, simulated = look_up(cuda, name), CUDA_NAMES[name]
    if inspect.isfunction(simulated):
        _, *parameters = inspect.signature(simulated).parameters  # without the simulated GPU
        assert list(inspect.signature(real).parameters) == parameters
        assert real.__name__ == name
    elif isinstance(simulated, int):
        assert int(real) == int(simulated)


def test_cuda_tells_the_name_of_a_gpu_as_bytes(cuda: ModuleType) -> None:
    assert isinstance(cuda.cudaDeviceProp().name, bytes)


def test_cuda_errors_are_numbers_with_names_and_texts(cuda: ModuleType) -> None:
    error = cuda.cudaError_t.cudaErrorMemoryAllocation
    assert (int(error), error.name, cuda.cudaGetErrorString(error)[1]) == (
        2,
        "cudaErrorMemoryAllocation",
        b"out of memory",
    )


@pytest.mark.parametrize("name", TENSORRT_NAMES)
def test_tensorrt_has_the_name_with_these_parameters(tensorrt: ModuleType, name: str) -> None:
    real, simulated = look_up(tensorrt, name), TENSORRT_NAMES[name]
    if inspect.isfunction(simulated) and "." in name:
        _, *parameters = inspect.signature(simulated).parameters
        assert parameters in [known[: len(parameters)] for known in parameters_of(real)]


def parameters_of(method: Any) -> list[list[str]]:
    """The parameter names of each overload but self, from the text that pybind11 writes."""
    signatures = re.findall(rf"{method.__name__}\(self: [\w.]+(.*)\) ->", method.__doc__)
    return [re.findall(r", (\w+):", signature) for signature in signatures]


def test_parameters_are_read_from_the_text_of_the_bindings() -> None:
    def parse() -> None:
        """parse(self: a.b.OnnxParser, model: c.Buffer, how: X = <X.STATIC: 0>, path: str = None) -> bool"""

    assert parameters_of(parse) == [["model", "how", "path"]]


def test_the_flag_for_strong_types_is_a_number(tensorrt: ModuleType) -> None:
    assert 1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) in (1, 2)


def test_our_logger_is_one_of_tensorrts(tensorrt: ModuleType) -> None:
    logger = make_logger(tensorrt)
    logger.log(tensorrt.ILogger.Severity.INFO, "all is well")
    logger.log(tensorrt.ILogger.Severity.ERROR, "no")
    assert isinstance(logger, tensorrt.ILogger)
    assert because(logger) == "; TensorRT says: no"


def test_our_progress_monitor_is_one_of_tensorrts(tensorrt: ModuleType) -> None:
    told: list[tuple[float, str]] = []
    monitor = _monitor(tensorrt, _Progress(lambda done, phase: told.append((done, phase))))
    monitor.phase_start("a", None, 2)
    assert monitor.step_complete("a", 0)
    monitor.phase_finish("a")
    assert isinstance(monitor, tensorrt.IProgressMonitor)
    assert told == [(0.0, "a"), (0.5, "a")]
