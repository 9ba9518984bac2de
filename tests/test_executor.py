"""Executors: results, what is refused and how, and, on the SIMULATED GPU, that nothing is lost and nothing is early.

The simulation (simulated_tensorrt.py) stands in for TensorRT and CUDA; what a GPU says is in test_gpu.py.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from simulated_tensorrt import TENSORRT, Gpu, Plan, cudaError_t, install
from tiny_onnx import CONTRACT, JOINT, RGB, clips, expected, onnx_bytes, onnx_model

from action_recognition.deploy.description import Description
from action_recognition.deploy.executor import OnnxExecutor, TensorRTExecutor, gpu_id, open_executor
from action_recognition.errors import CheckpointError, DeployError, SpecError

onnxruntime = pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install .[deploy]")
FIRST_BATCH = [
    "cudaSetDevice",
    "cudaMemcpyAsync",  # host to device
    "cudaEventRecord",
    "cudaStreamWaitEvent",
    "cudaMemcpyAsync",  # into the bound buffer
    "create_execution_context",
    "set_optimization_profile_async",
    "set_input_shape",
    "set_tensor_address",
    "set_tensor_address",
    "infer_shapes",
    "execute_async_v3",
    "cudaStreamSynchronize",
    "cudaStreamBeginCapture",
    "execute_async_v3",
    "cudaStreamEndCapture",
    "cudaGraphInstantiate",
    "cudaGraphDestroy",
    "cudaGraphLaunch",
    "cudaMemcpyAsync",  # device to host
    "cudaEventRecord",
    "cudaEventSynchronize",
]
LATER_BATCH = [
    "cudaSetDevice",
    "cudaMemcpyAsync",
    "cudaEventRecord",
    "cudaStreamWaitEvent",
    "cudaMemcpyAsync",
    "cudaGraphLaunch",
    "cudaMemcpyAsync",
    "cudaEventRecord",
    "cudaEventSynchronize",
]


@pytest.fixture(params=["lazy", "eager"])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return install(monkeypatch, Gpu(is_lazy=request.param == "lazy"))


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_bytes())
    return path


def write_plan(
    path: Path,
    rows: dict[str, tuple[int, ...]] = RGB,
    batches: tuple[int, int, int] = (1, 2, 5),
    content: bytes | None = None,
    version: str = TENSORRT.__version__,
    on: str = "Simulated GPU",
    has_host_code: bool = False,
) -> Path:
    profiles = {name: [[n, *row] for n in batches] for name, row in rows.items()}
    path.write_bytes(Plan(content or onnx_bytes(rows), profiles, version, on, has_host_code).to_bytes())
    return path


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return write_plan(tmp_path / "model.plan")


# --- ONNX Runtime ---


@pytest.mark.parametrize("rows", [RGB, JOINT], ids=["rgb", "joint"])
@pytest.mark.parametrize("batch", [1, 3])
def test_an_onnx_file_gives_what_numpy_computes(tmp_path: Path, rows: dict[str, tuple[int, ...]], batch: int) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_bytes(rows))
    inputs = clips(batch, rows)
    with OnnxExecutor(path) as run:
        outputs = run(inputs)
        assert run.inputs == {name: (None, *row) for name, row in rows.items()}
    assert list(outputs) == ["fc_pred"]
    np.testing.assert_allclose(outputs["fc_pred"], expected(inputs), rtol=1e-4, atol=1e-4)


def test_an_onnx_file_tells_its_shapes_and_description(onnx_file: Path) -> None:
    with open_executor(onnx_file) as run:
        assert (run.inputs, run.outputs) == ({"input_rgb": (None, 3, 2, 4, 4)}, {"fc_pred": (None, 3)})
        assert run.max_batch is None
        assert run.description == Description(CONTRACT, "logits", "fp32")


def test_an_onnx_file_of_a_fixed_batch_takes_no_other(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(onnx_bytes(batch=2))
    with OnnxExecutor(tmp_path / "model.onnx") as run:
        assert run.max_batch == 2
        with pytest.raises(ValueError, match=r"input_rgb: got float32 \(3, 3, 2, 4, 4\); .* float32 \(2, 3, 2, 4, 4\)"):
            run(clips(3))


def test_run_all_of_an_onnx_file_keeps_the_order(onnx_file: Path) -> None:
    batches = [clips(n, seed=n) for n in (1, 2, 1)]
    with OnnxExecutor(onnx_file) as run:
        for inputs, outputs in zip(batches, run.run_all(batches), strict=True):
            np.testing.assert_allclose(outputs["fc_pred"], expected(inputs), rtol=1e-4, atol=1e-4)


def test_an_onnx_file_gets_the_threads_asked_for_or_the_cores_of_the_process(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {3, 4, 7}, raising=False)
    options = [
        run._session.get_session_options().intra_op_num_threads
        for run in (OnnxExecutor(onnx_file, num_threads=2), OnnxExecutor(onnx_file))
    ]
    assert options == [2, 3]


def test_a_closed_onnx_executor_says_so(onnx_file: Path) -> None:
    run = OnnxExecutor(onnx_file)
    run.close()
    run.close()
    with pytest.raises(RuntimeError, match="OnnxExecutor: is closed"):
        run(clips(1))


def test_an_onnx_file_with_weights_elsewhere_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(onnx_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    monkeypatch.chdir(tmp_path)  # where ONNX Runtime looks for the files of a model that comes as bytes
    with pytest.raises(DeployError, match=r"model.onnx: keeps weights in other files \(weights.bin\).* as one file"):
        OnnxExecutor(path)


def test_an_onnx_file_with_weights_elsewhere_is_refused_without_onnx_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(onnx_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(DeployError, match=r"model.onnx: ONNX Runtime can't run it: .*[Ee]xternal data"):
        OnnxExecutor(path)


@pytest.mark.parametrize(("content", "message"), [(b"", "no graph in it"), (b"no protobuf", "is not an ONNX model")])
def test_what_is_no_onnx_model_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(DeployError, match=message):
        OnnxExecutor(tmp_path / "model.onnx")


def test_an_onnx_file_cut_short_is_refused(onnx_file: Path) -> None:
    onnx_file.write_bytes(onnx_file.read_bytes()[:-700])
    with pytest.raises(DeployError, match=r"model.onnx: (is not an ONNX model|ONNX Runtime can't run it)"):
        OnnxExecutor(onnx_file)


def test_an_onnx_file_of_half_floats_is_refused(tmp_path: Path) -> None:
    onnx.save(onnx_model(dtype=TensorProto.FLOAT16), tmp_path / "model.onnx")
    with pytest.raises(DeployError, match=r"input_rgb is tensor\(float16\); export it with float32"):
        OnnxExecutor(tmp_path / "model.onnx")


def test_an_onnx_file_whose_half_float_constants_can_not_be_folded_opens_without_a_word(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, helper = onnx_model(), onnx.helper
    for name in ("a", "b"):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((1, 3), np.float16), name))
    model.graph.node[-1].output[0] = "sum"
    difference = helper.make_node("Sub", ["a", "b"], ["difference"])  # of half floats, which a CPU does in float32
    as_float = helper.make_node("Cast", ["difference"], ["zero"], to=TensorProto.FLOAT)
    model.graph.node.extend([difference, as_float, helper.make_node("Add", ["sum", "zero"], ["fc_pred"])])
    onnx.save(model, tmp_path / "model.onnx")
    with OnnxExecutor(tmp_path / "model.onnx") as run:
        np.testing.assert_allclose(run(clips(1))["fc_pred"], expected(clips(1)), rtol=1e-4, atol=1e-4)
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match=r"nothing.onnx: can't be read: No such file"):
        open_executor(tmp_path / "nothing.onnx")


def test_without_onnx_runtime_the_way_to_get_it_is_told(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DeployError, match=r"ONNX Runtime is not installed: pip install onnxruntime$"):
        OnnxExecutor(onnx_file)


def test_without_the_cuda_part_of_onnx_runtime_cuda_is_refused(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeployError, match=r"has no CUDA part \(it has CPUExecutionProvider\).*onnxruntime-gpu"):
        OnnxExecutor(onnx_file, device="cuda:0")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_onnx_runtime_that_falls_back_to_the_cpu_in_silence_is_refused(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", _OnTheCpu)
    with pytest.raises(DeployError, match="could not use GPU 1; are its driver, CUDA and cuDNN the versions"):
        OnnxExecutor(onnx_file, device="cuda:1")


class _OnTheCpu:
    def __init__(self, content: bytes, options: object, providers: list[object]) -> None:
        assert providers == [("CUDAExecutionProvider", {"device_id": 1}), "CPUExecutionProvider"]

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


def test_a_broken_description_is_named(tmp_path: Path) -> None:
    model = onnx_model()
    next(entry for entry in model.metadata_props if entry.key == "output").value = "scores"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(DeployError, match=r"model.onnx: output 'scores' is not one of logits, softmax"):
        OnnxExecutor(tmp_path / "model.onnx")


def test_an_onnx_file_without_a_contract_has_no_description(tmp_path: Path) -> None:
    onnx.save(onnx_model(contract=None), tmp_path / "model.onnx")
    with OnnxExecutor(tmp_path / "model.onnx") as run:
        assert run.description is None


BLOCKED = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, NoTorch())
import numpy as np
from action_recognition.deploy.executor import OnnxExecutor
with OnnxExecutor(sys.argv[1]) as run:
    print(run({"input_rgb": np.zeros((2, 3, 2, 4, 4), np.float32)})["fc_pred"].tolist(), "torch" in sys.modules)
"""


