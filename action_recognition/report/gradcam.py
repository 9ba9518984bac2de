"""Grad-CAM: which places of a clip spoke for a class. A network and its input in, maps in 0..1 out.

Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, ICCV 2017. Needs
nothing of a network but that one of its stages answers a map: (N, F, H, W) in 2D, (N, F, T, H, W) in 3D.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.video import SwinTransformer3d

from action_recognition.models.joint import Joint

MIN_SIDE = 4  # the last stage with a map at least this high and wide is explained; at small input the very last has 2x2


def has_gradients(model: nn.Module) -> bool:
    """Whether a model can be explained at all; an exported one is only an executor of a file."""
    return any(parameter.requires_grad for parameter in model.parameters())


def grad_cam(model: nn.Module, inputs: Sequence[Tensor], class_id: int) -> list[np.ndarray | None]:
    """What in one clip spoke for `class_id`: a map float32 (T, H, W) in 0..1 for each input, in the inputs' order.

    `inputs` are the model's own, N = 1: (1, C, T, H, W), or (1, C*T, H, W) for a 2D network, which has one map for the
    whole clip, T = 1. None for a stream whose last features have no place, such as the tokens of a transformer.
    """
    streams = [model.model_rgb, model.model_of] if isinstance(model, Joint) else [model]
    model.eval()
    watches = [_Watch(stream) for stream in streams]
    try:
        with torch.enable_grad():
            score = model(*(x.detach().clone().requires_grad_() for x in inputs))[0, class_id]
        seen = [watch.features for watch in watches if watch.features is not None]
        gradients = iter(torch.autograd.grad(score, seen) if seen else ())
    finally:
        for watch in watches:
            watch.remove()
    return [
        None if watch.features is None else _upsampled(watch.heat(next(gradients)), x.shape)
        for watch, x in zip(watches, inputs, strict=True)
    ]


class _Watch:
    """Keeps the map that the last stage of a stream with a large enough one answers."""

    def __init__(self, stream: nn.Module) -> None:
        self.features: Tensor | None = None
        self.channels_last = False
        self._is_large = False
        self._is_swin = isinstance(stream, SwinTransformer3d)
        self._hooks = [stage.register_forward_hook(self._see) for stage in stages(stream)]

    def _see(self, stage: nn.Module, _: object, output: object) -> None:
        if not isinstance(output, Tensor) or not output.requires_grad:
            return
        if output.ndim == 3 and output.shape[1] > 1:
            self.features = None  # tokens (N, L, C): a map that came before them is no longer what is judged
        elif output.ndim in (4, 5):
            # Swin's stages all answer (N, T, H, W, C), and a LayerNorm takes channels nowhere else.
            channels_last = self._is_swin or isinstance(stage, nn.LayerNorm)
            height, width = output.shape[-3:-1] if channels_last else output.shape[-2:]
            is_large = min(height, width) >= MIN_SIDE
            if is_large or (not self._is_large and height * width > 1):
                self.features, self.channels_last, self._is_large = output, channels_last, is_large

    def heat(self, gradient: Tensor) -> Tensor:
        """(T, H, W): the channels of the map summed by their mean gradient; what speaks against the class is cut."""
        assert self.features is not None
        features, gradient = (x.movedim(-1, 1) if self.channels_last else x for x in (self.features, gradient))
        weights = gradient.mean(dim=tuple(range(2, features.ndim)), keepdim=True)
        heat = functional.relu((weights * features).sum(dim=1))  # (1, [T,] H, W)
        return heat.detach().reshape(-1, *heat.shape[-2:])

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


def stages(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that a network runs one after the other: its children, those of a Sequential in its place."""
    for child in model.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from stages(child)
        else:
            yield child


def _upsampled(heat: Tensor, shape: torch.Size) -> np.ndarray:
    """(t, h, w) at the size of an input (1, C, T, H, W), its greatest value 1; (1, h, w) as (1, H, W)."""
    num_frames = shape[2] if len(shape) == 5 else 1
    full = functional.interpolate(
        heat[None, None].float(), (num_frames, *shape[-2:]), mode="trilinear", align_corners=False
    )[0, 0]
    return (full / full.max().clamp(min=torch.finfo(torch.float32).tiny)).cpu().numpy()
