"""Golden values: the reference's own models with a fixed fill of the weights (torch 2.15, CPU, float32)."""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from action_recognition.config import ModelSpec
from action_recognition.models import build_model
from action_recognition.models.i3d import I3d, PadSame, same_padding

GOLDEN = json.loads((Path(__file__).parent / "golden" / "models_rgb.json").read_text())
GOLDEN_SHAPES = {"2d": (2, 24, 112, 112), "3d": (2, 3, 8, 112, 112)}
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def fill(model: nn.Module) -> None:
    """The fill that golden values are computed with: every entry from its own name."""
    for name, entry in model.state_dict().items():
        if entry.is_floating_point():
            draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(entry.shape)
            values = torch.from_numpy(draw.astype(np.float32))
            entry.copy_(scaled(name, values))


def scaled(name: str, values: Tensor) -> Tensor:
    if name.endswith("running_var"):
        return 0.5 + values.abs()
    if values.dim() == 1:
        return 1 + 0.1 * values if name.endswith("weight") else 0.1 * values
    return values / math.sqrt(math.prod(values.shape[1:]))


def build(
    backbone: str = "resnet18", input_type: str = "2d", model_type: str = "rgb", num_classes: int = 5
) -> nn.Module:
    spec = ModelSpec(
        model_type=model_type, backbone=backbone, input_type=input_type, rgb_seq_length=8, of_seq_length=10, num_fc=64
    )
    return build_model(spec, num_classes).eval()


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def slow_if_deep(case: str) -> object:
    return pytest.param(case, marks=pytest.mark.slow) if "101" in case or case == "resnet_34/rgb/3d" else case


@pytest.mark.parametrize("case", [slow_if_deep(case) for case in GOLDEN])
def test_resnet_with_golden_weights_has_the_names_shapes_and_logits_of_the_reference(case: str) -> None:
    backbone, model_type, input_type = case.split("/")
    model = build(backbone.replace("_", ""), input_type, model_type)
    fill(model)
    draw = np.random.default_rng(zlib.crc32(f"rgb-{input_type}".encode())).standard_normal(GOLDEN_SHAPES[input_type])
    with torch.inference_mode():
        logits = model(torch.from_numpy(draw.astype(np.float32)))
    assert {name: list(entry.shape) for name, entry in model.state_dict().items()} == GOLDEN[case]["keys"]
    assert num_parameters(model) == GOLDEN[case]["params"]
    torch.testing.assert_close(logits, torch.tensor(GOLDEN[case]["logits"]), rtol=1e-4, atol=1e-6)


def test_resnet18_3d_for_rgb_and_5_classes_has_33187653_parameters() -> None:
    assert num_parameters(build("resnet18", "3d")) == 33_187_653


@pytest.mark.parametrize("input_type", ["2d", "3d"])
@pytest.mark.parametrize(
    ("backbone", "blocks"),
    [
        ("resnet18", [2, 2, 2, 2]),
        ("resnet34", [3, 4, 6, 3]),
        ("resnet50", [3, 4, 6, 3]),
        ("resnet101", [3, 4, 23, 3]),
        ("resnet152", [3, 8, 36, 3]),
    ],
)
def test_resnet_has_the_published_number_of_blocks_in_each_stage(
    backbone: str, blocks: list[int], input_type: str
) -> None:
    with torch.device("meta"):
        model = build(backbone, input_type)
    assert [len(model.get_submodule(f"layer{stage}")) for stage in (1, 2, 3, 4)] == blocks
    assert ("layer1.0.conv3.weight" in model.state_dict()) == (backbone in ("resnet50", "resnet101", "resnet152"))


@pytest.mark.parametrize(("input_type", "num_params"), [("2d", 58_219_909), ("3d", 117_395_269)])
def test_resnet152_for_rgb_and_5_classes_has_a_known_number_of_parameters(input_type: str, num_params: int) -> None:
    """From the published 60,192,808 of 2D: another head and stem; in 3D 2 more slices for each 3x3 (59,203,584)."""
    with torch.device("meta"):
        assert num_parameters(build("resnet152", input_type)) == num_params


