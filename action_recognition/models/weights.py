"""Weights: from files to models.

In: a file that PyTorch saved (our checkpoints, TAO's, ImageNet ResNets and Kinetics-400 video networks in torchvision's
naming, published I3D weights) and a model. Out: the model with these weights, and a report of what was loaded, adapted
and left out. No file is loaded in part in silence: what has no counterpart, other than head and stem, is an error.
Writing is not done here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

from action_recognition.config import ModelSpec
from action_recognition.config.backbones import KINETICS, VIDEO_BACKBONES
from action_recognition.errors import CheckpointError
from action_recognition.models.resnet2d import DEPTHS
from action_recognition.torch_files import checked_state_dict, read_weights, some_names

# By name, never by place in the file: nothing promises that a file keeps the order of the layers.
STEM = re.compile(r"(?:model_(?:rgb|of)\.)?(?:conv1|Conv3d_1a_7x7\.conv3d)\.weight")
VIDEO_HEADS = ("fc", "head", "head.1", "classifier.1")
HEAD = re.compile(
    r"((?:model_(?:rgb|of)\.)?(?:fc_cls|logits\.conv3d)|fc1|fc2|" + "|".join(map(re.escape, VIDEO_HEADS)) + ")"
    r"\.(?:weight|bias)"
)
# An entry that none of the others has in this shape, or none behind it: swin3d_s is swin3d_t with more blocks.
VIDEO_MARKS = {
    "r3d_18": ("layer4.0.conv1.0.weight", (512, 256, 3, 3, 3)),
    "mc3_18": ("layer4.0.conv1.0.weight", (512, 256, 1, 3, 3)),
    "r2plus1d_18": ("layer4.0.conv1.0.0.weight", (921, 256, 1, 3, 3)),
    "s3d": ("features.15.branch1.1.0.0.weight", (384, 192, 1, 3, 3)),
    "mvit_v2_s": ("blocks.15.attn.rel_pos_h", (13, 96)),
    "swin3d_s": ("features.4.17.attn.qkv.weight", (1152, 384)),
    "swin3d_t": ("features.6.1.attn.qkv.weight", (2304, 768)),
}


@dataclass(frozen=True)
class WeightsReport:
    """What became of one source of weights; str() is its line for the log."""

    source: str
    num_loaded: int
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.source}: " + ", ".join((f"{self.num_loaded} tensors loaded", *self.notes))


def load_state(model: nn.Module, state_dict: Mapping[str, Tensor], where: str) -> None:
    """Loads what is ours as it is: each name and shape must agree. `where` opens the text of the CheckpointError."""
    checked_state_dict(where, state_dict)
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in state_dict]
    unfit = [name for name in wanted if name in state_dict and state_dict[name].shape != wanted[name].shape]
    _check_fit(where, state_dict, wanted, missing, unfit)
    model.load_state_dict(state_dict)


def load_pretrained(model: nn.Module, spec: ModelSpec, num_classes: int, key: str | None = None) -> list[WeightsReport]:
    """Loads what the spec's *pretrained* fields name into a model of build_model; one report for each of them.

    A file of the whole joint model wins over files of its streams, any file over imagenet_pretrained. torchvision's
    video networks have one field, `pretrained`. `key` opens sealed files.
    """
    if spec.backbone in VIDEO_BACKBONES:
        return [_load_video(model, spec, num_classes, key)] if spec.pretrained else []
    if spec.model_type == "joint" and not spec.joint_pretrained_model_path:
        targets = {"rgb": model.get_submodule("model_rgb"), "of": model.get_submodule("model_of")}
    else:
        targets = {spec.model_type: model}
    reports = [report for kind, target in targets.items() for report in _load_one(target, spec, kind, num_classes, key)]
    return reports + _not_read(spec, set(targets))


def inflate(kernel: Tensor, length: int) -> Tensor:
    """(O, I, h, w) -> (O, I, length, h, w), the same response to a clip that stands still (arXiv 1705.07750, 2.3)."""
    return kernel.unsqueeze(2).expand(-1, -1, length, -1, -1) / length


def adapt_channels(kernel: Tensor, num_channels: int) -> Tensor:
    """A stem for another number of input channels: the mean over the old ones, repeated; the same number, unchanged."""
    if kernel.shape[1] == num_channels:
        return kernel
    return kernel.mean(1, keepdim=True).repeat_interleave(num_channels, 1)


def architecture(entries: Mapping[str, Tensor]) -> str:
    """What a state dict looks like, in the words of the spec: '2d resnet18', '3d i3d', 'joint of two 2d resnet18'."""
    rgb = {name.removeprefix("model_rgb."): t for name, t in entries.items() if name.startswith("model_rgb.")}
    if rgb:
        return f"joint of two {architecture(rgb)}"
    if "Conv3d_1a_7x7.conv3d.weight" in entries:
        return "3d i3d"
    for name, (entry, shape) in VIDEO_MARKS.items():
        if entry in entries and entries[entry].shape == shape:
            return f"3d {name}"
    blocks = (len({n.split(".")[1] for n in entries if n.startswith(f"layer{i}.")}) for i in (1, 2, 3, 4))
    depth = ("layer1.0.conv3.weight" in entries, tuple(blocks))
    backbone = next((name for name, known in DEPTHS.items() if known == depth), None)
    if backbone is None or "conv1.weight" not in entries:
        return "unknown architecture"
    return f"{entries['conv1.weight'].dim() - 2}d {backbone}"


# Loading: where from, what to change, what to say.


def _paths(spec: ModelSpec) -> dict[str, str | None]:
    return {
        "rgb": spec.rgb_pretrained_model_path,
        "of": spec.of_pretrained_model_path,
        "joint": spec.joint_pretrained_model_path,
    }


def _not_read(spec: ModelSpec, used: set[str]) -> list[WeightsReport]:
    left_out = {kind: path for kind, path in _paths(spec).items() if path and kind not in used}
    why = "joint_pretrained_model_path has it all" if "joint" in used else f"model_type is {spec.model_type}"
    return [WeightsReport(f"{k}_pretrained_model_path {p}", 0, (f"not read: {why}",)) for k, p in left_out.items()]


def _load_one(model: nn.Module, spec: ModelSpec, kind: str, num_classes: int, key: str | None) -> list[WeightsReport]:
    """Into one stream, or (kind joint) into the whole of a joint model: one report, or none where no field is set."""
    if _paths(spec)[kind]:
        return [_load_file(model, spec, kind, num_classes, key)]
    if spec.imagenet_pretrained:
        source = f"imagenet_pretrained {spec.backbone} ({kind})"
        return [_adapt_and_load(model, _imagenet_weights(spec.backbone), num_classes, source)]
    return []


def _load_video(model: nn.Module, spec: ModelSpec, num_classes: int, key: str | None) -> WeightsReport:
    source = f"model.pretrained {spec.pretrained}"
    if spec.pretrained == KINETICS:
        cure = "give the file as model.pretrained=FILE"
        entries = _downloaded(spec.backbone, "KINETICS400_V1", "model.pretrained", cure)
        return _adapt_and_load(model, entries, num_classes, f"{source} ({spec.backbone})")
    try:
        entries = read_weights(str(spec.pretrained), key)
    except CheckpointError as error:
        raise CheckpointError(f"model.pretrained {error}") from error
    return _adapt_and_load(model, entries, num_classes, source)


def _load_file(model: nn.Module, spec: ModelSpec, kind: str, num_classes: int, key: str | None) -> WeightsReport:
    path = str(_paths(spec)[kind])
    try:
        entries = read_weights(path, key)
    except CheckpointError as error:
        raise CheckpointError(f"{kind}_pretrained_model_path {error}") from error
    source = f"{kind}_pretrained_model_path {path}"
    _check_stated_classes(source, spec, kind, entries)
    return _adapt_and_load(model, entries, num_classes, source)


def _imagenet_weights(backbone: str) -> Mapping[str, Tensor]:
    """torchvision's, from its cache or the network. Its first version: the one the reference starts from."""
    if backbone not in DEPTHS:
        raise CheckpointError(
            f"model.imagenet_pretrained: there are no ImageNet weights for {backbone}, only for {', '.join(DEPTHS)}; "
            "set it to false and name a file in model.rgb_pretrained_model_path or of_pretrained_model_path"
        )
    cure = "name it in model.rgb_pretrained_model_path"
    return _downloaded(backbone, "IMAGENET1K_V1", "model.imagenet_pretrained", cure)


