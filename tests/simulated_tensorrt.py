"""SIMULATED TensorRT and CUDA runtime: no GPU, no NVIDIA library. What passes here has not run on a GPU.

Stands in for `tensorrt` and `cuda.bindings.runtime` as far as action_recognition/deploy uses them, and is stricter
than they are. Whatever the real ones leave undefined fails the test with Misuse: memory out of bounds or after it was
freed, copies from pageable memory, the default stream, a graph whose context was touched after the capture. Streams run
as late as they may (lazy) or as early as they may (eager): a result that is right in both has no wait missing. Engines
are ONNX files, computed by ONNX Runtime. tests/test_bindings.py holds the names here against the real libraries'.
"""

import base64
import enum
import gc
import json
import sys
import threading
import types
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import numpy as np
import onnx
import pytest

SCRATCH_BYTES = 4096
PLAN_MAGIC = b"simulated plan\n"


class Misuse(AssertionError):
    """Something that the real libraries leave undefined."""


# --- the GPU: memory, streams, what is alive, what shall fail ---


@dataclass
class Block:
    kind: str  # host or device
    content: np.ndarray  # uint8
    is_freed: bool = False


@dataclass(eq=False)
class Op:
    """One piece of work in a stream: waits for `after`, an op of any stream, then runs."""

    stream: "Stream"
    run: Callable[[], None]
    after: "Op | None" = None
    is_done: bool = False


@dataclass(eq=False)
class Handle:
    number: int

    def __int__(self) -> int:
        return self.number


@dataclass(eq=False)
class Stream(Handle):
    queue: list[Op] = field(default_factory=list)
    captured: "Graph | None" = None


@dataclass(eq=False)
class Event(Handle):
    op: Op | None = None


@dataclass(eq=False)
class Graph(Handle):
    """Captured work; also, once instantiated, what is launched."""

    runs: list[Callable[[], None]] = field(default_factory=list)
    problem: str = ""  # why the capture is void