@pytest.mark.parametrize(("rate", "module"), [(0.0, 0.0), (0.25, 0.25), (0.5, 0.5)])
@pytest.mark.parametrize(("backbone", "input_type"), [("resnet18", "2d"), ("resnet18", "3d"), ("i3d", "3d")])
def test_dropout_ratio_is_the_probability_to_drop(backbone: str, input_type: str, rate: float, module: float) -> None:
    with torch.device("meta"):
        model = build_model(
            ModelSpec(model_type="rgb", backbone=backbone, input_type=input_type, dropout_ratio=rate), 5
        )
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [module]


def test_dropout_in_training_changes_the_logits_and_in_evaluation_does_not() -> None:
    model, clips = build(), torch.randn(2, 24, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model(clips), model(clips))
        model.dropout.train()
        assert not torch.equal(model(clips), model(clips))


@pytest.mark.parametrize(
    ("model_type", "input_type", "stem", "shape"),
    [
        ("rgb", "2d", (64, 24, 7, 7), (2, 24, 64, 64)),
        ("of", "2d", (64, 20, 7, 7), (2, 20, 64, 64)),
        ("rgb", "3d", (64, 3, 5, 7, 7), (2, 3, 8, 64, 64)),
        ("of", "3d", (64, 2, 5, 7, 7), (2, 2, 10, 64, 64)),
    ],
)
def test_stem_takes_3_channels_a_frame_for_rgb_and_2_for_flow(
    model_type: str, input_type: str, stem: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    model = build("resnet18", input_type, model_type)
    with torch.inference_mode():
        assert model(torch.randn(shape)).shape == (2, 5)
    assert model.conv1.weight.shape == stem


def test_2d_resnet_keeps_no_classifier_under_torchvisions_name() -> None:
    assert [name for name in build().state_dict() if "fc" in name] == ["fc_cls.weight", "fc_cls.bias"]


def test_convolutions_start_from_kaiming_normal_fan_out_and_batch_norms_from_1_and_0() -> None:
    torch.manual_seed(0)
    model = build("resnet18", "3d")
    # layer4.0.conv2: 512 channels out of 3x3x3 = 27 places each.
    assert model.layer4[0].conv2.weight.std().item() == pytest.approx(math.sqrt(2 / (512 * 27)), rel=0.01)
    assert model.conv1.weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 5 * 7 * 7)), rel=0.02)
    assert torch.equal(model.bn1.weight, torch.ones(64))
    assert torch.equal(model.bn1.bias, torch.zeros(64))


# Joint


@pytest.mark.parametrize("input_type", ["2d", "3d"])
def test_joint_puts_both_logits_through_fc1_relu_fc2(input_type: str) -> None:
    model = build("resnet18", input_type, "joint")
    rgb, of = (torch.randn(2, 24, 64, 64), torch.randn(2, 20, 64, 64))
    if input_type == "3d":
        rgb, of = (torch.randn(2, 3, 8, 64, 64), torch.randn(2, 2, 10, 64, 64))
    with torch.inference_mode():
        both = torch.cat([model.model_rgb(rgb), model.model_of(of)], dim=1)
        hidden = (both @ model.fc1.weight.T + model.fc1.bias).clamp(min=0)
        expected = hidden @ model.fc2.weight.T + model.fc2.bias
        torch.testing.assert_close(model(rgb, of), expected)


@pytest.mark.parametrize("backbone", [*RESNETS, "i3d"])
def test_joint_of_every_backbone_has_two_streams_of_k_logits_and_a_head_of_num_fc(backbone: str) -> None:
    with torch.device("meta"):
        shapes = {n: tuple(t.shape) for n, t in build(backbone, "3d", "joint", num_classes=7).state_dict().items()}
    head = "logits.conv3d" if backbone == "i3d" else "fc_cls"
    assert (shapes[f"model_rgb.{head}.weight"][0], shapes[f"model_of.{head}.weight"][0]) == (7, 7)
    assert [shapes[n] for n in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")] == [(64, 14), (64,), (7, 64), (7,)]


def test_joint_of_i3d_answers_logits() -> None:
    model = build("i3d", "3d", "joint")
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 9, 193, 193), torch.randn(1, 2, 9, 193, 193)).shape == (1, 5)


