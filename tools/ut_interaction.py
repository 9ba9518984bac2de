"""Four-fold evaluation on UT-Interaction set 1, from the AVI files to the accuracy over all 60 videos.

  python tools/ut_interaction.py path/to/ut_interaction work/ut_interaction

SRC/<class>/set1_seqQQ_*.avi; QQ is the recording. Fold f validates on the recordings with (QQ - 1) % 4 == f and trains
on the others, so that no recording is on both sides. Runs preprocess, train, evaluate and inference as a user would;
started again, it goes on where it was. --parallel folds run at a time, each with its share of the cores.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TOOLS = Path(__file__).parent
SPEC = TOOLS.parent / "configs/ut_interaction.yaml"
NUM_FOLDS = 4


def run(tool: str, *arguments: object, log: Path, threads: int) -> None:
    """Run one of the tools with its output in a log file; leave with its message where it fails."""
    command = [sys.executable, str(TOOLS / tool), *map(str, arguments)]
    with log.open("a") as file:
        result = subprocess.run(
            command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, check=False
        )
    if result.returncode:
        sys.exit(f"error: {' '.join(command)} ended with {result.returncode}; see {log}")


def link_folds(frames: Path, folds: Path) -> None:
    """folds/<f>/{train,val}/<class>/<video> as links into the frame folders."""
    for video in sorted(frames.glob("*/set1_seq*")):
        match = re.match(r"set1_seq(\d+)_", video.name)
        if match is None:
            sys.exit(f"error: {video}: expected a name like set1_seq03_15_3_3")
        for fold in range(NUM_FOLDS):
            part = "val" if (int(match[1]) - 1) % NUM_FOLDS == fold else "train"
            link = folds / str(fold) / part / video.parent.name / video.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(video.resolve())


def run_fold(fold: int, work: Path, overrides: list[str], threads: int) -> dict[str, float]:
    """Train, evaluate and infer one fold. Returns its results.json."""
    data, results = work / "folds" / str(fold), work / f"fold{fold}"
    results.mkdir(parents=True, exist_ok=True)
    log = results / "log.txt"
    folders = [f"dataset.{part}_dataset_dir={data / part}" for part in ("train", "val")]
    run("train.py", SPEC, *folders, f"results_dir={results}", *overrides, log=log, threads=threads)
    last = f"checkpoint={results / 'train/ar_model_latest.pth'}"
    run("evaluate.py", f"evaluate.{last}", f"evaluate.test_dataset_dir={data / 'val'}", f"results_dir={results}",
        log=log, threads=threads)  # fmt: skip
    for folder in sorted((data / "val").iterdir()):
        run("inference.py", f"inference.{last}", f"inference.inference_dataset_dir={folder}",
            f"results_dir={results}", f"inference.results_dir={results / 'inference' / folder.name}",
            log=log, threads=threads)  # fmt: skip
    return json.loads((results / "evaluate/results.json").read_text())


def main() -> int:
    """All folds, then the accuracy over all videos."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="SRC", help="folder of class folders of AVI files")
    parser.add_argument("work", type=Path, metavar="WORK", help="folder for frames, folds and results")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of the spec")
    parser.add_argument("--parallel", type=int, default=2, help="folds at a time (default 2)")
    options = parser.parse_args()
    start, frames = time.monotonic(), options.work / "frames"
    options.work.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // options.parallel)
    run("preprocess.py", options.source, frames, log=options.work / "preprocess.txt", threads=1)
    link_folds(frames, options.work / "folds")
    with ThreadPoolExecutor(options.parallel) as pool:
        folds = list(pool.map(lambda f: run_fold(f, options.work, options.overrides, threads), range(NUM_FOLDS)))
    hits = 0
    for fold, results in enumerate(folds):
        right = round(results["accuracy"] * results["videos"] / 100)
        hits += right
        print(f"fold {fold}: {right} of {results['videos']} videos, {results['accuracy']:.1f} %")
    total = sum(int(results["videos"]) for results in folds)
    minutes = (time.monotonic() - start) / 60
    print(f"all folds: {hits} of {total} videos, {100 * hits / total:.1f} %, {minutes:.0f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
