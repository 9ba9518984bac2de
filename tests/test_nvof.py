"""Flow by the NVIDIA hardware, against a simulation: nvof_stub.c stands in for the driver's two libraries.

No GPU and no flow are involved: what is tested is that the calls, structs and buffers are those that the public headers
ask for, and what becomes of failures. test_gpu.py measures real flow. Needs a C compiler.
"""

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import _imaging

from action_recognition.errors import DataError
from action_recognition.preprocess import nvof
from action_recognition.preprocess.nvof import Libraries, NvofError, NvofFlow, num_gpus, nvof_problem

STRUCTS = {
    "NV_OF_INIT_PARAMS_20": nvof.InitParams20,
    "NV_OF_INIT_PARAMS_50": nvof.InitParams50,
    "NV_OF_BUFFER_DESCRIPTOR": nvof.BufferDescriptor,
    "NV_OF_CUDA_BUFFER_STRIDE_INFO": nvof.StrideInfo,
    "NV_OF_EXECUTE_INPUT_PARAMS": nvof.ExecuteInput,
    "NV_OF_EXECUTE_OUTPUT_PARAMS_20": nvof.ExecuteOutput20,
    "NV_OF_EXECUTE_OUTPUT_PARAMS_50": nvof.ExecuteOutput50,
    "NV_OF_CUDA_API_FUNCTION_LIST": nvof.FunctionList,
    "CUDA_MEMCPY2D": nvof.Memcpy2D,
}
HEIGHT, WIDTH = 33, 45  # odd, so that the last grid cells stick out
GENERIC = 11
NOTHING = {"contexts": 0, "pushed": 0, "handles": 0, "buffers": 0}