# I3D


def test_i3d_with_400_classes_has_the_names_and_shapes_of_the_published_weights() -> None:
    with torch.device("meta"):
        model = I3d(3, 400, 0.5)
    shapes = {name: tuple(entry.shape) for name, entry in model.state_dict().items()}
    # 57 units (3 of the stem, 6 in each of 9 modules) of 6 entries, and the classifier's two.
    assert len(shapes) == 57 * 6 + 2
    assert {name.split(".")[0] for name in shapes} == {
        "Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "Mixed_3b", "Mixed_3c", "Mixed_4b", "Mixed_4c", "Mixed_4d",
        "Mixed_4e", "Mixed_4f", "Mixed_5b", "Mixed_5c", "logits",
    }  # fmt: skip
    assert {name.split(".")[1] for name in shapes if name.startswith("Mixed_3b.")} == {
        "b0", "b1a", "b1b", "b2a", "b2b", "b3b",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("Conv3d_1a_7x7.conv3d.weight", (64, 3, 7, 7, 7)),
        ("Conv3d_1a_7x7.bn.running_var", (64,)),
        ("Conv3d_2c_3x3.conv3d.weight", (192, 64, 3, 3, 3)),
        ("Mixed_3b.b0.conv3d.weight", (64, 192, 1, 1, 1)),
        ("Mixed_4b.b0.conv3d.weight", (192, 480, 1, 1, 1)),
        ("Mixed_4f.b1b.conv3d.weight", (320, 160, 3, 3, 3)),
        ("Mixed_5c.b2b.conv3d.weight", (128, 48, 3, 3, 3)),
        ("Mixed_5c.b3b.bn.bias", (128,)),
        ("logits.conv3d.weight", (400, 1024, 1, 1, 1)),
        ("logits.conv3d.bias", (400,)),
    ],
)
def test_i3d_entry_has_its_published_shape(name: str, shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        assert I3d(3, 400, 0.5).state_dict()[name].shape == shape


def test_i3d_with_400_classes_has_12697264_parameters() -> None:
    """57 convolutions in*out*k^3, two entries of batch norm for each channel, and 1024*400 + 400 of the classifier."""
    with torch.device("meta"):
        assert num_parameters(I3d(3, 400, 0.5)) == 12_697_264


def test_i3d_batch_norms_have_the_published_eps_and_momentum() -> None:
    with torch.device("meta"):
        norms = [m for m in I3d(3, 400, 0.5).modules() if isinstance(m, nn.BatchNorm3d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"),
    [
        (224, 7, 2, (2, 3)),  # 112 out: 111*2 + 7 - 224 = 5
        (223, 7, 2, (3, 3)),  # 112 out: 111*2 + 7 - 223 = 6
        (193, 7, 2, (3, 3)),  # 97 out
        (112, 3, 2, (0, 1)),  # 56 out: 55*2 + 3 - 112 = 1
        (97, 3, 2, (1, 1)),  # 49 out
        (9, 3, 2, (1, 1)),
        (4, 2, 2, (0, 0)),
        (5, 2, 2, (0, 1)),
        (7, 3, 1, (1, 1)),
        (7, 1, 1, (0, 0)),
        (1, 1, 2, (0, 0)),  # the stride is wider than the kernel: nothing to pad
    ],
)
def test_same_padding_is_tensorflows_with_the_odd_zero_behind(
    size: int, kernel: int, stride: int, pads: tuple[int, int]
) -> None:
    assert same_padding(size, kernel, stride) == pads


@pytest.mark.parametrize("size", range(1, 30))
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 2), (2, 2), (3, 1), (1, 1)])
def test_layer_behind_pad_same_gives_ceil_of_size_over_stride(size: int, kernel: int, stride: int) -> None:
    layer = nn.Sequential(PadSame((kernel,) * 3, (stride,) * 3), nn.MaxPool3d(kernel, stride))
    assert layer(torch.zeros(1, 1, size, 8, 9)).shape[2] == math.ceil(size / stride)


