"""The videos of an evaluation, looked at again: pictures of them, and what spoke for the answers of the hardest.

In: the scores of an evaluation and what they were made with. Out: plain values and data URIs, no HTML. One frame is
read of each video that is listed, and the clips of the hardest, which go through the network once more for Grad-CAM.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from action_recognition.clip.contract import Contract
from action_recognition.clip.transform import Box, view_boxes
from action_recognition.data.dataset import EvaluationWindows
from action_recognition.data.frames import open_frames, open_source
from action_recognition.data.index import FOLDERS
from action_recognition.data.loader import ToInput
from action_recognition.data.sheet import flow_in_colours
from action_recognition.data.survey import printable
from action_recognition.errors import DataError
from action_recognition.report import clips
from action_recognition.report.answers import MAX_LISTED, Answers
from action_recognition.report.gradcam import grad_cam, has_gradients
from action_recognition.training.report import Times

MAX_CLIPS = 24  # mistakes shown as moving clips
MIN_CLIPS = 6  # filled up with the right answers that were least sure
MAX_CLIP_CHARACTERS = 5_000_000  # so that the whole file stays below about 10 MB
MAX_THUMBNAILS = 600
MAX_WINDOWS = 10  # drawn of a video
MAX_CAM_FRAMES = 128


@dataclass(frozen=True, kw_only=True)
class Evaluated(Answers):
    """An evaluation that is over: `results` as in results.json, the answers, and what they were made with.

    `trained_as` is the spec that the checkpoint holds, plain; `settings` how it was evaluated.
    """

    results: Mapping[str, Any]
    windows: EvaluationWindows
    model: nn.Module
    device: torch.device
    times: Times
    num_workers: int
    num_processes: int
    settings: Mapping[str, Any]
    trained_as: Mapping[str, Any] = field(default_factory=dict)

    @property
    def contract(self) -> Contract:
        return self.windows.contract


@dataclass(frozen=True)
class Look:
    """What a second look at a video gave: its length, and for the hardest a picture."""

    num_frames: int
    thumbnail: str = ""


def looks_at(evaluated: Evaluated) -> dict[int, Look]:
    """{position: Look} of the videos that are listed, the hardest first; of those that can't be read now none."""
    looks = {}
    for i, position in enumerate(evaluated.order[:MAX_LISTED].tolist()):
        try:
            looks[position] = _look(evaluated, position, with_picture=i < MAX_THUMBNAILS)
        except DataError:
            continue  # it could be read when it was scored, and its scores are what the report is about
    return looks


