"""What evaluation and inference share: the model of a checkpoint, the scores of all its videos, the files of scores."""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from action_recognition.clip.contract import Contract
from action_recognition.config import Spec, to_plain
from action_recognition.data.agreement import check_agreement, contract_of
from action_recognition.data.dataset import EvaluationWindows, Sample
from action_recognition.data.index import Index, stop_if_too_many
from action_recognition.data.loader import ToInput, evaluation_loader, window_batches
from action_recognition.data.workers import reader_errors_told
from action_recognition.errors import SpecError, UserError
from action_recognition.files import write_text
from action_recognition.loading import description
from action_recognition.models import build_model
from action_recognition.models.video import least_frames
from action_recognition.models.weights import load_state
from action_recognition.sealing import plain_note
from action_recognition.tasks.exported import is_exported, load_exported
from action_recognition.tasks.setting import Readable, Say, supported_precision, workers_here
from action_recognition.torch_files import read_file, read_weights
from action_recognition.training.checkpoint import is_checkpoint
from action_recognition.training.distributed import Process
from action_recognition.training.loop import evaluate
from action_recognition.training.metrics import VideoScores
from action_recognition.training.optim import Precision
from action_recognition.training.report import ProgressBar, Times

CPU = torch.device("cpu")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001 (the wide forms are run as well)


@dataclass(frozen=True)
class Trained:
    """A trained model and what its checkpoint says of it; `spec` is what it was trained with, plain, {} if unknown."""

    model: nn.Module
    contract: Contract
    spec: Mapping[str, Any] = field(default_factory=dict)


def load_trained(
    spec: Spec, path: str, fallback_classes: tuple[str, ...], say: Say, device: torch.device = CPU
) -> Trained:
    """The model of a checkpoint, or an exported one that will run on `device`, checked against what the spec gives.

    A file without a contract (TAO's, bare weights) is described by the spec; its classes are `fallback_classes` where
    the spec has no label map.
    """
    if is_exported(path):
        exported, contract, said = load_exported(spec, path, fallback_classes, device)
        say(f"{path}: {_summary(contract)}; {said}")
        return Trained(exported, contract)
    content = read_file(path, spec.encryption_key)
    if note := plain_note(path, spec.encryption_key):
        say(note)
    if not is_checkpoint(content):
        return _from_bare_weights(spec, path, fallback_classes, say)
    model_spec, contract = description(content, path)
    check_agreement(spec, contract, to_plain(model_spec), path)
    model = build_model(model_spec, len(contract.class_names))
    load_state(model, content.get("state_dict", {}), path)
    say(f"{path}: {_summary(contract, model_spec.backbone)}, after epoch {content['epoch']}")
    return Trained(model.eval(), contract, content["spec"])


def _from_bare_weights(spec: Spec, path: str, fallback_classes: tuple[str, ...], say: Say) -> Trained:
    weights = read_weights(path, spec.encryption_key)
    if "model.model_type" not in spec.origins or "model.backbone" not in spec.origins:
        raise SpecError(
            f"{path}: holds weights but no description of its model; give the SPEC that it was trained with as the "
            "first argument (model.model_type, model.backbone, model.input_type, ...)"
        )
    label_map = spec.dataset.label_map
    names = tuple(sorted(label_map, key=label_map.__getitem__)) if label_map else fallback_classes
    if not names:
        raise SpecError(f"{path}: holds no class names; set dataset.label_map as in training")
    contract = contract_of(spec, names)
    model = build_model(spec.model, len(names))
    load_state(model, weights, path)
    origin = "dataset.label_map" if label_map else "the test data"
    say(f"{path}: no contract inside; model, input and normalisation come from the spec, classes from {origin}")
    return Trained(model.eval(), contract)


def _summary(contract: Contract, network: str = "model") -> str:
    lengths = " + ".join(f"{length} {modality}" for modality, length in contract.lengths.items())
    return (
        f"{contract.input_type} {network}, {lengths} frames of {contract.width}x{contract.height}, "
        f"{len(contract.class_names)} classes"
    )


@dataclass(frozen=True)
class Windowing:
    """Which windows of a video are scored, in how many views, and how many in a batch."""

    mode: str
    num_segments: int
    num_views: int
    batch_size: int
    precision: str
    key: str


