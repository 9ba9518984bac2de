"""Optical flow by the engine that NVIDIA GPUs have for it (NVOF), through ctypes alone: no torch, nothing to compile.

In: the frames of a video in order. Out: the flow from each frame to the next. Owns the layouts of the driver's two
libraries (NVIDIA Optical Flow SDK 2.0 and 5.0, CUDA driver API), the GPU's primary context while it is used, and the
engine's handles and buffers. A NvofFlow belongs to one thread; a process forked after its making can't use it.
"""

import ctypes
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from ctypes import CFUNCTYPE, POINTER, byref, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np

from action_recognition.errors import DataError, UserError

PERF_LEVELS = {"slow": 5, "fast": 20}
MAX_SESSIONS = 4  # a handle is dear to make, and lists of videos mix a few sizes
STATUS = (
    *("SUCCESS", "OF_NOT_AVAILABLE", "UNSUPPORTED_DEVICE", "DEVICE_DOES_NOT_EXIST", "INVALID_PTR", "INVALID_PARAM"),
    *("INVALID_CALL", "INVALID_VERSION", "OUT_OF_MEMORY", "NOT_INITIALIZED", "UNSUPPORTED_FEATURE", "GENERIC"),
)
_NO_ENGINE = ("OF_NOT_AVAILABLE", "UNSUPPORTED_DEVICE")
_GRIDS = (1, 2, 4)  # pixels a side that share a vector, finest first
_CAP_GRIDS, _CAP_WIDTH_MIN, _CAP_HEIGHT_MIN, _CAP_WIDTH_MAX, _CAP_HEIGHT_MAX = 0, 4, 5, 6, 7
_OPTICAL_FLOW_MODE, _DEVICE_POINTER = 1, 2
_INPUT, _OUTPUT = 1, 2  # what a buffer is for
_ABGR8, _SHORT2 = 3, 5  # what a buffer holds: bytes B, G, R, A; two int16
_HOST, _DEVICE = 1, 2  # CUDA's memory types
_UNITS_PER_PX = 32  # S10.5: five binary places

_NO_DRIVER = "the NVIDIA driver is missing ({}); install it, or start the container with docker run --gpus all"
_NO_LIBRARY = (
    "the driver's optical flow library is missing ({}); a container needs "
    "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video, a machine the whole driver"
)
_CUDA_ADVICE = {
    "cuInit": "see whether nvidia-smi lists a GPU, and CUDA_VISIBLE_DEVICES",
    "cuDeviceGet": "there are fewer GPUs; see nvidia-smi and CUDA_VISIBLE_DEVICES",
}


class NvofError(UserError, RuntimeError):
    """The driver is missing, too old, or refused a call."""


@dataclass(frozen=True)
class Libraries:
    """Names or paths of the driver's libraries; of each the first that loads is taken."""

    cuda: tuple[str, ...] = ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1",)
    flow: tuple[str, ...] = (
        ("nvofapi64.dll",)
        if sys.platform == "win32"
        else ("libnvidia-opticalflow.so.1", "libnvidia-opticalflow.so")  # containers may have either name alone
    )


DRIVER = Libraries()


def nvof_problem(device: int = 0, libraries: Libraries = DRIVER) -> str:
    """An empty text where GPU `device` computes flow, else one sentence: what is missing and what to do about it.

    Found out by computing the flow of a small pair: a library or an engine that is there need not work.
    """
    frame = np.zeros((256, 256, 3), np.uint8)
    try:
        with NvofFlow("fast", device, libraries) as flow:
            flow.add(frame)
            flow.add(frame)
    except (NvofError, DataError) as error:
        return str(error)
    return ""


