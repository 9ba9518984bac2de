"""Building a plan, on the SIMULATED TensorRT: what it is asked for, what is written, and what is left when it fails."""

import json
import runpy
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import onnx
import pytest
from simulated_tensorrt import TENSORRT, Builder, Gpu, Plan, install
from tiny_onnx import CONTRACT, JOINT, RGB, clips, expected, onnx_bytes, onnx_model

from action_recognition.deploy import engine
from action_recognition.deploy.description import Description, describe_plan
from action_recognition.deploy.engine import (
    Settings,
    Target,
    _Progress,
    build_engine,
    read_source,
    timing_cache_path,
    trtexec_command,
)
from action_recognition.deploy.executor import open_executor
from action_recognition.errors import DeployError, SpecError

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install .[deploy]")
TOOL = Path(__file__).parents[1] / "tools/build_engine.py"
main = runpy.run_path(str(TOOL))["main"]
CACHE = "action_recognition/tensorrt-11.4.0.106-Simulated-GPU.timing"


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gpu = install(monkeypatch)
    yield gpu
    gpu.last_config = None
    assert gpu.alive() == {}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_bytes())
    return path


def build(model: Path, settings: Settings | None = None, overwrite: bool = False, **target: Path) -> Path:
    """Build beside the model and return the plan's path."""
    settings = settings or Settings()
    plan = model.with_suffix(".plan")
    build_engine(read_source(model, settings), Target(plan, **target), settings, overwrite)
    return plan


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# --- what is built ---


@pytest.mark.parametrize("rows", [RGB, JOINT], ids=["rgb", "joint"])
def test_a_built_plan_runs_and_gives_what_the_model_gives(
    tmp_path: Path, gpu: Gpu, rows: dict[str, tuple[int, ...]]
) -> None:
    (tmp_path / "model.onnx").write_bytes(onnx_bytes(rows))
    plan = build(tmp_path / "model.onnx", Settings(max_batch=3))
    inputs = clips(3, rows)
    with open_executor(plan) as run:
        assert run.max_batch == 3
        np.testing.assert_allclose(run(inputs)["fc_pred"], expected(inputs), rtol=1e-4, atol=1e-4)


def test_the_profile_covers_both_inputs_of_a_joint_model(tmp_path: Path, gpu: Gpu) -> None:
    (tmp_path / "model.onnx").write_bytes(onnx_bytes(JOINT))
    plan = build(tmp_path / "model.onnx", Settings(2, 3, 8))
    assert Plan.from_bytes(plan.read_bytes()).profiles == {
        "input_rgb": [[2, 3, 2, 4, 4], [3, 3, 2, 4, 4], [8, 3, 2, 4, 4]],
        "input_of": [[2, 2, 2, 4, 4], [3, 2, 2, 4, 4], [8, 2, 2, 4, 4]],
    }


@pytest.mark.parametrize(
    ("given", "batches"),
    [((), (1, 4, 16)), ((1, None, 2), (1, 2, 2)), ((8, None, 16), (8, 8, 16)), ((2, 3, 5), (2, 3, 5))],
)
def test_the_best_batch_is_4_where_it_may_be(given: tuple[int, ...], batches: tuple[int, int, int]) -> None:
    assert Settings(*given).batches == batches


def test_beside_the_plan_stands_what_it_is(model: Path, gpu: Gpu) -> None:
    plan = build(model, Settings(max_batch=4))
    assert json.loads((plan.parent / "model.plan.json").read_text()) == {
        "contract": CONTRACT.to_plain(),
        "output": "logits",
        "precision": "fp32",
        "inputs": {"input_rgb": [[1, 3, 2, 4, 4], [4, 3, 2, 4, 4], [4, 3, 2, 4, 4]]},
        "tensorrt": "11.4.0.106",
        "gpu": "Simulated GPU",
    }
    assert describe_plan(plan) == Description(CONTRACT, "logits", "fp32")
    assert files(plan.parent) == [f"cache/{CACHE}", "model.onnx", "model.plan", "model.plan.json"]


def test_a_model_without_a_contract_gives_a_plan_without(tmp_path: Path, gpu: Gpu) -> None:
    onnx.save(onnx_model(contract=None), tmp_path / "model.onnx")
    plan = build(tmp_path / "model.onnx")
    assert json.loads((tmp_path / "model.plan.json").read_text())["contract"] is None
    assert describe_plan(plan) is None


