"""torchvision's video networks: what the spec takes from their weights, what it refuses, what they start from.

Published weights are stood in for by files with their names and shapes, made of torchvision's own networks.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model_builder, get_model_weights

from action_recognition.config import ModelSpec, Spec, load_spec, model_spec_from_plain
from action_recognition.config.backbones import RESIZE_RATIO, VIDEO_BACKBONES
from action_recognition.data.agreement import contract_of, training_problems
from action_recognition.deploy.description import Description
from action_recognition.deploy.export import DTYPES, Deployable, compare, to_onnx
from action_recognition.errors import CheckpointError, SpecError
from action_recognition.models import build_model
from action_recognition.models.stages import stages
from action_recognition.models.video import least_frames
from action_recognition.models.weights import architecture, load_pretrained
from action_recognition.sealing import seal
from action_recognition.training.recipe import compute_twice

NAMES = tuple(VIDEO_BACKBONES)
HEADS = {"r3d_18": "fc", "mc3_18": "fc", "r2plus1d_18": "fc", "s3d": "classifier.1", "mvit_v2_s": "head.1",
         "swin3d_t": "head"}  # fmt: skip


def spec_of(backbone: str, *overrides: str, task: str | None = None) -> Spec:
    needed = ["dataset.train_dataset_dir=x"] if task == "train" else []
    network = [f"model.backbone={backbone}", "model.model_type=rgb", "model.input_type=3d"]
    return load_spec(None, [*network, *needed, *overrides], task=task)


def model_spec(backbone: str, **more: Any) -> ModelSpec:
    video = VIDEO_BACKBONES[backbone]
    sizes = {"rgb_seq_length": video.num_frames, "input_height": video.side, "input_width": video.side}
    return ModelSpec(**{"model_type": "rgb", "input_type": "3d", "backbone": backbone, **sizes, **more})


def hollow(model_of: Callable[[], nn.Module]) -> nn.Module:
    """The network with zeros for weights: drawing random ones takes seconds."""
    with torch.device("meta"):
        model = model_of()
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for entry in model.state_dict().values():
            entry.zero_()
    return model


def network(name: str, num_classes: int = 5, **more: Any) -> nn.Module:
    return hollow(lambda: build_model(model_spec(name, **more), num_classes)).eval()


# The table, held against torchvision


@pytest.mark.parametrize("name", NAMES)
def test_table_of_a_backbone_is_what_torchvisions_weights_say(name: str) -> None:
    weights = get_model_weights(name)["KINETICS400_V1"]
    transform, clip_len = weights.transforms(), re.search(r"`clip_len=(\d+)`", weights.meta["_docs"])
    video = VIDEO_BACKBONES[name]
    assert clip_len is not None
    assert [video.side] * 2 == transform.crop_size
    assert round(video.side * RESIZE_RATIO) == transform.resize_size[0]
    assert [list(part) for part in video.normalisation] == [transform.mean, transform.std]
    assert video.num_frames == int(clip_len[1])


@pytest.mark.parametrize("name", NAMES)
def test_network_has_the_names_shapes_and_number_of_parameters_of_torchvisions_weights(name: str) -> None:
    with torch.device("meta"):
        model, own = build_model(model_spec(name), 400), get_model_builder(name)(weights=None)
    shapes = [{n: tuple(t.shape) for n, t in m.state_dict().items()} for m in (model, own)]
    assert shapes[0] == shapes[1]
    num_parameters = get_model_weights(name)["KINETICS400_V1"].meta["num_params"]
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters


@pytest.mark.parametrize("name", NAMES)
def test_dropout_ratio_is_the_share_dropped_in_front_of_the_head(name: str) -> None:
    with torch.device("meta"):
        model = build_model(model_spec(name, dropout_ratio=0.25), 5)
    assert 0.25 in [m.p for m in model.modules() if isinstance(m, nn.Dropout)]


# What the networks take


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("r3d_18", (1, 1, 1)),
        ("mc3_18", (2, 16, 24)),
        ("r2plus1d_18", (3, 17, 16)),
        ("swin3d_t", (3, 33, 20)),
        pytest.param("s3d", (13, 209, 209), marks=pytest.mark.slow),
    ],
)
def test_network_takes_clips_down_to_its_limit(name: str, shape: tuple[int, int, int]) -> None:
    with torch.inference_mode():
        assert network(name)(torch.zeros(1, 3, *shape)).shape == (1, 5)


def test_least_frames_of_a_network_are_what_its_last_pool_needs() -> None:
    joint = ModelSpec(model_type="joint", input_type="3d", backbone="i3d", input_height=224, input_width=224)
    models = [network("s3d"), hollow(lambda: build_model(joint, 5)), network("r3d_18"), network("mvit_v2_s")]
    assert [least_frames(model) for model in models] == [13, 9, 1, None]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(12, 209, 209), (13, 208, 209)])
def test_s3d_with_a_clip_below_its_limit_has_nothing_left_to_pool(shape: tuple[int, int, int]) -> None:
    with torch.inference_mode(), pytest.raises(RuntimeError, match="smaller than kernel size"):
        network("s3d")(torch.zeros(1, 3, *shape))


@pytest.mark.slow
def test_mvit_takes_other_sizes_only_where_they_have_as_many_patches_by_chance() -> None:
    """64 x 49 patches are as many as 56 x 56, and are then taken for them: no size but its own may be let in."""
    model = network("mvit_v2_s")
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 16, 224, 224)).shape == model(torch.zeros(1, 3, 16, 256, 196)).shape == (1, 5)
        with pytest.raises(RuntimeError, match="is invalid for input of size"):
            model(torch.zeros(1, 3, 16, 192, 192))


# What the spec takes from the weights


@pytest.mark.parametrize(
    ("name", "clip", "edge", "mean"),
    [
        ("r3d_18", (16, 112, 112), 128, (0.43216, 0.394666, 0.37645)),
        ("mc3_18", (16, 112, 112), 128, (0.43216, 0.394666, 0.37645)),
        ("r2plus1d_18", (16, 112, 112), 128, (0.43216, 0.394666, 0.37645)),
        ("s3d", (128, 224, 224), 256, (0.43216, 0.394666, 0.37645)),
        ("mvit_v2_s", (16, 224, 224), 256, (0.45, 0.45, 0.45)),
        ("swin3d_t", (32, 224, 224), 256, (0.485, 0.456, 0.406)),
    ],
)
def test_contract_of_a_spec_that_says_nothing_is_that_of_the_weights(
    name: str, clip: tuple[int, int, int], edge: int, mean: tuple[float, ...]
) -> None:
    contract = contract_of(spec_of(name), ("a", "b"))
    assert (contract.streams["rgb"].num_frames, contract.height, contract.width) == clip
    assert (contract.smaller_edge, contract.center_crop, contract.streams["rgb"].mean) == (edge, True, mean)


def test_contract_has_what_the_spec_gives_in_place_of_the_weights() -> None:
    augmentation = "dataset.augmentation_config"
    own = ("model.rgb_seq_length=8", "model.input_height=64", "model.input_width=80")
    spec = spec_of("r3d_18", *own, f"{augmentation}.rgb_input_mean=[0.5]", f"{augmentation}.val_center_crop=false")
    contract = contract_of(spec, ("a", "b"))
    assert (contract.streams["rgb"].num_frames, contract.height, contract.width) == (8, 64, 80)
    assert (contract.streams["rgb"].mean, contract.center_crop) == ((0.5, 0.5, 0.5), False)
    assert contract.streams["rgb"].std == (0.22803, 0.22145, 0.216989)


@pytest.mark.parametrize(
    "size", [("model.input_height=56", "model.input_width=84"), ("dataset.output_shape=[56, 84]",)]
)
def test_short_side_before_the_crop_keeps_its_proportion_where_only_the_input_size_is_given(
    size: tuple[str, ...],
) -> None:
    spec = spec_of("swin3d_t", *size)
    assert (spec.model.input_height, spec.model.input_width) == (56, 84)
    assert spec.dataset.augmentation_config.crop_smaller_edge == 96


def test_other_backbones_keep_the_defaults_of_the_spec() -> None:
    spec = spec_of("resnet18")
    assert (spec.model.rgb_seq_length, spec.model.input_height, spec.notes) == (3, 224, ())
    assert spec.dataset.augmentation_config.rgb_input_mean == (0.485, 0.456, 0.406)


def test_training_says_which_values_came_from_the_weights_and_which_weights_it_starts_from() -> None:
    notes = spec_of("r2plus1d_18", "model.input_height=56", "model.rgb_seq_length=8", task="train").notes
    assert notes == (
        "not in the spec, so as the Kinetics-400 weights of r2plus1d_18 were trained: input_width 112, "
        "crop_smaller_edge 128 (8/7 of the input), val_center_crop true, "
        "rgb_input_mean [0.43216, 0.394666, 0.37645], rgb_input_std [0.22803, 0.22145, 0.216989]",
        "model.pretrained is not set (kinetics400 or a file): r2plus1d_18 starts from random weights",
    )


def test_evaluation_of_a_checkpoint_says_nothing_of_the_weights() -> None:
    paths = ["evaluate.checkpoint=a.pth", "evaluate.test_dataset_dir=x"]
    network = ["model.backbone=r3d_18", "model.model_type=rgb", "model.input_type=3d"]
    assert load_spec(None, [*network, *paths], task="evaluate").notes == ()


# What the spec refuses

R3D = ("model.backbone=r3d_18", "model.model_type=rgb", "model.input_type=3d")
MVIT = ("model.backbone=mvit_v2_s", "model.model_type=rgb", "model.input_type=3d")
S3D = ("model.backbone=s3d", "model.model_type=rgb", "model.input_type=3d")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((*R3D, "model.model_type=of"), "model.model_type: r3d_18 takes rgb only, got 'of'"),
        ((*R3D, "model.model_type=joint"), "model.model_type: r3d_18 takes rgb only, got 'joint'"),
        ((*R3D, "model.input_type=2d"), "model.input_type: r3d_18 takes 3d only, got '2d'"),
        ((*S3D, "model.rgb_seq_length=12"), "model.rgb_seq_length: s3d needs at least 13 frames, got 12"),
        ((*S3D, "model.input_width=208"), "model.input_width: s3d needs at least 209 pixels, got 208"),
        (
            (*MVIT, "model.rgb_seq_length=32"),
            "model.rgb_seq_length: mvit_v2_s takes 16 frames and nothing else, got 32: its table of positions",
        ),
        (
            (*MVIT, "dataset.output_shape=[256, 196]"),
            "dataset.output_shape: mvit_v2_s takes 224 pixels and nothing else, got 256",
        ),
        (
            (*R3D, "model.rgb_pretrained_model_path=a.pth", "model.pretrained=b.pth"),
            "model.rgb_pretrained_model_path: r3d_18 starts from model.pretrained (kinetics400 or a file): leave this",
        ),
        ((*R3D, "model.imagenet_pretrained=true"), "model.imagenet_pretrained: r3d_18 starts from model.pretrained"),
        (
            ("model.model_type=rgb", "model.pretrained=kinetics400"),
            "model.pretrained: is for r3d_18, mc3_18, r2plus1d_18, s3d, mvit_v2_s, swin3d_t; weights for resnet18 are "
            "given by rgb_, of_ and joint_pretrained_model_path",
        ),
    ],
)
def test_spec_that_a_video_network_can_not_follow_is_refused(overrides: tuple[str, ...], expected: str) -> None:
    with pytest.raises(SpecError, match=re.escape(f"command line: {expected}")):
        load_spec(None, overrides)


def test_model_spec_of_a_checkpoint_with_a_size_that_its_network_does_not_take_is_refused() -> None:
    with pytest.raises(ValueError, match="model spec: rgb_seq_length: mvit_v2_s takes 16 frames and nothing else"):
        model_spec_from_plain({"backbone": "mvit_v2_s", "model_type": "rgb", "input_type": "3d", "rgb_seq_length": 8})


@pytest.mark.parametrize(("value", "problems"), [("kinetics400", 0), ("here.pth", 0), ("kinetics-400", 1)])
def test_training_asks_for_kinetics400_or_a_file_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, problems: int
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here.pth").touch()
    found = [p for p in training_problems(spec_of("r3d_18", f"model.pretrained={value}")) if "pretrained" in p.key]
    assert [str(p) for p in found] == ["model.pretrained: 'kinetics-400' is neither kinetics400 nor a file of weights"][
        :problems
    ]


# Weights


def published(name: str) -> dict[str, Tensor]:
    """The names and shapes of the published file, with values that no fresh network has."""
    state: dict[str, Tensor] = hollow(lambda: get_model_builder(name)(weights=None)).state_dict()
    return {n: t.uniform_(0.5, 1.5) if t.is_floating_point() else t for n, t in state.items()}


def load(name: str, pretrained: str, num_classes: int = 5, key: str | None = None) -> tuple[dict[str, Tensor], str]:
    """The state after loading, and the line that says what was loaded."""
    spec = model_spec(name, pretrained=pretrained)
    model = network(name, num_classes)
    (report,) = load_pretrained(model, spec, num_classes, key)
    return model.state_dict(), str(report)


def differing(state: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    return [n for n in state if n not in other or not torch.equal(state[n], other[n])]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "s3d" else [pytest.mark.slow]) for name in NAMES]
)
def test_published_file_loads_all_but_its_head_and_says_so(name: str, tmp_path: Path) -> None:
    state, path = published(name), tmp_path / "weights.pth"
    torch.save(state, path)
    after, line = load(name, str(path))
    assert differing(after, state) == [f"{HEADS[name]}.weight", f"{HEADS[name]}.bias"]
    assert not after[f"{HEADS[name]}.weight"].any()
    expected = f"{len(state) - 2} tensors loaded, head for 400 classes replaced by a new one for 5"
    assert line == f"model.pretrained {path}: {expected}"
    path.unlink()


def test_published_file_for_as_many_classes_keeps_its_head(tmp_path: Path) -> None:
    state, path = published("s3d"), tmp_path / "weights.pth"
    torch.save(state, path)
    after, line = load("s3d", str(path), num_classes=400)
    assert differing(after, state) == []
    assert line == f"model.pretrained {path}: 464 tensors loaded"


def test_checkpoint_of_ours_is_a_file_to_start_from_also_a_sealed_one(tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="needs cryptography: pip install .[crypto]")
    state, plain, sealed = published("s3d"), tmp_path / "plain.pth", tmp_path / "sealed.pth"
    torch.save({"format": 1, "epoch": 3, "state_dict": state}, plain)
    sealed.write_bytes(seal(plain.read_bytes(), "secret"))
    after, _ = load("s3d", str(sealed), key="secret")
    assert differing(after, state) == ["classifier.1.weight", "classifier.1.bias"]


def test_file_of_another_network_is_refused_and_both_are_named(tmp_path: Path) -> None:
    torch.save(published("s3d"), tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"pretrained .*weights.pth: .* Found: 3d s3d, wanted: 3d mc3_18; "):
        load("mc3_18", str(tmp_path / "weights.pth"))


@pytest.mark.parametrize("name", [*NAMES, "swin3d_s"])
def test_architecture_of_a_video_network_is_told_from_its_names(name: str) -> None:
    with torch.device("meta"):
        assert architecture(get_model_builder(name)(weights=None).state_dict()) == f"3d {name}"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torchvision's downloads, and no network."""

    def no_network(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", no_network)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def test_kinetics400_is_torchvisions_file_out_of_its_cache(hub: Path) -> None:
    url = get_model_weights("s3d")["KINETICS400_V1"].url
    state = published("s3d")
    torch.save(state, hub / url.rpartition("/")[2])
    after, line = load("s3d", "kinetics400")
    assert differing(after, state) == ["classifier.1.weight", "classifier.1.bias"]
    assert line == (
        "model.pretrained kinetics400 (s3d): 462 tensors loaded, head for 400 classes replaced by a new one for 5"
    )


def test_kinetics400_without_network_names_the_file_to_fetch_and_the_key_to_give_it_by(hub: Path) -> None:
    url = re.escape(get_model_weights("swin3d_t")["KINETICS400_V1"].url)
    cure = rf"put the file into {re.escape(str(hub))}, or give the file as model.pretrained=FILE"
    with pytest.raises(CheckpointError, match=rf"model.pretrained: can't get {url} .*no network.*{cure}"):
        load("swin3d_t", "kinetics400")


# What is computed

SMALL = {"s3d": (13, 209, 209), "mvit_v2_s": (16, 224, 224)}  # the smallest that they take
SLOW_BUT_MC3 = [pytest.param(name, marks=[] if name == "mc3_18" else [pytest.mark.slow]) for name in NAMES]


def clips(name: str, num_clips: int) -> Tensor:
    return torch.rand(num_clips, 3, *SMALL.get(name, (4, 32, 32)))


@pytest.mark.parametrize("name", SLOW_BUT_MC3)
def test_network_answers_what_torchvisions_own_answers(name: str) -> None:
    own = get_model_builder(name)(weights=None).eval()
    model = network(name, 400)
    model.load_state_dict(own.state_dict())
    with torch.inference_mode():
        x = clips(name, 1)
        torch.testing.assert_close(model(x), own(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["r2plus1d_18", "s3d"])
def test_exported_network_has_its_batch_norms_merged_into_its_convolutions(name: str) -> None:
    with torch.device("meta"):
        model = build_model(model_spec(name), 5).eval()
    merged = Deployable(model.to_empty(device="cpu"))
    assert not any(isinstance(part, nn.BatchNorm3d) for part in merged.modules())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_same_with_each_stage_computed_twice(name: str) -> None:
    # Two clips, lest a batch norm gets one value a channel; the larger ones have values enough.
    model, x = build_model(model_spec(name), 5), clips(name, 1 if name in SMALL else 2)

    def gradients() -> list[Tensor]:
        torch.manual_seed(0)  # dropout
        model.zero_grad()
        model(x).square().sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    once = gradients()
    compute_twice(stages(model))
    twice = gradients()
    assert len(once) == len(list(model.parameters()))
    torch.testing.assert_close(twice, once, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", NAMES)
def test_exported_network_answers_what_the_network_answers(name: str, precision: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install .[deploy]")
    pytest.importorskip("onnxscript", reason="needs onnxscript: pip install .[deploy]")
    model, x = build_model(model_spec(name), 5).eval(), clips(name, 3)
    T, H, W = x.shape[2:]
    size = (f"model.rgb_seq_length={T}", f"dataset.output_shape=[{H}, {W}]")
    contract = contract_of(spec_of(name, *size), ("a", "b", "c", "d", "e"))
    content = to_onnx(Deployable(model, DTYPES[precision]), Description(contract, "logits", precision), 20)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = model(x).numpy()
    for batch in (slice(0, 1), slice(0, 3)):
        (found,) = session.run(None, {"input_rgb": x[batch].numpy()})
        compare(expected[batch], found).check(precision)
