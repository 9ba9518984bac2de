import pytest
import torch
from torch import nn

from action_recognition.config import ModelSpec
from action_recognition.models import build_model
from action_recognition.models.stages import stages

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
VIDEO = ("r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v2_s", "swin3d_t")
CASES = [
    *((f"{b}/{i}/{m}") for b in RESNETS for i in ("2d", "3d") for m in ("rgb", "joint")),
    *("i3d/3d/of", "i3d/3d/joint"),
    *(f"{b}/3d/rgb" for b in VIDEO),
]


def build(case: str) -> nn.Module:
    backbone, input_type, model_type = case.split("/")
    with torch.device("meta"):
        return build_model(ModelSpec(model_type=model_type, input_type=input_type, backbone=backbone), 5)


def parameters_of(modules: list[nn.Module]) -> list[int]:
    return [id(parameter) for module in modules for parameter in module.parameters()]


@pytest.mark.parametrize("case", CASES)
def test_stages_of_every_network_hold_each_parameter_once(case: str) -> None:
    model = build(case)
    held = [i for _, modules in stages(model) for i in parameters_of(modules)]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())


@pytest.mark.parametrize("case", CASES)
def test_stages_go_from_stem_to_head_in_the_order_of_the_network(case: str) -> None:
    model = build(case)
    assert [name for name, _ in stages(model)] == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    if "joint" not in case and "mvit" not in case:  # whose class token is registered behind its stem's convolution
        held = [i for _, modules in stages(model) for i in parameters_of(modules)]
        assert held == [id(parameter) for parameter in model.parameters()]


@pytest.mark.parametrize("case", [case for case in CASES if "joint" not in case])
def test_head_is_the_layer_whose_size_is_the_number_of_classes(case: str) -> None:
    (name, modules) = stages(build(case))[-1]
    assert (name, [p.shape[0] for module in modules for p in module.parameters()]) == ("head", [5, 5])


def test_head_of_a_joint_model_holds_the_heads_of_its_streams_and_its_own_layers() -> None:
    model = build("resnet18/2d/joint")
    parts = [model.get_submodule(n) for n in ("model_rgb.fc_cls", "model_of.fc_cls", "fc1", "fc2")]
    assert stages(model)[-1] == ("head", parts)


def test_stages_of_another_network_raise() -> None:
    with pytest.raises(TypeError, match="stages: a Linear is no network of build_model"):
        stages(nn.Linear(2, 2))
