"""Published weights are stood in for by files with their names, shapes and format, and random values."""

import os
import pickle
import re
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from action_recognition.config import ModelSpec
from action_recognition.errors import CheckpointError
from action_recognition.models import build_model
from action_recognition.models.i3d import I3d
from action_recognition.models.weights import (
    adapt_channels,
    architecture,
    inflate,
    load_pretrained,
    load_state,
)
from action_recognition.torch_files import read_file, read_weights

Save = Callable[..., str]
State = dict[str, Tensor]


@pytest.fixture
def save(tmp_path: Path) -> Iterator[Save]:
    """save(content, name) -> path. The files go after the test: together they would be gigabytes."""
    paths: list[Path] = []

    def write(content: object, name: str = "weights.pth", **how: Any) -> str:
        paths.append(tmp_path / name)
        torch.save(content, paths[-1], **how)
        return str(paths[-1])

    yield write
    for path in paths:
        path.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def imagenet18() -> State:
    torch.manual_seed(1)
    return randomised(torchvision.models.resnet18(weights=None))


def randomised(model: nn.Module) -> State:
    """Batch norms too: one that is left at 1 and 0 could not be told from one that was loaded."""
    for entry in model.state_dict().values():
        entry.copy_(torch.rand(entry.shape) + 0.5 if entry.is_floating_point() else torch.tensor(7))
    return model.state_dict()


def spec_of(model_type: str = "rgb", input_type: str = "2d", backbone: str = "resnet18", **more: Any) -> ModelSpec:
    lengths = {"rgb_seq_length": 8, "of_seq_length": 10}
    return ModelSpec(**{"model_type": model_type, "input_type": input_type, "backbone": backbone, **lengths, **more})


def random_state(num_classes: int = 5, **spec: Any) -> State:
    with torch.device("meta"):
        model = build_model(spec_of(**spec), num_classes)
    return randomised(model.to_empty(device="cpu"))


def load(spec: ModelSpec, num_classes: int = 5) -> tuple[State, State, list[str]]:
    """The state before and after, and the lines of the reports."""
    model = build_model(spec, num_classes)
    before = {name: entry.clone() for name, entry in model.state_dict().items()}
    reports = load_pretrained(model, spec, num_classes)
    return before, model.state_dict(), [str(report) for report in reports]


def differing(state: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    return [name for name in state if name not in other or not torch.equal(state[name], other[name])]


# Reading


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["conv1.weight", "fc_cls.bias"], ["conv1.weight", "fc_cls.bias"]),
        (["model.conv1.weight", "model.fc_cls.bias"], ["conv1.weight", "fc_cls.bias"]),
        (["module.conv1.weight", "module.fc_cls.bias"], ["conv1.weight", "fc_cls.bias"]),
        (["module.model.conv1.weight", "module.model.fc1.bias"], ["conv1.weight", "fc1.bias"]),
        (["_orig_mod.module.fc1.weight", "_orig_mod.module.fc1.bias"], ["fc1.weight", "fc1.bias"]),
        (["model.model_rgb.fc_cls.bias", "model.fc1.bias"], ["model_rgb.fc_cls.bias", "fc1.bias"]),
        (["model_rgb.fc_cls.bias", "model_of.fc_cls.bias"], ["model_rgb.fc_cls.bias", "model_of.fc_cls.bias"]),
        (["model.conv1.weight", "fc1.bias"], ["model.conv1.weight", "fc1.bias"]),
        (["layer1.model.weight", "layer2.model.weight"], ["layer1.model.weight", "layer2.model.weight"]),
        (["model.a.model.weight", "model.b.module.weight"], ["a.model.weight", "b.module.weight"]),
    ],
)
@pytest.mark.parametrize("wrap", [False, True])
def test_prefix_goes_only_when_every_name_has_it(save: Save, names: list[str], expected: list[str], wrap: bool) -> None:
    entries = {name: torch.tensor([float(place)]) for place, name in enumerate(names)}
    read = read_weights(save({"state_dict": entries} if wrap else entries))
    assert {name: tensor.item() for name, tensor in read.items()} == {name: i for i, name in enumerate(expected)}


