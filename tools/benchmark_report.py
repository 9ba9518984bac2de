"""docs/benchmarks.md: every table beside the command that prints it, run on this machine. See tools/benchmark.py."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from action_recognition.machine import num_cores

REPO = Path(__file__).parents[1]
REPORT = REPO / "docs/benchmarks.md"
SECTIONS = (
    ("Training data", "benchmark.py data"),
    ("Training steps", "benchmark.py train"),
    ("Evaluation data", "benchmark.py evaluate"),
    ("Inference on a stream, the host's side", "benchmark.py infer"),
    ("Frames and flow from video", "benchmark.py preprocess"),
    ("Start-up", "benchmark.py startup"),
    ("Two processes", "benchmark_ddp.py"),
)
HEAD = """# Speed, beside the reference's way

Written by `make bench` (`tools/benchmark.py all`); not to be edited. Each table comes from the command above it; ours
and the reference's way take turns in one run after a warm-up, and figures are medians of {rounds}. The reference is
NVIDIA TAO ActionRecognitionNet: not its program, but its way of doing each step, written plainly in
tools/benchmark_reference.py, which keeps nothing from one sample to the next. Ratios travel from machine to machine,
rates do not. Rates a core are for a second of CPU time. Of the limit: ours over what the bare library calls reach.
Hidden is the part of the time spent exchanging gradients in which the backward pass was still at work; for the rest of
it a step waits. What falls short of what is wanted says so.{scaling}

{machine}
"""


def write_report(rounds: int) -> int:
    """Run all sections and write the file. Returns the exit code: 1 where a section failed, which then says so."""
    scaling = " [scaling.md](scaling.md): how cost grows." if (REPO / "docs/scaling.md").exists() else ""
    parts, exit_code = [HEAD.format(rounds=rounds, machine=machine(), scaling=scaling)], 0
    for title, command in SECTIONS:
        print(f"{command} ...", flush=True)
        words = [f"tools/{command.split()[0]}", *command.split()[1:], "--rounds", str(rounds)]
        done = subprocess.run([sys.executable, *words], cwd=REPO, capture_output=True, text=True, check=False)
        exit_code |= done.returncode != 0
        found = done.stdout if done.returncode == 0 else f"Failed: {done.stderr.strip().splitlines()[-1]}\n"
        print(found, flush=True)
        parts.append(f"## {title}\n\n```sh\npython tools/{command}\n```\n\n{found}")
        REPORT.write_text("\n".join(parts), encoding="utf-8")  # at each step, so that nothing measured is lost
    return int(exit_code)


def machine() -> str:
    """The machine, the versions and the date, as a sentence each."""
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    names = ("torch", "torchvision", "numpy", "pillow", "opencv-python-headless", "av")
    versions = ", ".join(f"{name} {found}" for name in names if (found := _version(name)))
    return (
        f"Machine: {num_cores()} cores of {_cpu_name()} ({torch.backends.cpu.get_cpu_capability()}), {gpu}; "
        f"{platform.system()}, Python {platform.python_version()}, {versions}. {datetime.now(UTC):%Y-%m-%d}.{_load()}"
    )


def _load() -> str:
    """What must be said of other programs, whose load on the machine makes all of this slower and less even."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return f"\n\nOther programs were running: the system's load was {load:.1f} at the start." if load > 0.5 else ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _cpu_name() -> str:
    """As the system has it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
