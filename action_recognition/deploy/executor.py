"""A deployed model behind one call: {name: float32 array} -> {name: float32 array}, axis 0 the batch. No torch.

    with open_executor("model.plan") as run:            # or model.onnx
        logits = run({"input_rgb": clips})["fc_pred"]   # (N, 3, 32, 224, 224) -> (N, K)
        for outputs in run.run_all(batches):            # many batches: the GPU computes one while the next is copied
            ...

ONNX files run in ONNX Runtime, on the CPU or a GPU; TensorRT plans through cuda-python. What comes in is checked here,
once for both; what comes out is the caller's own. A batch larger than `max_batch` is refused, not split: who makes the
batches knows best how. An executor belongs to one thread at a time.
"""

import ctypes
import logging
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from action_recognition.deploy.description import (
    SEALED_ONNX_SUFFIX,
    Description,
    describe_plan,
    description_path,
    from_metadata,
    parse_onnx,
    read_model,
)
from action_recognition.deploy.gpu import because, check, choose_gpu, load_cuda, load_tensorrt, make_logger
from action_recognition.errors import DeployError, SpecError
from action_recognition.machine import num_cores

Shape = tuple[int | None, ...]
Arrays = Mapping[str, np.ndarray]
PLAN_SUFFIXES = (".plan", ".engine", ".trt")
MODEL_SUFFIXES = (".onnx", SEALED_ONNX_SUFFIX, *PLAN_SUFFIXES)
_FLOAT_BYTES = 4
_NO_FOLDER = os.devnull + "/nowhere"  # a folder that can't be

log = logging.getLogger(__name__)


