"""torchvision's video networks, under its own names, so that its Kinetics-400 files fit as they are.

Input (N, 3, T, H, W); output logits (N, K). Which sizes each takes is told by config/backbones.py. Reading
weights is not done here.
"""

from torch import Tensor, nn
from torchvision.models import get_model_builder
from torchvision.models.video import S3D, MViT

from action_recognition.config.backbones import I3D_LEAST_FRAMES, VIDEO_BACKBONES
from action_recognition.models.i3d import I3d

_LEAST_FRAMES = {I3d: I3D_LEAST_FRAMES, S3D: VIDEO_BACKBONES["s3d"].least_frames}


class Mean(nn.Module):
    """(N, C, T, H, W) -> (N, C, 1, 1, 1). Named axes, since not every engine takes adaptive pooling."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3, 4), keepdim=True)


def least_frames(model: nn.Module) -> int | None:
    """The shortest clip that a 3D network takes. None: clips of one length only (MViT, whose positions are learnt)."""
    if isinstance(model, MViT):
        return None
    return max(
        least if isinstance(part, kind) else 1 for part in model.modules() for kind, least in _LEAST_FRAMES.items()
    )


def video_network(backbone: str, num_classes: int, dropout: float) -> nn.Module:
    """One of torchvision's networks, with `dropout` before its classifier also where torchvision has none there."""
    builder = get_model_builder(backbone)
    if backbone in ("s3d", "mvit_v2_s"):
        return builder(weights=None, num_classes=num_classes, dropout=dropout)
    model = builder(weights=None, num_classes=num_classes)
    # The pool has no weights, so that nothing changes its name.
    model.avgpool = nn.Sequential(Mean(), nn.Dropout(dropout))
    return model
