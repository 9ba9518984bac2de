"""docs/scaling.md and docs/scaling.svg: how cost grows with the clip, the workers and the data set.

Clips a second through the training loader, by the clock, for clips of 8 to 64 frames and 1 to 8 workers; the memory of
a worker; and from these what large data sets take, with the arithmetic. Wants an idle machine. See tools/benchmark.py.
"""

import multiprocessing
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from benchmark_data import pack, training_batches
from benchmark_frames import SIZE, memory_folder, write_videos
from benchmark_index import NUM_VIDEOS, Cost, index_costs
from benchmark_report import machine
from torch.utils.flop_counter import FlopCounterMode

from action_recognition.config import Spec
from action_recognition.data.agreement import contract_of
from action_recognition.data.augment import augmentation_of
from action_recognition.machine import num_cores
from action_recognition.models import build_model

DOCS = Path(__file__).parents[1] / "docs"
LENGTHS, WORKERS, SOURCES = (8, 16, 32, 64), (1, 2, 4, 8), ("jpg", "cache")
FRAMES_AN_EPOCH = {"jpg": 2048, "cache": 16384}  # for each worker that has a core: seconds of work
# What is not measured here but assumed.
FRAMES_A_VIDEO = 250  # 10 s at 25 frames/s, as in Kinetics
GPU_FLOPS = 0.45 * 989e12  # 45 % of an H100's dense bf16 peak
CLIPS_A_STEP = 16  # on each GPU


@dataclass(frozen=True)
class Measured:
    """All that the arithmetic starts from."""

    rates: Mapping[tuple[str, int, int], float]  # (source, frames a clip, workers) -> clips/s
    worker_mb: Mapping[tuple[str, int], float]  # (source, frames a clip) -> memory of a worker's own
    frame_bytes: Mapping[str, float]
    clip_flops: float  # forward and backward
    num_parameters: int
    listed: Cost
    remembered: Cost


