"""What comes before the work: the answer to -h and to a mistake in a spec, and the index of a large data set.

Seconds of CPU time of a process of its own, which on an idle machine are those of the clock. See tools/benchmark.py.
"""

import resource
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmark_index import NUM_VIDEOS, index_costs
from benchmark_rows import Result, Row

REPO = Path(__file__).parents[1]
TOOL = "tools/train.py"
# The reference imports its framework first, then reads the command line.
TORCH_FIRST = f"import torch, runpy, sys; sys.argv.pop(0); runpy.run_path({TOOL!r}, run_name='__main__')"


def startup(rounds: int, num_videos: int = NUM_VIDEOS) -> Result:
    """The rows; ours and the reference take turns."""
    rows = [
        _answer("tools/train.py -h", ["-h"], rounds),
        _answer("a mistake in a spec", ["configs/rgb3d.yaml", "model.backbone=resnet19"], rounds),
    ]
    listed, remembered = index_costs(num_videos)
    what = f"index of {num_videos:,} videos"
    cpu = remembered.cpu_seconds, listed.cpu_seconds
    rows += [
        Row(f"{what} out of its cache", "s", *cpu, is_cost=True, at_most=2.0),
        Row(f"{what}, memory", "MB", remembered.megabytes, listed.megabytes, is_cost=True, at_most=300.0),
    ]
    return Result(rows, ["Reference of the answers: torch is imported first. Of the index: every folder is listed."])


def _answer(name: str, arguments: list[str], rounds: int) -> Row:
    ways = {
        "ours": partial(_cpu_seconds, [sys.executable, TOOL, *arguments]),
        "reference": partial(_cpu_seconds, [sys.executable, "-c", TORCH_FIRST, TOOL, *arguments]),
    }
    measured: dict[str, list[float]] = {way: [] for way in ways}
    for i in range(rounds + 1):
        for way, run in ways.items():
            seconds = run()
            if i > 0:
                measured[way].append(seconds)
    ours, reference = (statistics.median(values) for values in measured.values())
    return Row(name, "s", ours, reference, is_cost=True, at_most=0.5)


def _cpu_seconds(command: list[str]) -> float:
    """Of one process, to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=REPO, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
