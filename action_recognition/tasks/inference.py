"""Inference from a spec or from a checkpoint alone: labels and scores of the videos of one folder."""

from functools import partial
from typing import Any

from action_recognition.config import Spec
from action_recognition.data.cache import kept_for_evaluation
from action_recognition.data.flow_record import checked_flow
from action_recognition.data.index import Index, index_videos
from action_recognition.data.index_cache import with_memory
from action_recognition.tasks.packing import packed
from action_recognition.tasks.scoring import (
    Windowing,
    load_trained,
    prediction_table,
    printable,
    score_videos,
    write_csv,
    write_json_lines,
)
from action_recognition.tasks.setting import Say, make_results_folder, opening_lines
from action_recognition.training.distributed import Process, connected, from_first
from action_recognition.training.metrics import VideoScores
from action_recognition.training.report import StatusFile


def infer(spec: Spec, say: Say) -> list[dict[str, Any]]:
    """Label the videos of inference.inference_dataset_dir. Returns the rows of predictions.jsonl."""
    with connected(spec.inference.device, spec.inference.gpu_ids, "inference.device") as process:
        return _infer(spec, process, say if process.is_first else lambda text: None)


def _infer(spec: Spec, process: Process, say: Say) -> list[dict[str, Any]]:
    section = spec.inference
    for line in opening_lines(spec, "inference", process):
        say(line)
    folder = make_results_folder(section.results_dir, "inference.results_dir")
    status = StatusFile(folder, process.is_first)
    status.write("STARTED", f"inference with {section.checkpoint}")
    try:
        checkpoint = str(section.checkpoint)
        trained = load_trained(spec, checkpoint, (), say, process.device)
        contract = trained.contract
        root = str(section.inference_dataset_dir)

        def list_videos() -> Index:
            find = partial(index_videos, root, contract.class_names, contract.modalities, spec.dataset.on_bad_video)
            index = with_memory(find, root, spec.dataset)
            return checked_flow(index, contract.flow_encoding, checkpoint)

        index = from_first(list_videos() if process.is_first else None)
        for note in index.notes:
            say(note)
        (index,) = packed(spec, [(index, kept_for_evaluation(contract, section.video_num_crops))], process, say)
        windowing = Windowing(
            section.video_inf_mode,
            section.video_num_segments,
            section.video_num_crops,
            section.batch_size,
            section.precision,
            "inference.precision",
        )
        scores, _ = score_videos(spec, trained, index, windowing, process, say)
    except BaseException as error:
        status.write("FAILURE", str(error) or type(error).__name__)
        raise
    rows = json_rows(index, scores)
    for line in documented_lines(index, scores):
        say(line)
    if process.is_first:
        write_csv(folder / "predictions.csv", prediction_table(index, scores))
        write_json_lines(folder / "predictions.jsonl", rows)
    status.write("SUCCESS", "inference finished")
    say(f"{len(scores)} videos; predictions.csv and predictions.jsonl with the scores are in {folder}")
    return rows


def documented_lines(index: Index, scores: VideoScores) -> list[str]:
    """TAO's line for each video: `<path> [label]`, with one label for each of its windows in conv and all."""
    lines = []
    for video_id, windows in zip(scores.video_ids, scores.windows, strict=True):
        labels = ", ".join(index.class_names[best] for best in windows.argmax(axis=1))
        lines.append(f"{printable(index.videos[video_id].path)} [{labels}]")
    return lines


def json_rows(index: Index, scores: VideoScores) -> list[dict[str, Any]]:
    """One object a video: path, label, score, the scores of all classes, and those of each window."""
    names, rows = index.class_names, []
    for video_id, probabilities, windows in zip(scores.video_ids, scores.probabilities, scores.windows, strict=True):
        segments = [{"label": names[int(w.argmax())], "score": round(float(w.max()), 6)} for w in windows]
        best = int(probabilities.argmax())
        row = {"path": index.videos[video_id].path, "label": names[best], "score": round(float(probabilities[best]), 6)}
        by_class = {name: round(float(p), 6) for name, p in zip(names, probabilities, strict=True)}
        rows.append(row | {"scores": by_class, "segments": segments})
    return rows
