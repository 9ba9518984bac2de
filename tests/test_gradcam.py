"""Grad-CAM: networks whose answer depends on one corner, and the stage of each real network that is explained."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from action_recognition.config import ModelSpec
from action_recognition.models import build_model
from action_recognition.models.joint import Joint
from action_recognition.report.gradcam import grad_cam, has_gradients


class Corner(nn.Module):
    """Features are the input's channels; class 1 is the mean of channel 0, class 0 its opposite."""

    def __init__(self, is_3d: bool) -> None:
        super().__init__()
        self.stage = (nn.Conv3d if is_3d else nn.Conv2d)(3, 1, 1, bias=False)
        nn.init.constant_(self.stage.weight, 0)
        with torch.no_grad():
            self.stage.weight[0, 0] = 1

    def forward(self, x: Tensor) -> Tensor:
        seen = self.stage(x).relu().flatten(1).mean(1)
        return torch.stack([-seen, seen], dim=1)


def clip_with_bright_corner(*shape: int) -> Tensor:
    """Zeros (1, 3, ...) but for the upper right 2x2 of channel 0, in 3D in the last two frames only."""
    x = torch.zeros(1, 3, *shape)
    x[..., :2, -2:] = 1
    x[:, 1:] = 0
    if len(shape) == 3:
        x[:, :, :-2] = 0
    return x


def test_map_of_a_2d_network_peaks_in_the_corner_that_the_answer_depends_on() -> None:
    (heat,) = grad_cam(Corner(is_3d=False), [clip_with_bright_corner(8, 8)], 1)
    assert heat is not None
    assert heat.shape == (1, 8, 8)
    assert (heat[0, :2, -2:] == 1).all()
    assert heat.sum() == 4


def test_map_of_a_3d_network_peaks_in_the_corner_and_at_the_time() -> None:
    (heat,) = grad_cam(Corner(is_3d=True), [clip_with_bright_corner(6, 8, 8)], 1)
    assert heat is not None
    assert heat.shape == (6, 8, 8)
    assert (heat[-2:, :2, -2:] == 1).all()
    assert heat.sum() == 8


def test_map_of_the_class_that_the_corner_speaks_against_is_empty() -> None:
    (heat,) = grad_cam(Corner(is_3d=False), [clip_with_bright_corner(8, 8)], 0)
    assert heat is not None
    assert heat.max() == 0


def test_map_of_a_joint_network_is_one_for_each_stream() -> None:
    joint = Joint(Corner(is_3d=True), Corner(is_3d=True), 2, 4)
    for layer in (joint.fc1, joint.fc2):
        nn.init.constant_(layer.bias, 0.1)
        nn.init.constant_(layer.weight, 0)
    with torch.no_grad():
        joint.fc1.weight[0, [1, 3]] = 1.0  # what both streams say of class 1
        joint.fc2.weight[1, 0] = 1.0
    rgb, of = grad_cam(joint, [clip_with_bright_corner(4, 8, 8), clip_with_bright_corner(2, 8, 8).flip(3)], 1)
    assert rgb is not None
    assert of is not None
    assert (rgb.shape, of.shape) == ((4, 8, 8), (2, 8, 8))
    assert np.unravel_index(rgb[-1].argmax(), (8, 8)) == (0, 6)
    assert np.unravel_index(of[-1].argmax(), (8, 8)) == (6, 6)


@pytest.mark.parametrize(
    ("input_type", "shape"), [("2d", (1, 12, 48, 48)), ("3d", (1, 3, 4, 48, 48))], ids=["2d", "3d"]
)
def test_map_of_a_real_network_has_the_size_of_its_clip(input_type: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    spec = ModelSpec(model_type="rgb", input_type=input_type, rgb_seq_length=4)
    (heat,) = grad_cam(build_model(spec, 3), [torch.rand(shape)], 0)
    assert heat is not None
    assert heat.shape == (4 if input_type == "3d" else 1, 48, 48)


def test_map_is_taken_of_the_last_stage_that_is_at_least_four_by_four() -> None:
    """Stages of 4x4 and 2x2 places; one place of the first is bright, which in the second is half of the clip."""
    model = nn.Sequential(nn.Conv2d(3, 1, 16, 16), nn.Conv2d(1, 1, 2, 2), nn.Flatten(), nn.Linear(4, 2))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 1 if parameter.ndim > 1 else 0)
    x = torch.zeros(1, 3, 64, 64)
    x[..., :16, -16:] = 1
    (heat,) = grad_cam(model, [x], 0)
    assert heat is not None
    assert heat[0, :8, -8:].min() == 1
    assert heat[0, 24:].max() == 0
    assert heat[0, :, :40].max() == 0


def test_stream_whose_features_are_tokens_has_no_map() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm, self.head = nn.Conv2d(3, 5, 1), nn.LayerNorm(5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.stem(x).flatten(2).swapaxes(1, 2)).mean(1))

    assert grad_cam(Tokens(), [torch.rand(1, 3, 8, 8)], 0) == [None]


def test_map_of_swin_on_small_frames_is_of_its_last_blocks_with_channels_at_the_end() -> None:
    """64 pixels: the third stage answers (1, T, 4, 4, 384), the last one 2x2 places."""
    torch.manual_seed(0)
    spec = ModelSpec(model_type="rgb", input_type="3d", backbone="swin3d_t", rgb_seq_length=4)
    model, x = build_model(spec, 3).eval(), torch.rand(1, 3, 4, 64, 64)
    seen: list[Tensor] = []
    model.get_submodule("features.4.5").register_forward_hook(lambda *call: seen.append(call[-1]))
    (heat,) = grad_cam(model, [x], 0)
    (gradient,) = torch.autograd.grad(model(x)[0, 0], seen[-1])
    assert gradient.shape == (1, 2, 4, 4, 384)
    expected = (seen[-1] * gradient.mean((1, 2, 3))).sum(-1).relu()
    expected = functional.interpolate(expected[None], x.shape[2:], mode="trilinear")[0, 0]
    assert heat is not None
    np.testing.assert_allclose(heat, (expected / expected.max()).detach(), atol=1e-5)


def test_network_without_weights_has_no_gradients() -> None:
    assert not has_gradients(nn.Flatten())
    assert has_gradients(nn.Linear(1, 1))


def test_explained_network_keeps_no_hooks_and_no_gradients() -> None:
    model = Corner(is_3d=False)
    grad_cam(model, [torch.rand(1, 3, 8, 8)], 1)
    assert not model.stage._forward_hooks
    assert model.stage.weight.grad is None