@pytest.mark.parametrize("shape", [(9, 193, 224), (16, 224, 193)])
def test_i3d_takes_9_frames_and_193_to_224_pixels(shape: tuple[int, int, int]) -> None:
    with torch.inference_mode():
        assert build("i3d", "3d")(torch.randn(1, 3, *shape)).shape == (1, 5)


@pytest.mark.parametrize("shape", [(8, 193, 193), (9, 192, 193)])
def test_i3d_with_a_clip_too_small_for_its_pool_raises(shape: tuple[int, int, int]) -> None:
    with torch.inference_mode(), pytest.raises(RuntimeError, match="smaller than kernel size"):
        build("i3d", "3d")(torch.randn(1, 3, *shape))


def test_i3d_agrees_with_its_layers_run_one_by_one_with_padding_by_remainders() -> None:
    model = build("i3d", "3d")
    fill(model)
    clip = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 17, 193, 193)).astype(np.float32))
    with torch.inference_mode():
        torch.testing.assert_close(model(clip), i3d_by_hand(clip, model.state_dict()), rtol=1e-4, atol=1e-5)


def padded(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """TensorFlow's words: k - s zeros where s divides the size, else k - size % s; the smaller half in front."""
    pads: list[int] = []
    for size, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max(k - (size % s or s), 0)
        pads += [total // 2, total - total // 2]
    return functional.pad(x, pads)


def i3d_by_hand(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    def unit(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.conv3d.weight"]
        x = functional.conv3d(padded(x, weight.shape[2:], (stride,) * 3), weight, stride=stride)
        mean, var, scale, shift = (state[f"{name}.bn.{n}"] for n in ("running_mean", "running_var", "weight", "bias"))
        per_channel = [entry[:, None, None, None] for entry in (mean, (var + 1e-3).sqrt(), scale, shift)]
        return ((x - per_channel[0]) / per_channel[1] * per_channel[2] + per_channel[3]).clamp(min=0)

    def pool(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        return functional.max_pool3d(padded(x, kernel, stride), kernel, stride)

    def mixed(x: Tensor, name: str) -> Tensor:
        branches = [unit(x, f"{name}.b0")]
        branches += [unit(unit(x, f"{name}.{branch}a"), f"{name}.{branch}b") for branch in ("b1", "b2")]
        return torch.cat([*branches, unit(pool(x, (3, 3, 3), (1, 1, 1)), f"{name}.b3b")], dim=1)

    x = pool(unit(x, "Conv3d_1a_7x7", stride=2), (1, 3, 3), (1, 2, 2))
    x = pool(unit(unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3"), (1, 3, 3), (1, 2, 2))
    x = pool(mixed(mixed(x, "Mixed_3b"), "Mixed_3c"), (3, 3, 3), (2, 2, 2))
    for name in ("Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f"):
        x = mixed(x, name)
    x = mixed(mixed(pool(x, (2, 2, 2), (2, 2, 2)), "Mixed_5b"), "Mixed_5c")  # (1, 1024, 3, 7, 7)
    pairs = torch.stack([x[:, :, t : t + 2].mean((2, 3, 4)) for t in range(x.shape[2] - 1)])
    logits = pairs @ state["logits.conv3d.weight"][:, :, 0, 0, 0].T + state["logits.conv3d.bias"]
    return logits.mean(0)


def test_i3d_in_2d_is_refused() -> None:
    with pytest.raises(ValueError, match="input_type: '2d' does not go with backbone i3d"):
        build("i3d", "2d")