def num_gpus(libraries: Libraries = DRIVER) -> int:
    """The GPUs that this process may use; 0 where there is no driver."""
    count = c_int()
    try:
        calls = _functions(
            _load(libraries.cuda, _NO_DRIVER), {"cuInit": (c_uint32,), "cuDeviceGetCount": (POINTER(c_int),)}
        )
    except NvofError:
        return 0
    is_counted = calls["cuInit"](0) == 0 and calls["cuDeviceGetCount"](byref(count)) == 0
    return count.value if is_counted else 0


class NvofFlow:
    """Flow by the NVIDIA Optical Flow hardware."""

    def __init__(self, preset: str, device: int = 0, libraries: Libraries = DRIVER) -> None:
        """`preset` is slow (the better flow) or fast. NvofError where GPU `device` or its driver can't do it."""
        if preset not in PERF_LEVELS:
            raise ValueError(f"preset: {preset!r} is not one of {', '.join(PERF_LEVELS)}")
        self._perf_level = PERF_LEVELS[preset]
        self._sessions: dict[tuple[int, int], _Session] = {}  # by (height, width), the latest used last
        with ExitStack() as stack:
            self._cuda = _Cuda(device, libraries.cuda, stack)
            self._engine = _Engine(libraries.flow)
            self._stack = stack.pop_all()
        self._is_open = True
        self.start()

    def start(self) -> None:
        """The next frame is the first of a video."""
        self._session: _Session | None = None
        self._num_frames = 0

    def add(self, frame: np.ndarray) -> np.ndarray | None:
        """A frame, uint8 RGB (H, W, 3) -> flow from the frame before, float32 (H, W, 2); None for a video's first.

        In pixels, x to the right, y down. Where the GPU has one vector for 2x2 or 4x4 pixels, all of these get it.
        DataError for a size that the GPU does not take or that is not the first frame's; NvofError where a call fails.
        """
        if not self._is_open:
            raise RuntimeError("NvofFlow: is closed")
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"frame: expected uint8 (H, W, 3), got {frame.dtype} {frame.shape}")
        if self._session is None:
            self._session = self._session_for(frame.shape[:2])
        self._session.upload(frame)
        self._num_frames += 1
        # the engine starts its search from the flow of the pair before, which for a first pair is another video's
        return None if self._num_frames == 1 else self._session.flow(temporal_hints=self._num_frames > 2)

    def close(self) -> None:
        """Give back buffers, handles and context. To close again does nothing."""
        self.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        self.start()
        while self._sessions:
            self._stack.push(self._sessions.popitem()[1].free)  # on top of the context's release, so before it
        self._stack.__exit__(kind, error, trace)

    def _session_for(self, size: tuple[int, ...]) -> "_Session":
        height, width = size
        session = self._sessions.pop((height, width), None)
        if session is None:
            if len(self._sessions) == MAX_SESSIONS:
                self._sessions.pop(next(iter(self._sessions))).free(None, None, None)
            session = _Session(self._cuda, self._engine, height, width, self._perf_level)
        self._sessions[height, width] = session
        return session


def _fields(kind: Any, names: str) -> tuple[tuple[str, Any], ...]:
    return tuple((name, kind) for name in names.split())


class InitParams20(ctypes.Structure):
    """NV_OF_INIT_PARAMS of API 2.0. Names here are the headers'; C enums and NV_OF_BOOL take four bytes."""

    _fields_ = (
        *_fields(c_uint32, "width height outGridSize hintGridSize mode perfLevel enableExternalHints enableOutputCost"),
        ("hPrivData", c_void_p),
        *_fields(c_uint32, "disparityRange enableRoi"),
    )


class InitParams50(InitParams20):
    """Of API 5.0."""

    _fields_ = _fields(c_uint32, "predDirection enableGlobalFlow inputBufferFormat")


class BufferDescriptor(ctypes.Structure):
    """NV_OF_BUFFER_DESCRIPTOR; an output's width and height count vectors."""

    _fields_ = _fields(c_uint32, "width height bufferUsage bufferFormat")