def test_lightning_checkpoint_with_optimizer_and_scheduler_is_read(save: Save) -> None:
    checkpoint = {
        "epoch": 4,
        "pytorch-lightning_version": "2.3.0",
        "state_dict": OrderedDict({"model.conv1.weight": torch.ones(2)}),
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"kth_value": torch.tensor(1.0), "best_k_models": {}}},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}],
        "lr_schedulers": [{"milestones": Counter({15: 1, 25: 1}), "gamma": 0.1}],
    }
    assert list(read_weights(save(checkpoint))) == ["conv1.weight"]


def test_file_in_the_format_before_zip_is_read(save: Save) -> None:
    path = save({"conv1.weight": torch.tensor([1.5, 2.5])}, _use_new_zipfile_serialization=False)
    assert read_weights(path)["conv1.weight"].tolist() == [1.5, 2.5]


def test_parameters_are_read_as_tensors_without_gradient(save: Save) -> None:
    assert not read_weights(save({"a": nn.Parameter(torch.ones(2))}))["a"].requires_grad


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize("new_format", [True, False])
def test_file_that_asks_to_run_code_is_refused_and_nothing_runs(save: Save, tmp_path: Path, new_format: bool) -> None:
    evil = Evil(tmp_path / "it_ran")
    path = save({"state_dict": {"a": torch.ones(1)}, "more": evil}, _use_new_zipfile_serialization=new_format)
    with pytest.raises(CheckpointError, match=r"weights.pth: asks to run code while loading: refused \(\w+.system\)"):
        read_weights(path)
    assert not (tmp_path / "it_ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "it_ran").exists(), "the file is harmless: this test could not fail"


def test_whole_pickled_module_is_refused_with_what_to_save_instead(save: Save) -> None:
    with pytest.raises(CheckpointError, match=r"refused \(torch.nn.modules.linear.Linear\).*save model.state_dict\(\)"):
        read_weights(save(nn.Linear(2, 2)))


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": b"\x93\x01secret", "state_dict_encrypted": 3},
        {"state_dict": b"\x93\x01secret"},
        {"state_dict": {}, "state_dict_encrypted": True},
    ],
)
def test_encrypted_state_dict_is_named_as_such(save: Save, content: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"weights.pth: encrypted by TAO, with a cipher that is not public"):
        read_weights(save(content))


def test_checkpoint_with_an_object_of_taos_cipher_is_encrypted(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = ModuleType("eff.codec")
    codec.Kind = type("Kind", (), {"__module__": "eff.codec", "__qualname__": "Kind"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "eff", ModuleType("eff"))
    monkeypatch.setitem(sys.modules, "eff.codec", codec)
    with pytest.raises(CheckpointError, match="encrypted by TAO"):
        read_weights(save({"state_dict": b"secret", "state_dict_encrypted": codec.Kind()}))


@pytest.mark.parametrize("name", ["model.tlt", "model.etlt"])
def test_tlt_file_that_is_no_pytorch_file_is_encrypted(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(bytes(range(7, 256)) * 4)
    with pytest.raises(CheckpointError, match=rf"{name}: encrypted by TAO.*In the TAO container"):
        read_weights(tmp_path / name)


def test_tlt_file_without_encryption_is_read(save: Save) -> None:
    assert list(read_weights(save({"state_dict": {"model.a": torch.ones(1)}}, "model.tlt"))) == ["a"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("absent.pth", "absent.pth: no such file; accepted: a checkpoint of this package or of TAO"),
        ("folder.pth", "folder.pth: a directory; accepted"),
        ("empty.pth", "empty.pth: cut off, damaged, or not saved by PyTorch"),
        ("page.pth", "page.pth: cut off, damaged, or not saved by PyTorch"),
        ("half_zip.pth", "half_zip.pth: cut off, damaged, .*zip archive"),
        ("half_old.pth", "half_old.pth: cut off, damaged, .*unexpected EOF"),
    ],
)
def test_file_that_is_not_there_or_not_whole_is_named_with_what_was_found(
    save: Save, tmp_path: Path, name: str, found: str
) -> None:
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "empty.pth").touch()
    (tmp_path / "page.pth").write_text("<html>404</html>")
    for half, new_format in (("half_zip.pth", True), ("half_old.pth", False)):
        whole = Path(save({"a": torch.ones(1000)}, _use_new_zipfile_serialization=new_format)).read_bytes()
        (tmp_path / half).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=found):
        read_weights(tmp_path / name)


