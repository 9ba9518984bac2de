"""3D ResNet: torchvision's ResNet with every 3x3 convolution made 3x3x3, and a (5, 7, 7) stem.

Input (N, C, T, H, W); output logits (N, K). The stem and its pool halve the time twice; the stages keep it.
Reading weights, also those of a 2D ResNet, is not done here.
"""

from torch import Tensor, nn

from action_recognition.models.resnet2d import DEPTHS


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv3d:
    """A convolution whose stride moves in space only."""
    return nn.Conv3d(in_channels, out_channels, kernel, (1, stride, stride), padding=kernel // 2, bias=False)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """The projection of the residual, or None where the block keeps the shape: then it has no entries in a file."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm3d(out_channels))


class BasicBlock3d(nn.Module):
    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm3d(width)
        self.downsample = _shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck3d(nn.Module):
    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, width, 1)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = _conv(width, 4 * width, 1)
        self.bn3 = nn.BatchNorm3d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


def _stage(
    block: type[BasicBlock3d | Bottleneck3d], in_channels: int, width: int, num_blocks: int, stride: int
) -> nn.Module:
    out_channels = width * block.expansion
    first = block(in_channels, width, stride)
    return nn.Sequential(first, *(block(out_channels, width, 1) for _ in range(num_blocks - 1)))


class ResNet3d(nn.Module):
    def __init__(self, backbone: str, in_channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        bottleneck, blocks = DEPTHS[backbone]
        block = Bottleneck3d if bottleneck else BasicBlock3d
        grow = block.expansion
        self.conv1 = nn.Conv3d(in_channels, 64, (5, 7, 7), stride=2, padding=(2, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d((1, 3, 3), stride=2, padding=(0, 1, 1))
        self.layer1 = _stage(block, 64, 64, blocks[0], stride=1)
        self.layer2 = _stage(block, 64 * grow, 128, blocks[1], stride=2)
        self.layer3 = _stage(block, 128 * grow, 256, blocks[2], stride=2)
        self.layer4 = _stage(block, 256 * grow, 512, blocks[3], stride=2)
        self.dropout = nn.Dropout(dropout)
        self.fc_cls = nn.Linear(512 * grow, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (N, 64, T/4, H/4, W/4)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = x.mean((2, 3, 4))  # (N, F)
        return self.fc_cls(self.dropout(x))