class StrideInfo(ctypes.Structure):
    """NV_OF_CUDA_BUFFER_STRIDE_INFO; strideXInBytes is the distance between rows, for each of three planes."""

    _fields_ = (
        *_fields(c_uint32, "strideXInBytes strideYInBytes strideXInBytes1 strideYInBytes1"),
        *_fields(c_uint32, "strideXInBytes2 strideYInBytes2 numPlanes"),
    )


class ExecuteInput(ctypes.Structure):
    """NV_OF_EXECUTE_INPUT_PARAMS. The flow is that from inputFrame to referenceFrame."""

    _fields_ = (
        *_fields(c_void_p, "inputFrame referenceFrame externalHints"),
        *_fields(c_uint32, "disableTemporalHints padding"),
        ("hPrivData", c_void_p),
        *_fields(c_uint32, "padding2 numRois"),
        ("roiData", c_void_p),
    )


class ExecuteOutput20(ctypes.Structure):
    """NV_OF_EXECUTE_OUTPUT_PARAMS of API 2.0."""

    _fields_ = _fields(c_void_p, "outputBuffer outputCostBuffer hPrivData")


class ExecuteOutput50(ExecuteOutput20):
    """Of API 5.0."""

    _fields_ = _fields(c_void_p, "bwdOutputBuffer bwdOutputCostBuffer globalFlowBuffer")


class FunctionList(ctypes.Structure):
    """NV_OF_CUDA_API_FUNCTION_LIST, the same in all versions. Handles, streams and the context are pointers."""

    _fields_ = (
        ("nvCreateOpticalFlowCuda", CFUNCTYPE(c_int, c_void_p, POINTER(c_void_p))),
        ("nvOFInit", CFUNCTYPE(c_int, c_void_p, c_void_p)),
        ("nvOFCreateGPUBufferCuda", CFUNCTYPE(c_int, c_void_p, POINTER(BufferDescriptor), c_int, POINTER(c_void_p))),
        ("nvOFGPUBufferGetCUarray", CFUNCTYPE(c_void_p, c_void_p)),
        ("nvOFGPUBufferGetCUdeviceptr", CFUNCTYPE(c_uint64, c_void_p)),
        ("nvOFGPUBufferGetStrideInfo", CFUNCTYPE(c_int, c_void_p, POINTER(StrideInfo))),
        ("nvOFSetIOCudaStreams", CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p)),
        ("nvOFExecute", CFUNCTYPE(c_int, c_void_p, POINTER(ExecuteInput), c_void_p)),
        ("nvOFDestroyGPUBufferCuda", CFUNCTYPE(c_int, c_void_p)),
        ("nvOFDestroy", CFUNCTYPE(c_int, c_void_p)),
        ("nvOFGetLastError", CFUNCTYPE(c_int, c_void_p, c_char_p, POINTER(c_uint32))),
        ("nvOFGetCaps", CFUNCTYPE(c_int, c_void_p, c_int, POINTER(c_uint32), POINTER(c_uint32))),
    )


class Memcpy2D(ctypes.Structure):
    """CUDA_MEMCPY2D as cuMemcpy2D_v2 takes it: the function without _v2 reads sizes of four bytes."""

    _fields_ = (
        *(("srcXInBytes", c_size_t), ("srcY", c_size_t), ("srcMemoryType", c_uint32), ("srcHost", c_void_p)),
        *(("srcDevice", c_uint64), ("srcArray", c_void_p), ("srcPitch", c_size_t)),
        *(("dstXInBytes", c_size_t), ("dstY", c_size_t), ("dstMemoryType", c_uint32), ("dstHost", c_void_p)),
        *(("dstDevice", c_uint64), ("dstArray", c_void_p), ("dstPitch", c_size_t)),
        *(("WidthInBytes", c_size_t), ("Height", c_size_t)),
    )


_CUDA_CALLS: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint32,),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (POINTER(c_void_p),),
    "cuCtxSynchronize": (),
    "cuMemcpy2D_v2": (POINTER(Memcpy2D),),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
}