def _downloaded(backbone: str, version: str, key: str, cure: str) -> Mapping[str, Tensor]:
    """torchvision's weights of a backbone, from its cache or the network; `cure` is what else to do with their file."""
    weights = get_model_weights(backbone)[version]
    try:
        return weights.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    except Exception as error:  # no network, a full disk, a damaged file in the cache
        raise CheckpointError(
            f"{key}: can't get {weights.url} ({error}); where there is no network, put the file "
            f"into {torch.hub.get_dir()}/checkpoints, or {cure}"
        ) from error


def _check_stated_classes(source: str, spec: ModelSpec, kind: str, entries: Mapping[str, Tensor]) -> None:
    """An ImageNet file's `fc` is no head of ours: it is left out in any case, so its size is not held to the spec."""
    all_stated = {"rgb": spec.rgb_pretrained_num_classes, "of": spec.of_pretrained_num_classes}
    prefixes = {"rgb": "model_rgb.", "of": "model_of."} if kind == "joint" else {kind: ""}
    for modality, prefix in prefixes.items():
        stated = all_stated[modality]
        found = _num_classes(entries, (f"{prefix}fc_cls", f"{prefix}logits.conv3d"))
        if stated and found and found != stated:
            raise CheckpointError(
                f"{source}: its head is for {found} classes, but {modality}_pretrained_num_classes says {stated}; "
                f"set it to {found}, or to 0 to take the file's number"
            )


