"""What only an NVIDIA GPU can show: the CUDA paths of training and evaluation against the CPU's."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import BASE, run_evaluate, run_train

from action_recognition.clip.contract import Contract, Stream
from action_recognition.clip.transform import scale_and_shift, to_input
from action_recognition.config import ModelSpec, OptimSpec
from action_recognition.data.loader import Batch, ToInput, TrainingPlan
from action_recognition.models import build_model
from action_recognition.training.loop import Run, State, train_one_epoch
from action_recognition.training.optim import Precision, Schedule, make_optimizer

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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_epoch_on_the_gpu_never_waits_for_it(precision: str) -> None:
    device = torch.device("cuda")
    model = build_model(ModelSpec(model_type="rgb", input_type="3d", rgb_seq_length=8), 2).to(device)
    optimizer = make_optimizer(model, OptimSpec(), device)
    how = Precision(precision, "cuda")
    run = Run(
        model, optimizer, Schedule(optimizer, OptimSpec()), how.scaler(), how, ToInput(CONTRACT, device), device, 1.0
    )
    labels, weights = torch.tensor([0, 1, 0, 1]), torch.full((4,), 0.25)
    batches = [
        Batch({"rgb": random_clips(4)}, labels, weights, [0, 1, 2, 3], list("abcd")).pin_memory() for _ in range(4)
    ]
    plan, state = TrainingPlan(16, 4, 1, seed=0), State()
    train_one_epoch(run, state, plan, batches[:1], _Silent())  # allocates, chooses algorithms
    torch.cuda.set_sync_debug_mode("error")
    try:
        train_one_epoch(run, State(), plan, batches, _Silent())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert state.tally.clips == 4


def test_a_run_on_the_gpu_can_be_evaluated_on_the_cpu(tmp_path: Path, make_tree: Callable[..., Path]) -> None:
    root = make_tree(tmp_path / "data", {"a": 4, "b": 4})
    history, _ = run_train(root, tmp_path / "results", *BASE, *CUDA, "train.num_epochs=2", "train.precision=bf16")
    checkpoint = tmp_path / "results/train/ar_model_latest.pth"
    on_cpu, _ = run_evaluate(checkpoint, root, tmp_path / "cpu")
    on_gpu, _ = run_evaluate(checkpoint, root, tmp_path / "gpu", "evaluate.device=cuda")
    assert len(history) == 2
    assert on_gpu["confusion_matrix"] == on_cpu["confusion_matrix"]
    assert on_gpu["loss"] == pytest.approx(on_cpu["loss"], rel=1e-2)


def test_a_resumed_run_on_the_gpu_goes_on_where_it_was(tmp_path: Path, make_tree: Callable[..., Path]) -> None:
    root = make_tree(tmp_path / "data", {"a": 4, "b": 4})
    run_train(root, tmp_path / "results", *BASE, *CUDA, "train.num_epochs=1")
    history, lines = run_train(root, tmp_path / "results", *BASE, *CUDA, "train.num_epochs=2")
    assert [row["epoch"] for row in history] == [0, 1]
    assert any("resuming" in line and "epoch 1" in line for line in lines)


class _Silent:
    def step_done(self, state: State, num_clips: int, lr: float) -> None: ...
    def epoch_done(self, state: State, row: dict[str, object]) -> None: ...
