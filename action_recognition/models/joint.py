"""Two streams, RGB and optical flow, joined behind their logits.

Input (rgb, of), each as its own stream takes it; output logits (N, K).
"""

import torch
from torch import Tensor, nn


class Joint(nn.Module):
    """`model_rgb` and `model_of` must each answer `num_classes` logits."""

    def __init__(self, model_rgb: nn.Module, model_of: nn.Module, num_classes: int, num_fc: int) -> None:
        super().__init__()
        self.model_rgb = model_rgb
        self.model_of = model_of
        self.fc1 = nn.Linear(2 * num_classes, num_fc)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(num_fc, num_classes)

    def forward(self, rgb: Tensor, of: Tensor) -> Tensor:
        both = torch.cat((self.model_rgb(rgb), self.model_of(of)), dim=1)  # (N, 2K)
        return self.fc2(self.relu(self.fc1(both)))
