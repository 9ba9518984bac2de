"""Training clips as the model gets them, for the eye: after sampling, cropping and mirroring, before normalisation."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from action_recognition.config import Spec, load_spec
from action_recognition.data.agreement import contract_of
from action_recognition.data.augment import augmentation_of
from action_recognition.data.dataset import ClipKey, TrainingClips
from action_recognition.data.draft import draft_of, spec_text
from action_recognition.data.index import class_names_of, index_classes
from action_recognition.data.lists import LIST_SUFFIXES
from action_recognition.data.sheet import Strip, flow_in_colours
from action_recognition.data.survey import printable
from action_recognition.errors import DataError
from action_recognition.files import write_text


def spec_for(source: Path, overrides: Sequence[str]) -> Spec:
    """The spec in a file, or for a data set (a folder or a list) the one that `init` would write, with overrides."""
    if not source.is_dir() and source.suffix.lower() not in LIST_SUFFIXES:
        return load_spec(source, overrides, task="train")
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder, "draft.yaml")
        write_text(draft, spec_text(draft_of(source), draft))
        return load_spec(draft, overrides, task="train")


def training_strips(spec: Spec, num_clips: int, seed: int | None = None) -> list[Strip]:
    """`num_clips` clips of the first epoch, chosen by `seed` (train.seed where it is None), a strip a modality.

    With the spec's own seed they are the very clips that a training run begins with, if not in its order. DataError for
    a video that can't be read.
    """
    dataset = spec.dataset
    seed = max(0, spec.train.seed) if seed is None else seed
    names = class_names_of(dataset.label_map, str(dataset.train_dataset_dir))
    contract = contract_of(spec, names)
    index = index_classes(str(dataset.train_dataset_dir), names, contract.modalities, dataset.on_bad_video)
    augmentation = augmentation_of(dataset.augmentation_config, contract)
    clips = TrainingClips(index.videos, contract, augmentation, dataset.clips_per_video, seed)
    strips = []
    for clip_id in np.random.default_rng(seed).permutation(len(clips))[:num_clips]:
        sample = clips[ClipKey(0, int(clip_id), 1.0)]
        if sample.problem:
            raise DataError(sample.problem)
        caption = (printable(names[sample.video.label]), printable(Path(sample.video.path).name))
        for modality, (clip,) in sample.clips.items():
            frames = clip if modality == "rgb" else flow_in_colours(clip, contract.flow_encoding)
            strips.append(Strip(caption, frames))
    return strips
