"""Video files to frames and flow, see tools/benchmark.py."""

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import benchmark_reference as reference
import cv2
import numpy as np
from benchmark_frames import memory_folder
from benchmark_rows import Result, Row, rates

from action_recognition.clip.flow_encoding import encode_max_rad
from action_recognition.clip.video import SUFFIXES, Damage, read_video
from action_recognition.preprocess.extract import Settings, extract, write_image
from action_recognition.preprocess.flow import DisFlow
from action_recognition.preprocess.jobs import Job
from action_recognition.preprocess.run import run_jobs

cv2.setNumThreads(1)


def preprocess(given: Path | None, rounds: int) -> Result:
    """Video files to frames and flow."""
    with memory_folder() as work:
        videos = _video_files(given) if given else render_videos(work / "videos", 4)
        made = work / "made"
        rgb, fast = Settings(frames="jpg"), Settings(frames="jpg", flow="dis", flow_preset="fast")
        preset = cv2.DISOPTICAL_FLOW_PRESET_FAST
        rgb_rates = rates(
            {
                "ours": lambda: _each(videos, made, lambda v, f: extract(Job(v, f), rgb).frames),
                "reference": lambda: _each(videos, made, reference.extract_rgb),
                "bare": lambda: _each(videos, made, lambda v, f: _bare(v, f, with_flow=False)),
            },
            rounds,
        )
        flow_rates = rates(
            {
                "ours": lambda: _each(videos, made, lambda v, f: extract(Job(v, f), fast, DisFlow("fast")).frames),
                "reference": lambda: _each(videos, made, lambda v, f: reference.extract_rgb_and_flow(v, f, preset)),
                "bare": lambda: _each(videos, made, lambda v, f: _bare(v, f, with_flow=True)),
            },
            rounds,
        )
        slow = Settings(frames="jpg", flow="dis")
        jobs = [
            Job(v, made / f"{i}_{v.stem}") for i, v in enumerate(videos * 4)
        ]  # enough to make starting the processes small
        workers = rates(
            {str(n): lambda n=n: _all(jobs, made, slow, n) for n in (1, 2)},  # type: ignore[misc]
            rounds,
            time.perf_counter,
        )
    unit, one, two = "frames/s a core", workers["1"], workers["2"]
    return Result(
        [
            _row("rgb to JPEG, reference to PNG", unit, rgb_rates),
            _row("rgb and DIS fast", unit, flow_rates),
            Row("rgb and DIS slow, two processes against one", "frames/s", two, one, two / one / 2),
        ],
        ["The last row is by the clock. Limits: bare decoding, flow and encoding; for two processes, twice one."],
    )


def _row(name: str, unit: str, measured: Mapping[str, float]) -> Row:
    return Row(name, unit, measured["ours"], measured["reference"], measured["ours"] / measured["bare"])


def _each(videos: Iterable[Path], made: Path, way: Callable[[Path, Path], int]) -> int:
    """Run one way over all videos into empty folders. Returns the number of frames."""
    shutil.rmtree(made, ignore_errors=True)
    return sum(way(video, made / video.stem) for video in videos)


def _all(jobs: list[Job], made: Path, settings: Settings, num_workers: int) -> int:
    shutil.rmtree(made, ignore_errors=True)
    return sum(outcome.frames for outcome in run_jobs(jobs, settings, num_workers))


def _bare(video: Path, folder: Path, with_flow: bool) -> int:
    """Decoding, flow and image encoding, and nothing else: what no program can do without."""
    flow, num_frames = DisFlow("fast"), 0
    for name in ("rgb", "u", "v"):
        (folder / name).mkdir(parents=True)
    for num_frames, frame in enumerate(read_video(video, Damage()), 1):
        write_image(folder / "rgb" / f"{num_frames}.jpg", frame)
        vectors = flow.add(frame) if with_flow else None
        if vectors is not None:
            for name, image in zip(("u", "v"), encode_max_rad(vectors), strict=True):
                write_image(folder / name / f"{num_frames}.jpg", image)
    return num_frames


def _video_files(folder: Path) -> list[Path]:
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        sys.exit(f"error: {folder}: no video file found")
    return found


def render_videos(folder: Path, num_videos: int, num_frames: int = 60) -> list[Path]:
    """MPEG-4 files of 320x240 whose frames are about as rich as those of HMDB51: texture that moves, and noise."""
    import av

    folder.mkdir(parents=True)
    paths = [folder / f"{i}.avi" for i in range(num_videos)]
    for seed, path in enumerate(paths):
        rng = np.random.default_rng(seed)
        coarse = [rng.integers(0, 256, (480 // c, 640 // c, 3), dtype=np.uint8) for c in (4, 8, 32, 96)]
        picture = np.mean([cv2.resize(c, (640, 480), interpolation=cv2.INTER_CUBIC) for c in coarse], axis=0)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=25, options={"qmax": "4"})
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            for i in range(num_frames):
                x, y = 40 + 2 * i, 20 + i
                noisy = picture[y : y + 240, x : x + 320] + rng.normal(0, 3, (240, 320, 3))
                frame = av.VideoFrame.from_ndarray(noisy.clip(0, 255).astype(np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return paths
