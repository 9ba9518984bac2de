"""What torchvision's video networks take: sizes and normalisation of their Kinetics-400 weights, and their limits.

Numbers only, so that a spec can be checked without torch; tests/test_backbones.py holds them against torchvision's own.
"""

from dataclasses import dataclass

# Of every network, from its input to its output: models/stages.py says what is in each.
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4", "head")

KINETICS = "kinetics400"  # of model.pretrained: what torchvision downloads; anything else is a file

Rgb = tuple[float, float, float]

_KINETICS: tuple[Rgb, Rgb] = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
_IMAGENET: tuple[Rgb, Rgb] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class VideoBackbone:
    """The clip that published weights were trained on: frames, side of the crop in pixels, mean and std.

    The network takes `least_frames` and `least_side` at least; with `is_fixed`, nothing but this clip.
    """

    num_frames: int
    side: int
    normalisation: tuple[Rgb, Rgb]
    least_frames: int = 1
    least_side: int = 1
    is_fixed: bool = False


I3D_LEAST_FRAMES = 9  # its last pool is over two of the frames that strides of 8 leave

# Frames are resized for all of them to 8/7 of the side that is cropped: 128 for 112, 256 for 224.
RESIZE_RATIO = 8 / 7

VIDEO_BACKBONES = {
    "r3d_18": VideoBackbone(16, 112, _KINETICS),
    "mc3_18": VideoBackbone(16, 112, _KINETICS),
    "r2plus1d_18": VideoBackbone(16, 112, _KINETICS),
    "s3d": VideoBackbone(128, 224, _KINETICS, least_frames=13, least_side=209),
    "mvit_v2_s": VideoBackbone(16, 224, ((0.45,) * 3, (0.225,) * 3), 16, 224, is_fixed=True),
    "swin3d_t": VideoBackbone(32, 224, _IMAGENET),
}
