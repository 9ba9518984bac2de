"""Four-fold evaluation on UT-Interaction set 1, from the AVI files to the accuracy over all 60 videos.

  python tools/ut_interaction.py path/to/ut_interaction work/ut_interaction                        # rgb, of, joint
  python tools/ut_interaction.py path/to/ut_interaction work/ut_interaction --models rgb train.num_epochs=20

SRC/<class>/set1_seqQQ_*.avi; QQ is the recording. Fold f validates on the recordings with (QQ - 1) % 4 == f and trains
on the others, so that no recording is on both sides. Runs preprocess (with DIS flow), train, evaluate and inference as
a user would; joint starts from its fold's rgb and of models. Each finished fold is a line in WORK/results.jsonl:
started again, the tool goes on where it was, and prints the table. --parallel folds run at a time, each on its share
of the cores.
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
from typing import Any

TOOLS = Path(__file__).parent
SPEC = TOOLS.parent / "configs/ut_interaction.yaml"
NUM_FOLDS = 4
RECIPES = {
    "rgb": ["model.model_type=rgb"],
    "of": ["model.model_type=of"],
    # both halves are trained already: what is left is the head, and a little of the rest
    "joint": ["model.model_type=joint", "train.num_epochs=3", "train.checkpoint_interval=3",
              "train.validation_interval=3", "train.optim.lr_steps=[2]"],
}  # fmt: skip


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


def run_fold(model: str, fold: int, work: Path, overrides: list[str], threads: int) -> dict[str, Any]:
    """Train, evaluate and infer one fold. Returns its line of results.jsonl."""
    start, data, results = time.monotonic(), work / "folds" / str(fold), _results(work, model, overrides, fold)
    results.mkdir(parents=True, exist_ok=True)
    log = results / "log.txt"
    given = [*RECIPES[model], *overrides, *(f"dataset.{part}_dataset_dir={data / part}" for part in ("train", "val"))]
    if model == "joint":
        halves = {half: _latest(work, half, overrides, fold) for half in ("rgb", "of")}
        given += [f"model.{half}_pretrained_model_path={path}" for half, path in halves.items()]
    run("train.py", SPEC, *given, f"results_dir={results}", log=log, threads=threads)
    last = f"checkpoint={_latest(work, model, overrides, fold)}"
    run("evaluate.py", f"evaluate.{last}", f"evaluate.test_dataset_dir={data / 'val'}", f"results_dir={results}",
        log=log, threads=threads)  # fmt: skip
    for folder in sorted((data / "val").iterdir()):
        run("inference.py", f"inference.{last}", f"inference.inference_dataset_dir={folder}",
            f"results_dir={results}", f"inference.results_dir={results / 'inference' / folder.name}",
            log=log, threads=threads)  # fmt: skip
    scores = json.loads((results / "evaluate/results.json").read_text())
    right, minutes = round(scores["accuracy"] * scores["videos"] / 100), (time.monotonic() - start) / 60
    return {"model": model, "fold": fold, "overrides": overrides, "right": right, "videos": scores["videos"],
            "minutes": round(minutes, 1)}  # fmt: skip


def _results(work: Path, model: str, overrides: list[str], fold: int) -> Path:
    """One folder for each set of overrides: a run that differs is another run, not one to be resumed."""
    return work / "_".join([model, *overrides]).replace("/", "-") / f"fold{fold}"


def _latest(work: Path, model: str, overrides: list[str], fold: int) -> Path:
    return _results(work, model, overrides, fold) / "train/ar_model_latest.pth"


def run_model(model: str, work: Path, overrides: list[str], parallel: int) -> list[dict[str, Any]]:
    """The lines of all folds of a model: those that results.jsonl has, and the others after running them."""
    record, threads = work / "results.jsonl", max(1, (os.cpu_count() or 1) // parallel)
    lines = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    done = {line["fold"]: line for line in lines if line["model"] == model and line["overrides"] == overrides}

    def finish(fold: int) -> dict[str, Any]:
        line = run_fold(model, fold, work, overrides, threads)
        with record.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return line

    with ThreadPoolExecutor(parallel) as pool:
        new = pool.map(finish, [fold for fold in range(NUM_FOLDS) if fold not in done])
        done |= {line["fold"]: line for line in new}
    return [done[fold] for fold in range(NUM_FOLDS)]


def main() -> int:
    """All folds of all models, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="SRC", help="folder of class folders of AVI files")
    parser.add_argument("work", type=Path, metavar="WORK", help="folder for frames, folds and results")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of the spec")
    parser.add_argument("--models", default=",".join(RECIPES), help="some of rgb,of,joint; all by default")
    parser.add_argument("--parallel", type=int, default=2, help="folds at a time (default 2)")
    options = parser.parse_intermixed_args()
    models = options.models.split(",")
    if unknown := set(models) - set(RECIPES):
        parser.error(f"--models: {', '.join(sorted(unknown))}: only {','.join(RECIPES)} are known")
    frames = options.work / "frames"
    options.work.mkdir(parents=True, exist_ok=True)
    run("preprocess.py", options.source, frames, "--flow", "dis", log=options.work / "preprocess.txt", threads=1)
    link_folds(frames, options.work / "folds")
    print("| model | fold 0 | 1 | 2 | 3 | all folds | minutes of work |\n|---|---|---|---|---|---|---|")
    for model in models:
        lines = run_model(model, options.work, options.overrides, options.parallel)
        right, videos = (sum(line[key] for line in lines) for key in ("right", "videos"))
        folds = " | ".join(f"{line['right']} of {line['videos']}" for line in lines)
        minutes = sum(line["minutes"] for line in lines)
        print(f"| {model} | {folds} | {right} of {videos}, {100 * right / videos:.1f} % | {minutes:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