def windows_of(trained: Trained, index: Index, windowing: Windowing) -> EvaluationWindows:
    """The windows of all videos of the index that a model is to score."""
    least = least_frames(trained.model)
    return EvaluationWindows(
        index.videos, trained.contract, windowing.mode, windowing.num_segments, windowing.num_views, least
    )


def score_videos(
    spec: Spec,
    trained: Trained,
    index: Index,
    windowing: Windowing,
    process: Process,
    say: Say,
    times: Times | None = None,
) -> tuple[VideoScores, dict[str, str]]:
    """The scores of all videos of the index, the same on every process, and {path: problem} of those without.

    Where the time of this process went is added to `times`. UserError where the network's answer is not a number.
    """
    device, contract = process.device, trained.contract
    to_input = ToInput(contract, device)
    precision = supported_precision(windowing.precision, windowing.key, device)
    windows = windows_of(trained, index, windowing)
    num_workers = workers_here(spec, process, say)
    timeout_sec = spec.dataset.timeout_sec
    loader = evaluation_loader(windows, num_workers, device, process.rank, process.num_processes, timeout_sec)
    readers: list[Any] = [loader.dataset]
    batches = window_batches(Readable[Sample](loader, spec.dataset.on_bad_video), windowing.batch_size)
    bar = ProgressBar(
        "scoring", len(range(process.rank, len(index.videos), process.num_processes)), "video", process.is_first
    )
    seen: set[int] = set()

    def advance(video_ids: list[int]) -> None:
        bar.advance(len(set(video_ids) - seen))
        seen.update(video_ids)

    model = trained.model.to(device)
    num_classes = len(contract.class_names)
    try:
        with reader_errors_told(readers, timeout_sec):
            timed = (times or Times()).spent_on(batches)
            scores, problems = evaluate(model, timed, to_input, Precision(precision, device.type), num_classes, advance)
    finally:
        bar.close()
    stop_if_too_many([*index.skipped, *problems.items()], len(index.videos) + len(index.skipped))
    for path, problem in [*index.skipped, *problems.items()]:
        say(f"skipped {path}: {problem}")
    if len(scores) + len(problems) != len(index.videos):
        raise RuntimeError(f"{len(scores)} videos scored and {len(problems)} skipped, of {len(index.videos)}")
    _stop_if_not_finite(scores, index, windowing.key)
    return scores, problems


def _stop_if_not_finite(scores: VideoScores, index: Index, precision_key: str) -> None:
    """UserError where a video has no valid answer: the first class, which NaN would be taken for, is none."""
    lost = [
        index.videos[i].path for i, p in zip(scores.video_ids, scores.probabilities, strict=True) if np.isnan(p).any()
    ]
    if lost:
        raise UserError(
            f"the network's answer is not a number for {len(lost)} of {len(scores)} videos, {lost[0]} the first: "
            f"numbers too large for the precision are the usual cause. Use {precision_key}=fp32; an exported model of "
            "fp16 or int8 is to be exported in fp32"
        )


def prediction_table(index: Index, scores: VideoScores) -> list[list[Any]]:
    """A header and one row a video: path, label (empty if unknown), prediction, score, then one column a class."""
    names = index.class_names
    rows: list[list[Any]] = [["path", "label", "prediction", "score", *names]]
    for video_id, probabilities in zip(scores.video_ids, scores.probabilities, strict=True):
        video, best = index.videos[video_id], int(probabilities.argmax())
        label = names[video.label] if video.label >= 0 else ""
        rows.append(
            [video.path, label, names[best], *(round(float(p), 6) for p in (probabilities[best], *probabilities))]
        )
    return rows


def write_csv(path: Path, rows: list[list[Any]]) -> None:
    """The rows, whole or not at all. Text that a spreadsheet would run as a formula gets a leading quote."""
    text = io.StringIO()
    csv.writer(text).writerows([_harmless(value) for value in row] for row in rows)
    write_text(path, text.getvalue())


def write_json_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One JSON object a line, whole or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows))


def printable(path: str) -> str:
    """The path with what is not UTF-8 in it escaped: names on disk may be any bytes, a terminal and a file not."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _harmless(value: Any) -> Any:
    if isinstance(value, str):
        value = printable(value)
        return f"'{value}" if value.startswith(_FORMULA) else value
    return value