def test_half_file_does_not_advise_to_load_without_restriction(tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_text("<html>404</html>")
    with pytest.raises(CheckpointError) as caught:
        read_weights(tmp_path / "page.pth")
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([torch.ones(1)], "found a list in place of weights"),
        (torch.ones(1), "found a Tensor in place of weights"),
        ({}, "found nothing in place of weights"),
        ({"state_dict": None}, "found a NoneType in place of weights"),
        ({"epoch": 1, "model": {"a": torch.ones(1)}}, r"not a state dict: 2 \(epoch, model\) are no tensors"),
        ({3: torch.ones(1)}, r"not a state dict: 1 \(3\) are no tensors"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "a is of type torch.complex64; accepted: dense float or int"),
        ({"a": torch.ones(2, dtype=torch.bool)}, "a is of type torch.bool"),
        ({"a": torch.ones(2, device="meta")}, "a has layout torch.strided on device meta"),
        ({"a": torch.ones(1).expand(10**12)}, r"a claims shape \(1000000000000,\), but the file holds 4 bytes of it"),
        ({"a": torch.ones(64, 0, 7, 7)}, r"a claims shape \(64, 0, 7, 7\), but the file holds 0 bytes"),
        ({"a": torch.tensor([1.0, float("nan")])}, "a holds NaN or infinity"),
    ],
)
def test_content_that_is_no_state_dict_is_refused_with_what_it_is(save: Save, content: object, found: str) -> None:
    with pytest.raises(CheckpointError, match=found):
        read_weights(save(content))


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_sparse_tensor_is_refused(save: Save) -> None:
    with pytest.raises(CheckpointError, match=r"a has layout torch\.sparse_coo"):
        read_weights(save({"a": torch.eye(2).to_sparse()}))


def test_checkpoint_error_is_a_runtime_error_that_keeps_its_cause(tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_text("<html>404</html>")
    with pytest.raises(RuntimeError, match=re.escape("page.pth")) as caught:
        read_weights(tmp_path / "page.pth")
    assert isinstance(caught.value.__cause__, pickle.UnpicklingError)


def test_read_file_gives_all_that_a_checkpoint_holds(save: Save) -> None:
    content = read_file(save({"format": 1, "epoch": 3, "state_dict": {"model.a": torch.ones(1)}}))
    assert (content["format"], content["epoch"], list(content["state_dict"])) == (1, 3, ["model.a"])


# Arithmetic of the adaptations


@pytest.mark.parametrize(("kernel", "length"), [(3, 3), (7, 5), (1, 1)])
def test_inflated_kernel_on_a_clip_that_stands_still_gives_the_2d_response(kernel: int, length: int) -> None:
    weight, image = torch.randn(4, 3, kernel, kernel), torch.randn(1, 3, 12, 12)
    expected = functional.conv2d(image, weight)
    clip = image.unsqueeze(2).repeat(1, 1, 9, 1, 1)
    response = functional.conv3d(clip, inflate(weight, length))
    assert response.shape[2] == 9 - length + 1
    torch.testing.assert_close(response, expected.unsqueeze(2).expand_as(response), rtol=1e-4, atol=1e-5)


def test_stem_for_more_channels_is_the_mean_over_the_old_ones_repeated() -> None:
    stem = torch.tensor([1.0, 2.0, 6.0]).reshape(1, 3, 1, 1)
    assert adapt_channels(stem, 4).flatten().tolist() == [3.0, 3.0, 3.0, 3.0]


def test_stem_for_as_many_channels_is_left_alone() -> None:
    stem = torch.tensor([1.0, 2.0, 6.0]).reshape(1, 3, 1, 1)
    assert adapt_channels(stem, 3).flatten().tolist() == [1.0, 2.0, 6.0]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"backbone": "resnet18"}, "2d resnet18"),
        ({"backbone": "resnet34", "input_type": "3d"}, "3d resnet34"),
        ({"backbone": "resnet50"}, "2d resnet50"),
        ({"backbone": "resnet101", "input_type": "3d"}, "3d resnet101"),
        ({"backbone": "resnet152"}, "2d resnet152"),
        ({"backbone": "i3d", "input_type": "3d"}, "3d i3d"),
        ({"backbone": "resnet18", "model_type": "joint"}, "joint of two 2d resnet18"),
    ],
)
def test_architecture_is_told_from_names_and_shapes(spec: dict[str, str], expected: str) -> None:
    with torch.device("meta"):
        assert architecture(build_model(spec_of(**spec), 5).state_dict()) == expected


