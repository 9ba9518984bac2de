"""A video to its clips: one dataset for rgb, of and joint.

In: an Index and a Contract. Out: Sample values with uint8 clips (S, T, H, W, C) by modality. What is random in a
clip depends on (seed, epoch, clip id) alone, never on the worker or on what was read before. A video that can't be read
comes back as a Sample with a `problem`, so that the loop decides what becomes of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from action_recognition.clip.contract import Contract
from action_recognition.clip.sampling import training_ids, window_ids
from action_recognition.clip.transform import Box, view_boxes
from action_recognition.data.augment import Augmentation, recolour
from action_recognition.data.frames import open_frames
from action_recognition.data.index import Video
from action_recognition.errors import DataError


class ClipKey(NamedTuple):
    """One clip of one epoch; `weight` is its share in the gradient of its step.

    Ids 0..len(dataset)-1 are each clip once; those from len(dataset) on draw the same clips again.
    """

    epoch: int
    clip_id: int
    weight: float


@dataclass(frozen=True)
class Sample:
    """The windows of one video: {modality: uint8 (S, T, H, W, C)}, or why there are none.

    Clips may lie in a mapped file. Those of a `mirrored` sample are still to be mirrored, which is ToInput's to do.
    """

    video: Video
    video_id: int
    clips: dict[str, np.ndarray] = field(default_factory=dict)
    weight: float = 1.0
    problem: str = ""
    mirrored: bool = False

    @property
    def problems(self) -> list[tuple[str, str]]:
        """[(video path, why it can't be read)], or nothing."""
        return [(self.video.path, self.problem)] if self.problem else []


class TrainingClips(Dataset[Sample]):
    """One random clip (S = 1) a ClipKey. `clips_per_video` clip ids in a row belong to one video."""

    def __init__(
        self, videos: Sequence[Video], contract: Contract, augmentation: Augmentation, clips_per_video: int, seed: int
    ) -> None:
        self.videos, self.contract, self.augmentation = videos, contract, augmentation
        self.clips_per_video, self.seed = clips_per_video, seed

    def __len__(self) -> int:
        return len(self.videos) * self.clips_per_video

    def video_id(self, key: ClipKey) -> int:
        """The video that a clip is of."""
        return key.clip_id % len(self) // self.clips_per_video

    def __getitem__(self, key: ClipKey) -> Sample:
        video_id = self.video_id(key)
        rng = np.random.default_rng((self.seed, key.epoch, key.clip_id))
        sample = Sample(self.videos[video_id], video_id, weight=key.weight)
        return _filled(sample, lambda video: self._clips(video, rng))

    def _clips(self, video: Video, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], bool]:
        contract, augmentation, frames = self.contract, self.augmentation, open_frames(video, quickly=True)
        ids = training_ids(frames.num_frames, contract.lengths, contract.sample_strategy, contract.sample_rate, rng)
        draw = augmentation.draw(rng)
        clips = {m: frames.read(m, ids[m], lambda frame: augmentation.box(frame, draw), augmentation.size) for m in ids}
        if "rgb" in clips:
            clips["rgb"] = recolour(clips["rgb"], draw.colours)
        return {m: clip[None] for m, clip in clips.items()}, draw.flip


class EvaluationWindows(Dataset[Sample]):
    """All windows of a video that `mode` (center, conv, all) asks for, in `num_views` views of each.

    Each frame is read once a view. In mode all a 3D model gets a video of at least `least_frames` (None: no video) as
    one clip of all its frames, any other in clips of the model's length, as a 2D model does.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        contract: Contract,
        mode: str = "center",
        num_segments: int = 10,
        num_views: int = 1,
        least_frames: int | None = 1,
    ) -> None:
        self.videos, self.contract, self.mode, self.num_segments = videos, contract, mode, num_segments
        self.num_views, self.least_frames = num_views, least_frames

    def __len__(self) -> int:
        return len(self.videos)

    def video_id(self, index: int) -> int:
        """The index itself, as of any dataset here."""
        return index

    def __getitem__(self, index: int) -> Sample:
        return _filled(Sample(self.videos[index], index), self._clips)

    def ids(self, num_frames: int) -> dict[str, np.ndarray]:
        """The frames that are seen of a video of this length: {modality: (S, T)}, the same in each view."""
        takes_all = self.least_frames is not None and num_frames >= self.least_frames
        return window_ids(
            num_frames,
            self.contract.lengths,
            strategy=self.contract.sample_strategy,
            rate=self.contract.sample_rate,
            mode=self.mode,
            num_segments=self.num_segments,
            whole_clip=self.contract.is_3d and takes_all,
        )

    def _clips(self, video: Video) -> tuple[dict[str, np.ndarray], bool]:
        contract, frames = self.contract, open_frames(video)
        ids = self.ids(frames.num_frames)
        size = (contract.width, contract.height)

        def view(modality: str, i: int) -> np.ndarray:
            def box_of(frame_size: tuple[int, int]) -> Box:
                return view_boxes(frame_size, contract, self.num_views)[i]

            flat = frames.read(modality, ids[modality].ravel(), box_of, size)
            return flat.reshape(*ids[modality].shape, *flat.shape[1:])  # S * T to S, T

        views = {m: [view(m, i) for i in range(self.num_views)] for m in ids}
        return {m: v[0] if len(v) == 1 else np.concatenate(v) for m, v in views.items()}, False


def _filled(sample: Sample, read: Callable[[Video], tuple[dict[str, np.ndarray], bool]]) -> Sample:
    try:
        clips, mirrored = read(sample.video)
    except DataError as error:
        return replace(sample, problem=str(error))
    return replace(sample, clips=clips, mirrored=mirrored)
