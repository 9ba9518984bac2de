"""A first spec for a data set, with the reasons beside its values.

In: the measures of the training videos (and of the validation videos). Out: a Draft, whose text is a YAML file that
tools/train.py takes as it is. Chooses by lengths, sizes and classes alone; looks into no video.
"""

import json
import re
import shlex
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from action_recognition.data.survey import Measure, find_videos, measure, parts_of, printable
from action_recognition.errors import DataError

CLIP_LENGTHS = (32, 16)  # the longest that fits; 3D networks shrink time to an eighth
MAX_RATE = 4  # wider steps would lose fast movements
# (short side of the frames from which on, crop_smaller_edge, side of the network's input, clips in a batch)
_INPUTS = ((224, 256, 224, 8), (100, 128, 112, 16), (0, 72, 64, 32))
_VALIDATION = ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class Draft:
    """What the spec says of the data.

    `counts` are the training and validation videos of each class. `covered` is the number of frames (of flow images,
    where they are fewer) that nine in ten videos have, `short_side` the median of the frames' shorter sides in pixels.
    """

    train_dir: Path
    val_dir: Path | None
    counts: dict[str, tuple[int, int]]
    has_rgb: bool
    num_with_flow: int
    covered: int
    short_side: int

    @property
    def num_videos(self) -> int:
        """The training videos."""
        return sum(count for count, _ in self.counts.values())

    @property
    def clip_length(self) -> int:
        return next((length for length in CLIP_LENGTHS if length <= self.covered), self.covered)

    @property
    def rate(self) -> int:
        return max(1, min(MAX_RATE, self.covered // self.clip_length))


def draft_of(root: Path) -> Draft:
    """The draft for a tree of class folders or a list, or for a folder of such, named train, val ...

    DataError where there is no training folder, a class lacks training videos, or a video can't be measured.
    """
    parts = parts_of(root)
    train_dir = parts.get("train", parts.get(""))
    if train_dir is None:
        raise DataError(f"{root}: holds {', '.join(parts)}, but no train")
    val_dir = next((parts[name] for name in _VALIDATION if name in parts), None)
    measures = _measures(train_dir)
    in_train = Counter(m.video.class_name for m in measures)
    in_val = Counter(video.class_name for video in find_videos(val_dir)) if val_dir else Counter()
    if unknown := sorted(in_val.keys() - in_train.keys()):
        raise DataError(
            f"{val_dir}: class {unknown[0]!r} has no training videos; {train_dir} has {', '.join(in_train)}"
        )
    lengths = sorted(min(n for n in (m.num_rgb, m.num_flow) if n) for m in measures)
    return Draft(
        train_dir,
        val_dir,
        {name: (in_train[name], in_val[name]) for name in sorted(in_train)},
        has_rgb=any(m.num_rgb for m in measures),
        num_with_flow=sum(m.num_flow > 0 for m in measures),
        covered=lengths[len(lengths) // 10],
        short_side=int(statistics.median(min(m.size) for m in measures if m.size)),
    )


def _measures(folder: Path) -> list[Measure]:
    measures = [measure(video) for video in find_videos(folder)]
    bad = [f"  {m.video.path}: {m.problem}" for m in measures if m.problem]
    if bad:
        listing = "\n".join([*bad[:10], *[f"  ... and {len(bad) - 10} more"] * (len(bad) > 10)])
        raise DataError(
            f"{folder}: {len(bad)} of {len(measures)} videos can't be used; mend or remove them:\n{listing}"
        )
    return measures


def spec_text(draft: Draft, path: Path) -> str:
    """The spec for `draft` as YAML with comments; `path` is where it will be, for its launch line."""
    smaller_edge, side, batch_size = next(rest for least, *rest in _INPUTS if draft.short_side >= least)
    return f"""\
# {draft.num_videos} videos of {len(draft.counts)} classes. Written by tools/dataset.py init; change what you wish.
#
#   python tools/train.py {shlex.quote(printable(str(path)))}
#
model:
{_model(draft)}
  input_height: {side}  # half of the frames have a short side of {draft.short_side} pixels or more
  input_width: {side}
  sample_strategy: consecutive
  sample_rate: {draft.rate}
  dropout_ratio: 0.5
dataset:
  train_dataset_dir: {_scalar(draft.train_dir.as_posix())}
  {_validation(draft)}
  label_map:{_balance(draft.counts)}
{_label_map(draft)}
  batch_size: {min(batch_size, draft.num_videos)}  # less where the memory does not suffice
  augmentation_config:
    train_crop_type: random_crop
    crop_smaller_edge: {smaller_edge}
    horizontal_flip_prob: {_flip(draft.counts)}
    val_center_crop: true
train:
  num_epochs: 30
  clip_grad_norm: 5.0  # without it the first epochs diverge at times, above all in small batches
  checkpoint_interval: 5
  optim: {{lr: 0.01, momentum: 0.9, weight_decay: 0.0005, lr_scheduler: MultiStep, lr_steps: [15, 25], lr_decay: 0.1}}
evaluate:
  video_eval_mode: conv
  video_num_segments: 10
results_dir: {_scalar(f"results/{path.stem}")}
"""


def _model(draft: Draft) -> str:
    if not draft.has_rgb:
        kind = "of  # there are no rgb frames"
    elif draft.num_with_flow == draft.num_videos:
        kind = "rgb  # u and v are there, too: of learns from motion alone, joint from both"
    else:
        kind = f"rgb  # of and joint need u and v, which {draft.num_with_flow} of {draft.num_videos} videos have"
    length, span = draft.clip_length, draft.clip_length * draft.rate
    lines = [
        f"model_type: {kind}",
        "backbone: resnet18",
        "input_type: 3d",
        f"# A clip of {length} frames, {_every(draft.rate)}, spans {span}. Nine in ten videos have",
        f"# {draft.covered} or more; those shorter than a clip are looped.",
        *[f"rgb_seq_length: {length}"] * draft.has_rgb,
        *[f"of_seq_length: {length}"] * (draft.num_with_flow == draft.num_videos),
    ]
    return "\n".join(f"  {line}" for line in lines)


def _every(rate: int) -> str:
    return {1: "one after the other", 2: "every 2nd", 3: "every 3rd"}.get(rate, f"every {rate}th")


def _validation(draft: Draft) -> str:
    if draft.val_dir:
        warning = "  # a model chosen by its test videos is not tested by them" * (draft.val_dir.stem == "test")
        return f"val_dataset_dir: {_scalar(draft.val_dir.as_posix())}{warning}"
    where = printable(shlex.quote(draft.train_dir.as_posix()))
    return f"val_dataset_dir: null  # python tools/dataset.py split {where} DST --random --val 0.2 --as links makes one"


def _balance(counts: Mapping[str, tuple[int, int]]) -> str:
    most, least = (choose(counts, key=lambda name: counts[name][0]) for choose in (max, min))
    times = counts[most][0] / counts[least][0]
    if times < 3:
        return ""
    return f"  # unbalanced: {printable(most)} has {times:.0f} times the videos of {printable(least)}"


def _label_map(draft: Draft) -> str:
    lines = []
    for class_id, (name, (num_train, num_val)) in enumerate(draft.counts.items()):
        of_val = f", {num_val} for validation" if draft.val_dir else ""
        lines.append(f"    {_scalar(name)}: {class_id}  # {num_train} videos{of_val}")
    return "\n".join(lines)


def _flip(names: Iterable[str]) -> str:
    sided = [name for name in names if re.search(r"(?<![a-z])(left|right)(?![a-z])", name.lower())]
    if sided:
        return f"0.0  # in a mirror {printable(sided[0])} would be something else"
    return "0.5  # 0 where left and right are different classes"


def _scalar(text: str) -> str:
    """Text as YAML that means this very text: bare where that is safe, else in quotes (JSON's are YAML's, too)."""
    is_plain = re.fullmatch(r"[\w./-][\w./ -]*", text, re.ASCII) and yaml.safe_load(text) == text
    return text if is_plain else json.dumps(text)