def test_architecture_of_other_names_is_unknown() -> None:
    assert architecture({"conv1.weight": torch.ones(1), "blocks.0.weight": torch.ones(1)}) == "unknown architecture"


# Our own checkpoints, as they are


def test_load_state_loads_every_entry() -> None:
    state = random_state()
    model = build_model(spec_of(), 5)
    load_state(model, state, "run/model_epoch_004.pth")
    assert differing(model.state_dict(), state) == []


def test_load_state_lists_what_is_missing_unexpected_and_of_another_shape() -> None:
    state = random_state(num_classes=6)
    state["head.weight"] = state.pop("bn1.weight")
    expected = re.escape(
        "model_epoch_004.pth: does not fit the model. Found: 2d resnet18, wanted: 2d resnet18; "
        "missing: 1 (bn1.weight); unexpected: 1 (head.weight); "
        "of another shape: 2 (fc_cls.weight (6, 512) for (5, 512), fc_cls.bias (6,) for (5,))"
    )
    with pytest.raises(CheckpointError, match=expected):
        load_state(build_model(spec_of(), 5), state, "model_epoch_004.pth")


def test_load_state_names_five_entries_and_says_that_there_are_more() -> None:
    first = "conv1.weight, bn1.weight, bn1.bias, bn1.running_mean, bn1.running_var, ..."
    with pytest.raises(CheckpointError, match=re.escape(f"missing: 121 ({first})")):
        load_state(build_model(spec_of(), 5), {"fc_cls.bias": torch.ones(5)}, "x.pth")


def test_load_state_of_something_else_says_what_it_is() -> None:
    with pytest.raises(CheckpointError, match=r"x.pth: not a state dict: 1 \(conv1.weight\) are no tensors"):
        load_state(nn.Identity(), {"conv1.weight": 3}, "x.pth")  # type: ignore[dict-item]


# One stream from a file


def test_checkpoint_of_the_same_model_loads_whole(save: Save) -> None:
    state = random_state()
    path = save({"state_dict": {f"model.{name}": entry for name, entry in state.items()}})
    _, after, lines = load(spec_of(rgb_pretrained_model_path=path))
    assert differing(after, state) == []
    assert lines == [f"rgb_pretrained_model_path {path}: 122 tensors loaded"]


def test_half_precision_file_loads_into_a_float32_model(save: Save) -> None:
    state = {name: t.half() if t.is_floating_point() else t for name, t in random_state().items()}
    _, after, _ = load(spec_of(rgb_pretrained_model_path=save(state)))
    assert after["conv1.weight"].dtype == torch.float32
    assert torch.equal(after["conv1.weight"], state["conv1.weight"].float())


@pytest.mark.parametrize("stated", [0, 400])
def test_head_of_another_class_count_is_replaced_and_said(save: Save, stated: int) -> None:
    state = random_state(num_classes=400)
    spec = spec_of(rgb_pretrained_model_path=save(state), rgb_pretrained_num_classes=stated)
    before, after, lines = load(spec)
    assert differing(after, state) == ["fc_cls.weight", "fc_cls.bias"]
    assert torch.equal(after["fc_cls.weight"], before["fc_cls.weight"])
    assert lines[0].endswith(": 120 tensors loaded, head for 400 classes replaced by a new one for 5")


def test_head_that_disagrees_with_the_stated_number_is_an_error_that_names_both(save: Save) -> None:
    spec = spec_of(rgb_pretrained_model_path=save(random_state()), rgb_pretrained_num_classes=400)
    expected = "head is for 5 classes, but rgb_pretrained_num_classes says 400; set it to 5, or to 0"
    with pytest.raises(CheckpointError, match=expected):
        load(spec)


def test_of_model_heeds_the_fields_of_flow_and_says_that_the_others_are_not_read(save: Save) -> None:
    path = save(random_state(model_type="of", num_classes=7))
    spec = spec_of(
        "of", of_pretrained_model_path=path, of_pretrained_num_classes=7, rgb_pretrained_model_path="rgb.pth"
    )
    _, _, lines = load(spec)
    assert lines == [
        f"of_pretrained_model_path {path}: 120 tensors loaded, head for 7 classes replaced by a new one for 5",
        "rgb_pretrained_model_path rgb.pth: 0 tensors loaded, not read: model_type is of",
    ]


