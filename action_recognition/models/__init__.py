"""Models: a spec in, a network with random weights out."""

from torch import nn

from action_recognition.config import ModelSpec
from action_recognition.config.backbones import VIDEO_BACKBONES
from action_recognition.models.i3d import I3d
from action_recognition.models.joint import Joint
from action_recognition.models.resnet2d import ResNet2d
from action_recognition.models.resnet3d import ResNet3d
from action_recognition.models.video import video_network

__all__ = ["build_model"]


def build_model(spec: ModelSpec, num_classes: int) -> nn.Module:
    """The network of `spec`, randomly initialised.

    rgb and of: forward(x); joint: forward(rgb, of). Input (N, C*T, H, W) in 2D, (N, C, T, H, W) in 3D, with C = 3
    for rgb and 2 for flow. Returns logits (N, num_classes).
    """
    if spec.model_type != "joint":
        return _stream(spec, spec.model_type, num_classes)
    return Joint(_stream(spec, "rgb", num_classes), _stream(spec, "of", num_classes), num_classes, spec.num_fc)


def _stream(spec: ModelSpec, modality: str, num_classes: int) -> nn.Module:
    if spec.backbone in VIDEO_BACKBONES:
        return video_network(spec.backbone, num_classes, spec.dropout_ratio)
    channels, num_frames = {"rgb": (3, spec.rgb_seq_length), "of": (2, spec.of_seq_length)}[modality]
    match spec.input_type, spec.backbone:
        case "2d", "i3d":
            raise ValueError("model.input_type: '2d' does not go with backbone i3d, which takes '3d' only")
        case "2d", backbone:
            return ResNet2d(backbone, channels * num_frames, num_classes, spec.dropout_ratio)
        case _, "i3d":
            return I3d(channels, num_classes, spec.dropout_ratio)
        case _, backbone:
            return ResNet3d(backbone, channels, num_classes, spec.dropout_ratio)