def test_without_options_tensorrt_keeps_its_own_settings(model: Path, gpu: Gpu) -> None:
    build(model)
    config = gpu.last_config
    assert config is not None
    assert config._flags == {TENSORRT.BuilderFlag.TF32}
    assert config._pools == {}
    assert config.builder_optimization_level == 3
    assert config.hardware_compatibility_level == TENSORRT.HardwareCompatibilityLevel.NONE
    assert config.profiling_verbosity == TENSORRT.ProfilingVerbosity.LAYER_NAMES_ONLY


def test_every_option_reaches_tensorrt(model: Path, gpu: Gpu) -> None:
    options = "--workspace 1.5 --builder-level 5 --version-compatible --hardware-compatible --strict-fp32 --inspector"
    assert main([str(model), *options.split(), str(model.with_name("layers.json"))]) == 0
    config = gpu.last_config
    assert config is not None
    assert config._flags == {TENSORRT.BuilderFlag.VERSION_COMPATIBLE}
    assert config._pools == {TENSORRT.MemoryPoolType.WORKSPACE: 3 * 2**29}
    assert config.builder_optimization_level == 5
    assert config.hardware_compatibility_level == TENSORRT.HardwareCompatibilityLevel.AMPERE_PLUS
    assert config.profiling_verbosity == TENSORRT.ProfilingVerbosity.DETAILED
    layers = json.loads(model.with_name("layers.json").read_text())
    assert layers == {"Layers": ["Cast", "Flatten", "MatMul", "Sum"]}


