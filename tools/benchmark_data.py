"""The host's side of training, evaluation and deployment: from image files to clips. See tools/benchmark.py.

Ours goes through what the tools use: the datasets and loaders of action_recognition/data, and deploy's window.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import benchmark_reference as reference
import cv2
import numpy as np
import torch
from benchmark_frames import memory_folder, write_videos
from benchmark_rows import Result, Row, rates

from action_recognition.clip.contract import Contract
from action_recognition.config import Spec
from action_recognition.data.agreement import contract_of
from action_recognition.data.augment import Augmentation, augmentation_of
from action_recognition.data.cache import job_of, kept_for_training, pack_all
from action_recognition.data.dataset import EvaluationWindows, TrainingClips
from action_recognition.data.index import Video
from action_recognition.data.loader import TrainingPlan, evaluation_loader, training_loader
from action_recognition.data.packed import open_packed
from action_recognition.deploy.sources import Dropped, frames_of
from action_recognition.deploy.window import SlidingWindow

CPU = torch.device("cpu")
BATCH = 4
CLIPS, WINDOWS = "clips/s a core", "windows/s a core"


def data(spec: Spec, frames: Path | None, rounds: int) -> Result:
    """Training clips out of PNG folders, JPEG folders and the frame cache."""
    torch.set_num_threads(1)
    contract = contract_of(spec, ("a",))
    augmentation = augmentation_of(spec.dataset.augmentation_config, contract)
    num_frames = 2 * span_of(contract)
    with memory_folder() as folder:
        videos = {s: write_videos(folder / s, f".{s}", 2, num_frames, frames) for s in ("png", "jpg")}
        cached = pack(videos["png"], augmentation, folder / "cache")
        ways = {
            "png": lambda: _train(videos["png"], contract, augmentation, BATCH),
            "png reference": lambda: reference.training_batch(folder / "png", contract, augmentation, BATCH),
            "png bare": lambda: _decode(videos["png"], num_frames) / span_of(contract),
            "jpg": lambda: _train(videos["jpg"], contract, augmentation, 2 * BATCH),
            "jpg reference": lambda: reference.training_batch(folder / "jpg", contract, augmentation, BATCH),
            "jpg bare": lambda: _decode(videos["jpg"], 2 * num_frames) / span_of(contract),
            "cache": lambda: _train(cached, contract, augmentation, 200),
            "cache bare": lambda: _copy(cached, contract, 200),
        }
        measured = rates(ways, rounds)
    measured["cache reference"] = measured["png reference"]

    def row(key: str, name: str, ratio: float, limit: float) -> Row:
        ours, bare = measured[key], measured[f"{key} bare"]
        other = measured[f"{key} reference"]
        return Row(name, CLIPS, ours, other, ours / bare, wanted_ratio=ratio, wanted_limit=limit)

    return Result(
        [
            row("png", "png folders", 1.6, 0.85),
            row("jpg", "jpg folders", 3.5, 0.7),
            row("cache", "frame cache, reference on png", 60, 0.5),
        ],
        ["Limits: only decoding the same files; for the cache, only copying such windows out of a warm memory map."],
    )  # fmt: skip


def evaluate(spec: Spec, frames: Path | None, rounds: int) -> Result:
    """All windows of videos of 128 frames, each frame decoded once."""
    torch.set_num_threads(1)
    contract, segments = contract_of(spec, ("a",)), spec.evaluate.video_num_segments
    num_frames = 4 * span_of(contract)
    rows = []
    with memory_folder() as folder:
        for suffix in ("png", "jpg"):
            videos = write_videos(folder / suffix, f".{suffix}", 1, num_frames, frames)
            windows = EvaluationWindows(videos, contract, "conv", segments)
            num_used = len(np.unique(_window_ids(windows)))
            measured = rates(
                {
                    "ours": lambda windows=windows: len(list(evaluation_loader(windows, 0, CPU))),  # type: ignore[misc]
                    "reference": lambda s=suffix: reference.evaluation_windows(folder / s, contract, segments),  # type: ignore[misc]
                    "bare": lambda videos=videos, n=num_used: _decode(videos, n) / n,  # type: ignore[misc]
                },
                rounds,
            )
            name = f"conv, {segments} segments of {suffix}"
            limit = measured["ours"] / measured["bare"]
            rows.append(Row(name, "videos/s a core", measured["ours"], measured["reference"], limit, wanted_ratio=2.0))
    return Result(rows, [f"Videos of {num_frames} frames. Limit: only decoding each frame that is used, once."])


def infer(spec: Spec, frames: Path | None, rounds: int) -> Result:
    """The sliding window over a stream of images, up to the model's input."""
    torch.set_num_threads(1)
    contract = replace(contract_of(spec, ("a",)), sample_strategy="consecutive")
    num_frames = span_of(contract)
    with memory_folder() as folder:
        videos = write_videos(folder, ".png", 1, num_frames, frames)
        images = Path(videos[0].path, "rgb")
        window = SlidingWindow(contract)
        _slide(window, images, contract)  # full from here on, as it stays in a stream
        measured = rates(
            {
                "ours": lambda: _slide(window, images, contract),
                "reference": lambda: reference.sliding_windows(images, contract, 2),
                "bare": lambda: _decode(videos, num_frames),
            },
            rounds,
        )
    limit = measured["ours"] / measured["bare"]
    row = Row("sliding window, png", WINDOWS, measured["ours"], measured["reference"], limit, wanted_ratio=20.0)
    return Result([row], ["Limit: only decoding one frame for each window."])