def test_an_onnx_file_runs_where_there_is_no_torch(onnx_file: Path) -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED, onnx_file], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]] False\n", 0), done.stderr


def test_a_sealed_onnx_file_opens_with_its_key_only(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cryptography", reason="needs cryptography: pip install .[crypto]")
    from action_recognition.sealing import seal

    monkeypatch.delenv("AR_ENCRYPTION_KEY", raising=False)
    onnx_file.write_bytes(seal(onnx_file.read_bytes(), "right"))
    inputs = clips(1)
    with open_executor(onnx_file, key="right") as run:
        np.testing.assert_allclose(run(inputs)["fc_pred"], expected(inputs), rtol=1e-4, atol=1e-4)
    with pytest.raises(CheckpointError, match=r"model.onnx: can't be decrypted"):
        open_executor(onnx_file, key="wrong")
    with pytest.raises(SpecError, match=r"model.onnx: is encrypted; set AR_ENCRYPTION_KEY"):
        open_executor(onnx_file)


# --- what is refused, by all executors alike ---

ROW = (3, 2, 4, 4)
REFUSED = {
    "no inputs": ({}, r"inputs: got none; the model takes input_rgb"),
    "another name": ({"rgb": np.zeros((1, *ROW), np.float32)}, r"inputs: got rgb; the model takes input_rgb"),
    "float64": ({"input_rgb": np.zeros((1, *ROW))}, r"input_rgb: got float64 \(1, 3, 2, 4, 4\); .* float32 \(N, 3"),
    "a list": ({"input_rgb": [0.0]}, r"input_rgb: got list; the model takes float32 \(N, 3, 2, 4, 4\)"),
    "no batch": ({"input_rgb": np.zeros(ROW, np.float32)}, r"input_rgb: got float32 \(3, 2, 4, 4\)"),
    "another size": ({"input_rgb": np.zeros((1, 3, 2, 4, 5), np.float32)}, r"input_rgb: got float32 \(1, 3, 2, 4, 5\)"),
    "an empty batch": ({"input_rgb": np.zeros((0, *ROW), np.float32)}, r"input_rgb: got float32 \(0, 3, 2, 4, 4\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_inputs_that_do_not_fit_an_onnx_file_are_refused(onnx_file: Path, case: str) -> None:
    inputs, message = REFUSED[case]
    with OnnxExecutor(onnx_file) as run, pytest.raises(ValueError, match=message):
        run(inputs)


@pytest.mark.parametrize("case", REFUSED)
def test_inputs_that_do_not_fit_a_plan_are_refused_and_the_next_are_taken(plan: Path, gpu: Gpu, case: str) -> None:
    inputs, message = REFUSED[case]
    with TensorRTExecutor(plan) as run:
        for _ in range(3):  # more often than there are places for batches
            with pytest.raises(ValueError, match=message):
                run(inputs)
        assert run(clips(1))["fc_pred"].shape == (1, 3)


def test_inputs_of_two_batch_sizes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(onnx_bytes(JOINT))
    inputs = {"input_rgb": clips(2, JOINT)["input_rgb"], "input_of": clips(3, JOINT)["input_of"]}
    with (
        OnnxExecutor(tmp_path / "model.onnx") as run,
        pytest.raises(ValueError, match=r"the same batch, got \{'input_rgb': 2, 'input_of': 3\}"),
    ):
        run(inputs)


@pytest.mark.parametrize("batch", [1, 6])
def test_a_batch_outside_the_profile_is_refused(tmp_path: Path, gpu: Gpu, batch: int) -> None:
    path = write_plan(tmp_path / "model.plan", batches=(2, 2, 5))
    with (
        TensorRTExecutor(path) as run,
        pytest.raises(ValueError, match=rf"batch: got {batch}; the plan was built for 2 to 5"),
    ):
        run(clips(batch))


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cpu:0", "", "cuda0"])
def test_a_device_of_another_form_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match=rf"device: '{device}' is not cpu, cuda or cuda:N"):
        gpu_id(device)


def test_devices_are_read() -> None:
    assert [gpu_id(device) for device in ("cpu", "cuda", "cuda:0", "cuda:12")] == [None, 0, 0, 12]


def test_a_suffix_that_no_executor_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match=r"model.pt: must end in .onnx or, for a TensorRT plan, in .plan, .engine"):
        open_executor(tmp_path / "model.pt")


def test_a_plan_on_the_cpu_is_refused(plan: Path) -> None:
    with pytest.raises(DeployError, match=r"model.plan: a TensorRT plan runs on an NVIDIA GPU only"):
        open_executor(plan, device="cpu")


# --- TensorRT, simulated ---


@pytest.mark.parametrize("rows", [RGB, JOINT], ids=["rgb", "joint"])
def test_a_plan_gives_what_onnx_runtime_gives_at_every_batch_size(
    tmp_path: Path, gpu: Gpu, rows: dict[str, tuple[int, ...]]
) -> None:
    path = write_plan(tmp_path / "model.engine", rows)
    (tmp_path / "model.onnx").write_bytes(onnx_bytes(rows))
    with open_executor(path) as run, OnnxExecutor(tmp_path / "model.onnx") as by_onnx:
        for seed, batch in enumerate((1, 3, 5, 3, 1, 5)):
            inputs = clips(batch, rows, seed)
            np.testing.assert_allclose(run(inputs)["fc_pred"], by_onnx(inputs)["fc_pred"], rtol=1e-5)
    assert gpu.alive() == {}


def test_a_plan_tells_its_shapes_and_what_stands_beside_it(plan: Path, gpu: Gpu) -> None:
    beside = {"contract": CONTRACT.to_plain(), "output": "softmax", "precision": "fp16", "tensorrt": "11.4.0.106"}
    plan.with_name("model.plan.json").write_text(json.dumps(beside))
    with TensorRTExecutor(plan) as run:
        assert (run.inputs, run.outputs) == ({"input_rgb": (None, 3, 2, 4, 4)}, {"fc_pred": (None, 3)})
        assert run.max_batch == 5
        assert run.description == Description(CONTRACT, "softmax", "fp16")


def test_a_plan_without_a_file_beside_it_has_no_description(plan: Path, gpu: Gpu) -> None:
    with TensorRTExecutor(plan) as run:
        assert run.description is None


def test_a_broken_file_beside_the_plan_is_named(plan: Path, gpu: Gpu) -> None:
    plan.with_name("model.plan.json").write_text("{")
    with pytest.raises(DeployError, match=r"model.plan.json: can't be read: "):
        TensorRTExecutor(plan)


def test_a_plan_of_a_fixed_batch_takes_that_one(tmp_path: Path, gpu: Gpu) -> None:
    path = write_plan(tmp_path / "model.plan", batches=(4, 4, 4), content=onnx_bytes(batch=4))
    with TensorRTExecutor(path) as run:
        assert run.inputs == {"input_rgb": (4, 3, 2, 4, 4)}
        inputs = clips(4)
        np.testing.assert_allclose(run(inputs)["fc_pred"], expected(inputs), rtol=1e-4, atol=1e-4)


def test_the_first_batch_is_captured_and_the_next_of_its_size_launched(plan: Path, gpu: Gpu) -> None:
    with TensorRTExecutor(plan) as run:
        gpu.calls.clear()
        run(clips(2))
        first, gpu.calls[:] = list(gpu.calls), []
        run(clips(2))
        later, gpu.calls[:] = list(gpu.calls), []
        run(clips(3))
        of_another_size = list(gpu.calls)
    assert first == FIRST_BATCH
    assert later == LATER_BATCH
    assert of_another_size == FIRST_BATCH


def test_only_the_bytes_of_the_batch_are_copied(plan: Path, gpu: Gpu) -> None:
    with TensorRTExecutor(plan) as run:
        run(clips(2))
    row_bytes = 4 * 3 * 2 * 4 * 4
    assert gpu.copies == [
        ("cudaMemcpyHostToDevice", 2 * row_bytes),
        ("cudaMemcpyDeviceToDevice", 2 * row_bytes),
        ("cudaMemcpyDeviceToHost", 2 * 4 * 3),
    ]


def test_the_next_batch_is_on_its_way_while_one_is_computed(plan: Path, gpu: Gpu) -> None:
    fetched: list[int] = []

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for seed in range(4):
            fetched.append(seed)
            yield clips(2, seed=seed)

    with TensorRTExecutor(plan) as run:
        seen = [list(fetched) for _ in run.run_all(batches())]
        uploads = [i for i, name in enumerate(gpu.calls) if name == "cudaStreamWaitEvent"]
        results = [i for i, name in enumerate(gpu.calls) if name == "cudaEventSynchronize"]
    assert seen == [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert uploads[1] < results[0] < uploads[2] < results[1] < uploads[3] < results[2]


@pytest.mark.parametrize("sizes", [(2, 2, 2, 2, 2), (1, 5, 2, 5, 1), (3,), ()])
def test_run_all_gives_each_batch_its_own_results_in_order(plan: Path, gpu: Gpu, sizes: tuple[int, ...]) -> None:
    batches = [clips(n, seed=seed) for seed, n in enumerate(sizes)]
    with TensorRTExecutor(plan) as run:
        outputs = [result["fc_pred"] for result in run.run_all(iter(batches))]
    assert len(outputs) == len(batches)
    for inputs, result in zip(batches, outputs, strict=True):  # after close: the results are the caller's own
        np.testing.assert_allclose(result, expected(inputs), rtol=1e-4, atol=1e-4)
    assert gpu.alive() == {}


def test_inputs_may_be_overwritten_as_soon_as_the_next_are_asked_for(plan: Path, gpu: Gpu) -> None:
    buffer = np.empty((2, *ROW), np.float32)

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for seed in range(5):
            buffer[:] = clips(2, seed=seed)["input_rgb"]
            yield {"input_rgb": buffer}

    with TensorRTExecutor(plan) as run:
        outputs = [result["fc_pred"] for result in run.run_all(batches())]
    for seed, result in enumerate(outputs):
        np.testing.assert_allclose(result, expected(clips(2, seed=seed)), rtol=1e-4, atol=1e-4)


def test_clips_need_not_lie_in_one_piece(plan: Path, gpu: Gpu) -> None:
    inputs = {"input_rgb": np.moveaxis(clips(2)["input_rgb"].copy(), 3, 4)}
    assert not inputs["input_rgb"].flags.c_contiguous
    with TensorRTExecutor(plan) as run:
        np.testing.assert_allclose(run(inputs)["fc_pred"], expected(inputs), rtol=1e-4, atol=1e-4)


def test_run_all_left_halfway_leaves_a_working_executor(plan: Path, gpu: Gpu) -> None:
    with TensorRTExecutor(plan) as run:
        for _ in range(3):
            for _ in run.run_all(clips(1, seed=seed) for seed in range(5)):
                break
        np.testing.assert_allclose(run(clips(2))["fc_pred"], expected(clips(2)), rtol=1e-4, atol=1e-4)
    assert gpu.alive() == {}


def test_a_call_between_the_results_of_run_all_disturbs_neither(plan: Path, gpu: Gpu) -> None:
    with TensorRTExecutor(plan) as run:
        for seed, result in enumerate(run.run_all(clips(2, seed=seed) for seed in range(4))):
            between = clips(2, seed=100 + seed)
            np.testing.assert_allclose(run(between)["fc_pred"], expected(between), rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(result["fc_pred"], expected(clips(2, seed=seed)), rtol=1e-4, atol=1e-4)


def test_a_source_of_batches_that_uses_the_plan_itself_is_refused_when_no_place_is_left(plan: Path, gpu: Gpu) -> None:
    with TensorRTExecutor(plan) as run:
        by_itself = ({"input_rgb": clips(1)["input_rgb"] + run(clips(1))["fc_pred"].max()} for _ in range(3))
        with pytest.raises(RuntimeError, match="used by the source of run_all's batches, with two on their way"):
            list(run.run_all(by_itself))
        assert len(list(run.run_all([clips(1)] * 3))) == 3


def test_an_error_of_the_source_of_batches_is_passed_on_and_leaves_a_working_executor(plan: Path, gpu: Gpu) -> None:
    def batches() -> Iterator[dict[str, np.ndarray]]:
        yield clips(1)
        raise KeyError("camera")

    with TensorRTExecutor(plan) as run:
        with pytest.raises(KeyError, match="camera"):
            list(run.run_all(batches()))
        assert len(list(run.run_all([clips(1)] * 3))) == 3


def test_a_closed_plan_says_so_and_closes_once(plan: Path, gpu: Gpu) -> None:
    run = TensorRTExecutor(plan)
    results = run.run_all([clips(1)] * 2)
    next(results)
    run.close()
    assert gpu.alive() == {}
    run.close()
    for use in (lambda: run(clips(1)), lambda: next(results)):
        with pytest.raises(RuntimeError, match="TensorRTExecutor: is closed"):
            use()


# --- graphs that can't be had ---


@pytest.mark.parametrize(
    ("call", "nth", "message"),
    [
        ("cudaStreamBeginCapture", 1, "cudaStreamBeginCapture: cudaErrorUnknown: text of cudaErrorUnknown"),
        ("execute_async_v3", 2, "TensorRT can't run the plan; TensorRT says: simulated failure of execute_async_v3"),
        ("cudaStreamEndCapture", 1, "cudaStreamEndCapture: cudaErrorUnknown"),
        ("cudaGraphInstantiate", 1, "cudaGraphInstantiate: cudaErrorUnknown"),
    ],
)
def test_where_no_graph_can_be_had_the_plan_runs_without(
    plan: Path, gpu: Gpu, caplog: pytest.LogCaptureFixture, call: str, nth: int, message: str
) -> None:
    gpu.fail(call, nth)
    with TensorRTExecutor(plan) as run:
        for seed in range(3):
            inputs = clips(2, seed=seed)
            np.testing.assert_allclose(run(inputs)["fc_pred"], expected(inputs), rtol=1e-4, atol=1e-4)
        assert "cudaGraphLaunch" not in gpu.calls
        inputs = clips(3)
        np.testing.assert_allclose(run(inputs)["fc_pred"], expected(inputs), rtol=1e-4, atol=1e-4)
        assert gpu.calls.count("cudaGraphLaunch") == 1  # the other batch size has its graph
    assert caplog.records[0].getMessage().startswith(f"{plan}: batch 2 runs without a CUDA graph: ")
    assert message in caplog.text
    assert gpu.alive() == {}


# --- what fails frees what was taken ---

WHILE_OPENING = {
    "cudaStreamCreateWithFlags": 2,
    "cudaMalloc": 5,
    "cudaMallocHost": 4,
    "cudaEventCreateWithFlags": 4,
}


@pytest.mark.parametrize(
    ("call", "nth"), [(name, n) for name, last in WHILE_OPENING.items() for n in range(1, last + 1)]
)
def test_a_call_that_fails_while_opening_is_named_and_everything_freed(
    plan: Path, gpu: Gpu, call: str, nth: int
) -> None:
    gpu.fail(call, nth, cudaError_t.cudaErrorMemoryAllocation)
    with pytest.raises(
        DeployError, match=rf"^{call}: cudaErrorMemoryAllocation: text of cudaErrorMemoryAllocation; the GPU is full"
    ) as caught:
        TensorRTExecutor(plan)
    del caught
    assert gpu.calls.count(call) == nth
    assert gpu.alive() == {}


def test_opening_makes_no_more_calls_than_the_failures_above_cover(plan: Path, gpu: Gpu) -> None:
    with TensorRTExecutor(plan):
        assert {name: gpu.calls.count(name) for name in WHILE_OPENING} == WHILE_OPENING


RUNNING = {
    "cudaMemcpyAsync": 3,
    "cudaEventRecord": 2,
    "cudaStreamWaitEvent": 1,
    "cudaStreamSynchronize": 1,
    "cudaGraphLaunch": 1,
    "cudaEventSynchronize": 1,
}


@pytest.mark.parametrize(("call", "nth"), [(name, n) for name, last in RUNNING.items() for n in range(1, last + 1)])
def test_a_cuda_call_that_fails_while_running_is_named_and_everything_freed(
    plan: Path, gpu: Gpu, call: str, nth: int
) -> None:
    gpu.fail(call, nth, cudaError_t.cudaErrorIllegalAddress)
    with (
        TensorRTExecutor(plan) as run,
        pytest.raises(DeployError, match=rf"^{call}: cudaErrorIllegalAddress: text of cudaErrorIllegalAddress$"),
    ):
        run(clips(1))
    assert gpu.alive() == {}


RUNNING_TENSORRT = {
    "create_execution_context": "make an execution context for batch 2",
    "set_optimization_profile_async": "set up batch 2",
    "set_input_shape": "set up batch 2",
    "set_tensor_address": "set up batch 2",
    "infer_shapes": "set up batch 2",
    "execute_async_v3": "run the plan",
}


@pytest.mark.parametrize("call", RUNNING_TENSORRT)
def test_a_tensorrt_call_that_fails_is_told_in_its_words_and_the_next_batch_runs(
    plan: Path, gpu: Gpu, call: str
) -> None:
    message = rf"model.plan: TensorRT can't {RUNNING_TENSORRT[call]}; TensorRT says: simulated failure of {call}$"
    inputs = clips(2)
    with TensorRTExecutor(plan) as run:
        for _ in range(3):  # more often than there are places for batches
            gpu.fail(call, gpu.calls.count(call) + 1)
            with pytest.raises(DeployError, match=message):
                run(inputs)
        np.testing.assert_allclose(run(inputs)["fc_pred"], expected(inputs), rtol=1e-4, atol=1e-4)
    assert gpu.alive() == {}


WHILE_CLOSING = {
    "cudaSetDevice": None,
    "cudaFree": "device",
    "cudaFreeHost": "host",
    "cudaStreamDestroy": "Stream",
    "cudaEventDestroy": "Event",
    "cudaGraphExecDestroy": "LaunchableGraph",
}


@pytest.mark.parametrize("call", WHILE_CLOSING)
def test_a_call_that_fails_while_closing_is_told_and_all_else_freed(plan: Path, gpu: Gpu, call: str) -> None:
    run = TensorRTExecutor(plan)
    run(clips(1))
    gpu.fail(call, gpu.calls.count(call) + 1)
    with pytest.raises(DeployError, match=rf"^{call}: cudaErrorUnknown"):
        run.close()
    kind = WHILE_CLOSING[call]
    assert gpu.alive() == ({kind: 1} if kind else {})


def test_what_is_still_running_is_waited_for_before_its_memory_goes(plan: Path, gpu: Gpu) -> None:
    run = TensorRTExecutor(plan)
    results = run.run_all([clips(1)] * 3)
    next(results)
    run._submit(clips(1))  # the simulated GPU fails the test if this runs on freed memory
    run.close()
    assert gpu.alive() == {}


# --- plans that can't be used ---


def test_a_plan_of_another_version_is_refused_with_what_to_do(tmp_path: Path, gpu: Gpu) -> None:
    path = write_plan(tmp_path / "old.plan", version="10.16.1.11")
    message = (
        r"old.plan: can't be used by TensorRT 11.4.0.106 on Simulated GPU: a plan runs with the version and the GPU "
        r"that it was built with; build it here with tools/build_engine.py; .* TensorRT says: the plan is for 10.16"
    )
    with pytest.raises(DeployError, match=message):
        TensorRTExecutor(path)
    assert gpu.alive() == {}


def test_a_plan_for_another_gpu_is_refused_and_the_file_beside_it_named(tmp_path: Path, gpu: Gpu) -> None:
    path = write_plan(tmp_path / "model.plan", on="Another GPU")
    path.with_name("model.plan.json").write_text('{"gpu": "Another GPU"}')
    with pytest.raises(DeployError, match=r"that it was built with, see model.plan.json; build it here"):
        TensorRTExecutor(path)


def test_what_is_no_plan_is_refused(tmp_path: Path, gpu: Gpu) -> None:
    (tmp_path / "model.plan").write_bytes(b"something else")
    with pytest.raises(DeployError, match=r"model.plan: can't be used by TensorRT .* TensorRT says: no plan"):
        TensorRTExecutor(tmp_path / "model.plan")


def test_code_of_a_version_compatible_plan_runs_only_with_trust(tmp_path: Path, gpu: Gpu) -> None:
    path = write_plan(tmp_path / "model.plan", has_host_code=True)
    with pytest.raises(DeployError, match=r"a version-compatible plan that you trust is opened with trust=True"):
        open_executor(path)
    with open_executor(path, trust=True) as run:
        assert run(clips(1))["fc_pred"].shape == (1, 3)


def test_a_plan_with_half_float_inputs_is_refused(tmp_path: Path, gpu: Gpu) -> None:
    content = onnx_model(dtype=TensorProto.FLOAT16).SerializeToString()
    path = write_plan(tmp_path / "model.plan", content=content)
    with pytest.raises(DeployError, match=r"input_rgb is DataType.HALF; export it with float32 inputs and outputs"):
        TensorRTExecutor(path)
    assert gpu.alive() == {}


def test_a_plan_with_another_dynamic_size_is_refused(tmp_path: Path, gpu: Gpu) -> None:
    model = onnx_model()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "frames"
    path = write_plan(tmp_path / "model.plan", content=model.SerializeToString())
    with pytest.raises(DeployError, match=r"input_rgb has shape \(-1, 3, -1, 4, 4\); only axis 0, the batch, may"):
        TensorRTExecutor(path)


# --- machines that can't ---


@pytest.mark.parametrize(("module", "name"), [("tensorrt", "tensorrt"), ("cuda.bindings", "cuda-python")])
def test_a_missing_library_is_named_with_the_way_to_get_it(
    plan: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DeployError, match=rf"^{name} is not installed: pip install {name}$"):
        TensorRTExecutor(plan)


def test_a_tensorrt_that_is_too_old_is_refused(plan: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TENSORRT, "__version__", "8.6.1")
    with pytest.raises(DeployError, match=r"TensorRT 8.6.1 is too old: 10.14 or newer is needed"):
        TensorRTExecutor(plan)


def test_a_gpu_that_is_not_there_is_refused(plan: Path, gpu: Gpu) -> None:
    with pytest.raises(DeployError, match="GPU 1: there are 1, counted from 0; see nvidia-smi"):
        open_executor(plan, device="cuda:1")


def test_an_old_driver_is_told_with_what_to_do(plan: Path, gpu: Gpu) -> None:
    gpu.fail("cudaGetDeviceCount", 1, cudaError_t.cudaErrorInsufficientDriver)
    with pytest.raises(DeployError, match=r"^cudaGetDeviceCount: cudaErrorInsufficientDriver: .* driver is missing"):
        TensorRTExecutor(plan)


def test_a_batch_from_another_thread_goes_to_the_same_gpu(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = install(monkeypatch, Gpu(count=2))
    chosen: list[int] = []
    set_device = sys.modules["cuda.bindings.runtime"].cudaSetDevice

    def cudaSetDevice(device: int) -> tuple[object, ...]:
        chosen.append(device)
        return set_device(device)

    monkeypatch.setattr(sys.modules["cuda.bindings.runtime"], "cudaSetDevice", cudaSetDevice)
    with TensorRTExecutor(plan, device_id=1) as run:
        run(clips(1))
    assert chosen == [1, 1, 1]  # opening, running, closing
    assert gpu.alive() == {}