def test_without_a_pretrained_field_nothing_changes_and_nothing_is_said() -> None:
    before, after, lines = load(spec_of())
    assert differing(after, before) == []
    assert lines == []


def test_2d_weights_for_another_number_of_frames_get_the_mean_stem(save: Save) -> None:
    state = random_state(rgb_seq_length=3)
    _, after, lines = load(spec_of(rgb_pretrained_model_path=save(state)))
    assert differing(after, state) == ["conv1.weight"]
    mean = state["conv1.weight"].mean(1)
    torch.testing.assert_close(after["conv1.weight"], torch.stack([mean] * 24, dim=1))
    assert lines[0].endswith(
        ": 122 tensors loaded, stem conv1.weight adapted 9 -> 24 channels (mean over the old channels)"
    )


def test_stem_is_found_by_its_name_wherever_it_stands_in_the_file(save: Save) -> None:
    state = random_state(rgb_seq_length=3)
    backwards = dict(reversed(state.items()))
    assert next(iter(backwards)) != "conv1.weight"
    _, after, _ = load(spec_of(rgb_pretrained_model_path=save(backwards)))
    assert differing(after, state) == ["conv1.weight"]


def test_rgb_weights_start_a_3d_flow_model_through_the_mean_stem(save: Save) -> None:
    state = random_state(input_type="3d")
    _, after, lines = load(spec_of("of", "3d", of_pretrained_model_path=save(state)))
    assert differing(after, state) == ["conv1.weight"]
    torch.testing.assert_close(after["conv1.weight"], torch.stack([state["conv1.weight"].mean(1)] * 2, dim=1))
    assert "stem conv1.weight adapted 3 -> 2 channels (mean over the old channels)" in lines[0]


# ImageNet


def test_imagenet_file_in_2d_drops_fc_and_repeats_the_mean_stem(save: Save, imagenet18: State) -> None:
    path = save(imagenet18)
    before, after, lines = load(spec_of(rgb_pretrained_model_path=path, rgb_pretrained_num_classes=5))
    assert differing(after, imagenet18) == ["conv1.weight", "fc_cls.weight", "fc_cls.bias"]
    torch.testing.assert_close(after["conv1.weight"], torch.stack([imagenet18["conv1.weight"].mean(1)] * 24, dim=1))
    assert torch.equal(after["fc_cls.weight"], before["fc_cls.weight"])
    assert lines == [
        f"rgb_pretrained_model_path {path}: 120 tensors loaded, stem conv1.weight adapted 3 -> 24 channels (mean over "
        "the old channels), head for 1000 classes replaced by a new one for 5, skipped: fc.weight, fc.bias"
    ]


def test_imagenet_file_in_3d_is_inflated_with_each_kernel_divided_by_its_length(save: Save, imagenet18: State) -> None:
    path = save(imagenet18)
    _, after, lines = load(spec_of(input_type="3d", rgb_pretrained_model_path=path))
    for name, length in (("conv1.weight", 5), ("layer1.0.conv1.weight", 3), ("layer2.0.downsample.0.weight", 1)):
        assert after[name].shape[2] == length
        for step in range(length):
            torch.testing.assert_close(after[name][:, :, step], imagenet18[name] / length)
    norms = [name for name in after if "bn" in name or "downsample.1" in name]
    assert len(norms) == 100
    assert [name for name in norms if not torch.equal(after[name], imagenet18[name])] == []
    assert lines == [
        f"rgb_pretrained_model_path {path}: 120 tensors loaded, 2D kernels inflated over time (20 tensors), "
        "head for 1000 classes replaced by a new one for 5, skipped: fc.weight, fc.bias"
    ]


def test_imagenet_file_in_a_3d_flow_model_is_inflated_and_gets_the_mean_stem(save: Save, imagenet18: State) -> None:
    _, after, lines = load(spec_of("of", "3d", of_pretrained_model_path=save(imagenet18)))
    assert after["conv1.weight"].shape == (64, 2, 5, 7, 7)
    torch.testing.assert_close(after["conv1.weight"][:, 1, 4], imagenet18["conv1.weight"].mean(1) / 5)
    assert "stem conv1.weight adapted 3 -> 2 channels" in lines[0]


