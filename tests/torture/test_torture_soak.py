"""Hours in minutes: a camera that is too fast for its model, and training of very many epochs. Nothing may pile up.

SOAK_MIN=30 makes the camera run for 30 minutes in place of the 5 of the long form.
"""

import multiprocessing
import os
import resource
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_onnx
from conftest import Amount, Ledger

from action_recognition.deploy import sources
from action_recognition.deploy.executor import OnnxExecutor
from action_recognition.deploy.recognizer import Recognizer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory and handles are read from Linux's /proc")

FRAME_SEC, MODEL_SEC, CONSUMER_SEC = 0.005, 0.02, 0.02  # 200 frames a second, of which 25 can be looked at at best
LATE_SEC = 1.0  # with all frames kept, those scored after 2 seconds would be older
MANY = 1 << 16


def in_a_process_of_its_own(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work` returns in a new interpreter, whose memory holds nothing else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def memory_mib() -> float:
    """The memory that this process has of its own."""
    resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    return (resident - shared) * resource.getpagesize() / 2**20


def count_above(values: list[float], most_more: float) -> tuple[int, int]:
    """How many values came after the warm-up, and how many of them lie above all of it by more than `most_more`."""
    warm = min(len(values) // 5 + 1, 8)
    return len(values) - warm, sum(value > max(values[:warm]) + most_more for value in values[warm:])


# --- a camera that is too fast ---


@dataclass
class Camera:
    """Frames that say their number in red and green, for so long; `made_at` remembers when the newest were made."""

    seconds: float
    made: int = 0
    made_at: array = field(default_factory=lambda: array("d", bytes(8 * MANY)))

    def frames(self) -> Iterator[sources.Frame]:
        start = time.monotonic()
        while (now := time.monotonic()) < start + self.seconds:
            number = self.made % MANY
            image = np.empty((240, 320, 3), np.uint8)
            image[:] = (number >> 8, number & 255, 0)
            self.made_at[number] = now
            self.made += 1
            yield sources.Frame(now - start, self.made - 1, {"rgb": image})
            time.sleep(FRAME_SEC)


@dataclass
class SlowModel:
    """An ONNX model that takes its time and changes its mind at each window; notes how old the newest frame was."""

    executor: OnnxExecutor
    camera: Camera
    ages: array = field(default_factory=lambda: array("f"))

    def __call__(self, inputs: list[np.ndarray]) -> np.ndarray:
        red, green = (round((float(inputs[0][0, channel, -1, 0, 0]) + 1) * 127.5) for channel in (0, 1))
        time.sleep(MODEL_SEC)
        scores = self.executor({"input_rgb": inputs[0]})["fc_pred"]
        self.ages.append(time.monotonic() - self.camera.made_at[red << 8 | green])
        return np.roll(np.array([[9.0, 0, 0]], np.float32), len(self.ages), axis=1) + 0 * scores


def watch_camera(seconds: float, model: Path) -> dict[str, Any]:
    """What Recognizer.stream made of a camera, and this process's memory meanwhile."""
    camera, memory = Camera(seconds), array("f")
    with OnnxExecutor(model) as executor, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_live", lambda source, *_: camera.frames())
        slow = SlowModel(executor, camera)
        recognizer = Recognizer(slow, tiny_onnx.CONTRACT)
        num_events = 0
        for _ in recognizer.stream("rtsp://camera/1"):
            time.sleep(CONSUMER_SEC)
            num_events += 1
            if num_events % 5 == 0:
                memory.append(memory_mib())
    found = {"made": camera.made, "dropped": recognizer.dropped.frames, "events": num_events}
    return {**found, "ages": slow.ages.tolist(), "memory": memory.tolist(), "threads": threading.active_count()}


def test_camera_too_fast_for_its_model_is_kept_up_with_in_flat_memory_and_all_dropped_frames_are_counted(
    tmp_path: Path, amount: Amount, ledger: Ledger
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(tiny_onnx.onnx_model().SerializeToString())
    seconds = 60 * float(os.environ["SOAK_MIN"]) if "SOAK_MIN" in os.environ else amount(4, 300)
    found = in_a_process_of_its_own(watch_camera, seconds, model)
    windows = len(found["ages"])
    looked_at = windows + tiny_onnx.CONTRACT.lengths["rgb"] - 1
    assert (found["events"], found["threads"]) == (windows, 1)
    samples, above = count_above(found["memory"], 4)
    for damage, made, lost, fails_when in (
        (
            f"windows of a camera {found['made'] / looked_at:.0f}x too fast, in {seconds / 60:.1f} minutes, scored "
            f"within {LATE_SEC:g} s of their last frame (the latest after {max(found['ages']):.2f} s)",
            windows,
            sum(age > LATE_SEC for age in found["ages"]),
            "the queue of frames has no end",
        ),
        (
            "memory looked at meanwhile, no more than 4 MiB above that of the warm-up",
            samples,
            above,
            "the queue of frames has no end",
        ),
        (
            "frames that came while the model was busy, dropped and counted",
            found["dropped"],
            abs(found["made"] - looked_at - found["dropped"]),
            "a dropped frame is not counted where the queue is full",
        ),
    ):
        ledger.close(damage, made, lost, fails_when)


# --- very many epochs ---


def train_long(tree: Path, results: Path, num_epochs: int) -> dict[str, list[float]]:
    """This process's memory, open handles and threads after each epoch."""
    from tiny import build_tiny, run_train  # here, for the camera's process does without torch

    from action_recognition.tasks import train, train_setup

    seen: dict[str, list[float]] = {"memory": [], "handles": [], "threads": []}
    epoch_done = train.Trainer.epoch_done

    def look_after(trainer: Any, *arguments: Any) -> None:
        epoch_done(trainer, *arguments)
        seen["memory"].append(memory_mib())
        seen["handles"].append(len(os.listdir("/proc/self/fd")))
        seen["threads"].append(len(os.listdir("/proc/self/task")))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_setup, "build_model", build_tiny)
        patch.setattr(train, "workers_here", lambda *_: 1)
        patch.setattr(train.Trainer, "epoch_done", look_after)
        run_train(tree, results, f"dataset.val_dataset_dir={tree}", f"train.num_epochs={num_epochs}", *EVERYTHING)
    return seen


EVERYTHING = ("dataset.batch_size=4", "train.accumulate_steps=2", "train.checkpoint_interval=5", "train.seed=1")


def test_training_of_very_many_epochs_takes_no_more_memory_handles_or_threads(
    make_tree: Callable[..., Path], tmp_path: Path, amount: Amount, ledger: Ledger
) -> None:
    tree = make_tree(tmp_path / "data", {"a": 8, "b": 8}, num_frames=3, modalities=("rgb",))
    num_epochs = amount(10, 500)
    seen = in_a_process_of_its_own(train_long, tree, tmp_path / "results", num_epochs)
    for what, most_more, fails_when in (
        ("memory", 16, "each epoch leaves 4 MiB behind"),
        ("handles", 0, "metrics.jsonl is opened once more and not closed"),
        ("threads", 0, "an epoch leaves a thread that waits"),
    ):
        made, lost = count_above(seen[what], most_more)
        unit = " MiB" if what == "memory" else ""
        ledger.close(
            f"{what} after each of {num_epochs} epochs, no more than {most_more}{unit} above those of the warm-up "
            f"({seen[what][0]:.0f} after the first, {seen[what][-1]:.0f} after the last)",
            made,
            lost,
            fails_when,
        )