def _adapt_and_load(model: nn.Module, entries: Mapping[str, Tensor], num_classes: int, source: str) -> WeightsReport:
    wanted = model.state_dict()
    skipped = [n for n in ("fc.weight", "fc.bias") if n in entries and "fc_cls.weight" in wanted]
    heads = _heads_to_replace(entries, wanted)
    kept = {name: t for name, t in entries.items() if name not in skipped and _head_of(name) not in heads}
    adapted = {name: _adapt(name, t, wanted[name]) for name, t in kept.items() if name in wanted}
    # Files older than num_batches_tracked lack it, and nothing here reads it.
    optional = {name for name in wanted if _head_of(name) in heads or name.endswith(".num_batches_tracked")}
    missing = [name for name in wanted if name not in kept and name not in optional]
    unfit = [name for name, tensor in adapted.items() if tensor.shape != wanted[name].shape]
    _check_fit(source, kept, wanted, missing, unfit)
    model.load_state_dict({**wanted, **adapted})
    notes = [*_kernel_notes(kept, wanted), *_head_notes(entries, heads, num_classes)]
    notes += [f"skipped: {', '.join(skipped)}"] if skipped else []
    return WeightsReport(source, len(adapted), tuple(notes))


def _adapt(name: str, tensor: Tensor, like: Tensor) -> Tensor:
    """The tensor in the shape of `like`, as far as inflation and the stem's rule lead there."""
    tensor = tensor.to(like.dtype)
    if (tensor.dim(), like.dim()) == (4, 5):
        tensor = inflate(tensor, like.shape[2])
    if STEM.fullmatch(name) and tensor.dim() == like.dim():
        tensor = adapt_channels(tensor, like.shape[1])
    return tensor


def _head_of(name: str) -> str | None:
    """The layer of the head that a name belongs to, such as `model_rgb.fc_cls`."""
    match = HEAD.fullmatch(name)
    return match[1] if match else None


def _heads_to_replace(entries: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Layers of the model's head, whole, of which a part is absent from the file or has another shape there."""
    unfit = {_head_of(n) for n, t in wanted.items() if n not in entries or entries[n].shape != t.shape}
    return sorted(head for head in unfit if head)


def _num_classes(entries: Mapping[str, Tensor], heads: tuple[str, ...]) -> int | None:
    found = (entries.get(f"{head}.weight") for head in heads)
    return next((weight.shape[0] for weight in found if weight is not None and weight.dim()), None)


def _head_notes(entries: Mapping[str, Tensor], heads: list[str], num_classes: int) -> list[str]:
    if not heads:
        return []
    which = f" ({', '.join(heads)})" if len(heads) > 1 else ""
    old = _num_classes(entries, ("fc2", "fc_cls", "logits.conv3d", *VIDEO_HEADS))
    if old is None:
        return [f"no head in the file: a new one for {num_classes} classes{which}"]
    return [f"head for {old} classes replaced by a new one for {num_classes}{which}"]


def _kernel_notes(kept: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    stems = [(n, kept[n].shape[1], wanted[n].shape[1]) for n in kept if STEM.fullmatch(n)]
    notes = [
        f"stem {name} adapted {old} -> {new} channels (mean over the old channels)"
        for name, old, new in stems
        if old != new
    ]
    num_inflated = sum(tensor.dim() == 4 and wanted[name].dim() == 5 for name, tensor in kept.items())
    return notes + ([f"2D kernels inflated over time ({num_inflated} tensors)"] if num_inflated else [])


def _check_fit(
    where: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], missing: list[str], unfit: list[str]
) -> None:
    unexpected = [name for name in found if name not in wanted]
    shapes = [f"{name} {tuple(found[name].shape)} for {tuple(wanted[name].shape)}" for name in unfit]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    listed = "; ".join(f"{what}: {some_names(names)}" for what, names in faults.items() if names)
    if listed:
        raise CheckpointError(
            f"{where}: does not fit the model. Found: {architecture(found)}, wanted: {architecture(wanted)}; {listed}. "
            "Give a file of this architecture, or set model_type, input_type and backbone to the file's"
        )