def scaling(spec: Spec, frames: Path | None, rounds: int) -> int:
    """Measure and write the two files. Returns the exit code."""
    measured = _measure(spec, frames, rounds)
    _plot(measured, DOCS / "scaling.svg")
    text = "\n".join([_head(rounds), _rate_tables(measured), _per_gpu(measured), _large_sets(measured), WHAT_CHANGES])
    (DOCS / "scaling.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _measure(spec: Spec, frames: Path | None, rounds: int) -> Measured:
    rates: dict[tuple[str, int, int], float] = {}
    memory: dict[tuple[str, int], float] = {}
    with memory_folder() as folder:
        num_videos, num_frames = 4, 2 * max(LENGTHS)
        augmentation = augmentation_of(spec.dataset.augmentation_config, contract_of(spec, ("a",)))
        jpg = write_videos(folder / "jpg", ".jpg", num_videos, num_frames, frames)
        videos = {"jpg": jpg, "cache": pack(jpg, augmentation, folder / "cache")}
        frame_bytes = {source: _bytes(folder / source) / (num_videos * num_frames) for source in SOURCES}
        for source in SOURCES:
            for length in LENGTHS:
                of_length = replace(spec, model=replace(spec.model, rgb_seq_length=length))
                for num_workers in WORKERS:
                    rate, worker_mb = _rate(of_length, videos[source], num_workers, rounds)
                    rates[source, length, num_workers], memory[source, length] = rate, worker_mb
                    print(f"{source}, {length} frames, {num_workers} workers: {rate:.1f} clips/s", flush=True)
    num_parameters = sum(p.numel() for p in build_model(spec.model, 400).parameters())
    return Measured(rates, memory, frame_bytes, _clip_flops(spec), num_parameters, *index_costs())


def _rate(spec: Spec, videos: Sequence[Any], num_workers: int, rounds: int) -> tuple[float, float]:
    """The median rate of an epoch's clips, and the megabytes that a worker has to itself at the end."""
    num_frames = FRAMES_AN_EPOCH["cache" if videos[0].packed else "jpg"] * min(num_workers, num_cores())
    num_clips = num_frames // spec.model.rgb_seq_length
    contract = contract_of(spec, ("a",))
    augmentation = augmentation_of(spec.dataset.augmentation_config, contract)
    loader = training_batches(videos, contract, augmentation, num_clips, num_workers)
    rates = []
    for epoch in range(rounds + 1):  # the first starts the workers
        start = time.perf_counter()
        clips = sum(len(batch.videos) for batch in loader)
        if epoch > 0:
            rates.append(clips / (time.perf_counter() - start))
    memory = [_own_mb(process.pid) for process in multiprocessing.active_children()]
    return statistics.median(rates), max(memory)


def _own_mb(pid: int | None) -> float:
    """The memory that a process shares with no other, in MB; 0 where the system doesn't say (other than Linux)."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024 / 1e6


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _clip_flops(spec: Spec) -> float:
    """Of a training step, for one clip. Counted on shapes alone."""
    model = spec.model
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        clip = torch.empty(2, 3, model.rgb_seq_length, model.input_height, model.input_width)
        build_model(model, 400)(clip).sum().backward()
    return counter.get_total_flops() / 2


# --- what is written ---


def _head(rounds: int) -> str:
    epochs = "one epoch each" if rounds == 1 else f"medians of {rounds} epochs"
    return f"""# How cost grows

Written by `tools/benchmark.py scaling`; not to be edited. Clips of 224x224 out of frames of {SIZE[0]}x{SIZE[1]},
through the training loader in batches of 4, by the clock, {epochs}, files in memory.

{machine()}
"""


def _rate_tables(m: Measured) -> str:
    cores = num_cores()
    lines = ["## Clips and workers\n", "![clips/s by frames a clip and workers](scaling.svg)\n"]
    names = {"jpg": "JPEG folders", "cache": "the frame cache"}
    for source in SOURCES:
        heads = [f"{n} worker{'s' * (n > 1)}{' (oversubscribed)' * (n > cores)}" for n in WORKERS]
        lines += [f"Clips/s out of {names[source]}:\n", f"| frames a clip | {' | '.join(heads)} | MB a worker |"]
        lines.append("|---" * (len(WORKERS) + 2) + "|")
        for length in LENGTHS:
            cells = [f"{m.rates[source, length, n]:.1f}" for n in WORKERS]
            lines.append(f"| {length} | {' | '.join(cells)} | {m.worker_mb[source, length]:.0f} |")
        lines.append("")
    one = {source: [m.rates[source, length, 1] * length for length in LENGTHS] for source in SOURCES}
    lines.append(
        f"Frames/s of one worker, from {LENGTHS[0]} to {LENGTHS[-1]} frames a clip: "
        + "; ".join(f"{names[source]} {values[0]:.0f} to {values[-1]:.0f}" for source, values in one.items())
        + ". A worker's megabytes are those that it shares with no other process: batches of its own on their way.\n"
    )
    return "\n".join(lines)


def _per_gpu(m: Measured) -> str:
    """What a GPU asks of the host."""
    gpu_rate = GPU_FLOPS / m.clip_flops
    need = {source: gpu_rate / m.rates[source, 32, 1] for source in SOURCES}
    clip_mb = {source: 32 * m.frame_bytes[source] / 1e6 for source in SOURCES}
    batch_mb = 32 * 224 * 224 * 3 / 1e6
    return f"""## What one GPU asks for

A training step of the 3D ResNet-18 at 32x224x224 takes {m.clip_flops / 1e9:.0f} GFLOP a clip (counted). A GPU that
sustains {GPU_FLOPS / 1e12:.0f} TFLOP/s (assumed: 45 % of an H100's bf16 peak) takes
{GPU_FLOPS / 1e12:.0f}e12 / {m.clip_flops / 1e9:.0f}e9 = {gpu_rate:.0f} clips/s. Of cores like these that is

- {gpu_rate:.0f} / {m.rates["jpg", 32, 1]:.1f} = {need["jpg"]:.0f} that decode JPEG, and \
{gpu_rate:.0f} x {clip_mb["jpg"]:.2f} MB = {gpu_rate * clip_mb["jpg"] / 1000:.2f} GB/s read;
- {gpu_rate:.0f} / {m.rates["cache", 32, 1]:.1f} = {need["cache"]:.1f} that copy from the frame cache, and \
{gpu_rate:.0f} x {clip_mb["cache"]:.2f} MB = {gpu_rate * clip_mb["cache"] / 1000:.1f} GB/s read;
- either way {gpu_rate:.0f} x {batch_mb:.1f} MB = {gpu_rate * batch_mb / 1000:.1f} GB/s to the GPU as uint8, \
a quarter of what float32 would be.
"""


def _large_sets(m: Measured) -> str:
    gpu_rate = GPU_FLOPS / m.clip_flops
    lines = [
        "## Large data sets\n",
        f"A video has {FRAMES_A_VIDEO} frames (assumed), an epoch one clip of 32 frames of each. JPEG frames have "
        f"{m.frame_bytes['jpg'] / 1000:.0f} kB, cached ones {m.frame_bytes['cache'] / 1000:.0f} kB (measured).\n",
        "| | 240,000 videos, 8 GPUs | 240,000 videos, 64 GPUs | 100 million clips, 64 GPUs |",
        "|---|---|---|---|",
    ]
    cases = ((NUM_VIDEOS, 8), (NUM_VIDEOS, 64), (100_000_000, 64))
    rows: dict[str, list[str]] = {}
    for videos, gpus in cases:
        for name, value in _case(m, videos, gpus, gpu_rate).items():
            rows.setdefault(name, []).append(value)
    lines += [f"| {name} | {' | '.join(values)} |" for name, values in rows.items()]
    return "\n".join(lines) + "\n"


def _case(m: Measured, videos: int, gpus: int, gpu_rate: float) -> dict[str, str]:
    rate, scale = gpus * gpu_rate, videos / NUM_VIDEOS
    steps = gpu_rate / CLIPS_A_STEP
    ring = 2 * (gpus - 1) / gpus * m.num_parameters * 4
    jpg, cache = (m.frame_bytes[source] for source in SOURCES)
    hours = videos / rate / 3600
    return {
        "clips/s": f"{gpus} x {gpu_rate:.0f} = {rate:,.0f}",
        "an epoch, if data keep up": f"{videos:,} / {rate:,.0f} = {_duration(3600 * hours)}",
        "cores for JPEG": f"{rate / m.rates['jpg', 32, 1]:,.0f}",
        "cores for the cache": f"{rate / m.rates['cache', 32, 1]:,.0f}",
        "read as JPEG": f"{rate * 32 * jpg / 1e9:.1f} GB/s",
        "read from the cache": f"{rate * 32 * cache / 1e9:.1f} GB/s",
        "disk as JPEG": f"{videos:,} x {FRAMES_A_VIDEO} x {jpg / 1000:.0f} kB = {_size(videos * FRAMES_A_VIDEO * jpg)}",
        "disk for the cache": _size(videos * FRAMES_A_VIDEO * cache),
        "gradients, each GPU": f"{steps:.1f} steps/s x {ring / 1e6:.0f} MB = {steps * ring / 1e9:.1f} GB/s",
        "index, listed": f"{_duration(scale * m.listed.cpu_seconds)} of one core",
        "index, remembered": f"{_duration(scale * m.remembered.cpu_seconds)}",
        "index, memory": _size(scale * m.remembered.megabytes * 1e6),
    }


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def _size(num_bytes: float) -> str:
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes / 1e6:.0f} MB"


WHAT_CHANGES = """Gradients: a ring sends and receives 2 (n - 1) / n times the float32 weights at each step of 16 clips
a GPU. The index: measured for 240,000 videos, in proportion for more; a real disk adds its answers.

## What would have to change

- **240,000 videos, 8 GPUs**: nothing in the code. JPEG needs more cores than most hosts have for 8 GPUs, so the frames
  belong in the cache, on local NVMe drives, whose rate is then what limits: smaller kept frames (crop_smaller_edge) or
  several clips of a video an epoch out of memory help.
- **64 GPUs**: the cache is read by 8 hosts. Each reads an eighth of the clips, but another eighth in each epoch, so
  either every host has all of the cache or videos stay with a host: a plan that deals out videos by host, not by clip.
- **100 million clips**: one file a video and one folder a class no longer do: listing and remembering take hours and
  tens of gigabytes on every host. Videos would be packed a few thousand to an archive, the index would be one table of
  archive, offset and label, mapped and not parsed, and the order of an epoch would shuffle archives, then the clips in
  a window of some. The cache of whole frames is out of reach; video files decoded on the GPU, or JPEG of the kept
  size, take its place. Checkpoints within the epoch are then the rule (checkpoint_interval_unit: step).
"""


def _plot(m: Measured, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, source in zip(figure.subplots(1, 2), SOURCES, strict=True):
        for length in LENGTHS:
            axes.plot(WORKERS, [m.rates[source, length, n] for n in WORKERS], marker="o", label=f"{length} frames")
        axes.axvspan(num_cores(), max(WORKERS), color="0.9", label="oversubscribed")
        axes.set(xlabel="workers", ylabel="clips/s", title={"jpg": "JPEG folders", "cache": "frame cache"}[source])
        axes.set(xscale="log", yscale="log", xticks=WORKERS, xticklabels=WORKERS)
        axes.minorticks_off()
    axes.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})
