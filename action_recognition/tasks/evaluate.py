"""Evaluation from a spec or from a checkpoint alone: scores of labelled videos, figures, files."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from action_recognition.config import Spec, to_plain
from action_recognition.data.cache import kept_for_evaluation
from action_recognition.data.dataset import EvaluationWindows
from action_recognition.data.flow_record import checked_flow
from action_recognition.data.index import Index, class_names_of, index_classes
from action_recognition.data.index_cache import with_memory
from action_recognition.data.loader import usable_workers
from action_recognition.files import write_text
from action_recognition.report.evaluation import write_evaluation_report
from action_recognition.report.plots import check_plots
from action_recognition.report.videos import Evaluated
from action_recognition.tasks.packing import packed
from action_recognition.tasks.scoring import (
    Trained,
    Windowing,
    load_trained,
    prediction_table,
    score_videos,
    windows_of,
    write_csv,
)
from action_recognition.tasks.setting import Say, make_results_folder, opening_lines
from action_recognition.training.distributed import Process, connected, from_first
from action_recognition.training.metrics import (
    VideoScores,
    class_accuracies,
    confusion_matrix,
    mean_class_accuracy,
    top_k_accuracy,
    total_accuracy,
)
from action_recognition.training.report import StatusFile, Stopwatch, Times, duration, finite_or_none

MAX_MATRIX = 20  # classes; a wider confusion matrix does not fit a terminal and is in results.json only


def evaluate(spec: Spec, say: Say) -> dict[str, Any]:
    """Evaluate evaluate.checkpoint on evaluate.test_dataset_dir. Returns what results.json holds."""
    with connected(spec.evaluate.device, spec.evaluate.gpu_ids, "evaluate.device") as process:
        return _evaluate(spec, process, say if process.is_first else lambda text: None)


def _evaluate(spec: Spec, process: Process, say: Say) -> dict[str, Any]:
    section = spec.evaluate
    root, checkpoint = str(section.test_dataset_dir), str(section.checkpoint)
    for line in opening_lines(spec, "evaluate", process):
        say(line)
    check_plots("evaluate.report", section.report)
    watch, folder = Stopwatch(), make_results_folder(section.results_dir, "evaluate.results_dir")
    status = StatusFile(folder, process.is_first)
    status.write("STARTED", f"evaluating {checkpoint}")
    try:
        trained = load_trained(spec, checkpoint, class_names_of(None, root), say, process.device)
        contract = trained.contract

        def list_videos() -> Index:
            find = partial(index_classes, root, contract.class_names, contract.modalities, spec.dataset.on_bad_video)
            index = with_memory(find, root, spec.dataset)
            return checked_flow(index, contract.flow_encoding, checkpoint)

        index = from_first(list_videos() if process.is_first else None)
        for note in index.notes:
            say(note)
        (index,) = packed(spec, [(index, kept_for_evaluation(contract, section.video_num_crops))], process, say)
        windowing = Windowing(
            section.video_eval_mode,
            section.video_num_segments,
            section.video_num_crops,
            section.batch_size,
            section.precision,
            "evaluate.precision",
        )
        times = Times()
        scores, problems = score_videos(spec, trained, index, windowing, process, say, times)
    except BaseException as error:
        status.write("FAILURE", str(error) or type(error).__name__)
        raise
    results = figures(scores, contract.class_names, section.video_eval_mode)
    results |= {"checkpoint": checkpoint, "videos": len(scores), "skipped": len(problems) + len(index.skipped)}
    say(table(results))
    if process.is_first:
        write_csv(folder / "predictions.csv", prediction_table(index, scores))
        write_text(folder / "results.json", json.dumps(finite_or_none(results), indent=2) + "\n")
        if section.report:
            windows = windows_of(trained, index, windowing)
            _write_report(spec, process, trained, windows, index, scores, results, times)
            say(f"the report is {folder / 'report.html'}")
    kpi = {"accuracy": results["accuracy"], "m_accuracy": results["mean_class_accuracy"]}
    status.write("SUCCESS", "evaluation finished", kpi)
    say(f"{len(scores)} videos in {duration(watch.seconds)}; results.json and predictions.csv are in {Path(folder)}")
    return results


def _write_report(
    spec: Spec,
    process: Process,
    trained: Trained,
    windows: EvaluationWindows,
    index: Index,
    scores: VideoScores,
    results: dict[str, Any],
    times: Times,
) -> None:
    section = spec.evaluate
    evaluated = Evaluated(
        results=results,
        scores=scores,
        index=index,
        root=str(section.test_dataset_dir),
        names=windows.contract.class_names,
        windows=windows,
        model=trained.model,
        device=process.device,
        times=times,
        num_workers=usable_workers(spec.dataset.workers, process.num_local),
        num_processes=process.num_processes,
        settings=to_plain(section),
        trained_as=trained.spec,
    )
    write_evaluation_report(Path(str(section.results_dir)), evaluated)


def figures(scores: VideoScores, class_names: tuple[str, ...], mode: str) -> dict[str, Any]:
    """Accuracies in percent and the confusion matrix. `clip_accuracy` counts windows, `accuracy` videos."""
    num_classes = len(class_names)
    confusion = confusion_matrix(scores.labels, scores.predictions, num_classes)
    window_hits = [w.argmax(axis=1) == label for w, label in zip(scores.windows, scores.labels, strict=True)]
    by_class = zip(class_names, class_accuracies(confusion), strict=True)
    results = {
        "mode": mode,
        "accuracy": total_accuracy(confusion),
        "mean_class_accuracy": mean_class_accuracy(confusion),
        "clip_accuracy": float(100 * np.concatenate(window_hits).mean()) if window_hits else float("nan"),
        "windows": int(sum(map(len, scores.windows))),
        "loss": scores.loss,
        "class_accuracy": {name: None if np.isnan(value) else float(value) for name, value in by_class},
        "class_names": list(class_names),
        "confusion_matrix": confusion.tolist(),
    }
    if num_classes > 5 and len(scores):
        results["top5_accuracy"] = top_k_accuracy(scores.labels, scores.probabilities, 5)
    return results


def table(results: dict[str, Any]) -> str:
    """The figures for a terminal: each class's accuracy, the confusion matrix (rows: true class), the totals."""
    names, confusion = results["class_names"], results["confusion_matrix"]
    if len(names) > MAX_MATRIX:
        counts, lead = [""] * (len(names) + 1), ""
    else:
        cell = 2 + len(str(max(len(names), *(max(row) for row in confusion))))
        counts, lead = ["".join(f"{n:>{cell}}" for n in row) for row in (range(len(names)), *confusion)], "predicted as"
    width = max(map(len, ("class", *names)))
    lines = [f"{'':4}{'class':<{width}}  accuracy  videos  {lead}{counts.pop(0)}"]
    for i, (name, row, shown) in enumerate(zip(names, confusion, counts, strict=True)):
        accuracy = results["class_accuracy"][name]
        percent = "-" if accuracy is None else f"{accuracy:.1f} %"
        lines.append(f"{i:>3} {name:<{width}}  {percent:>8}  {sum(row):>6}  {'':{len(lead)}}{shown}")
    return "\n".join([*map(str.rstrip, lines), totals(results)])


def totals(results: dict[str, Any]) -> str:
    """The accuracies over all classes in one line."""
    parts = [
        f"video accuracy {results['accuracy']:.2f} %",
        f"mean class accuracy {results['mean_class_accuracy']:.2f} %",
    ]
    if "top5_accuracy" in results:
        parts.append(f"top-5 accuracy {results['top5_accuracy']:.2f} %")
    if results["windows"] > results["videos"]:
        parts.append(f"clip accuracy {results['clip_accuracy']:.2f} % ({results['windows']} clips)")
    return ", ".join(parts)