class Stub:
    """The simulated driver: set what it is like, read what was called."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.c = ctypes.CDLL(str(path))
        self.c.stub_log.restype = self.c.stub_layouts.restype = ctypes.c_char_p
        self.c.stub_reset()

    @property
    def libraries(self) -> Libraries:
        return Libraries((str(self.path),), (str(self.path),))

    def flow(self, preset: str = "slow") -> NvofFlow:
        return NvofFlow(preset, 0, self.libraries)

    def calls(self, *beginnings: str) -> list[str]:
        """The log, or of it the calls that begin so."""
        lines = self.c.stub_log().decode().splitlines()
        return [line for line in lines if not beginnings or line.startswith(beginnings)]

    def live(self) -> dict[str, int]:
        """What was taken and not given back."""
        counts = (ctypes.c_int * 4)()
        self.c.stub_live(counts)
        return dict(zip(NOTHING, counts, strict=True))

    def fail(self, call: str, status: int = GENERIC, after: int = 0, text: str = "") -> None:
        self.c.stub_fail(call.encode(), status, after, text.encode())

    def offer_grids(self, *grids: int) -> None:
        self.c.stub_set_grids((ctypes.c_uint32 * len(grids))(*grids), len(grids))


@pytest.fixture(scope="session")
def stub_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("needs a C compiler (cc or gcc) to build the simulated driver")
    path = tmp_path_factory.mktemp("nvof") / "stub.so"
    source = Path(__file__).with_name("nvof_stub.c")
    subprocess.run([compiler, "-std=c11", "-shared", "-fPIC", "-o", path, source], check=True)
    return path


@pytest.fixture
def stub(stub_path: Path) -> Stub:
    return Stub(stub_path)


def frames(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (number, height, width, 3), np.uint8)


def simulated_flow(before: np.ndarray, after: np.ndarray, grid: int = 1) -> np.ndarray:
    """What the stub computes, of the first pixel of each grid cell, for all pixels of the cell."""
    rows, columns = (np.arange(side) // grid * grid for side in before.shape[:2])
    change = (after.astype(np.float32) - before)[rows][:, columns]
    return np.stack([change[..., 0] / 2, change[..., 2] / 4], axis=-1)  # red, blue


def run(flow: NvofFlow, video: Sequence[np.ndarray]) -> list[np.ndarray | None]:
    flow.start()
    return [flow.add(frame) for frame in video]


# ---- structs


def offsets(struct: type[ctypes.Structure]) -> dict[str, int]:
    fields = [name for kind in reversed(struct.__mro__) for name, *_ in vars(kind).get("_fields_", ())]
    return {"sizeof": ctypes.sizeof(struct)} | {name: getattr(struct, name).offset for name in fields}


@pytest.mark.parametrize("name", STRUCTS)
def test_struct_is_laid_out_as_by_the_c_compiler(stub: Stub, name: str) -> None:
    lines = [line.split() for line in stub.c.stub_layouts().decode().splitlines()]
    by_c = {field.rpartition(".")[2]: int(offset) for struct, field, offset in lines if struct == name}
    by_us = offsets(STRUCTS[name])
    if name == "NV_OF_CUDA_BUFFER_STRIDE_INFO":  # an array there, six fields here
        by_us = {field: by_us[field] for field in ("sizeof", "strideXInBytes", "numPlanes")}
    assert by_us == by_c


def test_structs_have_the_published_sizes() -> None:
    sizes = {struct.__name__: ctypes.sizeof(struct) for struct in STRUCTS.values()}
    assert sizes == {
        "InitParams20": 48,
        "InitParams50": 64,
        "BufferDescriptor": 16,
        "StrideInfo": 28,
        "ExecuteInput": 56,
        "ExecuteOutput20": 24,
        "ExecuteOutput50": 48,
        "FunctionList": 96,
        "Memcpy2D": 128,
    }


def test_each_api_has_its_own_structs() -> None:
    apis = [(api.version, ctypes.sizeof(api.init_params), ctypes.sizeof(api.execute_output)) for api in nvof.APIS]
    assert apis == [(0x50, 64, 48), (0x20, 48, 24)]


def test_init_params_have_the_published_offsets() -> None:
    names = "width height outGridSize hintGridSize mode perfLevel enableExternalHints enableOutputCost hPrivData"
    more = "disparityRange enableRoi predDirection enableGlobalFlow inputBufferFormat sizeof"
    published = [0, 4, 8, 12, 16, 20, 24, 28, 32, 40, 44, 48, 52, 56, 64]
    assert offsets(nvof.InitParams50) == dict(zip(f"{names} {more}".split(), published, strict=True))


def test_execute_params_have_the_published_offsets() -> None:
    names = "inputFrame referenceFrame externalHints disableTemporalHints padding hPrivData padding2 numRois roiData"
    published = [0, 8, 16, 24, 28, 32, 40, 44, 48, 56]
    assert offsets(nvof.ExecuteInput) == dict(zip(f"{names} sizeof".split(), published, strict=True))


# ---- the flow of a video


def test_two_frames_make_these_calls_in_this_order(stub: Stub) -> None:
    with stub.flow() as flow:
        run(flow, frames(2))
    assert stub.calls() == [
        *("cuInit 0", "retain 0", "instance 50"),
        *("create 0", "streams default", "init 0 api 50 45x33 grid 1 level 5"),
        *("buffer 1 input 45x33", "buffer 2 input 45x33", "buffer 3 output 45x33"),
        *("copy 1->2 180x33", "copy 1->2 180x33"),
        *("execute 0: 1 to 2, hints off", "synchronize", "copy 2->1 180x33"),
        *("destroy buffer 3", "destroy buffer 2", "destroy buffer 1", "destroy 0", "release 0"),
    ]


def test_add_gives_the_flow_from_the_frame_before_to_this_one(stub: Stub) -> None:
    video = frames(4)
    with stub.flow() as flow:
        first, *others = run(flow, video)
    assert first is None
    for got, before, after in zip(others, video, video[1:], strict=False):
        assert got is not None
        assert (got.shape, got.dtype) == ((HEIGHT, WIDTH, 2), np.float32)
        np.testing.assert_array_equal(got, simulated_flow(before, after))


def test_a_flow_once_given_does_not_change_with_the_next(stub: Stub) -> None:
    video = frames(3)
    with stub.flow() as flow:
        _, first, _ = run(flow, video)
    np.testing.assert_array_equal(first, simulated_flow(video[0], video[1]))


def test_each_frame_is_uploaded_once_and_the_input_buffers_take_turns(stub: Stub) -> None:
    with stub.flow() as flow:
        run(flow, frames(4))
    assert len(stub.calls("copy 1->2")) == 4
    assert [call.partition(",")[0] for call in stub.calls("execute")] == [
        *("execute 0: 1 to 2", "execute 0: 2 to 1", "execute 0: 1 to 2")
    ]


def test_temporal_hints_are_off_for_the_first_pair_of_a_video_only(stub: Stub) -> None:
    with stub.flow() as flow:
        run(flow, frames(4))
        run(flow, frames(3))
    assert [call.rpartition(" ")[2] for call in stub.calls("execute")] == ["off", "on", "on", "off", "on"]


def test_start_forgets_the_last_frame(stub: Stub) -> None:
    video = frames(5)
    with stub.flow() as flow:
        run(flow, video[:3])
        first, second = run(flow, video[3:])
    assert first is None
    np.testing.assert_array_equal(second, simulated_flow(video[3], video[4]))


@pytest.mark.parametrize(("preset", "level"), [("slow", 5), ("fast", 20)])
def test_presets_are_the_performance_levels_of_the_engine(stub: Stub, preset: str, level: int) -> None:
    with stub.flow(preset) as flow:
        run(flow, frames(1))
    assert stub.calls("init") == [f"init 0 api 50 45x33 grid 1 level {level}"]


def test_unknown_preset_is_refused(stub: Stub) -> None:
    with pytest.raises(ValueError, match="preset: 'medium' is not one of slow, fast"):
        stub.flow("medium")


@pytest.mark.parametrize(
    ("offered", "grid", "vectors"), [((4, 2, 1), 1, "45x33"), ((2, 4), 2, "23x17"), ((4,), 4, "12x9")]
)
def test_the_finest_grid_is_taken_and_its_vectors_repeated(
    stub: Stub, offered: tuple[int, ...], grid: int, vectors: str
) -> None:
    stub.offer_grids(*offered)
    video = frames(2)
    with stub.flow() as flow:
        _, got = run(flow, video)
    assert stub.calls("buffer 3") == [f"buffer 3 output {vectors}"]
    np.testing.assert_array_equal(got, simulated_flow(*video, grid=grid))


def test_gpu_that_offers_no_known_grid_is_refused(stub: Stub) -> None:
    stub.offer_grids(8)
    with stub.flow() as flow, pytest.raises(NvofError, match=r"grids of \[8\] pixels; 1, 2 and 4 can be used"):
        flow.add(frames(1)[0])


@pytest.mark.parametrize("grid", [1, 4])
def test_rows_of_the_gpu_may_be_longer_than_the_image(stub: Stub, grid: int) -> None:
    stub.c.stub_set_extra_pitch(76)
    stub.offer_grids(grid)
    video = frames(3)
    with stub.flow() as flow:
        _, first, second = run(flow, video)
    np.testing.assert_array_equal(first, simulated_flow(video[0], video[1], grid))
    np.testing.assert_array_equal(second, simulated_flow(video[1], video[2], grid))


def test_frames_may_be_views_in_any_order_of_memory(stub: Stub) -> None:
    video = frames(2, WIDTH, HEIGHT).transpose(0, 2, 1, 3)
    with stub.flow() as flow:
        _, got = run(flow, video)
    np.testing.assert_array_equal(got, simulated_flow(*video))


def test_driver_without_api_50_is_spoken_to_in_20(stub: Stub) -> None:
    stub.c.stub_set_newest_api(0x20)
    video = frames(2)
    with stub.flow() as flow:
        _, got = run(flow, video)
    assert stub.calls("instance", "init") == ["instance 50", "instance 20", "init 0 api 20 45x33 grid 1 level 5"]
    np.testing.assert_array_equal(got, simulated_flow(*video))


# ---- sizes


def test_handles_are_kept_by_size(stub: Stub) -> None:
    with stub.flow() as flow:
        for height, width in [(33, 45), (45, 33), (33, 45), (45, 33)]:
            run(flow, frames(2, height, width))
    assert stub.calls("create", "execute") == [
        *("create 0", "execute 0: 1 to 2, hints off", "create 4", "execute 4: 5 to 6, hints off"),
        *("execute 0: 1 to 2, hints off", "execute 4: 5 to 6, hints off"),
    ]


def test_a_fifth_size_takes_the_place_of_the_one_longest_unused(stub: Stub) -> None:
    with stub.flow() as flow:
        for width in (32, 33, 34, 35, 32, 36, 32):  # handles 0, 4, 8, 12, 16
            run(flow, frames(1, width=width))
            assert stub.live()["handles"] <= 4
        assert stub.calls("create", "destroy buffer 5", "destroy 4")[-4:] == [
            *("create 12", "destroy buffer 5", "destroy 4", "create 16")
        ]
        assert stub.live() == {"contexts": 1, "pushed": 0, "handles": 4, "buffers": 12}
    assert stub.live() == NOTHING


@pytest.mark.parametrize(("width", "height"), [(31, 16), (32, 15), (65, 16), (32, 49)])
def test_size_that_the_gpu_does_not_take_is_refused_with_the_range(stub: Stub, width: int, height: int) -> None:
    stub.c.stub_set_limits(32, 16, 64, 48)
    message = rf"GPU 0 \(Simulated GPU\) takes frames of 32x16 to 64x48 pixels for flow, got {width}x{height}"
    with stub.flow() as flow:
        with pytest.raises(DataError, match=message):
            flow.add(frames(1, height, width)[0])
        assert stub.live()["handles"] == 0
        for good in [(16, 32), (48, 64)]:
            run(flow, frames(2, *good))


def test_frame_of_another_size_within_a_video_is_refused(stub: Stub) -> None:
    with stub.flow() as flow:
        flow.add(frames(1)[0])
        with pytest.raises(DataError, match="a frame of 33x45 follows frames of 45x33"):
            flow.add(frames(1, WIDTH, HEIGHT)[0])


@pytest.mark.parametrize(
    "frame", [np.zeros((33, 45, 3), np.float32), np.zeros((33, 45), np.uint8), np.zeros((33, 45, 4), np.uint8)]
)
def test_frame_that_is_not_rgb_bytes_is_refused(stub: Stub, frame: np.ndarray) -> None:
    with stub.flow() as flow, pytest.raises(ValueError, match=r"expected uint8 \(H, W, 3\), got (float32|uint8) \(33,"):
        flow.add(frame)


# ---- failures

CALLS_OF_A_SESSION = (
    *("nvCreateOpticalFlowCuda", "nvOFSetIOCudaStreams", "nvOFGetCaps", "nvOFInit", "nvOFCreateGPUBufferCuda"),
    *("nvOFGPUBufferGetStrideInfo", "nvOFExecute"),
)


@pytest.mark.parametrize("call", CALLS_OF_A_SESSION)
def test_failing_nvof_call_is_told_by_name_and_status(stub: Stub, call: str) -> None:
    stub.fail(call, 8)
    message = rf"^GPU 0 \(Simulated GPU\): {call} failed: OUT_OF_MEMORY \(8\)"
    with stub.flow() as flow, pytest.raises(NvofError, match=message):
        run(flow, frames(2))


@pytest.mark.parametrize("status", range(3, 12))
def test_every_status_has_its_name(stub: Stub, status: int) -> None:
    names = "DEVICE_DOES_NOT_EXIST INVALID_PTR INVALID_PARAM INVALID_CALL INVALID_VERSION OUT_OF_MEMORY NOT_INITIALIZED"
    name = [*names.split(), "UNSUPPORTED_FEATURE", "GENERIC"][status - 3]
    stub.fail("nvOFExecute", status)
    with stub.flow() as flow, pytest.raises(NvofError, match=rf"nvOFExecute failed: {name} \({status}\)$"):
        run(flow, frames(2))


def test_status_that_no_header_has_is_told_by_its_number(stub: Stub) -> None:
    stub.fail("nvOFExecute", 77)
    with stub.flow() as flow, pytest.raises(NvofError, match=r"nvOFExecute failed: unknown status \(77\)"):
        run(flow, frames(2))


@pytest.mark.parametrize("text", ["engine is busy", "x" * 299])
def test_the_engines_own_words_are_told(stub: Stub, text: str) -> None:
    stub.fail("nvOFInit", 5, text=text)
    with stub.flow() as flow, pytest.raises(NvofError, match=rf"nvOFInit failed: INVALID_PARAM \(5\): {text[:255]}$"):
        run(flow, frames(1))


@pytest.mark.parametrize("call", ["cuMemcpy2D_v2", "cuCtxSynchronize", "cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2"])
def test_failing_cuda_call_is_told_by_name_and_error(stub: Stub, call: str) -> None:
    flow = stub.flow()
    stub.fail(call, 1)
    with pytest.raises(NvofError, match=rf"{call} failed: CUDA_ERROR_INVALID_VALUE \(1\)"):
        run(flow, frames(2))


def test_cuda_error_without_a_name_is_told_by_its_number(stub: Stub) -> None:
    stub.fail("cuCtxSynchronize", 4242)
    with stub.flow() as flow, pytest.raises(NvofError, match=r"cuCtxSynchronize failed: unknown \(4242\)"):
        run(flow, frames(2))


@pytest.mark.parametrize("after", range(3))
@pytest.mark.parametrize("call", [*CALLS_OF_A_SESSION, "cuMemcpy2D_v2", "cuCtxSynchronize"])
def test_failing_step_leaves_nothing_behind(stub: Stub, call: str, after: int) -> None:
    with stub.flow() as flow:
        stub.fail(call, after=after)
        with pytest.raises(NvofError, match=call):
            [run(flow, frames(4, width=width)) for width in (45, 46, 47)]
        kept = stub.live()
        assert (kept["pushed"], kept["buffers"]) == (0, 3 * kept["handles"])
    assert stub.live() == NOTHING
    assert [call for call in stub.calls() if "before its buffers" in call or "in use" in call] == []


@pytest.mark.parametrize("call", ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "NvOFAPICreateInstanceCuda"])
def test_failing_constructor_leaves_nothing_behind(stub: Stub, call: str) -> None:
    stub.fail(call)
    with pytest.raises(NvofError, match=f"{call} failed"):
        stub.flow()
    assert stub.live() == NOTHING


def test_close_gives_everything_back_and_can_be_repeated(stub: Stub) -> None:
    flow = stub.flow()
    for width in (45, 46):
        run(flow, frames(2, width=width))
    assert stub.live() == {"contexts": 1, "pushed": 0, "handles": 2, "buffers": 6}
    flow.close()
    flow.close()
    assert stub.live() == NOTHING
    assert stub.calls()[-1] == "release 0"
    assert len(stub.calls("destroy buffer")) == 6


def test_closed_flow_takes_no_frame(stub: Stub) -> None:
    flow = stub.flow()
    flow.close()
    with pytest.raises(RuntimeError, match="NvofFlow: is closed"):
        flow.add(frames(1)[0])


def test_failure_to_free_is_told_and_the_rest_is_freed(stub: Stub) -> None:
    flow = stub.flow()
    run(flow, frames(2))
    stub.fail("nvOFDestroyGPUBufferCuda", after=2)
    with pytest.raises(NvofError, match=r"nvOFDestroyGPUBufferCuda failed: GENERIC \(11\)"):
        flow.close()
    assert stub.live() == {"contexts": 0, "pushed": 0, "handles": 0, "buffers": 1}


def test_failure_to_free_does_not_hide_the_error_before_it(stub: Stub) -> None:
    stub.fail("nvOFDestroy")
    with pytest.raises(DataError, match="follows frames of") as caught, stub.flow() as flow:
        run(flow, [np.zeros((33, 45, 3), np.uint8), np.zeros((45, 33, 3), np.uint8)])
    assert caught.value.__notes__ == ["GPU 0 (Simulated GPU): nvOFDestroy failed: GENERIC (11)"]


# ---- what is missing


def test_nvof_problem_is_empty_where_flow_is_computed(stub: Stub) -> None:
    assert nvof_problem(libraries=stub.libraries) == ""
    assert len(stub.calls("execute")) == 1
    assert stub.live() == NOTHING


def test_library_is_found_under_its_second_name(stub: Stub) -> None:
    assert nvof_problem(libraries=Libraries((str(stub.path),), ("libmissing.so.1", str(stub.path)))) == ""


def test_problem_of_a_machine_without_the_driver(stub: Stub) -> None:
    problem = nvof_problem(libraries=Libraries(("libmissing.so.1",), (str(stub.path),)))
    assert problem.startswith("the NVIDIA driver is missing (libmissing.so.1: ")
    assert problem.endswith("install it, or start the container with docker run --gpus all")


def test_problem_of_a_container_without_the_library(stub: Stub) -> None:
    problem = nvof_problem(libraries=Libraries((str(stub.path),), ("libmissing.so.1", "libmissing.so")))
    assert problem.startswith("the driver's optical flow library is missing (libmissing.so.1: ")
    assert "a container needs NVIDIA_DRIVER_CAPABILITIES=compute,utility,video" in problem


def test_problem_of_a_machine_without_a_gpu(stub: Stub) -> None:
    stub.c.stub_set_num_gpus(0)
    assert nvof_problem(libraries=stub.libraries) == (
        "GPU 0: cuInit failed: CUDA_ERROR_NO_DEVICE (100); see whether nvidia-smi lists a GPU, and CUDA_VISIBLE_DEVICES"
    )


def test_problem_of_a_gpu_number_too_high(stub: Stub) -> None:
    assert nvof_problem(1, stub.libraries) == (
        "GPU 1: cuDeviceGet failed: CUDA_ERROR_INVALID_DEVICE (101); "
        "there are fewer GPUs; see nvidia-smi and CUDA_VISIBLE_DEVICES"
    )


def test_problem_of_a_driver_too_old(stub: Stub) -> None:
    stub.c.stub_set_newest_api(0x10)
    assert nvof_problem(libraries=stub.libraries) == (
        "NvOFAPICreateInstanceCuda failed: INVALID_VERSION (7); NVOF needs a driver from 450.51 on"
    )


def test_problem_of_a_library_that_is_another(stub: Stub) -> None:
    other = _imaging.__file__
    problem = nvof_problem(libraries=Libraries((str(stub.path),), (other,)))
    assert problem == f"{other} has no function NvOFAPICreateInstanceCuda; NVOF needs a driver from 450.51 on"


@pytest.mark.parametrize("call", ["nvCreateOpticalFlowCuda", "nvOFInit"])
@pytest.mark.parametrize(("status", "name"), [(1, "OF_NOT_AVAILABLE"), (2, "UNSUPPORTED_DEVICE")])
def test_problem_of_a_gpu_without_the_engine(stub: Stub, call: str, status: int, name: str) -> None:
    stub.c.stub_set_gpu_name(b"Tesla V100-SXM2-16GB")
    stub.fail(call, status)
    assert nvof_problem(libraries=stub.libraries) == (
        f"GPU 0 (Tesla V100-SXM2-16GB): {call} failed: {name} ({status}); "
        "this GPU has no optical flow engine: Turing GPUs (but TU117) and later ones have"
    )
    assert stub.live() == NOTHING


def test_problem_of_a_mig_slice_without_the_engine(stub: Stub) -> None:
    stub.c.stub_set_gpu_name(b"NVIDIA H100 80GB HBM3 MIG 1g.10gb")
    stub.fail("nvCreateOpticalFlowCuda", 1)
    assert nvof_problem(libraries=stub.libraries) == (
        "GPU 0 (NVIDIA H100 80GB HBM3 MIG 1g.10gb): nvCreateOpticalFlowCuda failed: OF_NOT_AVAILABLE (1); "
        "this MIG slice has no optical flow engine: take one of a +me profile, or the whole GPU"
    )


def test_problem_of_an_engine_that_is_there_and_fails(stub: Stub) -> None:
    stub.fail("nvOFExecute")
    assert nvof_problem(libraries=stub.libraries) == "GPU 0 (Simulated GPU): nvOFExecute failed: GENERIC (11)"


def test_num_gpus_is_what_the_driver_counts_and_0_without_one(stub: Stub) -> None:
    assert num_gpus(stub.libraries) == 1
    assert num_gpus(Libraries(("libmissing.so.1",), ())) == 0
    stub.fail("cuDeviceGetCount")
    assert num_gpus(stub.libraries) == 0