@dataclass(frozen=True)
class Api:
    """A version of NVIDIA's interface: its number, and what differs in it."""

    version: int
    init_params: type[ctypes.Structure]
    execute_output: type[ctypes.Structure]
    more_init: dict[str, int] = field(default_factory=dict)


APIS = (
    Api(0x50, InitParams50, ExecuteOutput50, {"inputBufferFormat": _ABGR8}),  # drivers from 520
    Api(0x20, InitParams20, ExecuteOutput20),  # drivers from 450
)


class _Cuda:
    """The primary context of one GPU, the one that torch uses too, and the few calls made in it."""

    def __init__(self, device: int, names: Sequence[str], stack: ExitStack) -> None:
        """Retains the context until `stack` closes."""
        self._functions = _functions(_load(names, _NO_DRIVER), _CUDA_CALLS)
        self.gpu = f"GPU {device}"
        number, name = c_int(), ctypes.create_string_buffer(256)
        self.call("cuInit", 0)
        self.call("cuDeviceGet", byref(number), device)
        self.call("cuDeviceGetName", name, len(name), number)
        self.gpu = f"GPU {device} ({name.value.decode(errors='replace')})"
        self.context = c_void_p()
        self.call("cuDevicePrimaryCtxRetain", byref(self.context), number)
        stack.push(_release(self.call, "cuDevicePrimaryCtxRelease_v2", number))

    def current(self) -> ExitStack:
        """`with cuda.current():` the context is this thread's; then the one before is again."""
        stack = ExitStack()
        self.call("cuCtxPushCurrent_v2", self.context)
        stack.push(_release(self.call, "cuCtxPopCurrent_v2", byref(c_void_p())))
        return stack

    def call(self, name: str, *args: Any) -> None:
        """The gate of all CUDA calls. NvofError with the call, the error's name and number."""
        status = self._functions[name](*args)
        if status:
            text = c_char_p()
            self._functions["cuGetErrorName"](status, byref(text))
            advice = f"; {_CUDA_ADVICE[name]}" if name in _CUDA_ADVICE else ""
            raise NvofError(f"{self.gpu}: {name} failed: {(text.value or b'unknown').decode()} ({status}){advice}")


class _Engine:
    """NVIDIA's list of functions, of the newest interface that the driver knows."""

    def __init__(self, names: Sequence[str]) -> None:
        create = "NvOFAPICreateInstanceCuda"
        function = _functions(_load(names, _NO_LIBRARY), {create: (c_uint32, POINTER(FunctionList))})[create]
        for self.api in APIS:
            self.functions = FunctionList()
            status = function(self.api.version, byref(self.functions))
            if not status:
                return
            if _status_name(status) != "INVALID_VERSION":
                break
        raise NvofError(f"{create} failed: {_status_name(status)} ({status}); NVOF needs a driver from 450.51 on")


@dataclass(frozen=True)
class _Buffer:
    """Memory that the engine made: it takes none that was allocated by others."""

    handle: c_void_p
    pointer: int
    pitch: int  # bytes from row to row