@pytest.mark.slow
def test_imagenet_resnet50_in_3d_is_inflated(save: Save) -> None:
    state = randomised(torchvision.models.resnet50(weights=None))
    _, after, lines = load(spec_of(input_type="3d", backbone="resnet50", rgb_pretrained_model_path=save(state)))
    torch.testing.assert_close(after["layer4.2.conv2.weight"][:, :, 1], state["layer4.2.conv2.weight"] / 3)
    torch.testing.assert_close(after["layer4.2.conv3.weight"][:, :, 0], state["layer4.2.conv3.weight"])
    assert "318 tensors loaded, 2D kernels inflated over time (53 tensors)" in lines[0]


def test_file_without_num_batches_tracked_loads(save: Save, imagenet18: State) -> None:
    old = {name: entry for name, entry in imagenet18.items() if not name.endswith("num_batches_tracked")}
    _, after, lines = load(spec_of(rgb_pretrained_model_path=save(old)))
    assert torch.equal(after["layer4.1.bn2.running_var"], old["layer4.1.bn2.running_var"])
    assert ": 100 tensors loaded" in lines[0]


def test_file_without_a_head_loads_and_says_so(save: Save, imagenet18: State) -> None:
    headless = {name: entry for name, entry in imagenet18.items() if not name.startswith("fc.")}
    _, _, lines = load(spec_of(rgb_pretrained_model_path=save(headless)))
    assert lines[0].endswith("no head in the file: a new one for 5 classes")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torchvision's cache, empty, and no network."""

    def refuse(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_imagenet_pretrained_loads_torchvisions_first_weights(hub: Path, imagenet18: State) -> None:
    file = hub / torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    torch.save(imagenet18, file)
    _, after, lines = load(spec_of(imagenet_pretrained=True))
    file.unlink()
    assert differing(after, imagenet18) == ["conv1.weight", "fc_cls.weight", "fc_cls.bias"]
    assert lines[0].startswith("imagenet_pretrained resnet18 (rgb): 120 tensors loaded, stem conv1.weight adapted")


def test_file_wins_over_imagenet_pretrained(hub: Path, save: Save) -> None:
    state = random_state()
    _, after, lines = load(spec_of(imagenet_pretrained=True, rgb_pretrained_model_path=save(state)))
    assert differing(after, state) == []
    assert len(lines) == 1


def test_imagenet_pretrained_without_network_says_where_to_put_the_file(hub: Path) -> None:
    url = re.escape(torchvision.models.ResNet50_Weights.IMAGENET1K_V1.url)
    with pytest.raises(CheckpointError, match=rf"imagenet_pretrained: can't get {url} .*no network.*put.* into {hub}"):
        load(spec_of(backbone="resnet50", imagenet_pretrained=True))


def test_imagenet_pretrained_for_i3d_is_refused() -> None:
    spec = spec_of(input_type="3d", backbone="i3d", imagenet_pretrained=True)
    with pytest.raises(CheckpointError, match="no ImageNet weights for i3d, only for resnet18, resnet34"):
        load_pretrained(nn.Identity(), spec, 5)


# I3D


def test_published_i3d_file_loads_with_a_new_classifier(save: Save) -> None:
    """As published: bare, in the old format, 400 classes, and older than num_batches_tracked."""
    state = {n: t for n, t in randomised(I3d(3, 400, 0.5)).items() if not n.endswith("num_batches_tracked")}
    path = save(OrderedDict(state), _use_new_zipfile_serialization=False)
    spec = spec_of(input_type="3d", backbone="i3d", rgb_pretrained_model_path=path, rgb_pretrained_num_classes=400)
    before, after, lines = load(spec)
    assert differing({n: after[n] for n in state}, state) == ["logits.conv3d.weight", "logits.conv3d.bias"]
    assert torch.equal(after["logits.conv3d.weight"], before["logits.conv3d.weight"])
    # 57 units of 6 entries without num_batches_tracked.
    assert lines == [
        f"rgb_pretrained_model_path {path}: 285 tensors loaded, head for 400 classes replaced by a new one for 5"
    ]


def test_i3d_of_rgb_starts_one_of_flow_through_the_mean_stem(save: Save) -> None:
    state = randomised(I3d(3, 5, 0.5))
    _, after, lines = load(spec_of("of", "3d", "i3d", of_pretrained_model_path=save(state)))
    name = "Conv3d_1a_7x7.conv3d.weight"
    assert differing(after, state) == [name]
    torch.testing.assert_close(after[name], torch.stack([state[name].mean(1)] * 2, dim=1))
    assert f"stem {name} adapted 3 -> 2 channels" in lines[0]


# Joint


def test_joint_from_two_files_loads_both_streams_and_swaps_their_heads(save: Save) -> None:
    rgb, of = random_state(num_classes=400), random_state(model_type="of")
    paths = {"rgb_pretrained_model_path": save(rgb, "rgb.pth"), "of_pretrained_model_path": save(of, "of.pth")}
    before, after, lines = load(spec_of("joint", **paths, rgb_pretrained_num_classes=400))
    from_rgb = {f"model_rgb.{name}": entry for name, entry in rgb.items()}
    from_of = {f"model_of.{name}": entry for name, entry in of.items()}
    swapped = ["model_rgb.fc_cls.weight", "model_rgb.fc_cls.bias"]
    head = ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    assert differing(after, {**from_rgb, **from_of}) == [*swapped, *head]
    assert differing({name: after[name] for name in (*swapped, *head)}, before) == []
    assert lines == [
        f"rgb_pretrained_model_path {paths['rgb_pretrained_model_path']}: 120 tensors loaded, "
        "head for 400 classes replaced by a new one for 5",
        f"of_pretrained_model_path {paths['of_pretrained_model_path']}: 122 tensors loaded",
    ]


@pytest.mark.parametrize(
    ("input_type", "prefix"), [("2d", ""), ("2d", "model."), pytest.param("3d", "model.", marks=pytest.mark.slow)]
)
def test_joint_file_loads_everything_and_keeps_its_names_whole(save: Save, input_type: str, prefix: str) -> None:
    state = random_state(model_type="joint", input_type=input_type)
    path = save({"state_dict": {f"{prefix}{name}": entry for name, entry in state.items()}})
    _, after, lines = load(spec_of("joint", input_type, joint_pretrained_model_path=path))
    assert differing(after, state) == []
    assert lines == [f"joint_pretrained_model_path {path}: 248 tensors loaded"]


def test_joint_file_of_another_class_count_gets_new_heads_everywhere(save: Save) -> None:
    state = random_state(model_type="joint", num_classes=7)
    _, after, lines = load(spec_of("joint", joint_pretrained_model_path=save(state)))
    heads = ("fc1", "fc2", "model_of.fc_cls", "model_rgb.fc_cls")
    assert sorted(differing(after, state)) == [f"{head}.{end}" for head in heads for end in ("bias", "weight")]
    assert lines[0].endswith(
        "head for 7 classes replaced by a new one for 5 (fc1, fc2, model_of.fc_cls, model_rgb.fc_cls)"
    )


def test_joint_file_of_another_num_fc_keeps_the_heads_of_its_streams(save: Save) -> None:
    state = random_state(model_type="joint", num_fc=32)
    _, after, lines = load(spec_of("joint", joint_pretrained_model_path=save(state)))
    assert differing(after, state) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    assert "(fc1, fc2)" in lines[0]


def test_joint_file_for_other_lengths_gets_both_stems_adapted(save: Save) -> None:
    state = random_state(model_type="joint", rgb_seq_length=3, of_seq_length=5)
    _, after, lines = load(spec_of("joint", joint_pretrained_model_path=save(state)))
    assert differing(after, state) == ["model_rgb.conv1.weight", "model_of.conv1.weight"]
    assert "stem model_rgb.conv1.weight adapted 9 -> 24 channels" in lines[0]
    assert "stem model_of.conv1.weight adapted 10 -> 20 channels" in lines[0]


def test_joint_file_that_disagrees_with_a_stated_number_is_an_error(save: Save) -> None:
    path = save(random_state(model_type="joint", num_classes=7))
    spec = spec_of("joint", joint_pretrained_model_path=path, of_pretrained_num_classes=400)
    with pytest.raises(CheckpointError, match="head is for 7 classes, but of_pretrained_num_classes says 400"):
        load(spec)


def test_joint_file_wins_over_the_files_of_the_streams_and_says_so(save: Save) -> None:
    path = save(random_state(model_type="joint"))
    _, _, lines = load(spec_of("joint", joint_pretrained_model_path=path, of_pretrained_model_path="of.pth"))
    assert lines[1] == (
        "of_pretrained_model_path of.pth: 0 tensors loaded, not read: joint_pretrained_model_path has it all"
    )


def test_imagenet_pretrained_fills_the_stream_of_a_joint_model_that_has_no_file(
    hub: Path, save: Save, imagenet18: State
) -> None:
    torch.save(imagenet18, hub / torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url.rpartition("/")[2])
    rgb = random_state()
    _, after, lines = load(spec_of("joint", rgb_pretrained_model_path=save(rgb), imagenet_pretrained=True))
    assert torch.equal(after["model_rgb.bn1.weight"], rgb["bn1.weight"])
    assert torch.equal(after["model_of.bn1.weight"], imagenet18["bn1.weight"])
    assert lines[1].startswith("imagenet_pretrained resnet18 (of): 120 tensors loaded")


# Files that do not fit


@pytest.mark.parametrize(
    ("file", "model", "found"),
    [
        (
            {"backbone": "resnet34"},
            {"backbone": "resnet18"},
            "Found: 2d resnet34, wanted: 2d resnet18; unexpected: 96 (layer1.2.conv1.weight, layer1.2.bn1.weight, ",
        ),
        (
            {"backbone": "resnet18"},
            {"backbone": "resnet34"},
            "Found: 2d resnet18, wanted: 2d resnet34; missing: 80 (layer1.2.conv1.weight, layer1.2.bn1.weight, ",
        ),
        (
            {"backbone": "resnet18", "input_type": "3d"},
            {"backbone": "resnet18"},
            "Found: 3d resnet18, wanted: 2d resnet18; of another shape: 20 (conv1.weight (64, 3, 5, 7, 7) for "
            "(64, 24, 7, 7), layer1.0.conv1.weight (64, 64, 3, 3, 3) for (64, 64, 3, 3), ",
        ),
        (
            {"backbone": "resnet18", "input_type": "3d"},
            {"backbone": "i3d", "input_type": "3d"},
            "Found: 3d resnet18, wanted: 3d i3d; missing: 285 (Conv3d_1a_7x7.conv3d.weight, ",
        ),
        (
            {"backbone": "i3d", "input_type": "3d"},
            {"backbone": "resnet18", "input_type": "3d"},
            "Found: 3d i3d, wanted: 3d resnet18; missing: 100 (conv1.weight, ",
        ),
        (
            {"backbone": "resnet18", "model_type": "joint"},
            {"backbone": "resnet18"},
            "Found: joint of two 2d resnet18, wanted: 2d resnet18; missing: 100 (conv1.weight, ",
        ),
    ],
)
def test_file_of_another_architecture_is_an_error_that_names_both(
    save: Save, file: dict[str, str], model: dict[str, str], found: str
) -> None:
    path = save(random_state(**file))
    expected = re.escape(f"rgb_pretrained_model_path {path}: does not fit the model. {found}")
    with pytest.raises(CheckpointError, match=expected):
        load(spec_of(**model, rgb_pretrained_model_path=path))


def test_stream_file_for_a_joint_model_is_an_error(save: Save) -> None:
    spec = spec_of("joint", joint_pretrained_model_path=save(random_state()))
    with pytest.raises(CheckpointError, match="Found: 2d resnet18, wanted: joint of two 2d resnet18"):
        load(spec)


@pytest.mark.parametrize("name", ["layer3.1.conv2.weight", "bn1.running_mean", "conv1.weight"])
def test_one_absent_entry_of_the_backbone_is_an_error_and_nothing_is_loaded(save: Save, name: str) -> None:
    state = random_state()
    del state[name]
    spec = spec_of(rgb_pretrained_model_path=save(state))
    model = build_model(spec, 5)
    before = {name: entry.clone() for name, entry in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=re.escape(f"missing: 1 ({name})")):
        load_pretrained(model, spec, 5)
    assert differing(model.state_dict(), before) == []


def test_error_of_a_file_names_the_field_of_the_spec(tmp_path: Path) -> None:
    spec = spec_of(rgb_pretrained_model_path=str(tmp_path / "absent.pth"))
    with pytest.raises(CheckpointError, match=r"^rgb_pretrained_model_path \S+absent.pth: no such file"):
        load(spec)
