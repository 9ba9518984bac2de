"""Two processes on one CPU: the same scores, the same steps, one message. A launch costs seconds, so there are few."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny import MakeTree, run_evaluate, run_infer, run_train, save_sigmoid_model, spec_of, use_tiny_models
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from action_recognition.config import OptimSpec
from action_recognition.data.loader import Batch, TrainingPlan
from action_recognition.errors import SpecError
from action_recognition.machine import under_torchrun
from action_recognition.tasks.setting import opening_lines, seed_everything
from action_recognition.training import distributed, trace
from action_recognition.training.distributed import (
    Process,
    choose_device,
    connected,
    from_first,
    gather,
    launch,
    parallel,
    share_buffers,
)
from action_recognition.training.loop import Run, State, train_one_epoch
from action_recognition.training.optim import Precision, Schedule
from action_recognition.training.stopping import StopRequest

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]


def in_two_processes(work: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What `work(rank, folder, *arguments)` returned in each of two processes, by rank."""
    mp.spawn(_one_process, (work, folder, arguments), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


def _one_process(rank: int, work: Callable[..., Any], folder: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1")
    torch.save(work(rank, folder, *arguments), folder / f"rank{rank}.pt")


def free_ports(count: int) -> list[str]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [str(one.getsockname()[1]) for one in sockets]


# --- one process ---


def test_alone_every_collective_answers_for_one_process() -> None:
    assert gather("x") == ["x"]
    assert from_first("x") == "x"
    share_buffers(nn.BatchNorm1d(1))
    with connected("cpu", (0,), "train.device") as process:
        assert process == Process(0, 1, 0, 1, CPU)


@pytest.mark.parametrize(
    ("variables", "launched"),
    [({}, False), ({"WORLD_SIZE": "2"}, False), ({"RANK": "0"}, False), ({"RANK": "0", "WORLD_SIZE": "2"}, True)],
)
def test_under_torchrun_needs_a_rank_and_a_world_size(
    variables: dict[str, str], launched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert under_torchrun() is launched


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cuda", r"^train\.device: 'cuda' needs a CUDA GPU and torch sees none; use auto or cpu$"),
        ("cuda:3", r"^train\.device: 'cuda:3' needs a CUDA GPU"),
        ("mps", r"^train\.device: 'mps' is not available on this machine; use auto or cpu$"),
    ],
)
def test_choose_device_that_is_not_there_is_refused(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(SpecError, match=text):
        choose_device(name, (0,), 0, "train.device")
    assert choose_device("auto", (0,), 0, "train.device") == CPU


@pytest.mark.parametrize(
    ("name", "gpu_ids", "local_rank", "index"),
    [("auto", (0,), 0, 0), ("cuda", (2, 5), 1, 5), ("auto", (2, 5), 3, 5), ("cuda:4", (0,), 0, 4)],
)
def test_choose_device_on_gpus_takes_the_gpu_id_of_the_local_rank(
    name: str, gpu_ids: tuple[int, ...], local_rank: int, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 6)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    assert choose_device(name, gpu_ids, local_rank, "train.device") == torch.device("cuda", index)


def test_choose_device_beyond_the_last_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(SpecError, match=r"^train\.device: GPU 2 is not there; this machine has 2 \(0 is the first\)$"):
        choose_device("auto", (2,), 0, "train.device")


def lines_under_torchrun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *overrides: str) -> list[str]:
    """What is said first on rank 0 of 4 processes on 2 machines."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    spec = spec_of("train", tmp_path, "dataset.train_dataset_dir=data", *overrides)
    return list(opening_lines(spec, "train", Process(0, 4, 0, 2, CPU)))


def test_torchruns_number_of_processes_wins_over_num_gpus_with_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert lines_under_torchrun(monkeypatch, tmp_path, "train.num_gpus=8") == [
        "torchrun started 2 processes here; train.num_gpus=8 is ignored"
    ]
    assert lines_under_torchrun(monkeypatch, tmp_path, "train.num_gpus=2", "train.num_nodes=2") == []


def test_num_nodes_other_than_torchruns_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(
        SpecError,
        match=r"^command line: train\.num_nodes is 3 machines, but torchrun started 2; make them equal or leave",
    ):
        lines_under_torchrun(monkeypatch, tmp_path, "train.num_gpus=2", "train.num_nodes=3")


# --- two processes ---


class Normed(nn.Module):
    """float64: linear, batch norm in evaluation mode, linear; the last weights make no gradient vanish."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        self.layers[1].eval()
        return self.layers(x)


class Nothing:
    def step_done(self, *_: object) -> None:
        pass

    def epoch_done(self, *_: object) -> None:
        pass


def steps(rank: int, num_processes: int, num_clips: int, batch_size: int) -> dict[str, Tensor]:
    """The weights after one epoch over fixed random clips."""
    rng = np.random.default_rng(3)
    x, labels = torch.from_numpy(rng.normal(size=(num_clips, 3))), torch.from_numpy(rng.integers(2, size=num_clips))
    plan = TrainingPlan(num_clips, batch_size, 1, 0, rank, num_processes)
    batches = []
    for keys in plan:
        ids, weights = [key.clip_id for key in keys], torch.tensor([key.weight for key in keys])
        if not ids:  # as data.loader does for a process without clips in the last step
            ids, weights = [0], torch.zeros(1)
        batches.append(Batch({"x": x[ids]}, labels[ids], weights, ids, [str(i) for i in ids]))
    bare = Normed()
    model = parallel(bare, CPU)
    spec, precision = OptimSpec(lr=0.1, momentum=0.9), Precision("fp32", "cpu")
    optimizer = torch.optim.SGD(model.parameters(), spec.lr, spec.momentum)
    schedule = Schedule(optimizer, spec)
    run = Run(model, optimizer, schedule, precision.scaler(), precision, lambda inputs: [inputs["x"]], CPU)
    train_one_epoch(run, State(), plan, batches, Nothing())
    return {name: entry.clone() for name, entry in bare.state_dict().items()}


class SlowBackward(torch.autograd.Function):
    """The identity; its backward pass takes SLOW_SEC and notes when."""

    spans: ClassVar[list[tuple[float, float]]] = []

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        start = time.perf_counter()
        time.sleep(SLOW_SEC)
        SlowBackward.spans.append((start, time.perf_counter()))
        return gradient


SLOW_SEC = 1.0


class SlowInTheMiddle(nn.Module):
    """Two layers, whose backward pass takes its time between the last one and the first one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 500_000)  # of one bucket, and of more than one

    def forward(self, x: Tensor) -> Tensor:
        return self.last(SlowBackward.apply(self.first(x)))  # type: ignore[no-untyped-call]


def exchange_beside_backward() -> dict[str, list[float]]:
    """When the buckets of a step left for the other process and were back, in seconds since its slow part began."""
    model, left, back = parallel(SlowInTheMiddle(), CPU), list[float](), list[float]()

    def exchange(_: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        left.append(time.perf_counter())
        work = dist.all_reduce(bucket.buffer(), async_op=True)

        def arrived(future: torch.futures.Future[Any]) -> Tensor:
            back.append(time.perf_counter())
            return future.value()[0]

        return work.get_future().then(arrived)

    model.register_comm_hook(None, exchange)  # type: ignore[operator]
    for _ in range(2):  # the first step finds out in which order gradients come
        left.clear()
        back.clear()
        dist.barrier()
        model(torch.ones(1, 4)).sum().backward()
    start, _ = SlowBackward.spans[-1]
    return {"left": [t - start for t in left], "back": [t - start for t in back]}


def asked_each_step(rank: int) -> tuple[list[int], int]:
    """The answers after each of 5 steps and then once more, where rank 1 is told to end within the second."""
    with StopRequest(60) as stop:
        answers = []
        for step in range(5):
            if (rank, step) == (1, 1):
                os.kill(os.getpid(), signal.SIGTERM)
            answers.append(stop.after_step())
        return answers, stop.now()


def work_of_two(rank: int, folder: Path, tree: Path, ports: list[str]) -> dict[str, Any]:
    """All that needs two processes, in one launch. Each time they connect it is through another port."""
    found: dict[str, Any] = {}
    os.environ["MASTER_PORT"] = ports[0]
    with connected("cpu", (0,), "train.device") as process:
        found["process"] = (process.rank, process.num_processes, process.is_first)
        found["gathered"], found["first"] = gather(rank * 10), from_first(rank + 5)
        found["seeds"] = (seed_everything(-1, rank), seed_everything(7, rank))
        found["steps"] = {num_clips: steps(rank, 2, num_clips, 4) for num_clips in (24, 17)}
        found["exchange"] = exchange_beside_backward()
        found["stop"] = asked_each_step(rank)
        norm = nn.BatchNorm1d(1)
        norm.running_mean.fill_(rank + 1)
        share_buffers(norm)
        found["buffer"] = norm.running_mean.item()
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_models(patch)
        os.environ["MASTER_PORT"] = ports[1]
        found["evaluate"], found["said"] = run_evaluate(folder / "model.pth", tree, folder / "two")
        os.environ["MASTER_PORT"] = ports[2]
        found["infer"], found["labels said"] = run_infer(folder / "model.pth", tree / "a", folder / "two")
        os.environ["MASTER_PORT"] = ports[3]  # of 5 clips in batches of 2, the last step has one, and rank 1 none
        how = ("dataset.batch_size=2", "train.num_epochs=2", "train.optim.lr=0.1", f"dataset.val_dataset_dir={tree}")
        patch.setattr(trace, "FIRST_STEP", 2)
        found["history"], _ = run_train(tree, folder / "trained", *how, "train.profile=true")
    return found


Two = tuple[list[dict[str, Any]], Path, Path]


@pytest.fixture(scope="module")
def two(make_tree: MakeTree, tmp_path_factory: pytest.TempPathFactory) -> Two:
    """The answers of both processes, their folder and the data: 5 videos."""
    folder = tmp_path_factory.mktemp("two")
    tree = make_tree(folder / "data", {"a": 3, "b": 2}, num_frames=(3, 5, 9, 6, 8), modalities=("rgb",))
    save_sigmoid_model(folder / "model.pth")
    return in_two_processes(work_of_two, folder, tree, free_ports(4)), folder, tree


def test_two_processes_know_each_other(two: Two) -> None:
    answers = two[0]
    assert [a["process"] for a in answers] == [(0, 2, True), (1, 2, False)]
    assert [a["gathered"] for a in answers] == [[0, 10], [0, 10]]
    assert [a["first"] for a in answers] == [5, 5]
    assert [a["buffer"] for a in answers] == [1, 1]


def test_signal_to_one_process_is_known_to_both_after_the_same_step(two: Two) -> None:
    expected = [0, 0, signal.SIGTERM, signal.SIGTERM, signal.SIGTERM]  # read one step late
    assert [a["stop"] for a in two[0]] == [(expected, signal.SIGTERM)] * 2


def test_seed_below_0_is_drawn_once_for_all_processes(two: Two) -> None:
    first, second = (a["seeds"] for a in two[0])
    assert first == second
    assert first[0] >= 0
    assert first[1] == 7


def test_gradients_are_exchanged_while_the_backward_pass_goes_on(two: Two) -> None:
    for answer in two[0]:
        left, back = answer["exchange"]["left"], answer["exchange"]["back"]
        assert len(left) == len(back) >= 2
        assert min(back) < max(left)  # the first are back before the last ones leave


@pytest.mark.parametrize("num_clips", [24, 17])
def test_three_steps_of_two_batches_of_4_equal_three_of_one_batch_of_8(num_clips: int, two: Two) -> None:
    """With 17 clips the last step has one clip, and the second process none: neither hangs nor counts."""
    alone = steps(0, 1, num_clips, 8)
    for answer in two[0]:
        for name, entry in answer["steps"][num_clips].items():
            torch.testing.assert_close(entry, alone[name], rtol=1e-6, atol=1e-9)


def test_evaluation_by_two_processes_equals_that_by_one_without_a_doubled_video(
    two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, folder, tree = two
    use_tiny_models(monkeypatch)
    alone, _ = run_evaluate(folder / "model.pth", tree, tmp_path)
    for answer in answers:
        assert answer["evaluate"]["confusion_matrix"] == alone["confusion_matrix"] == [[2, 1], [1, 1]]
        assert answer["evaluate"]["videos"] == sum(map(sum, alone["confusion_matrix"])) == 5
        assert answer["evaluate"]["loss"] == pytest.approx(alone["loss"], abs=1e-5)
    tables = [(root / "evaluate" / "predictions.csv").read_text() for root in (folder / "two", tmp_path)]
    rows = [[line.split(",") for line in text.splitlines()[1:]] for text in tables]
    assert [row[:3] for row in rows[0]] == [row[:3] for row in rows[1]]
    for ours, theirs in zip(*rows, strict=True):
        assert list(map(float, ours[3:])) == pytest.approx(list(map(float, theirs[3:])), abs=1e-5)


def test_inference_by_two_processes_equals_that_by_one(
    two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, folder, tree = two
    use_tiny_models(monkeypatch)
    alone, said = run_infer(folder / "model.pth", tree / "a", tmp_path)
    assert len(alone) == 3
    for answer in answers:
        assert [(row["path"], row["label"]) for row in answer["infer"]] == [(r["path"], r["label"]) for r in alone]
        assert [row["score"] for row in answer["infer"]] == pytest.approx([row["score"] for row in alone], abs=1e-5)
    printed = [line for line in said if line.endswith("]")]
    assert [line for line in answers[0]["labels said"] if line.endswith("]")] == printed
    assert len(printed) == 3


def test_only_the_first_process_speaks_and_says_that_torchruns_number_wins(two: Two) -> None:
    first, second = two[0]
    assert "torchrun started 2 processes here; evaluate.num_gpus=1 is ignored" in first["said"]
    assert second["said"] == []


def test_training_by_two_processes_validates_the_model_it_saves(
    two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, folder, tree = two
    assert answers[0]["history"] == answers[1]["history"]
    assert [row["epoch"] for row in answers[0]["history"]] == [0, 1]
    use_tiny_models(monkeypatch)
    results, _ = run_evaluate(folder / "trained" / "train" / "ar_model_latest.pth", tree, tmp_path)
    assert results["loss"] == pytest.approx(answers[0]["history"][-1]["val_loss"], rel=1e-6)
    metrics = (folder / "trained" / "train" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in metrics] == [0, 1]


def test_each_of_two_processes_writes_its_own_timeline(two: Two) -> None:
    traces = sorted((two[1] / "trained" / "train").glob("trace*"))
    assert [path.name for path in traces] == ["trace_rank0.json", "trace_rank1.json"]
    for path in traces:
        assert "DistributedDataParallel.forward" in {
            event.get("name") for event in json.loads(path.read_text())["traceEvents"]
        }


# --- the tool as its own launcher ---


def test_launch_hands_the_command_to_torchs_launcher_and_returns_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr("torch.distributed.run.main", commands.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(distributed, "num_cores", lambda: 8)
    assert launch("tools/train.py", ["spec.yaml", "a.b=1"], num_processes=2) == 0
    assert commands == [["--standalone", "--nproc-per-node=2", "tools/train.py", "spec.yaml", "a.b=1"]]
    assert os.environ.pop("OMP_NUM_THREADS") == "4"

    def fail(command: list[str]) -> None:
        failure = ProcessFailure(local_rank=1, pid=9, exitcode=2, error_file="none")
        raise ChildFailedError("tools/train.py", {1: failure})

    monkeypatch.setattr("torch.distributed.run.main", fail)
    assert launch("tools/train.py", [], num_processes=2) == 2


@pytest.mark.parametrize(
    ("rank", "error", "waited"),
    [
        ("0", SpecError("wrong"), False),
        ("1", SpecError("wrong"), True),
        ("0", RuntimeError("wrong"), True),  # as gloo's "Connection reset by peer" after another's end
        ("1", RuntimeError("wrong"), True),
    ],
)
def test_error_that_another_process_may_tell_waits_for_it(
    rank: str, error: Exception, waited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(distributed.time, "sleep", waits.append)
    monkeypatch.setattr(distributed, "_join", lambda *_: dist.HashStore())
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: None)
    for name, value in {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(type(error), match=r"^wrong$"), connected("cpu", (0,), "train.device"):
        raise error
    assert waits == [15.0] * waited


def launch_train(tree: Path, results: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """tools/train.py on two processes, with the real 2d resnet18."""
    how = [f"results_dir={results}", "train.num_gpus=2", "train.num_epochs=1", "dataset.workers=0", "train.device=cpu"]
    model = ["model.model_type=rgb", "model.rgb_seq_length=2", "dataset.output_shape=[40, 40]"]
    command = [sys.executable, str(ROOT / "tools" / "train.py"), f"dataset.train_dataset_dir={tree}", *how, *model]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *overrides], capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.slow
def test_train_tool_with_num_gpus_2_starts_two_processes_and_prints_an_error_once(two: Two, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "ar_model_latest.pth").write_bytes(b"half a file")
    done = launch_train(two[2], tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1
    assert "ar_model_latest.pth: cut off, damaged, or not saved by PyTorch" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("model: 2d resnet18") == 1


@pytest.mark.slow
def test_train_tool_with_num_gpus_2_trains_and_ends_with_0(two: Two, tmp_path: Path) -> None:
    done = launch_train(two[2], tmp_path, "dataset.batch_size=2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/1") == 1
    assert (tmp_path / "train" / "model_epoch_000.pth").is_file()