class _Session:
    """A handle of the engine for frames of one size, with two input buffers that take turns and one output buffer.

    All runs on the default stream: on others DALI's authors saw memory corrupted by drivers after 460.
    """

    def __init__(self, cuda: _Cuda, engine: _Engine, height: int, width: int, perf_level: int) -> None:
        self._cuda, self._engine, self._height, self._width = cuda, engine, height, width
        self._handle = c_void_p()
        with cuda.current(), ExitStack() as stack:
            self._call("nvCreateOpticalFlowCuda", cuda.context, byref(self._handle))
            stack.push(_release(self._call, "nvOFDestroy", self._handle))
            self._call("nvOFSetIOCudaStreams", self._handle, None, None)
            self._check_size()
            self._grid = self._finest_grid()
            self._init(perf_level)
            self._inputs = [self._buffer(height, width, _INPUT, _ABGR8, stack) for _ in range(2)]
            rows, columns = -(-height // self._grid), -(-width // self._grid)
            self._output = self._buffer(rows, columns, _OUTPUT, _SHORT2, stack)
            self._stack = stack.pop_all()
        self._bgra = np.full((height, width, 4), 255, np.uint8)  # on the host, as are the vectors
        self._vectors = np.empty((rows, columns, 2), np.int16)

    def upload(self, frame: np.ndarray) -> None:
        """`frame` (H, W, 3) becomes the latest, the latest the one before it."""
        if frame.shape[:2] != (self._height, self._width):
            size = f"{frame.shape[1]}x{frame.shape[0]}"
            raise DataError(f"a frame of {size} follows frames of {self._width}x{self._height}; flow needs one size")
        for channel in range(3):
            self._bgra[..., 2 - channel] = frame[..., channel]  # seven times faster than [..., ::-1]
        self._inputs.reverse()
        row = self._bgra.strides[0]
        copy = Memcpy2D(srcMemoryType=_HOST, srcHost=self._bgra.ctypes.data, srcPitch=row, dstMemoryType=_DEVICE,
                        dstDevice=self._inputs[1].pointer, dstPitch=self._inputs[1].pitch, WidthInBytes=row,
                        Height=self._height)  # fmt: skip
        with self._cuda.current():
            self._cuda.call("cuMemcpy2D_v2", byref(copy))

    def flow(self, temporal_hints: bool) -> np.ndarray:
        """The flow from the frame before to the latest, float32 (H, W, 2) in pixels."""
        before, latest = (buffer.handle for buffer in self._inputs)
        pair = ExecuteInput(inputFrame=before, referenceFrame=latest, disableTemporalHints=not temporal_hints)
        answer = self._engine.api.execute_output(outputBuffer=self._output.handle)
        with self._cuda.current():
            self._call("nvOFExecute", self._handle, byref(pair), byref(answer))
            self._cuda.call("cuCtxSynchronize")
            self._download()
        flow = self._vectors.astype(np.float32) / _UNITS_PER_PX  # of full-resolution pixels, whatever the grid
        if self._grid > 1:
            flow = flow.repeat(self._grid, axis=0).repeat(self._grid, axis=1)[: self._height, : self._width]
        return np.ascontiguousarray(flow)

    def free(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Give back the buffers, then the handle."""
        with self._cuda.current():
            self._stack.__exit__(kind, error, trace)

    def _call(self, name: str, *args: Any) -> None:
        """The gate of all NVOF calls. NvofError with the call, the status and the engine's own words."""
        status = getattr(self._engine.functions, name)(*args)
        if status:
            advice = _engine_advice(self._cuda.gpu) if _status_name(status) in _NO_ENGINE else ""
            problem = f"{name} failed: {_status_name(status)} ({status}){self._last_error()}"
            raise NvofError(f"{self._cuda.gpu}: {problem}{advice}")

    def _last_error(self) -> str:
        if not self._handle:
            return ""
        text, size = ctypes.create_string_buffer(256), c_uint32(256)
        self._engine.functions.nvOFGetLastError(self._handle, text, byref(size))
        words = " ".join(text.value.decode(errors="replace").split())
        return f": {words}" if words else ""

    def _caps(self, capability: int) -> list[int]:
        count = c_uint32()
        self._call("nvOFGetCaps", self._handle, capability, None, byref(count))
        values = (c_uint32 * count.value)()
        self._call("nvOFGetCaps", self._handle, capability, values, byref(count))
        return list(values)

    def _check_size(self) -> None:
        least = [self._caps(cap)[0] for cap in (_CAP_WIDTH_MIN, _CAP_HEIGHT_MIN)]
        most = [self._caps(cap)[0] for cap in (_CAP_WIDTH_MAX, _CAP_HEIGHT_MAX)]
        size = (self._width, self._height)
        if not all(low <= side <= high for low, side, high in zip(least, size, most, strict=True)):
            accepted = f"{least[0]}x{least[1]} to {most[0]}x{most[1]}"
            raise DataError(f"{self._cuda.gpu} takes frames of {accepted} pixels for flow, got {size[0]}x{size[1]}")

    def _finest_grid(self) -> int:
        offered = self._caps(_CAP_GRIDS)
        for grid in _GRIDS:
            if grid in offered:
                return grid
        raise NvofError(f"{self._cuda.gpu}: offers flow for grids of {offered} pixels; 1, 2 and 4 can be used")

    def _init(self, perf_level: int) -> None:
        # hintGridSize stays 0: drivers from 520 refuse any other where there are no external hints
        params = self._engine.api.init_params(
            width=self._width,
            height=self._height,
            outGridSize=self._grid,
            mode=_OPTICAL_FLOW_MODE,
            perfLevel=perf_level,
            **self._engine.api.more_init,
        )
        self._call("nvOFInit", self._handle, byref(params))

    def _buffer(self, rows: int, columns: int, usage: int, content: int, stack: ExitStack) -> _Buffer:
        """A buffer that is freed when `stack` closes."""
        what, handle, stride = BufferDescriptor(columns, rows, usage, content), c_void_p(), StrideInfo()
        self._call("nvOFCreateGPUBufferCuda", self._handle, byref(what), _DEVICE_POINTER, byref(handle))
        stack.push(_release(self._call, "nvOFDestroyGPUBufferCuda", handle))
        self._call("nvOFGPUBufferGetStrideInfo", handle, byref(stride))
        pointer = self._engine.functions.nvOFGPUBufferGetCUdeviceptr(handle)
        return _Buffer(handle, pointer, stride.strideXInBytes)

    def _download(self) -> None:
        row = self._vectors.strides[0]
        copy = Memcpy2D(srcMemoryType=_DEVICE, srcDevice=self._output.pointer, srcPitch=self._output.pitch,
                        dstMemoryType=_HOST, dstHost=self._vectors.ctypes.data, dstPitch=row, WidthInBytes=row,
                        Height=len(self._vectors))  # fmt: skip
        self._cuda.call("cuMemcpy2D_v2", byref(copy))


def _load(names: Sequence[str], problem: str) -> ctypes.CDLL:
    """The first library that loads. NvofError with `problem` and in it the system's words about the first of them."""
    reasons = []
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            reasons.append(str(error))
    raise NvofError(problem.format(reasons[0]))


def _functions(library: ctypes.CDLL, calls: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
    """`library`'s functions, which return a status, by name. NvofError where one is missing."""
    functions = {}
    for name, arguments in calls.items():
        try:
            functions[name] = getattr(library, name)
        except AttributeError as error:
            raise NvofError(f"{library._name} has no function {name}; NVOF needs a driver from 450.51 on") from error
        functions[name].argtypes = arguments
    return functions


def _release(call: Callable[..., None], name: str, *args: Any) -> Callable[..., None]:
    """An exit callback that frees something. Where an error is under way, that one is told, with a note of this one."""

    def on_exit(kind: object, error: BaseException | None, trace: object) -> None:
        try:
            call(name, *args)
        except NvofError as failure:
            if error is None:
                raise
            error.add_note(str(failure))

    return on_exit


def _status_name(status: int) -> str:
    return STATUS[status] if 0 <= status < len(STATUS) else "unknown status"


def _engine_advice(gpu: str) -> str:
    if " MIG " in gpu:  # CUDA names a slice so: NVIDIA H100 80GB HBM3 MIG 1g.10gb
        return "; this MIG slice has no optical flow engine: take one of a +me profile, or the whole GPU"
    return "; this GPU has no optical flow engine: Turing GPUs (but TU117) and later ones have"
