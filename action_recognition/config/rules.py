"""What follows between keys: names of older specs, values that follow from others, contradictions, notes."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import yaml

from action_recognition.config.backbones import I3D_LEAST_FRAMES, KINETICS, RESIZE_RATIO, VIDEO_BACKBONES
from action_recognition.config.declare import Problem, shorten, shorten_key, show_plain
from action_recognition.config.keys import KEYS, TASKS, ModelSpec, Spec
from action_recognition.config.placing import Placer

IGNORED = (
    "model_name",
    "wandb",
    "train.checkpointer",
    "evaluate.trt_engine",
    "inference.trt_engine",
    "export.batch_size",
)
OLD_NAMES = {
    "model_config": "model",
    "dataset_config": "dataset",
    "train_config": "train",
    "train_config.epochs": "train.num_epochs",
    "output_dir": "results_dir",
    "key": "encryption_key",
    "output_file": "export.onnx_file",
    "test_dataset_dir": "evaluate.test_dataset_dir",
    "video_eval_mode": "evaluate.video_eval_mode",
    "inference_dataset_dir": "inference.inference_dataset_dir",
    "video_inf_mode": "inference.video_inf_mode",
    "dataset.augmentation_config.of_input_rgb": "dataset.augmentation_config.of_input_std",
}
_OTHER_WEIGHTS = (  # keys for what the video networks start from in one: model.pretrained
    *("imagenet_pretrained", "rgb_pretrained_model_path", "of_pretrained_model_path", "joint_pretrained_model_path"),
    *("rgb_pretrained_num_classes", "of_pretrained_num_classes"),
)
TASK_ROOT_NAMES = ("gpu_ids", "gpu_id", "batch_size", "video_num_segments")  # belong to the task that reads them


def translate(spelled: str, node: yaml.Node, task: str | None) -> tuple[str, yaml.Node]:
    """Today's name of a key and its node; names that are new, or unknown, stay."""
    is_scalar = isinstance(node, yaml.ScalarNode)
    if spelled == "model" and is_scalar and f"{task}.checkpoint" in KEYS:
        return f"{task}.checkpoint", node
    if spelled == "gpu_id" and f"{task}.gpu_ids" in KEYS:
        return f"{task}.gpu_ids", yaml.SequenceNode("tag:yaml.org,2002:seq", [node], node.start_mark, node.end_mark)
    if spelled == "gpu_ids" and task == "export" and isinstance(node, yaml.SequenceNode) and len(node.value) == 1:
        return "export.gpu_id", node.value[0]
    if spelled in TASK_ROOT_NAMES and f"{task}.{spelled}" in (*KEYS, *IGNORED):
        return f"{task}.{spelled}", node
    if spelled in OLD_NAMES:
        return OLD_NAMES[spelled], node
    section, dot, rest = spelled.partition(".")
    name = OLD_NAMES.get(section, section) + dot + rest
    return OLD_NAMES.get(name, name), node


# --- values that follow from others ---


def backbone_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a video network's published weights were trained with, for the keys that `values` (of a spec) lacks."""
    video = VIDEO_BACKBONES.get(values.get("model.backbone", ""))
    if video is None:
        return {}
    size = ("model.input_height", "model.input_width")
    has_shape = "dataset.output_shape" in values
    sides = values["dataset.output_shape"] if has_shape else [values.get(name, video.side) for name in size]
    mean, std = video.normalisation
    augmentation = "dataset.augmentation_config"
    defaults = {
        "model.rgb_seq_length": video.num_frames,
        **({} if has_shape else dict.fromkeys(size, video.side)),
        f"{augmentation}.crop_smaller_edge": round(max(sides) * RESIZE_RATIO),
        f"{augmentation}.val_center_crop": True,
        f"{augmentation}.rgb_input_mean": mean,
        f"{augmentation}.rgb_input_std": std,
    }
    return {name: value for name, value in defaults.items() if name not in values}


def with_sizes(spec: Spec) -> Spec:
    """Input size and output_shape from whichever was given; both stay as they are where they differ."""
    size = {"model.input_height": spec.model.input_height, "model.input_width": spec.model.input_width}
    if "dataset.output_shape" in spec.origins:
        shape = dict(zip(size, spec.dataset.output_shape, strict=True))
        if any(name in spec.origins and size[name] != shape[name] for name in size):
            return spec
        size = shape
    height, width = size.values()
    model = replace(spec.model, input_height=height, input_width=width)
    return replace(spec, model=model, dataset=replace(spec.dataset, output_shape=(height, width)))