def test_a_tensorrt_without_the_flag_for_strong_types_is_asked_without(
    model: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags: list[int] = []
    create_network = Builder.create_network

    def note(self: Builder, given: int) -> object:
        flags.append(given)
        return create_network(self, 2)

    build(model)
    monkeypatch.setattr(Builder, "create_network", note)
    build(model, overwrite=True)
    monkeypatch.setattr(TENSORRT, "NetworkDefinitionCreationFlag", object)
    build(model, overwrite=True)
    assert flags == [2, 0]


# --- the timing cache ---


def test_the_timing_cache_is_written_and_read_by_the_next_build(model: Path, gpu: Gpu) -> None:
    cache = model.parent / "cache" / CACHE
    build(model)
    assert cache.read_bytes() == b"cache of Simulated GPU: timed "
    build(model, overwrite=True)
    assert cache.read_bytes() == b"cache of Simulated GPU: timed timed "


def test_a_timing_cache_may_be_anywhere(model: Path, gpu: Gpu) -> None:
    build(model, timing_cache=model.parent / "new/my.cache")
    assert files(model.parent) == ["model.onnx", "model.plan", "model.plan.json", "new/my.cache"]


def test_a_timing_cache_of_another_gpu_is_refused_and_kept(model: Path, gpu: Gpu) -> None:
    cache = model.with_name("other.cache")
    cache.write_bytes(b"cache of Another GPU: timed ")
    with pytest.raises(DeployError, match=r"other.cache: is no timing cache of this TensorRT and GPU; delete it, or"):
        build(model, timing_cache=cache)
    assert cache.read_bytes() == b"cache of Another GPU: timed "
    assert files(model.parent) == ["model.onnx", "other.cache"]


def test_a_timing_cache_that_can_not_be_written_is_told_before_the_build(model: Path, gpu: Gpu) -> None:
    (model.parent / "a_file").touch()
    with pytest.raises(DeployError, match=r"a_file/x.cache: the timing cache can't be written there; .*--timing-cache"):
        build(model, timing_cache=model.parent / "a_file/x.cache")
    assert "build_serialized_network" not in gpu.calls


def stopping(at: float) -> Callable[[float, str], None]:
    """A progress report that ends the build when so much of it is done."""

    def report(done: float, phase: str) -> None:
        if done >= at:
            raise BrokenPipeError("the terminal is gone")

    return report


@pytest.mark.parametrize(("at", "cached"), [(0.5, None), (0.75, b"cache of Simulated GPU: timed ")])
def test_a_build_that_is_stopped_leaves_what_it_has_measured(
    model: Path, gpu: Gpu, at: float, cached: bytes | None
) -> None:
    cache = model.parent / "cache" / CACHE
    with pytest.raises(BrokenPipeError):
        build_engine(read_source(model, Settings()), Target(model.with_suffix(".plan")), on_progress=stopping(at))
    assert (cache.read_bytes() if cache.exists() else None) == cached
    assert not model.with_suffix(".plan").exists()


def test_a_build_that_tensorrt_gives_up_leaves_what_it_has_measured(
    model: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_network = Builder.build_serialized_network
    monkeypatch.setattr(Builder, "build_serialized_network", lambda *given: build_network(*given) and None)
    with pytest.raises(DeployError, match=r"model.onnx: TensorRT can't build it$"):
        build(model, timing_cache=model.with_name("my.cache"))
    assert model.with_name("my.cache").read_bytes() == b"cache of Simulated GPU: timed "
    assert files(model.parent) == ["model.onnx", "my.cache"]


def test_an_error_while_the_measurements_of_a_stopped_build_are_saved_does_not_hide_its_own(
    model: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, write: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine, "write_whole", full)
    with pytest.raises(BrokenPipeError):
        build_engine(read_source(model, Settings()), Target(model.with_suffix(".plan")), on_progress=stopping(0.75))
    assert "the measurements of the build are lost: [Errno 28] No space left on device" in caplog.text


def test_timing_caches_are_named_after_version_and_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    path = timing_cache_path("10.16.1.11", "NVIDIA GeForce RTX 4090 (Laptop)")
    assert path == Path("/caches/action_recognition/tensorrt-10.16.1.11-NVIDIA-GeForce-RTX-4090-Laptop-.timing")


# --- what fails ---


def test_parser_errors_are_all_told(tmp_path: Path, gpu: Gpu) -> None:
    model = onnx_model()
    for i, node in enumerate(list(model.graph.node)[:2]):
        node.op_type, node.name = f"Unknown{i}", f"node_{i}"
    onnx.save(model, tmp_path / "model.onnx")
    lines = r"\n  Unknown0 node_0: no such operator\n  Unknown1 node_1: no such operator"
    with pytest.raises(DeployError, match=rf"model.onnx: TensorRT can't read it:{lines}$"):
        build(tmp_path / "model.onnx")
    assert files(tmp_path) == ["model.onnx"]


def test_a_build_that_fails_is_told_in_tensorrts_words_and_nothing_is_written(model: Path, gpu: Gpu) -> None:
    gpu.fail("build_serialized_network")
    message = r"model.onnx: TensorRT can't build it; TensorRT says: simulated failure of build_serialized_network$"
    with pytest.raises(DeployError, match=message):
        build(model)
    assert files(model.parent) == ["model.onnx"]


def test_a_model_that_does_not_fit_the_gpu_it_is_inspected_on_is_told(model: Path, gpu: Gpu) -> None:
    gpu.fail("deserialize_cuda_engine")
    with pytest.raises(DeployError, match=r"model.onnx: TensorRT can't load what it built; TensorRT says: simulated"):
        build(model, inspector=model.with_name("layers.json"))


@pytest.mark.parametrize("there", ["model.plan", "model.plan.json", "layers.json"])
def test_an_existing_file_is_kept(model: Path, gpu: Gpu, there: str) -> None:
    model.with_name(there).write_text("old")
    with pytest.raises(DeployError, match=rf"{there}: exists already; give another name with -o, or --overwrite"):
        build(model, inspector=model.with_name("layers.json"))
    assert model.with_name(there).read_text() == "old"
    assert gpu.calls == []


def test_overwrite_replaces_plan_and_description(model: Path, gpu: Gpu) -> None:
    build(model, Settings(max_batch=2))
    plan = build(model, Settings(max_batch=3), overwrite=True)
    assert Plan.from_bytes(plan.read_bytes()).profiles["input_rgb"][2][0] == 3
    assert json.loads((model.parent / "model.plan.json").read_text())["inputs"]["input_rgb"][2][0] == 3


def test_a_build_that_fails_leaves_the_old_plan_and_its_description(model: Path, gpu: Gpu) -> None:
    plan = build(model)
    old = plan.read_bytes(), (model.parent / "model.plan.json").read_text()
    gpu.fail("build_serialized_network", 2)
    with pytest.raises(DeployError, match="can't build it"):
        build(model, Settings(max_batch=3), overwrite=True)
    assert (plan.read_bytes(), (model.parent / "model.plan.json").read_text()) == old


def test_a_new_plan_never_stands_beside_the_description_of_the_old_one(
    model: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    plan = build(model)
    monkeypatch.setattr(engine, "write_text", full)
    with pytest.raises(OSError, match="No space left on device"):
        build(model, Settings(max_batch=3), overwrite=True)
    assert Plan.from_bytes(plan.read_bytes()).profiles["input_rgb"][2][0] == 3
    assert describe_plan(plan) is None


def test_the_model_itself_is_never_overwritten(model: Path, gpu: Gpu) -> None:
    source = read_source(model, Settings())
    with pytest.raises(DeployError, match=r"model.onnx: is the model itself; give another name with -o"):
        build_engine(source, Target(model.parent / "." / "model.onnx"), Settings(), overwrite=True)


def test_a_folder_that_is_not_there_is_told_before_the_build(model: Path, gpu: Gpu) -> None:
    with pytest.raises(DeployError, match=r"nowhere: no such folder"):
        build_engine(read_source(model, Settings()), Target(model.parent / "nowhere/model.plan"))
    assert gpu.calls == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_batch": 0}, "batches: must be 1 <= min <= opt <= max, got 0, 4, 16"),
        ({"min_batch": 5, "max_batch": 4}, "batches: must be 1 <= min <= opt <= max, got 5, 5, 4"),
        ({"opt_batch": 17}, "batches: must be 1 <= min <= opt <= max, got 1, 17, 16"),
        ({"builder_level": 6}, "builder level: must be 0 to 5, got 6"),
        ({"workspace_gib": 0.0}, "workspace: must be greater than 0 GiB, got 0.0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(SpecError, match=f"^{message}$"):
        Settings(**settings)  # type: ignore[arg-type]


def test_a_model_of_one_batch_size_takes_no_other(tmp_path: Path, gpu: Gpu) -> None:
    (tmp_path / "model.onnx").write_bytes(onnx_bytes(batch=2))
    with pytest.raises(DeployError, match=r"model.onnx: input_rgb is for batches of 2 only: give that as min, opt and"):
        build(tmp_path / "model.onnx")
    plan = build(tmp_path / "model.onnx", Settings(2, 2, 2))
    with open_executor(plan) as run:
        assert run.inputs == {"input_rgb": (2, 3, 2, 4, 4)}


def test_a_model_with_another_size_that_varies_is_refused(tmp_path: Path) -> None:
    model = onnx_model()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "frames"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(DeployError, match=r"input_rgb has shape \(-1, 3, -1, 4, 4\); only axis 0, the batch, may vary"):
        read_source(tmp_path / "model.onnx", Settings())


def test_a_model_with_weights_elsewhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(onnx_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(DeployError, match=r"model.onnx: keeps weights in other files \(weights.bin\)"):
        read_source(path, Settings())


def test_a_sealed_model_gives_a_sealed_plan(model: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cryptography", reason="needs cryptography: pip install .[crypto]")
    from action_recognition.sealing import is_sealed, seal

    monkeypatch.setenv("AR_ENCRYPTION_KEY", "right")
    model.write_bytes(seal(model.read_bytes(), "right"))
    plan = build(model)
    assert is_sealed(plan.read_bytes())
    with open_executor(plan) as run:
        np.testing.assert_allclose(run(clips(2))["fc_pred"], expected(clips(2)), rtol=1e-4, atol=1e-4)


# --- progress, and Ctrl-C ---


def test_progress_counts_inner_phases_as_parts_of_the_step_they_are_in(model: Path, gpu: Gpu) -> None:
    told: list[tuple[float, str]] = []
    settings = Settings()
    build_engine(
        read_source(model, settings),
        Target(model.with_suffix(".plan")),
        settings,
        on_progress=lambda done, phase: told.append((done, phase)),
    )
    assert told == [
        (0.0, "Building"),
        (0.5, "Building"),
        (0.5, "Timing"),
        (0.625, "Timing"),
        (0.75, "Timing"),
        (0.875, "Timing"),
        (1.0, "Timing"),
        (1.0, "Building"),
    ]


def test_an_error_of_the_progress_bar_ends_the_build_and_is_passed_on(model: Path, gpu: Gpu) -> None:
    def broken(done: float, phase: str) -> None:
        raise BrokenPipeError("the terminal is gone")

    settings = Settings()
    with pytest.raises(BrokenPipeError, match="the terminal is gone"):
        build_engine(read_source(model, settings), Target(model.with_suffix(".plan")), settings, on_progress=broken)
    assert files(model.parent) == ["model.onnx"]


def test_phases_that_were_never_started_do_no_harm() -> None:
    progress = _Progress(lambda done, phase: None)
    assert progress.step("unheard of")
    progress.finish("unheard of")
    progress.cancel()
    assert not progress.step("unheard of")


def test_ctrl_c_ends_the_build_at_the_next_step_and_nothing_is_written(
    model: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps: list[bool] = []
    is_waiting = threading.Event()
    step, wait = _Progress.step, engine.wait

    def waiting(builds: list[Future[object]], timeout: float) -> object:
        is_waiting.set()
        return wait(builds, timeout)

    def interrupted(self: _Progress, name: str) -> bool:
        if not steps:
            is_waiting.wait(30)
            signal.raise_signal(signal.SIGINT)
            self._cancelled.wait(30)  # the main thread hears it while this one, TensorRT's, is at work
        steps.append(step(self, name))
        return steps[-1]

    monkeypatch.setattr(engine, "wait", waiting)
    monkeypatch.setattr(_Progress, "step", interrupted)
    assert main([str(model)]) == 128 + signal.SIGINT
    assert steps == [False]
    assert capsys.readouterr().err.endswith("interrupted\n")
    assert files(model.parent) == ["model.onnx"]


# --- the tool, and trtexec ---


def test_the_tool_tells_the_trtexec_line_and_what_it_made(
    model: Path, gpu: Gpu, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(model), "--max-batch", "8"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == (
        f"the same with trtexec: trtexec --onnx={model} --saveEngine={model.with_suffix('.plan')} --stronglyTyped "
        "--minShapes=input_rgb:1x3x2x4x4 --optShapes=input_rgb:4x3x2x4x4 --maxShapes=input_rgb:8x3x2x4x4 "
        "--builderOptimizationLevel=3"
    )
    assert last.startswith(f"{model.with_suffix('.plan')} is written: batches 1 to 8, best at 4; TensorRT 11.4.0.106, ")


def test_the_trtexec_line_of_a_2d_joint_model_has_four_sizes_an_input_and_every_option(tmp_path: Path) -> None:
    (tmp_path / "my model.onnx").write_bytes(onnx_bytes({"input_rgb": (96, 224, 224), "input_of": (64, 224, 224)}))
    settings = Settings(1, 2, 4, 0.5, 5, True, True, True, True)
    target = Target(Path("out.plan"), Path("t.cache"), Path("layers.json"))
    line = trtexec_command(read_source(tmp_path / "my model.onnx", settings), settings, target)
    assert shlex.split(line) == [
        "trtexec",
        f"--onnx={tmp_path / 'my model.onnx'}",
        "--saveEngine=out.plan",
        "--stronglyTyped",
        "--minShapes=input_rgb:1x96x224x224,input_of:1x64x224x224",
        "--optShapes=input_rgb:2x96x224x224,input_of:2x64x224x224",
        "--maxShapes=input_rgb:4x96x224x224,input_of:4x64x224x224",
        "--builderOptimizationLevel=5",
        "--memPoolSize=workspace:512M",
        "--versionCompatible",
        "--hardwareCompatibilityLevel=ampere+",
        "--noTF32",
        "--profilingVerbosity=detailed",
        "--timingCacheFile=t.cache",
        "--exportLayerInfo=layers.json",
    ]


def test_the_gpu_that_is_asked_for_builds(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gpu = install(monkeypatch, Gpu(count=2))
    assert main([str(model), "--device", "cuda:1"]) == 0
    assert gpu.built_on == 1
    assert " --device=1" in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["--device", "cuda:1"], 1, "error: GPU 1: there are 1, counted from 0; see nvidia-smi\n"),
        (["--device", "gpu"], 2, "error: device: 'gpu' is not cpu, cuda or cuda:N\n"),
        (
            ["--device", "cpu"],
            2,
            "error: --device: a plan is built on the GPU that will run it: cuda or cuda:N, got cpu\n",
        ),
        (["--max-batch", "0"], 2, "error: batches: must be 1 <= min <= opt <= max, got 1, 1, 0\n"),
        (["-o", "nowhere/x.plan"], 1, "error: nowhere: no such folder\n"),
    ],
)
def test_the_tool_tells_what_is_wrong_in_one_line(
    model: Path, gpu: Gpu, capsys: pytest.CaptureFixture[str], arguments: list[str], exit_code: int, message: str
) -> None:
    assert main([str(model), *arguments]) == exit_code
    assert capsys.readouterr().err == message


def test_the_tool_without_tensorrt_tells_how_to_get_it(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert main([str(model)]) == 1
    assert capsys.readouterr().err == "error: tensorrt is not installed: pip install tensorrt\n"
