"""The training augmentation: one random draw a clip, applied to every frame and every modality.

A Draw holds fractions, not pixels, so that streams of different resolution get the same view.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from action_recognition.clip.contract import Contract
from action_recognition.clip.transform import Box, box_in_frame, short_side_to
from action_recognition.config import AugmentationSpec

# Places of the multi-scale crop in quarters of the free (width, height): corners, centre, edge middles, inner corners
# (Wang et al., Temporal Segment Networks, 2016, section 4).
PLACES = (
    *((0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0)),
    *((1, 1), (3, 1), (1, 3), (3, 3)),
)
_SNAP_PX = 3
Colours = tuple[float, float, float, float]
SAME_COLOURS = (1.0, 1.0, 1.0, 0.0)


@dataclass(frozen=True)
class Draw:
    """The random choices of one clip: window position in 0..1 of the free room, scale, place in PLACES, mirrored, and
    the factors of brightness, contrast and saturation with the shift of hue in turns.
    """

    x: float
    y: float
    scale: float
    place: int
    flip: bool
    colours: Colours = SAME_COLOURS


@dataclass(frozen=True)
class Augmentation:
    """How training clips are cropped and flipped, at (width, height) `size`."""

    crop_type: str
    size: tuple[int, int]
    smaller_edge: int
    scales: Sequence[float]
    flip_prob: float
    color_jitter: Colours = (0.0, 0.0, 0.0, 0.0)

    def draw(self, rng: np.random.Generator) -> Draw:
        """One set of random choices, always the same number of them, whatever the crop type."""
        x, y, flip = rng.random(3)
        scale = self.scales[int(rng.integers(len(self.scales)))]
        place = int(rng.integers(len(PLACES)))
        changes = (2 * rng.random(4) - 1) * self.color_jitter  # each in -largest..largest
        brightness, contrast, saturation, hue = (float(c + same) for c, same in zip(changes, SAME_COLOURS, strict=True))
        return Draw(x, y, scale, place, bool(flip < self.flip_prob), (brightness, contrast, saturation, hue))

    def box(self, frame_size: tuple[int, int], draw: Draw) -> Box:
        """The part of a frame of (width, height) `frame_size` that the clip shows, in pixels of that frame."""
        if self.crop_type == "no_crop":
            return (0, 0, *frame_size)
        resized = short_side_to(frame_size, self.smaller_edge)
        window = self._fixed_window if self.crop_type == "multi_scale_crop" else self._random_window
        return box_in_frame(frame_size, resized, window(resized, draw))

    def _random_window(self, resized: tuple[int, int], draw: Draw) -> Box:
        width, height = self.size
        left, top = int(draw.x * (resized[0] - width + 1)), int(draw.y * (resized[1] - height + 1))
        return left, top, left + width, top + height

    def _fixed_window(self, resized: tuple[int, int], draw: Draw) -> Box:
        side = int(min(resized) * draw.scale)
        width, height = (
            min(output if abs(side - output) < _SNAP_PX else side, full)
            for output, full in zip(self.size, resized, strict=True)
        )
        across, down = PLACES[draw.place]
        left, top = across * ((resized[0] - width) // 4), down * ((resized[1] - height) // 4)
        return left, top, left + width, top + height


def augmentation_of(config: AugmentationSpec, contract: Contract) -> Augmentation:
    """What a spec asks for, for clips of the contract's size."""
    return Augmentation(
        config.train_crop_type,
        (contract.width, contract.height),
        config.crop_smaller_edge,
        config.scales,
        config.horizontal_flip_prob,
        config.color_jitter,
    )


def recolour(clip: np.ndarray, colours: Colours) -> np.ndarray:
    """An rgb clip uint8 (T, H, W, 3) in other colours, all frames alike: torchvision's ColorJitter in a fixed order."""
    if colours == SAME_COLOURS:
        return clip
    from torch import tensor  # here, since the rest of this module does without torch
    from torchvision.transforms.v2 import functional

    frames = tensor(clip).permute(0, 3, 1, 2)  # T H W C -> T C H W
    changes = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    )
    for change, value, same in zip(changes, colours, SAME_COLOURS, strict=True):
        if value != same:
            frames = change(frames, value)
    return frames.permute(0, 2, 3, 1).numpy()