class Executor(Protocol):
    """What all executors have. In shapes None is a size that may vary; axis 0 is the batch."""

    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    description: Description | None
    min_batch: int
    max_batch: int | None

    def __call__(self, inputs: Arrays) -> dict[str, np.ndarray]: ...
    def run_all(self, batches: Iterable[Arrays]) -> Iterator[dict[str, np.ndarray]]: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_executor(path: str | Path, device: str | None = None, trust: bool = False, key: str | None = None) -> Executor:
    """The executor for a model file, by its suffix: .onnx (.etlt, sealed), or a plan (.plan, .engine, .trt).

    `device` is cpu, cuda or cuda:N; by default the CPU for ONNX files, and GPU 0 for plans, which run nowhere else.
    `trust` is TensorRTExecutor's. `key` opens sealed files, as AR_ENCRYPTION_KEY does.
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".onnx", SEALED_ONNX_SUFFIX):
        return OnnxExecutor(path, device or "cpu", key=key)
    if suffix not in PLAN_SUFFIXES:
        raise DeployError(f"{path}: must end in .onnx or, for a TensorRT plan, in {', '.join(PLAN_SUFFIXES)}")
    device_id = gpu_id(device or "cuda")
    if device_id is None:
        raise DeployError(f"{path}: a TensorRT plan runs on an NVIDIA GPU only; for the CPU take the ONNX file")
    return TensorRTExecutor(path, device_id, trust, key)


def run_any(executor: Executor, inputs: Arrays) -> dict[str, np.ndarray]:
    """The outputs for a batch of any size.

    It is cut into what the model takes; where that is more than is left, the last clip is repeated and its answers
    dropped.
    """
    num_clips = len(next(iter(inputs.values())))
    if executor.min_batch <= num_clips <= (executor.max_batch or num_clips):
        return executor(inputs)
    answers = list(executor.run_all(_cut(executor, inputs, num_clips)))
    return {name: np.concatenate([answer[name] for answer in answers])[:num_clips] for name in executor.outputs}


def _cut(executor: Executor, inputs: Arrays, num_clips: int) -> Iterator[dict[str, np.ndarray]]:
    least, most = executor.min_batch, executor.max_batch or num_clips
    for start in range(0, num_clips, most):
        stop = min(start + most, num_clips)
        ids = [*range(start, stop), *[stop - 1] * (least - (stop - start))]
        yield {name: array[ids] for name, array in inputs.items()}


def gpu_id(device: str) -> int | None:
    """cpu -> None, cuda -> 0, cuda:N -> N. SpecError for anything else."""
    name, _, number = device.partition(":")
    if device == "cpu":
        return None
    if name != "cuda" or not (number.isdecimal() or device == "cuda"):
        raise SpecError(f"device: {device!r} is not cpu, cuda or cuda:N")
    return int(number or 0)


def check_inputs(inputs: Arrays, shapes: Mapping[str, Shape], batches: range | None = None) -> int:
    """The size of the batch. ValueError for other names, types or shapes than accepted; axis 0 must be in `batches`."""
    if set(inputs) != set(shapes):
        raise ValueError(f"inputs: got {', '.join(inputs) or 'none'}; the model takes {', '.join(shapes)}")
    for name, shape in shapes.items():
        array = inputs[name]
        if not _fits(array, shape):
            got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise ValueError(f"{name}: got {got}; the model takes float32 {_written(shape)}")
    sizes = {name: len(inputs[name]) for name in shapes}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"inputs: must have the same batch, got {sizes}")
    batch = next(iter(sizes.values()))
    if batches is not None and batch not in batches:
        raise ValueError(f"batch: got {batch}; the plan was built for {batches.start} to {batches[-1]}")
    return batch


def _fits(array: object, shape: Shape) -> bool:
    if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.ndim != len(shape):
        return False
    return len(array) > 0 and all(want in (None, n) for n, want in zip(array.shape, shape, strict=True))


def _written(shape: Shape) -> str:
    return f"({', '.join('N' if n is None else str(n) for n in shape)})"


class OnnxExecutor:
    """An ONNX file in ONNX Runtime."""

    def __init__(
        self, path: str | Path, device: str = "cpu", num_threads: int | None = None, key: str | None = None
    ) -> None:
        """`device` is cpu, cuda or cuda:N; `num_threads` on the CPU, by default as many as this process has cores.

        DeployError where ONNX Runtime or its CUDA part is missing, and for a file that it can't run or that keeps
        weights in other files.
        """
        onnxruntime = _load_onnxruntime()
        content = read_model(path, key)
        if find_spec("onnx"):  # else the session's options keep ONNX Runtime from reading other files
            parse_onnx(content, path)
        session = _open_session(onnxruntime, content, path, gpu_id(device), num_threads or num_cores())
        try:
            self.inputs = {tensor.name: _onnx_shape(tensor, path) for tensor in session.get_inputs()}
            self.outputs = {tensor.name: _onnx_shape(tensor, path) for tensor in session.get_outputs()}
            self.description = from_metadata(session.get_modelmeta().custom_metadata_map, path)
        except UnicodeDecodeError as error:
            raise DeployError(f"{path}: is damaged: its names or metadata are no text ({error})") from error
        self.max_batch: int | None = next(iter(self.inputs.values()))[0]
        self.min_batch = self.max_batch or 1
        self._path = path
        self._session: Any = session

    def __call__(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """The outputs for a batch. ValueError where the inputs are not what the model takes."""
        if self._session is None:
            raise RuntimeError("OnnxExecutor: is closed")
        check_inputs(inputs, self.inputs)
        try:
            outputs = self._session.run(list(self.outputs), dict(inputs))
        except Exception as error:  # its errors have no base of their own
            raise DeployError(f"{self._path}: ONNX Runtime can't run it: {error}") from error
        return dict(zip(self.outputs, outputs, strict=True))

    def run_all(self, batches: Iterable[Arrays]) -> Iterator[dict[str, np.ndarray]]:
        """The outputs of each batch, in order."""
        return map(self, batches)

    def close(self) -> None:
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _load_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise DeployError("ONNX Runtime is not installed: pip install onnxruntime") from error
    return onnxruntime


def _open_session(onnxruntime: Any, content: bytes, path: str | Path, device_id: int | None, num_threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads  # by itself it takes the machine's cores, not this process's
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NO_FOLDER)
    providers: list[Any] = ["CPUExecutionProvider"]
    if device_id is None:
        options.log_severity_level = 3  # errors: of fp16 files it tells which constants it did not fold
    else:
        _check_cuda_part(onnxruntime)
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device_id}))
    try:
        session = onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # its errors have no base of their own
        raise DeployError(f"{path}: ONNX Runtime can't run it: {error}") from error
    if device_id is not None and "CUDAExecutionProvider" not in session.get_providers():  # it falls back in silence
        raise DeployError(
            f"{path}: ONNX Runtime could not use GPU {device_id}; are its driver, CUDA and cuDNN the versions that "
            f"onnxruntime-gpu {onnxruntime.__version__} needs? See its messages above, and nvidia-smi"
        )
    return session


def _check_cuda_part(onnxruntime: Any) -> None:
    has = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" not in has:
        raise DeployError(
            f"this ONNX Runtime has no CUDA part (it has {', '.join(has)}): pip uninstall onnxruntime; "
            "pip install onnxruntime-gpu"
        )
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # finds CUDA and cuDNN where pip has put them


def _onnx_shape(tensor: Any, path: str | Path) -> Shape:
    if tensor.type != "tensor(float)":
        raise DeployError(f"{path}: {tensor.name} is {tensor.type}; export it with float32 inputs and outputs")
    return tuple(n if isinstance(n, int) else None for n in tensor.shape)


@dataclass
class _Slot:
    """Where one batch waits on its way to the GPU and back."""

    host: dict[str, np.ndarray]  # page-locked, (max_batch, ...), for each input and output
    arrived: dict[str, int]  # device addresses of the inputs, as copied from the host
    uploaded: Any  # event: `arrived` is filled
    done: Any  # event: the outputs are on the host
    batch: int = 0


@dataclass
class _Runner:
    """One batch size: its context, and the graph that was captured from it, if that could be done."""

    context: Any
    graph: Any


class TensorRTExecutor:
    """A TensorRT plan on an NVIDIA GPU.

    Two batches can be on their way: while one is computed, the next is copied to the GPU, on a stream of its own. All
    else is done in order on one other stream, neither of them the default one. Each batch size gets an execution
    context, since a CUDA graph holds only as long as the context it was captured from is left as it was: one for all
    would have to run and be captured anew whenever the batch size changes. A context costs little, as all of them share
    one block of working memory and one set of input and output buffers. TensorRT's guide advises both.
    """

    def __init__(self, path: str | Path, device_id: int = 0, trust: bool = False, key: str | None = None) -> None:
        """`trust` allows the code for the host that version-compatible plans carry: only for files from safe hands.

        DeployError where TensorRT, cuda-python or the GPU is missing, or the plan was not built for them.
        """
        self._path, self._device_id = path, device_id
        self._trt, self._cuda = load_tensorrt(), load_cuda()
        self.description = describe_plan(path)
        content = read_model(path, key)
        self._gpu = choose_gpu(self._cuda, device_id)
        with ExitStack() as stack:
            self._load_engine(content, trust, stack)
            self._read_tensors()
            self._allocate(stack)
            stack.callback(check, self._cuda.cudaSetDevice, device_id)  # another thread may close
            self._stack = stack.pop_all()
        self._is_open = True

    def __call__(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """The outputs for a batch. ValueError where the inputs are not what the plan takes."""
        return self._result(self._submit(inputs))

    def run_all(self, batches: Iterable[Arrays]) -> Iterator[dict[str, np.ndarray]]:
        """The outputs of each batch, in order; the next batches are fetched and copied while one is computed."""
        waiting: deque[_Slot] = deque()
        try:
            for inputs in batches:
                while waiting and not self._free:
                    yield self._result(waiting.popleft())
                waiting.append(self._submit(inputs))
            while waiting:
                yield self._result(waiting.popleft())
        finally:  # the caller may stop halfway
            while waiting and self._is_open:
                self._result(waiting.popleft())

    def close(self) -> None:
        """Give back memory, streams and graphs, after what is still running. To close again does nothing."""
        if self._is_open:
            self._is_open = False
            self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- opening ---

    def _load_engine(self, content: bytes, trust: bool, stack: ExitStack) -> None:
        self._logger = make_logger(self._trt)
        self._runtime = self._trt.Runtime(self._logger)
        stack.callback(setattr, self, "_runtime", None)  # TensorRT frees what nothing refers to
        self._runtime.engine_host_code_allowed = trust
        self._engine = self._runtime.deserialize_cuda_engine(content)
        stack.callback(setattr, self, "_engine", None)
        if self._engine is None:
            raise DeployError(self._mismatch(trust))

    def _mismatch(self, trust: bool) -> str:
        beside = description_path(self._path)
        hint = "" if trust else "; a version-compatible plan that you trust is opened with trust=True"
        return (
            f"{self._path}: can't be used by TensorRT {self._trt.__version__} on {self._gpu}: a plan runs with the "
            f"version and the GPU that it was built with"
            + (f", see {beside.name}" if beside.exists() else "")
            + f"; build it here with tools/build_engine.py{hint}{because(self._logger)}"
        )

    def _read_tensors(self) -> None:
        trt, engine = self._trt, self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        shapes = {name: self._shape(name) for name in names}
        ins = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        profiles = [engine.get_tensor_profile_shape(name, 0) for name in ins]
        smallest, _, largest = zip(*profiles, strict=True)
        self._batches = range(max(shape[0] for shape in smallest), min(shape[0] for shape in largest) + 1)
        self.min_batch = self._batches[0]
        self.max_batch: int | None = self._batches[-1]
        self.inputs = {name: shapes[name] for name in ins}
        self.outputs = {name: shapes[name] for name in names if name not in ins}

    def _shape(self, name: str) -> Shape:
        dtype, sizes = self._engine.get_tensor_dtype(name), tuple(self._engine.get_tensor_shape(name))
        if dtype != self._trt.DataType.FLOAT:
            raise DeployError(f"{self._path}: {name} is {dtype}; export it with float32 inputs and outputs")
        if not sizes or -1 in sizes[1:]:
            raise DeployError(f"{self._path}: {name} has shape {sizes}; only axis 0, the batch, may vary (-1)")
        return tuple(None if n == -1 else n for n in sizes)

    def _allocate(self, stack: ExitStack) -> None:
        """All that is ever taken but contexts and graphs, sized for the largest batch."""
        cuda, largest = self._cuda, self._batches[-1]
        self._copies, self._work = self._stream(stack), self._stream(stack)
        self._scratch_bytes = self._engine.get_device_memory_size_for_profile_v2(0)
        self._scratch = self._device_memory(self._scratch_bytes, stack)
        self._bound = {
            name: self._device_memory(self._num_bytes(name, largest), stack) for name in {**self.inputs, **self.outputs}
        }
        self._free = [self._slot(stack), self._slot(stack)]
        self._runners: dict[int, _Runner] = {}
        stack.callback(self._runners.clear)
        self._graphs = stack.enter_context(ExitStack())
        for stream in (self._copies, self._work):
            stack.callback(check, cuda.cudaStreamSynchronize, stream)  # called first: nothing runs when memory goes

    def _stream(self, stack: ExitStack) -> Any:
        stream = check(self._cuda.cudaStreamCreateWithFlags, self._cuda.cudaStreamNonBlocking)
        stack.callback(check, self._cuda.cudaStreamDestroy, stream)
        return stream

    def _device_memory(self, num_bytes: int, stack: ExitStack) -> int:
        address: int = check(self._cuda.cudaMalloc, max(num_bytes, 1))
        stack.callback(check, self._cuda.cudaFree, address)
        return address

    def _slot(self, stack: ExitStack) -> _Slot:
        tensors = {**self.inputs, **self.outputs}
        host = {name: self._page_locked(name, stack) for name in tensors}
        arrived = {name: self._device_memory(host[name].nbytes, stack) for name in self.inputs}
        return _Slot(host, arrived, self._event(stack), self._event(stack))

    def _page_locked(self, name: str, stack: ExitStack) -> np.ndarray:
        """(max_batch, ...) float32 in memory that the GPU can copy from and to while the CPU goes on."""
        largest = self._batches[-1]
        num_bytes = self._num_bytes(name, largest)
        address = check(self._cuda.cudaMallocHost, num_bytes)
        stack.callback(check, self._cuda.cudaFreeHost, address)
        content = np.ctypeslib.as_array((ctypes.c_uint8 * num_bytes).from_address(address))
        return content.view(np.float32).reshape(largest, *self._row(name))

    def _event(self, stack: ExitStack) -> Any:
        event = check(self._cuda.cudaEventCreateWithFlags, self._cuda.cudaEventDisableTiming)
        stack.callback(check, self._cuda.cudaEventDestroy, event)
        return event

    def _row(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor without the batch; its sizes are known, see _shape."""
        return tuple(n for n in {**self.inputs, **self.outputs}[name][1:] if n is not None)

    def _num_bytes(self, name: str, batch: int) -> int:
        return _FLOAT_BYTES * batch * math.prod(self._row(name))

    # --- running ---

    def _submit(self, inputs: Arrays) -> _Slot:
        """Start a batch: returns while it is copied and computed."""
        if not self._is_open:
            raise RuntimeError("TensorRTExecutor: is closed")
        batch = check_inputs(inputs, self.inputs, self._batches)
        if not self._free:
            raise RuntimeError("TensorRTExecutor: used by the source of run_all's batches, with two on their way")
        check(self._cuda.cudaSetDevice, self._device_id)  # the thread may be another one than before
        slot = self._free.pop()
        try:
            self._upload(slot, inputs, batch)
            self._compute(slot)
        except BaseException:
            for stream in (self._copies, self._work):
                check(self._cuda.cudaStreamSynchronize, stream)
            self._free.append(slot)
            raise
        return slot

    def _upload(self, slot: _Slot, inputs: Arrays, batch: int) -> None:
        """Host to `slot.arrived`, on the stream of copies; the working stream waits for it."""
        cuda, slot.batch = self._cuda, batch
        for name, array in inputs.items():
            slot.host[name][:batch] = array
            self._copy(slot.arrived[name], slot.host[name].ctypes.data, name, batch, "HostToDevice", self._copies)
        check(cuda.cudaEventRecord, slot.uploaded, self._copies)
        check(cuda.cudaStreamWaitEvent, self._work, slot.uploaded, 0)

    def _compute(self, slot: _Slot) -> None:
        """`slot.arrived` to the outputs in `slot.host`, on the working stream."""
        for name, address in slot.arrived.items():
            self._copy(self._bound[name], address, name, slot.batch, "DeviceToDevice", self._work)
        runner = self._runner(slot.batch)
        if runner.graph is not None:
            check(self._cuda.cudaGraphLaunch, runner.graph, self._work)
        else:
            self._enqueue(runner.context)
        for name in self.outputs:
            self._copy(slot.host[name].ctypes.data, self._bound[name], name, slot.batch, "DeviceToHost", self._work)
        check(self._cuda.cudaEventRecord, slot.done, self._work)

    def _copy(self, target: int, source: int, name: str, batch: int, way: str, stream: Any) -> None:
        kind = getattr(self._cuda.cudaMemcpyKind, f"cudaMemcpy{way}")
        check(self._cuda.cudaMemcpyAsync, target, source, self._num_bytes(name, batch), kind, stream)

    def _result(self, slot: _Slot) -> dict[str, np.ndarray]:
        """Wait for a batch; its slot is free again."""
        if not self._is_open:
            raise RuntimeError("TensorRTExecutor: is closed")
        try:
            check(self._cuda.cudaEventSynchronize, slot.done)
            return {name: slot.host[name][: slot.batch].copy() for name in self.outputs}
        finally:
            self._free.append(slot)

    # --- one context and one graph for each batch size ---

    def _runner(self, batch: int) -> _Runner:
        if batch not in self._runners:
            context = self._new_context(batch)
            self._enqueue(context)  # TensorRT's first run for a shape sets things up, which no graph can hold
            check(self._cuda.cudaStreamSynchronize, self._work)
            self._runners[batch] = _Runner(context, self._graph(context, batch))
        return self._runners[batch]

    def _new_context(self, batch: int) -> Any:
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        if context is None:
            raise self._failure(f"make an execution context for batch {batch}")
        accepted = [context.set_optimization_profile_async(0, int(self._work))]
        accepted += [context.set_input_shape(name, (batch, *self._row(name))) for name in self.inputs]
        context.set_device_memory(self._scratch, self._scratch_bytes)
        accepted += [context.set_tensor_address(name, address) for name, address in self._bound.items()]
        unknown = context.infer_shapes()
        if not all(accepted) or unknown:
            raise self._failure(f"set up batch {batch}")
        return context

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(int(self._work)):
            raise self._failure("run the plan")

    def _graph(self, context: Any, batch: int) -> Any:
        """The captured run of a context, ready to launch; None, and a line in the log, where it can't be captured."""
        try:
            graph = self._capture(context)
            try:
                launchable = check(self._cuda.cudaGraphInstantiate, graph, 0)
                self._graphs.callback(check, self._cuda.cudaGraphExecDestroy, launchable)
            finally:
                check(self._cuda.cudaGraphDestroy, graph)
        except DeployError as error:
            self._cuda.cudaGetLastError()  # forgotten by CUDA, so that no later call is blamed for it
            log.warning("%s: batch %d runs without a CUDA graph: %s", self._path, batch, str(error))
            return None
        return launchable

    def _capture(self, context: Any) -> Any:
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        check(self._cuda.cudaStreamBeginCapture, self._work, mode)
        try:
            self._enqueue(context)
        except DeployError:
            error, graph = self._cuda.cudaStreamEndCapture(self._work)  # may fail, too: then there is no graph
            if int(error) == 0:
                check(self._cuda.cudaGraphDestroy, graph)
            raise
        return check(self._cuda.cudaStreamEndCapture, self._work)

    def _failure(self, what: str) -> DeployError:
        return DeployError(f"{self._path}: TensorRT can't {what}{because(self._logger)}")
