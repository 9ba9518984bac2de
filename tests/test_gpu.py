"""What only an NVIDIA GPU can show: the CUDA paths of training and evaluation against the CPU's."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tiny import BASE, run_evaluate, run_train
from tiny_onnx import conv3d_model

from action_recognition.clip.contract import Contract, Stream
from action_recognition.clip.transform import scale_and_shift, to_input
from action_recognition.config import ModelSpec, OptimSpec
from action_recognition.data.loader import Batch, ToInput, TrainingPlan
from action_recognition.data.prefetch import Prefetcher
from action_recognition.deploy.engine import Settings, Target, build_engine, read_source
from action_recognition.deploy.executor import open_executor
from action_recognition.models import build_model
from action_recognition.preprocess.nvof import NvofFlow, nvof_problem
from action_recognition.training.loop import Run, State, train_one_epoch
from action_recognition.training.optim import Precision, Schedule, make_optimizer, memory_format

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use"),
]
CUDA = ("train.device=cuda", "dataset.batch_size=4")
STREAM = Stream(8, (0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
CONTRACT = Contract("rgb", "3d", {"rgb": STREAM}, 32, 32, False, 36, "consecutive", 1, "max_rad", ("a", "b"))


def random_clips(num_clips: int) -> torch.Tensor:
    return torch.randint(
        0, 256, (num_clips, 8, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def test_to_input_on_the_gpu_equals_numpy() -> None:
    clips = random_clips(2)
    scale, shift = (np.array(c, np.float32) for c in scale_and_shift(STREAM))
    on_gpu = ToInput(CONTRACT, torch.device("cuda"))({"rgb": clips})[0].cpu().numpy()
    np.testing.assert_allclose(on_gpu, to_input(clips.numpy(), scale, shift, True), rtol=1e-5, atol=1e-5)


def run_on_gpu(precision: str, layout: str = "auto") -> Run:
    """The 3D ResNet-18 with clipped gradients."""
    device, how = torch.device("cuda"), Precision(precision, "cuda")
    torch.manual_seed(0)
    model = build_model(ModelSpec(model_type="rgb", input_type="3d", rgb_seq_length=8, dropout_ratio=0.0), 2)
    order = memory_format(layout, how, is_3d=True)
    optimizer = make_optimizer(model.to(device).to(memory_format=order), OptimSpec())
    to_model = ToInput(CONTRACT, device, order)
    return Run(model, optimizer, Schedule(optimizer, OptimSpec()), how.scaler(), how, to_model, device, 1.0)


def pinned_batches(count: int) -> list[Batch]:
    labels, weights = torch.tensor([0, 1, 0, 1]), torch.full((4,), 0.25)
    batch = Batch({"rgb": random_clips(4)}, labels, weights, [0, 1, 2, 3], list("abcd"))
    return [batch.pin_memory() for _ in range(count)]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_an_epoch_on_the_gpu_never_waits_for_it(precision: str) -> None:
    run, batches = run_on_gpu(precision), Prefetcher(pinned_batches(4), torch.device("cuda"))
    plan, state = TrainingPlan(16, 4, 1, seed=0), State()
    train_one_epoch(run, State(), plan, batches, _Silent())  # allocates, chooses algorithms
    torch.cuda.set_sync_debug_mode("error")
    try:
        train_one_epoch(run, state, plan, batches, _Silent())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (state.tally.clips, state.step) == (16, 4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_epoch_on_the_gpu_has_the_same_loss_in_both_memory_formats(precision: str) -> None:
    losses = []
    for layout in ("contiguous", "channels_last"):
        state = State()
        train_one_epoch(run_on_gpu(precision, layout), state, TrainingPlan(8, 4, 1, 0), pinned_batches(2), _Silent())
        losses.append(state.tally.loss)
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_prefetched_batches_keep_their_pixels_while_the_gpu_is_far_behind() -> None:
    labels, weights = torch.tensor([0]), torch.ones(1)
    batches = [
        Batch({"rgb": torch.full((1, 2**22), i, dtype=torch.uint8)}, labels, weights, [i], [""]).pin_memory()
        for i in range(30)
    ]
    means = []
    for batch in Prefetcher(batches, torch.device("cuda")):
        torch.cuda._sleep(20_000_000)  # about 10 ms, in which the host goes on to the next batches
        means.append(batch.inputs["rgb"].float().mean())
    assert [mean.item() for mean in means] == list(range(30))


def test_a_run_on_the_gpu_can_be_evaluated_on_the_cpu(tmp_path: Path, make_tree: Callable[..., Path]) -> None:
    root = make_tree(tmp_path / "data", {"a": 4, "b": 4})
    history, _ = run_train(root, tmp_path / "results", *BASE, *CUDA, "train.num_epochs=2", "train.precision=bf16")
    checkpoint = tmp_path / "results/train/ar_model_latest.pth"
    on_cpu, _ = run_evaluate(checkpoint, root, tmp_path / "cpu")
    on_gpu, _ = run_evaluate(checkpoint, root, tmp_path / "gpu", "evaluate.device=cuda")
    assert len(history) == 2
    assert history[1]["peak_gpu_mib"] > 1
    assert on_gpu["confusion_matrix"] == on_cpu["confusion_matrix"]
    assert on_gpu["loss"] == pytest.approx(on_cpu["loss"], rel=1e-2)


def test_a_resumed_run_on_the_gpu_goes_on_where_it_was(tmp_path: Path, make_tree: Callable[..., Path]) -> None:
    root = make_tree(tmp_path / "data", {"a": 4, "b": 4})
    run_train(root, tmp_path / "results", *BASE, *CUDA, "train.num_epochs=1")
    history, lines = run_train(root, tmp_path / "results", *BASE, *CUDA, "train.num_epochs=2")
    assert [row["epoch"] for row in history] == [0, 1]
    assert any("resuming" in line and "epoch 1" in line for line in lines)


def moving_texture(num_frames: int, step_px: tuple[float, float]) -> np.ndarray:
    """(T, 240, 320, 3) uint8: a sum of waves, so that it can be moved by parts of a pixel without interpolation."""
    rng = np.random.default_rng(0)
    wavelength_px, direction = rng.uniform(6, 60, 60), rng.uniform(0, 2 * np.pi, 60)
    waves = 2 * np.pi / wavelength_px * np.stack([np.cos(direction), np.sin(direction)])  # (x and y, wave)
    phases = rng.uniform(0, 2 * np.pi, (3, 60))  # of each colour
    y, x = np.mgrid[:240, :320]
    frames = []
    for t in range(num_frames):
        where = np.stack([x - t * step_px[0], y - t * step_px[1]], axis=-1) @ waves  # (H, W, wave)
        height = np.stack([np.cos(where + phase).sum(axis=-1) for phase in phases], axis=-1)
        frames.append(np.clip(127.5 + 10 * height, 0, 255).astype(np.uint8))
    return np.stack(frames)


def mean_error_px(flow: np.ndarray | None, step_px: tuple[float, float]) -> float:
    """Mean distance between the vectors and the true one, at least 24 pixels from the borders."""
    assert flow is not None
    return float(np.linalg.norm(flow - np.array(step_px), axis=-1)[24:-24, 24:-24].mean())


@pytest.fixture
def nvof() -> None:
    if problem := nvof_problem():
        pytest.skip(f"needs NVIDIA Optical Flow hardware: {problem}")


@pytest.mark.usefixtures("nvof")
@pytest.mark.parametrize("preset", ["slow", "fast"])
@pytest.mark.parametrize("step_px", [(3.0, -2.0), (-1.5, 0.75), (0.0, 0.0)])
def test_nvof_measures_a_known_motion_with_its_signs(preset: str, step_px: tuple[float, float]) -> None:
    with NvofFlow(preset) as method:
        first, *flows = [method.add(frame) for frame in moving_texture(4, step_px)]
    assert first is None
    assert [mean_error_px(flow, step_px) < 0.25 for flow in flows] == [True] * 3


@pytest.mark.usefixtures("nvof")
def test_nvof_of_a_video_is_not_drawn_to_the_motion_of_the_one_before() -> None:
    with NvofFlow("fast") as method:
        for frame in moving_texture(4, (9.0, 0.0)):
            method.add(frame)
        method.start()
        _, flow = [method.add(frame) for frame in moving_texture(2, (-3.0, 2.0))]
    assert mean_error_px(flow, (-3.0, 2.0)) < 0.25


@pytest.fixture
def conv3d_plan(tmp_path: Path) -> Path:
    """A plan for batches of 1 to 4, and the ONNX file beside it."""
    for library in ("tensorrt", "cuda.bindings.runtime", "onnxruntime"):
        pytest.importorskip(library, reason="needs TensorRT, cuda-python and ONNX Runtime: pip install .[trt,deploy]")
    onnx.save(conv3d_model(), tmp_path / "model.onnx")
    settings = Settings(max_batch=4, strict_fp32=True)
    target = Target(tmp_path / "model.plan", tmp_path / "timing", tmp_path / "layers.json")
    build_engine(read_source(tmp_path / "model.onnx", settings), target, settings)
    return target.plan


def conv3d_clips(batch: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"input_rgb": rng.normal(size=(batch, 3, 8, 32, 32)).astype(np.float32)}


@pytest.mark.trt
def test_a_plan_on_the_gpu_gives_what_onnx_runtime_gives_on_the_cpu(
    conv3d_plan: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = (1, 3, 4, 3, 1, 4, 4)
    with open_executor(conv3d_plan) as run, open_executor(conv3d_plan.with_suffix(".onnx")) as on_cpu:
        for seed, batch in enumerate(sizes):
            clips = conv3d_clips(batch, seed)
            np.testing.assert_allclose(run(clips)["fc_pred"], on_cpu(clips)["fc_pred"], rtol=1e-3, atol=1e-3)
    assert "without a CUDA graph" not in caplog.text


@pytest.mark.trt
def test_batches_that_overlap_on_the_gpu_keep_their_results(conv3d_plan: Path) -> None:
    sizes = [1 + seed % 4 for seed in range(40)]
    with open_executor(conv3d_plan) as run:
        one_by_one = [run(conv3d_clips(batch, seed))["fc_pred"] for seed, batch in enumerate(sizes)]
        batches = (conv3d_clips(batch, seed) for seed, batch in enumerate(sizes))
        for expected, outputs in zip(one_by_one, run.run_all(batches), strict=True):
            np.testing.assert_array_equal(outputs["fc_pred"], expected)


@pytest.mark.trt
def test_a_closed_plan_leaves_no_memory_taken_on_the_gpu(conv3d_plan: Path) -> None:
    def free_bytes_after_use() -> int:
        with open_executor(conv3d_plan) as run:
            run(conv3d_clips(4, 0))
        return torch.cuda.mem_get_info()[0]

    free_bytes_after_use()  # what CUDA itself takes, it keeps
    before = free_bytes_after_use()
    assert min(free_bytes_after_use() for _ in range(10)) > before - 2**20


class _Silent:
    def step_done(self, *_: object) -> None: ...
    def epoch_done(self, *_: object) -> None: ...