def _gpus(num_gpus: int, gpu_ids: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """TAO's rule: the larger count wins, and ids that are too few are replaced by 0..N-1."""
    count = max(num_gpus, len(gpu_ids))
    return count, gpu_ids if len(gpu_ids) == count else tuple(range(count))


def with_gpus(spec: Spec) -> Spec:
    sections = {}
    for task in ("train", "evaluate", "inference"):
        section = getattr(spec, task)
        num_gpus, gpu_ids = _gpus(section.num_gpus, section.gpu_ids)
        sections[task] = replace(section, num_gpus=num_gpus, gpu_ids=gpu_ids)
    return replace(spec, **sections)


def with_paths(spec: Spec) -> Spec:
    sections = {}
    for task in TASKS:
        section = getattr(spec, task)
        sections[task] = replace(section, results_dir=section.results_dir or os.path.join(spec.results_dir, task))
    evaluate, export = sections["evaluate"], sections["export"]
    sections["evaluate"] = replace(evaluate, test_dataset_dir=evaluate.test_dataset_dir or spec.dataset.val_dataset_dir)
    if export.checkpoint and not export.onnx_file:
        sections["export"] = replace(export, onnx_file=os.path.splitext(export.checkpoint)[0] + ".onnx")
    return replace(spec, **sections)


def with_opset(spec: Spec) -> Spec:
    """20 is read by all TensorRT from 10 on; ONNX has no bf16 convolution before 22."""
    export = spec.export
    return replace(spec, export=replace(export, opset=export.opset or (22 if export.precision == "bf16" else 20)))


# --- keys that contradict each other: each check gets the resolved spec and the task, and yields its problems ---


def _required(spec: Spec, task: str | None) -> Iterator[Problem]:
    wanted = {
        "train": ("dataset.train_dataset_dir",),
        "evaluate": ("evaluate.checkpoint", "evaluate.test_dataset_dir"),
        "inference": ("inference.checkpoint", "inference.inference_dataset_dir"),
        "export": ("export.checkpoint",),
    }
    for name in wanted.get(task or "", ()):
        if _value(spec, name) is None:
            instead = ("dataset.val_dataset_dir",) if name == "evaluate.test_dataset_dir" else ()
            either = " or ".join((name, *instead))
            yield Problem(
                name, f"{task} needs it: set {either} in the spec, or {name}=PATH on the command line", instead
            )


def backbone_limits(model: ModelSpec) -> Iterator[Problem]:
    """What a network can't take or start from."""
    yield from i3d_limits(model)
    if model.backbone in VIDEO_BACKBONES:
        yield from video_limits(model)
    elif model.pretrained:
        own = "rgb_, of_ and joint_pretrained_model_path"
        text = f"is for {', '.join(VIDEO_BACKBONES)}; weights for {model.backbone} are given by {own}"
        yield Problem("model.pretrained", text, ("model.backbone",))


def video_limits(model: ModelSpec) -> Iterator[Problem]:
    name, video = model.backbone, VIDEO_BACKBONES[model.backbone]
    for key, wanted in (("model_type", "rgb"), ("input_type", "3d")):
        if getattr(model, key) != wanted:
            text = f"{name} takes {wanted} only, got {getattr(model, key)!r}"
            yield Problem(f"model.{key}", text, ("model.backbone",))
    for key in _OTHER_WEIGHTS:
        if getattr(model, key):
            text = f"{name} starts from model.pretrained ({KINETICS} or a file): leave this key out"
            yield Problem(f"model.{key}", text, ("model.backbone",))
    sizes = {"rgb_seq_length": (video.num_frames, video.least_frames, "frames")}
    sizes |= dict.fromkeys(("input_height", "input_width"), (video.side, video.least_side, "pixels"))
    for key, (own, least, unit) in sizes.items():
        size = getattr(model, key)
        if video.is_fixed and size != own:
            text = f"{name} takes {own} {unit} and nothing else, got {size}: its table of positions has that size"
        elif size < least:
            text = f"{name} needs at least {least} {unit}, got {size}"
        else:
            continue
        yield Problem(f"model.{key}", text, ("model.backbone", "dataset.output_shape"))


def i3d_limits(model: ModelSpec) -> Iterator[Problem]:
    if model.backbone != "i3d":
        return
    if model.input_type != "3d":
        yield Problem("model.input_type", f"i3d takes 3d only, got {model.input_type!r}", ("model.backbone",))
    if model.imagenet_pretrained:
        text = "there are no ImageNet weights for i3d: set it to false, or give rgb_pretrained_model_path"
        yield Problem("model.imagenet_pretrained", text, ("model.backbone",))
    for stream in ("rgb", "of"):
        length = getattr(model, f"{stream}_seq_length")
        if model.model_type in (stream, "joint") and length < I3D_LEAST_FRAMES:
            involved = ("model.backbone", "model.model_type")
            yield Problem(
                f"model.{stream}_seq_length", f"i3d needs at least {I3D_LEAST_FRAMES} frames, got {length}", involved
            )

    for name in ("model.input_height", "model.input_width"):
        side = getattr(model, name.partition(".")[2])
        if not 193 <= side <= 224:
            yield Problem(name, f"i3d needs 193..224 pixels, got {side}", ("model.backbone", "dataset.output_shape"))


def _backbone(spec: Spec, _: str | None) -> Iterator[Problem]:
    for problem in backbone_limits(spec.model):
        by_shape = problem.key in ("model.input_height", "model.input_width") and problem.key not in spec.origins
        yield replace(problem, key="dataset.output_shape") if by_shape else problem


def _sizes(spec: Spec, _: str | None) -> Iterator[Problem]:
    height, width = spec.model.input_height, spec.model.input_width
    if (height, width) != spec.dataset.output_shape:
        text = f"{list(spec.dataset.output_shape)} and model.input_height x input_width {height} x {width} differ"
        involved = ("model.input_height", "model.input_width")
        yield Problem("dataset.output_shape", f"{text}: leave one of them out", involved)


def _crop(spec: Spec, task: str | None) -> Iterator[Problem]:
    augmentation, (height, width) = spec.dataset.augmentation_config, spec.dataset.output_shape
    if augmentation.crop_smaller_edge >= max(height, width):
        return
    crops = []
    if augmentation.train_crop_type == "random_crop" and task in ("train", None):
        crops.append("train_crop_type")
    if augmentation.val_center_crop:
        crops.append("val_center_crop")
    for crop in crops:
        prefix = "dataset.augmentation_config"
        what = "random_crop" if crop == "train_crop_type" else "val_center_crop"
        text = f"{augmentation.crop_smaller_edge} is smaller than the {height} x {width} that {what} cuts out"
        involved = (f"{prefix}.{crop}", "dataset.output_shape", "model.input_height", "model.input_width")
        yield Problem(f"{prefix}.crop_smaller_edge", f"{text}: raise it to {max(height, width)} or more", involved)


def _auto_reduce(spec: Spec, task: str | None) -> Iterator[Problem]:
    optim = spec.train.optim
    if optim.lr_scheduler != "AutoReduce":
        return
    if optim.lr_decay >= 1:
        text = f"AutoReduce needs a factor < 1, got {optim.lr_decay}"
        yield Problem("train.optim.lr_decay", text, ("train.optim.lr_scheduler",))
    if task == "train" and optim.lr_monitor == "val_loss" and not spec.dataset.val_dataset_dir:
        text = "AutoReduce watches val_loss and there is no validation data: set dataset.val_dataset_dir, "
        involved = ("train.optim.lr_monitor", "dataset.val_dataset_dir")
        yield Problem("train.optim.lr_scheduler", f"{text}or train.optim.lr_monitor to train_loss", involved)


def _warmup(spec: Spec, task: str | None) -> Iterator[Problem]:
    train, optim = spec.train, spec.train.optim
    if task in ("train", None) and optim.warmup_epochs >= train.num_epochs:
        text = f"must be less than train.num_epochs {train.num_epochs}, got {optim.warmup_epochs}"
        yield Problem("train.optim.warmup_epochs", text, ("train.num_epochs",))
    first = min(optim.lr_steps, default=optim.warmup_epochs)
    if optim.lr_scheduler == "MultiStep" and first < optim.warmup_epochs:
        text = f"lr would fall at epoch {first}, while it rises for {optim.warmup_epochs} (train.optim.warmup_epochs)"
        yield Problem("train.optim.lr_steps", text, ("train.optim.warmup_epochs", "train.optim.lr_scheduler"))


def _recomputing(spec: Spec, _: str | None) -> Iterator[Problem]:
    if spec.train.gradient_checkpointing and spec.train.compile:
        text = "does not go with train.compile, which chooses itself what to compute twice: set one of them to false"
        yield Problem("train.gradient_checkpointing", text, ("train.compile",))


def _sync_bn(spec: Spec, _: str | None) -> Iterator[Problem]:
    if spec.train.sync_bn and spec.train.device == "cpu":
        text = "needs GPUs, and train.device is 'cpu': set it to false or change the device"
        yield Problem("train.sync_bn", text, ("train.device",))


def _export(spec: Spec, task: str | None) -> Iterator[Problem]:
    export = spec.export
    if export.precision == "bf16" and export.opset is not None and export.opset < 22:
        text = f"bf16 needs 22 or more, got {export.opset}: ONNX has no bf16 convolution before"
        yield Problem("export.opset", text, ("export.precision",))
    if task == "export" and export.precision == "int8" and not spec.dataset.train_dataset_dir:
        text = "int8 is calibrated on training clips: set dataset.train_dataset_dir"
        yield Problem("export.precision", text, ("dataset.train_dataset_dir",))
    if export.onnx_file and not export.onnx_file.lower().endswith((".onnx", ".etlt")):
        text = f"{shorten(repr(export.onnx_file))} must end in .onnx, or in .etlt for an encrypted file"
        yield Problem("export.onnx_file", text, ("export.checkpoint",))


CROSS_CHECKS: tuple[Callable[[Spec, str | None], Iterable[Problem]], ...] = (
    _required,
    _sizes,
    _backbone,
    _crop,
    _auto_reduce,
    _warmup,
    _recomputing,
    _sync_bn,
    _export,
)


# --- lines for the tool to print ---


def naming_notes(placer: Placer) -> Iterator[str]:
    if placer.ignored:
        yield f"TAO keys without a meaning here are ignored: {', '.join(map(shorten_key, placer.ignored))}"
    if placer.renamed:
        yield f"older names were mapped: {', '.join(f'{old} -> {new}' for old, new in placer.renamed.items())}"


def gpu_notes(given: Spec, task: str | None) -> Iterator[str]:
    for name in ("train", "evaluate", "inference"):
        section = getattr(given, name)
        if task not in (name, None) or not {f"{name}.num_gpus", f"{name}.gpu_ids"} <= set(given.origins):
            continue
        if section.num_gpus != len(section.gpu_ids):
            count, ids = _gpus(section.num_gpus, section.gpu_ids)
            differ = f"{name}.num_gpus {section.num_gpus} and gpu_ids {list(section.gpu_ids)} disagree"
            yield f"{differ}: {count} processes, gpu_ids {shorten(str(list(ids)))}"


def monitor_notes(spec: Spec, task: str | None) -> Iterator[str]:
    optim = spec.train.optim
    if task in ("train", None) and optim.lr_scheduler != "AutoReduce" and optim.lr_monitor != "val_loss":
        yield f"train.optim.lr_monitor {optim.lr_monitor} is ignored: only AutoReduce watches a loss"


def backbone_notes(spec: Spec, defaults: Mapping[str, Any], task: str | None) -> Iterator[str]:
    """What a run that is about to start takes from its network's weights; `defaults` are of backbone_defaults."""
    if task not in ("train", None) or spec.model.backbone not in VIDEO_BACKBONES:
        return
    name = spec.model.backbone
    if defaults:
        shown = {key.rpartition(".")[2]: show_plain(value) for key, value in defaults.items()}
        if "crop_smaller_edge" in shown:
            shown["crop_smaller_edge"] += " (8/7 of the input)"
        taken = ", ".join(f"{key} {value}" for key, value in shown.items())
        yield f"not in the spec, so as the Kinetics-400 weights of {name} were trained: {taken}"
    if not spec.model.pretrained:
        yield f"model.pretrained is not set ({KINETICS} or a file): {name} starts from random weights"


def _value(spec: Spec, name: str) -> Any:
    section, _, rest = name.partition(".")
    return getattr(getattr(spec, section), rest)