class Gpu:
    """`calls` are the names of all calls in order; `fail` makes one of them fail."""

    current: "Gpu"

    def __init__(self, name: str = "Simulated GPU", is_lazy: bool = True, count: int = 1) -> None:
        self.name, self.is_lazy, self.count = name, is_lazy, count
        self.calls: list[str] = []
        self.copies: list[tuple[str, int]] = []  # kind, bytes
        self.failures: dict[tuple[str, int], Any] = {}
        self.last_error = cudaError_t.cudaSuccess
        self.blocks: dict[int, Block] = {}
        self.handles: dict[int, Handle] = {}
        self.objects: weakref.WeakSet[Any] = weakref.WeakSet()  # of TensorRT's
        self.next_number = 1 << 44  # no address of this process
        self.last_config: IBuilderConfig | None = None  # of the last build
        self.built_on: int | None = None  # the current device where a plan was built
        self.of_thread = threading.local()  # its `device` is the current one of each thread

    def fail(self, call: str, nth: int = 1, error: Any = None) -> None:
        """Make the nth call of that name fail: with this CUDA error; TensorRT's calls with None or False."""
        self.failures[call, nth] = error

    def note(self, call: str) -> bool:
        """Remember a call; True where it shall fail."""
        self.calls.append(call)
        return (call, self.calls.count(call)) in self.failures

    def error_of(self, call: str) -> Any:
        return self.failures[call, self.calls.count(call)] or cudaError_t.cudaErrorUnknown

    def alive(self) -> dict[str, int]:
        """How many of each kind were taken and not given back."""
        gc.collect()
        kinds = [block.kind for block in self.blocks.values() if not block.is_freed]
        kinds += [type(thing).__name__ for thing in [*self.handles.values(), *self.objects]]
        return dict(Counter(kinds))

    def allocate(self, kind: str, num_bytes: int) -> int:
        if num_bytes < 1:
            raise CudaFailure(cudaError_t.cudaErrorInvalidValue)
        content = np.full(num_bytes, 0xFF, np.uint8)  # as float32: NaN
        address = content.ctypes.data if kind == "host" else self.new_number(num_bytes + 512)
        self.blocks[address] = Block(kind, content)
        return address

    def free(self, kind: str, address: int) -> None:
        block = self.blocks.get(address)
        if block is None or block.is_freed or block.kind != kind:
            raise Misuse(f"free of {address:#x}: no {kind} memory begins there, or it was freed before")
        block.content[:] = 0xFF  # who still looks at it sees NaN
        block.is_freed = True

    def memory(self, kind: str, address: int, num_bytes: int) -> np.ndarray:
        """The bytes at an address, checked."""
        for start, block in self.blocks.items():
            if start <= address < start + len(block.content):
                offset = address - start
                if block.is_freed or block.kind != kind or offset + num_bytes > len(block.content):
                    raise Misuse(f"{num_bytes} bytes at {start:#x}+{offset}: {block.kind}, {len(block.content)} bytes, "
                                 f"{'freed' if block.is_freed else 'not freed'}; wanted {kind}")  # fmt: skip
                return block.content[offset : offset + num_bytes]
        raise Misuse(f"{num_bytes} bytes at {address:#x}: not allocated")

    def new_number(self, space: int = 1) -> int:
        number = self.next_number
        self.next_number += -(-space // 256) * 256
        return number

    def new_handle(self, kind: type[Handle]) -> Any:
        handle = kind(self.new_number())
        self.handles[handle.number] = handle
        return handle

    def drop(self, handle: Handle) -> None:
        if self.handles.pop(handle.number, None) is None:
            raise Misuse(f"{type(handle).__name__}: destroyed twice")

    def check_alive(self, *handles: Handle) -> None:
        for handle in handles:
            if handle.number not in self.handles:
                raise Misuse(f"{type(handle).__name__}: used after it was destroyed")

    def submit(self, stream: Stream, run: Callable[[], None], after: Op | None = None) -> Op | None:
        """Put work into a stream, or into the graph that is captured from it."""
        self.check_alive(stream)
        if stream.captured is not None:
            stream.captured.runs.append(run)
            return None
        op = Op(stream, run, after)
        stream.queue.append(op)
        if not self.is_lazy:
            self.finish(op)
        return op

    def finish(self, op: Op | None) -> None:
        """Run what must have run when `op` has: what stands before it, and what these wait for."""
        while op is not None and not op.is_done:
            head = op.stream.queue[0]
            self.finish(head.after)
            head.run()
            head.is_done = True
            op.stream.queue.pop(0)

    def forbid_while_capturing(self, stream: Stream | None = None) -> None:
        """What a capture does not allow: it voids the capture, and the call fails."""
        for handle in list(self.handles.values()):
            if isinstance(handle, Stream) and handle.captured is not None and stream in (None, handle):
                handle.captured.problem = "a call that can't be captured"
                raise CudaFailure(cudaError_t.cudaErrorStreamCaptureUnsupported)


# --- cuda.bindings.runtime ---


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901
    cudaErrorUnknown = 999


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


class CudaFailure(Exception):
    def __init__(self, error: cudaError_t) -> None:
        super().__init__(error.name)
        self.error = error


CUDA = types.ModuleType("cuda.bindings.runtime")
CUDA.cudaError_t = cudaError_t
CUDA.cudaMemcpyKind = cudaMemcpyKind
CUDA.cudaStreamCaptureMode = cudaStreamCaptureMode
CUDA.cudaStreamNonBlocking = 1
CUDA.cudaEventDisableTiming = 2
_DONE_ALTHOUGH_FAILED = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaStreamEndCapture")


def cuda_call(function: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """Make it a call of the runtime: first parameter filled in, noted, failing on demand, its error in front."""
    name = function.__name__

    @wraps(function)
    def call(*arguments: Any) -> tuple[Any, ...]:
        gpu = Gpu.current
        fails = gpu.note(name)
        try:
            if fails and name not in _DONE_ALTHOUGH_FAILED:
                raise CudaFailure(gpu.error_of(name))
            results = function(gpu, *arguments)
            if fails:
                for handle in results:
                    gpu.drop(handle)
                raise CudaFailure(gpu.error_of(name))
        except CudaFailure as failure:
            gpu.last_error = failure.error
            return failure.error, None
        return (cudaError_t.cudaSuccess, *results)

    setattr(CUDA, name, call)
    return call


@cuda_call
def cudaGetDeviceCount(gpu: Gpu) -> tuple[Any, ...]:
    return (gpu.count,)


@cuda_call
def cudaSetDevice(gpu: Gpu, device: int) -> tuple[Any, ...]:
    if not 0 <= device < gpu.count:
        raise CudaFailure(cudaError_t.cudaErrorInvalidDevice)
    gpu.of_thread.device = device
    return ()


@cuda_call
def cudaGetDeviceProperties(gpu: Gpu, device: int) -> tuple[Any, ...]:
    return (types.SimpleNamespace(name=gpu.name.encode()),)


@cuda_call
def cudaGetErrorString(gpu: Gpu, error: cudaError_t) -> tuple[Any, ...]:
    return (f"text of {error.name}".encode(),)


@cuda_call
def cudaGetLastError(gpu: Gpu) -> tuple[Any, ...]:
    gpu.last_error = cudaError_t.cudaSuccess
    return ()


@cuda_call
def cudaMalloc(gpu: Gpu, size: int) -> tuple[Any, ...]:
    gpu.forbid_while_capturing()
    return (gpu.allocate("device", size),)


@cuda_call
def cudaFree(gpu: Gpu, devPtr: int) -> tuple[Any, ...]:
    gpu.free("device", devPtr)
    return ()


@cuda_call
def cudaMallocHost(gpu: Gpu, size: int) -> tuple[Any, ...]:
    gpu.forbid_while_capturing()
    return (gpu.allocate("host", size),)


@cuda_call
def cudaFreeHost(gpu: Gpu, ptr: int) -> tuple[Any, ...]:
    gpu.free("host", ptr)
    return ()


@cuda_call
def cudaMemcpyAsync(gpu: Gpu, dst: int, src: int, count: int, kind: cudaMemcpyKind, stream: Stream) -> tuple[Any, ...]:
    source, _, target = kind.name.removeprefix("cudaMemcpy").lower().partition("to")

    def run() -> None:
        gpu.memory(target, dst, count)[:] = gpu.memory(source, src, count)

    gpu.memory(target, dst, count), gpu.memory(source, src, count)  # wrong addresses are told where they are given
    gpu.copies.append((kind.name, count))
    gpu.submit(stream, run)
    return ()


@cuda_call
def cudaStreamCreateWithFlags(gpu: Gpu, flags: int) -> tuple[Any, ...]:
    if flags != CUDA.cudaStreamNonBlocking:
        raise Misuse("a stream that waits for the default one")
    return (gpu.new_handle(Stream),)


@cuda_call
def cudaStreamDestroy(gpu: Gpu, stream: Stream) -> tuple[Any, ...]:
    if stream.queue:
        raise Misuse("a stream destroyed with work in it")
    gpu.drop(stream)
    return ()


@cuda_call
def cudaStreamSynchronize(gpu: Gpu, stream: Stream) -> tuple[Any, ...]:
    gpu.check_alive(stream)
    gpu.forbid_while_capturing(stream)
    gpu.finish(stream.queue[-1] if stream.queue else None)
    return ()


@cuda_call
def cudaStreamWaitEvent(gpu: Gpu, stream: Stream, event: Event, flags: int) -> tuple[Any, ...]:
    gpu.check_alive(event)
    gpu.submit(stream, lambda: None, after=event.op)
    return ()


@cuda_call
def cudaEventCreateWithFlags(gpu: Gpu, flags: int) -> tuple[Any, ...]:
    return (gpu.new_handle(Event),)


@cuda_call
def cudaEventDestroy(gpu: Gpu, event: Event) -> tuple[Any, ...]:
    gpu.drop(event)
    return ()


@cuda_call
def cudaEventRecord(gpu: Gpu, event: Event, stream: Stream) -> tuple[Any, ...]:
    gpu.check_alive(event)
    event.op = gpu.submit(stream, lambda: None)
    return ()


@cuda_call
def cudaEventSynchronize(gpu: Gpu, event: Event) -> tuple[Any, ...]:
    gpu.check_alive(event)
    gpu.finish(event.op)
    return ()


@cuda_call
def cudaStreamBeginCapture(gpu: Gpu, stream: Stream, mode: cudaStreamCaptureMode) -> tuple[Any, ...]:
    if stream.queue or stream.captured is not None:
        raise Misuse("a capture with work before it: TensorRT's first run must be over")
    stream.captured = gpu.new_handle(Graph)
    return ()


@cuda_call
def cudaStreamEndCapture(gpu: Gpu, stream: Stream) -> tuple[Any, ...]:
    graph, stream.captured = stream.captured, None
    if graph is None:
        raise CudaFailure(cudaError_t.cudaErrorInvalidValue)
    if graph.problem:
        gpu.drop(graph)
        raise CudaFailure(cudaError_t.cudaErrorStreamCaptureInvalidated)
    return (graph,)


class LaunchableGraph(Graph):
    pass


@cuda_call
def cudaGraphInstantiate(gpu: Gpu, graph: Graph, flags: int) -> tuple[Any, ...]:
    gpu.check_alive(graph)
    launchable = gpu.new_handle(LaunchableGraph)
    launchable.runs = list(graph.runs)
    return (launchable,)


@cuda_call
def cudaGraphDestroy(gpu: Gpu, graph: Graph) -> tuple[Any, ...]:
    gpu.drop(graph)
    return ()


@cuda_call
def cudaGraphLaunch(gpu: Gpu, graphExec: LaunchableGraph, stream: Stream) -> tuple[Any, ...]:
    gpu.check_alive(graphExec)
    for run in graphExec.runs:
        gpu.submit(stream, run)
    return ()


@cuda_call
def cudaGraphExecDestroy(gpu: Gpu, graphExec: LaunchableGraph) -> tuple[Any, ...]:
    gpu.drop(graphExec)
    return ()


# --- tensorrt: what both halves use ---

TENSORRT = types.ModuleType("tensorrt")
TENSORRT.__version__ = "11.4.0.106"


def tensorrt_name(thing: Any) -> Any:
    setattr(TENSORRT, thing.__name__, thing)
    return thing


def tensorrt_call(failure: Any) -> Callable[[Any], Any]:
    """Note the call, and let it fail on demand by returning `failure` and telling the logger."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(self: Any, *arguments: Any) -> Any:
            if Gpu.current.note(function.__name__):
                tell(self.logger, f"simulated failure of {function.__name__}")
                return failure
            return function(self, *arguments)

        return call

    return decorate


def tell(logger: Any, text: str) -> None:
    logger.log(ILogger.Severity.ERROR, text)


def enumeration(name: str, *members: str) -> Any:
    return tensorrt_name(enum.Enum(name, members))


enumeration("DataType", "FLOAT", "HALF", "INT64")
enumeration("TensorIOMode", "INPUT", "OUTPUT")
enumeration("ExecutionContextAllocationStrategy", "STATIC", "USER_MANAGED")
enumeration("BuilderFlag", "TF32", "VERSION_COMPATIBLE")
enumeration("HardwareCompatibilityLevel", "NONE", "AMPERE_PLUS")
enumeration("ProfilingVerbosity", "LAYER_NAMES_ONLY", "DETAILED")
enumeration("LayerInformationFormat", "JSON")
enumeration("MemoryPoolType", "WORKSPACE")


@tensorrt_name
class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


@tensorrt_name
class ILogger:
    Severity = enum.Enum("Severity", ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"))

    def __init__(self) -> None:
        pass

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class Counted:
    """One of TensorRT's objects: alive until nothing refers to it; has no attributes but the real one's."""

    __slots__ = ("__weakref__", "logger")

    def __init__(self, logger: Any) -> None:
        self.logger = logger
        Gpu.current.objects.add(self)


def parse(content: bytes) -> Any:
    return onnx.load_model_from_string(bytes(content))


def shape_of(value: Any) -> tuple[int, ...]:
    return tuple(d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim)


def dtype_of(value: Any) -> Any:
    names = {onnx.TensorProto.FLOAT: "FLOAT", onnx.TensorProto.FLOAT16: "HALF", onnx.TensorProto.INT64: "INT64"}
    return TENSORRT.DataType[names[value.type.tensor_type.elem_type]]


# --- tensorrt: run ---


@dataclass
class Plan:
    """What a simulated engine is made of."""

    onnx: bytes
    profiles: dict[str, list[list[int]]]  # min, opt, max by input
    version: str
    gpu: str
    has_host_code: bool = False

    def to_bytes(self) -> bytes:
        return PLAN_MAGIC + json.dumps({**vars(self), "onnx": base64.b64encode(self.onnx).decode()}).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Plan":
        plain = json.loads(content.removeprefix(PLAN_MAGIC))
        return cls(**{**plain, "onnx": base64.b64decode(plain["onnx"])})


@tensorrt_name
class Runtime(Counted):
    __slots__ = ("engine_host_code_allowed",)

    def __init__(self, logger: Any) -> None:
        super().__init__(logger)
        self.engine_host_code_allowed = False

    @tensorrt_call(failure=None)
    def deserialize_cuda_engine(self, serialized_engine: bytes) -> "ICudaEngine | None":
        if not bytes(serialized_engine).startswith(PLAN_MAGIC):
            return tell(self.logger, "no plan")
        plan = Plan.from_bytes(bytes(serialized_engine))
        if (plan.version, plan.gpu) != (TENSORRT.__version__, Gpu.current.name):
            return tell(self.logger, f"the plan is for {plan.version} and {plan.gpu}")
        if plan.has_host_code and not self.engine_host_code_allowed:
            return tell(self.logger, "host code is not allowed")
        return ICudaEngine(self, plan)


@tensorrt_name
class ICudaEngine(Counted):
    __slots__ = ("_graph", "_names", "_plan", "_runtime", "_session", "_values")

    def __init__(self, runtime: Runtime, plan: Plan) -> None:
        import onnxruntime  # tests of the names alone need none

        super().__init__(runtime.logger)
        self._runtime, self._plan = weakref.ref(runtime), plan
        self._graph = parse(plan.onnx).graph
        self._values = {value.name: value for value in [*self._graph.input, *self._graph.output]}
        self._names = list(self._values)
        self._session = onnxruntime.InferenceSession(plan.onnx, providers=["CPUExecutionProvider"])

    @property
    def num_io_tensors(self) -> int:
        return len(self._names)

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = TENSORRT.TensorIOMode
        return modes.INPUT if any(v.name == name for v in self._graph.input) else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return dtype_of(self._values[name])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return shape_of(self._values[name])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self._plan.profiles[name]]

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return SCRATCH_BYTES

    @tensorrt_call(failure=None)
    def create_execution_context(self, strategy: Any) -> "IExecutionContext":
        if self._runtime() is None:
            raise Misuse("the runtime is gone")
        if strategy != TENSORRT.ExecutionContextAllocationStrategy.USER_MANAGED:
            raise Misuse(f"{strategy}: not simulated")
        return IExecutionContext(self)

    def create_engine_inspector(self) -> "EngineInspector":
        return EngineInspector(self)


@tensorrt_name
class EngineInspector(Counted):
    __slots__ = ("_engine",)

    def __init__(self, engine: ICudaEngine) -> None:
        super().__init__(engine.logger)
        self._engine = engine

    def get_engine_information(self, format: Any) -> str:
        return json.dumps({"Layers": [node.op_type for node in self._engine._graph.node]})


@tensorrt_name
class IExecutionContext(Counted):
    __slots__ = ("_addresses", "_engine", "_has_profile", "_has_run", "_is_inferred", "_scratch", "_shapes", "_version")

    def __init__(self, engine: ICudaEngine) -> None:
        super().__init__(engine.logger)
        self._engine = weakref.ref(engine)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._scratch = 0
        self._has_profile = self._has_run = self._is_inferred = False
        self._version = 0  # counts what was changed: a graph holds for the version that it was captured at

    def _change(self) -> None:
        self._version += 1
        self._has_run = self._is_inferred = False

    @tensorrt_call(failure=False)
    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._change()
        self._has_profile = profile_index == 0
        return self._has_profile

    def set_device_memory(self, memory: int, size: int) -> None:
        if size < SCRATCH_BYTES or memory % 256:
            raise Misuse(f"working memory of {size} bytes at {memory:#x}: wanted {SCRATCH_BYTES}, in steps of 256")
        self._change()
        self._scratch = memory

    @tensorrt_call(failure=False)
    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        smallest, _, largest = self._engine().get_tensor_profile_shape(name, 0)
        self._change()
        self._shapes[name] = tuple(shape)
        return len(shape) == len(smallest) and all(
            a <= n <= b for a, n, b in zip(smallest, shape, largest, strict=True)
        )

    @tensorrt_call(failure=False)
    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._change()
        self._addresses[name] = memory
        return name in self._engine()._names

    @tensorrt_call(failure=["input_rgb"])
    def infer_shapes(self) -> list[str]:
        self._is_inferred = True
        return [value.name for value in self._engine()._graph.input if value.name not in self._shapes]

    @tensorrt_call(failure=False)
    def execute_async_v3(self, stream_handle: int) -> bool:
        gpu = Gpu.current
        stream = gpu.handles.get(stream_handle)
        if not isinstance(stream, Stream):
            raise Misuse(f"stream {stream_handle}: the default one, or none")
        if gpu.last_error:  # TensorRT asks CUDA for errors, and takes an old one for its own
            tell(self.logger, f"{gpu.last_error.name} from before")
            return False
        is_ready = self._has_profile and self._is_inferred and self._scratch
        if not is_ready or set(self._addresses) != set(self._engine()._names):
            tell(self.logger, "profile, shapes, memory or addresses are missing")
            return False
        if stream.captured is not None and not self._has_run:
            stream.captured.problem = "the first run for a shape"
            tell(self.logger, "the first run for a shape can't be captured")
            return False
        self._has_run = True
        gpu.submit(stream, self._work())
        return True

    def _work(self) -> Callable[[], None]:
        """The computation with everything as it is now; checked, when it runs, to be so still."""
        gpu, context, version = Gpu.current, weakref.ref(self), self._version
        shapes, addresses, scratch = dict(self._shapes), dict(self._addresses), self._scratch

        def run() -> None:
            this = context()
            if this is None or this._engine() is None or this._version != version:
                raise Misuse("a context that is gone, or was changed, is run")
            gpu.memory("device", scratch, SCRATCH_BYTES)[:] = 0xAB
            inputs = {}
            for name, shape in shapes.items():
                content = gpu.memory("device", addresses[name], 4 * int(np.prod(shape)))
                inputs[name] = content.view(np.float32).reshape(shape).copy()
            session = this._engine()._session
            names = [tensor.name for tensor in session.get_outputs()]
            for name, output in zip(names, session.run(names, inputs), strict=True):
                gpu.memory("device", addresses[name], output.nbytes)[:] = output.view(np.uint8).ravel()

        return run


# --- tensorrt: build ---


@tensorrt_name
class Builder(Counted):
    __slots__ = ()

    def create_network(self, flags: int) -> "INetworkDefinition":
        if flags != 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED:
            raise Misuse(f"network flags {flags}: TensorRT 10 would choose the precision itself")
        return INetworkDefinition(self.logger)

    def create_builder_config(self) -> "IBuilderConfig":
        return IBuilderConfig(self.logger)

    def create_optimization_profile(self) -> "IOptimizationProfile":
        return IOptimizationProfile(self.logger)

    @tensorrt_call(failure=None)
    def build_serialized_network(self, network: "INetworkDefinition", config: "IBuilderConfig") -> bytes | None:
        Gpu.current.built_on = getattr(Gpu.current.of_thread, "device", 0)
        if not _phases(config):
            return tell(self.logger, "cancelled")
        (profile,) = config._profiles
        model = parse(network._onnx)
        for value in model.graph.input:
            shapes = profile._shapes[value.name]
            fixed = shape_of(value)
            if any(n not in (-1, m) for shape in shapes for n, m in zip(fixed, shape, strict=True)):
                return tell(self.logger, f"{value.name}: profile {shapes} does not fit {fixed}")
        Gpu.current.last_config = config
        has_host_code = TENSORRT.BuilderFlag.VERSION_COMPATIBLE in config._flags
        shapes = {name: [list(shape) for shape in triple] for name, triple in profile._shapes.items()}
        return Plan(network._onnx, shapes, TENSORRT.__version__, Gpu.current.name, has_host_code).to_bytes()


def _phases(config: "IBuilderConfig") -> bool:
    """Report a build of two steps, the second of which has four; False where it was cancelled.

    The first of the four steps adds to the timing cache.
    """
    monitor: Any = config.progress_monitor
    monitor.phase_start("Building", None, 2)
    goes_on = monitor.step_complete("Building", 0)
    monitor.phase_start("Timing", "Building", 4)
    for step in range(4):
        config._cache._content += b"timed " if goes_on and step == 0 else b""
        goes_on = goes_on and monitor.step_complete("Timing", step)
    monitor.phase_finish("Timing")
    goes_on = goes_on and monitor.step_complete("Building", 1)
    monitor.phase_finish("Building")
    return goes_on


@tensorrt_name
class INetworkDefinition(Counted):
    __slots__ = ("_onnx",)


@dataclass
class ParserError:
    _operator: str
    _name: str

    def desc(self) -> str:
        return "no such operator"

    def node_operator(self) -> str:
        return self._operator

    def node_name(self) -> str:
        return self._name


tensorrt_name(ParserError)


@tensorrt_name
class OnnxParser(Counted):
    __slots__ = ("_errors", "_network")

    def __init__(self, network: INetworkDefinition, logger: Any) -> None:
        super().__init__(logger)
        self._network = network
        self._errors: list[ParserError] = []

    @tensorrt_call(failure=False)
    def parse(self, model: bytes) -> bool:
        nodes = parse(model).graph.node
        self._errors = [ParserError(n.op_type, n.name) for n in nodes if n.op_type.startswith("Unknown")]
        self._network._onnx = bytes(model)
        return not self._errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]


@tensorrt_name
class IOptimizationProfile(Counted):
    __slots__ = ("_shapes",)

    def __init__(self, logger: Any) -> None:
        super().__init__(logger)
        self._shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: tuple[int, ...], opt: tuple[int, ...], max: tuple[int, ...]) -> None:
        self._shapes[input] = (min, opt, max)


@tensorrt_name
class ITimingCache(Counted):
    __slots__ = ("_content",)

    def serialize(self) -> bytes:
        return b"cache of " + Gpu.current.name.encode() + b": " + self._content


@tensorrt_name
class IBuilderConfig(Counted):
    __slots__ = (
        "_cache",
        "_flags",
        "_pools",
        "_profiles",
        "builder_optimization_level",
        "hardware_compatibility_level",
        "profiling_verbosity",
        "progress_monitor",
    )

    def __init__(self, logger: Any) -> None:
        super().__init__(logger)
        self._flags = {TENSORRT.BuilderFlag.TF32}
        self._pools: dict[Any, int] = {}
        self._profiles: list[IOptimizationProfile] = []
        self.builder_optimization_level = 3
        self.hardware_compatibility_level = TENSORRT.HardwareCompatibilityLevel.NONE
        self.profiling_verbosity = TENSORRT.ProfilingVerbosity.LAYER_NAMES_ONLY
        self.progress_monitor = None

    def set_flag(self, flag: Any) -> None:
        self._flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self._flags.remove(flag)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._pools[pool] = pool_size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return 0

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        cache = ITimingCache(self.logger)
        cache._content = bytes(serialized_timing_cache)
        return cache

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        start = b"cache of " + Gpu.current.name.encode() + b": "
        if ignore_mismatch or (cache._content and not cache._content.startswith(start)):
            return False
        cache._content = cache._content.removeprefix(start)
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache:
        return self._cache


@tensorrt_name
class IProgressMonitor:
    def __init__(self) -> None:
        pass

    def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


# --- for tests ---


def install(monkeypatch: pytest.MonkeyPatch, gpu: Gpu | None = None) -> Gpu:
    """Put the simulation in the place of both libraries for one test."""
    bindings, cuda = types.ModuleType("cuda.bindings"), types.ModuleType("cuda")
    bindings.runtime, cuda.bindings = CUDA, bindings
    modules = {"tensorrt": TENSORRT, "cuda": cuda, "cuda.bindings": bindings, "cuda.bindings.runtime": CUDA}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    Gpu.current = gpu or Gpu()
    return Gpu.current