def span_of(contract: Contract) -> int:
    """The frames of a video that a clip reaches over."""
    return max(contract.lengths.values()) * contract.sample_rate


def pack(videos: Sequence[Video], augmentation: Augmentation, cache: Path) -> list[Video]:
    """The same videos, out of a frame cache made for them."""
    jobs = [job_of(video, kept_for_training(augmentation), cache) for video in videos]
    problems = [problem for _, problem in pack_all(jobs, 0) if problem]
    assert not problems, problems
    return [replace(job.video, packed=job.path) for job in jobs]


def training_batches(
    videos: Sequence[Video], contract: Contract, augmentation: Augmentation, num_clips: int, num_workers: int = 0
) -> Any:
    """A training loader of about `num_clips` clips in batches of BATCH."""
    per_video = -(-num_clips // len(videos))
    dataset = TrainingClips(videos, contract, augmentation, per_video, seed=0)
    return training_loader(dataset, TrainingPlan(len(dataset), BATCH, 1, seed=0), num_workers, CPU)


def _train(videos: Sequence[Video], contract: Contract, augmentation: Augmentation, num_clips: int) -> int:
    return sum(len(batch.videos) for batch in training_batches(videos, contract, augmentation, num_clips))


def _window_ids(windows: EvaluationWindows) -> np.ndarray:
    """The ids of the frames that a video's windows have."""
    from action_recognition.clip.sampling import segment_ids

    contract, num_frames = windows.contract, windows.videos[0].files["rgb"].count
    return segment_ids(num_frames, max(contract.lengths.values()), contract.sample_rate, windows.num_segments)


def _slide(window: SlidingWindow, images: Path, contract: Contract) -> int:
    """Every frame makes a window. Returns their number."""
    num_windows = 0
    for frame in frames_of(images, contract.modalities, Dropped()):
        window.push(frame.images)
        window.inputs()
        num_windows += 1
    return num_windows


# --- what no program can do without ---


def _decode(videos: Sequence[Video], num_frames: int) -> int:
    """Read and decode `num_frames` images, of all videos in turn."""
    for i in range(num_frames):
        video = videos[i % len(videos)]
        files = video.files["rgb"]
        cv2.imread(f"{video.path}/rgb/{files.name(i // len(videos) % files.count)}")
    return num_frames


def _copy(videos: Sequence[Video], contract: Contract, num_clips: int) -> int:
    """Copy windows of as many frames as a clip has out of mapped files into new batches."""
    maps = [open_packed(video.packed)["rgb"] for video in videos]
    length, height, width = contract.lengths["rgb"], contract.height, contract.width
    for i in range(0, num_clips, BATCH):
        batch = np.empty((BATCH, length, height, width, 3), np.uint8)
        for k in range(BATCH):
            frames = maps[k % len(maps)]
            start, top = i % (len(frames) - length + 1), i % (frames.shape[1] - height + 1)
            batch[k] = frames[start : start + length, top : top + height, top : top + width]
    return num_clips