def _look(evaluated: Evaluated, position: int, with_picture: bool) -> Look:
    contract = evaluated.contract
    frames = open_frames(evaluated.index.videos[evaluated.scores.video_ids[position]])
    if not with_picture:
        return Look(frames.num_frames)
    modality = contract.modalities[0]
    middle = np.array([frames.num_frames // 2])
    clip = frames.read(modality, middle, partial(_box, evaluated), (contract.width, contract.height))
    return Look(frames.num_frames, clips.thumbnail(_for_the_eye(clip, modality, contract)[0]))


def _box(evaluated: Evaluated, size: tuple[int, int]) -> Box:
    """The middle one of the parts of a frame that the model sees."""
    num_views = evaluated.windows.num_views
    return view_boxes(size, evaluated.contract, num_views)[num_views // 2]


def _aspect(evaluated: Evaluated, position: int) -> float:
    """Width / height of that part in the source; frames of the cache may be square already. DataError if it is gone."""
    source = open_source(evaluated.index.videos[evaluated.scores.video_ids[position]])
    image = next(source.images(FOLDERS[evaluated.contract.modalities[0]][0], [0]))
    left, top, right, bottom = _box(evaluated, image.size)
    return (right - left) / (bottom - top)


def _for_the_eye(clip: np.ndarray, modality: str, contract: Contract) -> np.ndarray:
    """A clip as RGB uint8 (T, H, W, 3): flow as colours."""
    return clip if modality == "rgb" else flow_in_colours(clip, contract.flow_encoding)


@dataclass(frozen=True)
class Film:
    """A clip of one stream as a strip of frames; `heated` is the same under what spoke for the answer, or why not."""

    modality: str
    num_frames: int
    strip: str
    heated: str
    times: tuple[float, ...]
    note: str


@dataclass(frozen=True)
class Card:
    position: int
    films: tuple[Film, ...]
    aspect: float  # width / height, of the video


def cards_of(evaluated: Evaluated, looks: Mapping[int, Look]) -> Iterator[Card]:
    """The worst mistakes, and where there are few of them right answers that were hardly so."""
    left = MAX_CLIP_CHARACTERS
    answered = evaluated.order[evaluated.valid[evaluated.order]]
    for position in answered[: min(MAX_CLIPS, max(MIN_CLIPS, evaluated.num_wrong))].tolist():
        if position not in looks:
            continue
        card = _card(evaluated, position)
        left -= sum(len(film.strip) + len(film.heated) for film in card.films) if card else 0
        if left < 0:
            return
        if card:
            yield card


def _card(evaluated: Evaluated, position: int) -> Card | None:
    """The window that scored highest for the answer; None where the video can't be read now."""
    scores, contract = evaluated.scores, evaluated.contract
    sample = evaluated.windows[int(scores.video_ids[position])]
    if sample.problem:
        return None
    try:
        aspect = _aspect(evaluated, position)
    except DataError:
        return None
    answer = int(scores.predictions[position])
    window = int(scores.windows[position][:, answer].argmax())
    taken = {m: windows[window] for m, windows in sample.clips.items()}
    maps, note = _explained(evaluated, taken, answer)
    films = tuple(
        _film(m, _for_the_eye(clip, m, contract), heat, note)
        for (m, clip), heat in zip(taken.items(), maps, strict=True)
    )
    return Card(position, films, aspect)


def _explained(
    evaluated: Evaluated, clip: Mapping[str, np.ndarray], answer: int
) -> tuple[list[np.ndarray | None], str]:
    """A map for each stream, or None with the reason."""
    nothing: list[np.ndarray | None] = [None] * len(clip)
    if not has_gradients(evaluated.model):
        return nothing, "no gradients in an exported model"
    num_frames = max(map(len, clip.values()))
    if num_frames > MAX_CAM_FRAMES:
        return nothing, f"no Grad-CAM of clips longer than {MAX_CAM_FRAMES} frames"
    to_input = ToInput(evaluated.contract, evaluated.device)
    inputs = to_input({m: torch.from_numpy(np.ascontiguousarray(frames[None])) for m, frames in clip.items()})
    maps = grad_cam(evaluated.model, inputs, answer)
    if all(heat is None for heat in maps):
        return maps, "no Grad-CAM: this network's last features have no place"
    return [heat if heat is not None and heat.max() > 0 else None for heat in maps], "no place spoke for the answer"


def _film(modality: str, frames: np.ndarray, heat: np.ndarray | None, note: str) -> Film:
    ids = clips.evenly(len(frames))
    strip = clips.strip(frames[ids])
    if heat is None:
        return Film(modality, len(ids), strip, "", (), note)
    times = heat.mean(axis=(1, 2))[ids] if len(heat) > 1 else np.zeros(0)
    times = times / max(float(times.max(initial=0)), 1e-9)
    heated = clips.strip(clips.heated(frames[ids], heat[ids] if len(heat) > 1 else heat))
    return Film(modality, len(ids), strip, heated, tuple(float(t) for t in times), "")


def listed(answers: Answers, looks: Mapping[int, Look], cards: Mapping[int, int]) -> list[list[Any]]:
    """A row a video, the hardest first: name, class, answer, their scores, frames, picture and card, -1 for none.

    Without a valid answer that and the scores are None: JSON has no nan.
    """
    scores, rows, pictures = answers.scores, [], 0
    for position in answers.order[:MAX_LISTED].tolist():
        label, answer = int(scores.labels[position]), int(scores.predictions[position])
        answered: tuple[float | None, ...] = (None, None, None)
        if answers.valid[position]:
            answered = (answer, *(round(float(scores.probabilities[position, i]), 4) for i in (answer, label)))
        look = looks.get(position, Look(0))
        picture = pictures if look.thumbnail else -1
        pictures += bool(look.thumbnail)
        name = printable(answers.name(position))
        rows.append([name, label, *answered, look.num_frames, picture, cards.get(position, -1)])
    return rows


def windows_of(evaluated: Evaluated, num_frames: int) -> np.ndarray:
    """The frames (S, T) that the model sees of a video of this length, at most MAX_WINDOWS windows."""
    windows = all_windows(evaluated, num_frames)
    return windows[clips.evenly(len(windows), MAX_WINDOWS)]


def all_windows(evaluated: Evaluated, num_frames: int) -> np.ndarray:
    """The same, all of them; of two streams those of the longer clip."""
    return max(evaluated.windows.ids(num_frames).values(), key=lambda windows: windows.shape[1])


def runs(ids: np.ndarray) -> list[list[int]]:
    """Frame ids as [first, count] of those that follow each other."""
    unique = np.unique(ids)
    parts = np.split(unique, np.flatnonzero(np.diff(unique) > 1) + 1)
    return [[int(part[0]), len(part)] for part in parts]
