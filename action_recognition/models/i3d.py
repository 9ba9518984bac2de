"""I3D: Inception-v1 inflated to 3D (arXiv 1705.07750), under the names of the published PyTorch Kinetics weights.

Input (N, C, T, H, W) with T >= 9 and H, W in 193..224; output logits (N, K), the mean over what is left of the time.
Padding is TensorFlow's 'same'. Reading weights is not done here.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

Triple = tuple[int, int, int]


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after one axis for ceil(size / stride) positions to come out; an odd one goes behind."""
    num_out = -(-size // stride)
    total = max((num_out - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class PadSame(nn.Module):
    """Pads (N, C, T, H, W) for the layer behind it, by its size: asymmetric, which a layer's own padding can't be.

    Zeros do for a max pool too: all that comes to one in this network is behind a ReLU.
    """

    def __init__(self, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        t, h, w = (same_padding(*axis) for axis in zip(x.shape[2:], self.kernel, self.stride, strict=True))
        pads = (*w, *h, *t)
        # A pad by nothing would still copy the clip, and stay in the exported graph.
        return functional.pad(x, pads) if any(pads) else x


class Unit3d(nn.Module):
    """Convolution, batch norm, ReLU. At stride 1 'same' padding is symmetric, and left to the convolution."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        padding = kernel // 2 if stride == 1 else 0
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm3d(out_channels, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv3d(x)))


class Inception3d(nn.Module):
    """Four branches side by side: 1x1x1, two of 1x1x1 then 3x3x3, and a max pool then 1x1x1.

    `widths`: channels of b0, b1a, b1b, b2a, b2b, b3b; those of b0, b1b, b2b and b3b come out together.
    """

    def __init__(self, in_channels: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = widths
        self.b0 = Unit3d(in_channels, b0)
        self.b1a = Unit3d(in_channels, b1a)
        self.b1b = Unit3d(b1a, b1b, 3)
        self.b2a = Unit3d(in_channels, b2a)
        self.b2b = Unit3d(b2a, b2b, 3)
        self.b3a = nn.MaxPool3d(3, stride=1, padding=1)
        self.b3b = Unit3d(in_channels, b3b)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))), dim=1)


class I3d(nn.Sequential):
    """The layers run in the order in which they are set; their names are those of the published files."""

    def __init__(self, in_channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.pad_1a = PadSame((7, 7, 7), (2, 2, 2))
        self.Conv3d_1a_7x7 = Unit3d(in_channels, 64, 7, stride=2)
        self.pad_2a = PadSame((1, 3, 3), (1, 2, 2))
        self.MaxPool3d_2a_3x3 = nn.MaxPool3d((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit3d(64, 64)
        self.Conv3d_2c_3x3 = Unit3d(64, 192, 3)
        self.pad_3a = PadSame((1, 3, 3), (1, 2, 2))
        self.MaxPool3d_3a_3x3 = nn.MaxPool3d((1, 3, 3), (1, 2, 2))
        self.Mixed_3b = Inception3d(192, (64, 96, 128, 16, 32, 32))
        self.Mixed_3c = Inception3d(256, (128, 128, 192, 32, 96, 64))
        self.pad_4a = PadSame((3, 3, 3), (2, 2, 2))
        self.MaxPool3d_4a_3x3 = nn.MaxPool3d(3, 2)
        self.Mixed_4b = Inception3d(480, (192, 96, 208, 16, 48, 64))
        self.Mixed_4c = Inception3d(512, (160, 112, 224, 24, 64, 64))
        self.Mixed_4d = Inception3d(512, (128, 128, 256, 24, 64, 64))
        self.Mixed_4e = Inception3d(512, (112, 144, 288, 32, 64, 64))
        self.Mixed_4f = Inception3d(528, (256, 160, 320, 32, 128, 128))
        self.pad_5a = PadSame((2, 2, 2), (2, 2, 2))
        self.MaxPool3d_5a_2x2 = nn.MaxPool3d(2, 2)
        self.Mixed_5b = Inception3d(832, (256, 160, 320, 32, 128, 128))
        self.Mixed_5c = Inception3d(832, (384, 192, 384, 48, 128, 128))
        self.avg_pool = nn.AvgPool3d((2, 7, 7), stride=1)
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Sequential(OrderedDict(conv3d=nn.Conv3d(1024, num_classes, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean((2, 3, 4))  # (N, K, T/8 - 1, 1, 1) -> (N, K)
