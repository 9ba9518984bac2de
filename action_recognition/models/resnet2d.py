"""2D ResNet: the frames of a clip are stacked as input channels of an image network.

Input (N, C*T, H, W), channel-major (R0..R(T-1) G0..); output logits (N, K). The network is torchvision's but for the
number of input channels and the classifier, which is named `fc_cls`. Reading weights is not done here.
"""

from typing import NamedTuple

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet


class Depth(NamedTuple):
    """What tells one ResNet from another: the kind of block, and how many each of the four stages has."""

    bottleneck: bool
    blocks: tuple[int, int, int, int]


DEPTHS = {
    "resnet18": Depth(False, (2, 2, 2, 2)),
    "resnet34": Depth(False, (3, 4, 6, 3)),
    "resnet50": Depth(True, (3, 4, 6, 3)),
    "resnet101": Depth(True, (3, 4, 23, 3)),
    "resnet152": Depth(True, (3, 8, 36, 3)),
}


class ResNet2d(ResNet):
    def __init__(self, backbone: str, in_channels: int, num_classes: int, dropout: float) -> None:
        depth = DEPTHS[backbone]
        super().__init__(Bottleneck if depth.bottleneck else BasicBlock, list(depth.blocks), num_classes)
        self.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.dropout = nn.Dropout(dropout)
        self.fc_cls = nn.Linear(self.fc.in_features, num_classes)
        del self.fc

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        # A mean over named axes: every exporter and engine takes it, which is not so for adaptive pooling.
        x = x.mean((2, 3))  # (N, F)
        return self.fc_cls(self.dropout(x))
