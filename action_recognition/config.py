"""The spec: every key with its type, default and meaning, and the checks between keys.

In: a YAML file and `a.b=value` overrides. Out: one frozen, resolved Spec, or a SpecError that lists every problem.
Opens no file but the spec: whether a folder or a checkpoint exists is for those who open it to say.
"""

import dataclasses
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from action_recognition.spec_reader import (
    Check,
    Placer,
    Problem,
    SpecProblems,
    UnreadableValue,
    at_least,
    both,
    build,
    each,
    in_range,
    is_missing_mark,
    key,
    keys_of,
    one_of,
    positive,
    read_document,
    read_plain,
    shorten,
    shorten_key,
    show_plain,
)

TASKS = ("train", "evaluate", "inference", "export")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_GPUS = 1024

BACKBONES = one_of("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "i3d")
PRECISIONS = one_of("fp32", "bf16", "fp16")
PROBABILITY = in_range(0, 1)


def _device_fault(value: str) -> str | None:
    if re.fullmatch(r"auto|cpu|cuda|cuda:[0-9]{1,4}|mps", value):
        return None
    return f"{shorten(repr(value))} is not one of auto, cpu, cuda, cuda:N, mps"


def _of_lengths(*lengths: int, stream: str, why_not: str = "") -> Check:
    accepted = f"{' or '.join(map(str, lengths))} number{'s' if lengths[-1] > 1 else ''}"

    def fault(values: Sequence[float]) -> str | None:
        if len(values) in lengths:
            return None
        return f"{stream} takes {accepted}, got {len(values)}: {shorten(show_plain(tuple(values)))}{why_not}"

    return Check(accepted, fault)


def _ascending_fault(values: Sequence[int]) -> str | None:
    if all(low < high for low, high in itertools.pairwise(values)):
        return None
    return f"must be ascending, got {shorten(show_plain(tuple(values)))}"


def _gpu_ids_fault(values: Sequence[int]) -> str | None:
    if len(set(values)) == len(values) <= MAX_GPUS and all(value >= 0 for value in values):
        return None
    return f"must be at most {MAX_GPUS} different ids >= 0, got {shorten(show_plain(tuple(values)))}"


def _label_map_fault(label_map: Mapping[str, int]) -> str | None:
    """Ids are rows of the classifier, so they must be 0..K-1, each once."""
    if not label_map:
        return "must name at least one class, got {}"
    by_id: dict[int, str] = {}
    for name, class_id in label_map.items():
        if class_id in by_id:
            return f"index {class_id} is given to both {shorten(repr(by_id[class_id]))} and {shorten(repr(name))}"
        by_id[class_id] = name
    last = len(label_map) - 1
    for class_id, name in by_id.items():
        if not 0 <= class_id <= last:
            missing = next(i for i in range(last + 1) if i not in by_id)
            found = f"{shorten(repr(name))} has {class_id} and {missing} is missing"
            return f"{len(label_map)} classes take the indices 0..{last}, each once; {found}"
    return None


DEVICE = Check("auto, cpu, cuda, cuda:N, mps", _device_fault)
GPU_IDS = Check("different ids >= 0", _gpu_ids_fault)
ASCENDING = Check("ascending, each > 0", lambda values: each(positive()).fault(values) or _ascending_fault(values))
RGB_CHANNELS = _of_lengths(1, 3, stream="rgb")
FLOW_CHANNELS = _of_lengths(
    1,
    2,
    stream="optical flow (u, v)",
    why_not="; with 3 TAO skips the normalisation without a word, so a model trained so takes mean [0.0] and std [1.0]",
)
NOT_EMPTY = Check("at least one", lambda values: None if values else "must not be empty, got []")
STD_RANGE = each(positive())
SIDE_PX = positive(4096)


# --- the keys ---


@dataclass(frozen=True)
class ModelSpec:
    model_type: str = key("joint", "What the model sees: images, optical flow, or both", one_of("rgb", "of", "joint"))
    backbone: str = key(
        "resnet18",
        "Network of each stream; resnet_18 is read as resnet18",
        BACKBONES,
        tidy=lambda name: re.sub(r"^resnet_(?=\d)", "resnet", name),
    )
    input_type: str = key("2d", "2d stacks the frames as channels, 3d convolves over time", one_of("2d", "3d"))
    rgb_seq_length: int = key(3, "Frames in a clip of images", positive(4096))
    of_seq_length: int = key(10, "Flow frames in a clip", positive(4096))
    rgb_pretrained_model_path: str | None = key(None, "Weights the image stream starts from")
    of_pretrained_model_path: str | None = key(None, "Weights the flow stream starts from")
    joint_pretrained_model_path: str | None = key(None, "Weights the whole joint model starts from")
    rgb_pretrained_num_classes: int = key(0, "Classes in the image weights' head, 0 = as many as here", at_least(0))
    of_pretrained_num_classes: int = key(0, "Classes in the flow weights' head, 0 = as many as here", at_least(0))
    num_fc: int = key(64, "Hidden units of the joint head", positive(1_000_000))
    sample_strategy: str = key("consecutive", "Which frames make a clip", one_of("consecutive", "random_interval"))
    sample_rate: int = key(1, "Step between the frames of a clip, 2 = every second frame", positive())
    dropout_ratio: float = key(0.5, "Share of features dropped before the classifier in training", PROBABILITY)
    input_height: int = key(224, "Height of the network's input in pixels", SIDE_PX)
    input_width: int = key(224, "Width of the network's input in pixels", SIDE_PX)
    imagenet_pretrained: bool = key(False, "Start a ResNet from torchvision's ImageNet weights")


@dataclass(frozen=True)
class AugmentationSpec:
    train_crop_type: str = key(
        "random_crop", "How a training clip is cropped", one_of("random_crop", "multi_scale_crop", "no_crop")
    )
    scales: tuple[float, ...] = key(
        (1.0,), "Window sizes of multi_scale_crop, as shares of the short side", both(each(positive()), NOT_EMPTY)
    )
    horizontal_flip_prob: float = key(0.5, "Share of training clips that are mirrored", PROBABILITY)
    rgb_input_mean: tuple[float, ...] = key(IMAGENET_MEAN, "Mean taken from images in 0..1", RGB_CHANNELS)
    rgb_input_std: tuple[float, ...] = key(
        IMAGENET_STD, "Divisor of images after the mean", both(RGB_CHANNELS, STD_RANGE)
    )
    of_input_mean: tuple[float, ...] = key((0.5,), "Mean taken from flow images in 0..1", FLOW_CHANNELS)
    of_input_std: tuple[float, ...] = key(
        (0.5,), "Divisor of flow images after the mean", both(FLOW_CHANNELS, STD_RANGE)
    )
    val_center_crop: bool = key(False, "Evaluate on a centre crop, not on the whole frame squeezed to size")
    crop_smaller_edge: int = key(256, "Short side in pixels before random_crop or the centre crop", positive(16384))


@dataclass(frozen=True)
class DatasetSpec:
    train_dataset_dir: str | None = key(None, "Training data: class folders of videos")
    val_dataset_dir: str | None = key(None, "Validation data, in the same form; none = no validation")
    label_map: Mapping[str, int] | None = key(
        None, "Class name -> index", Check("indices 0..K-1, each once", _label_map_fault)
    )
    output_shape: tuple[int, int] = key((224, 224), "Older form of model.input_height and input_width", each(SIDE_PX))
    batch_size: int = key(32, "Clips in a training batch, per process", positive())
    workers: int = key(8, "Processes that read data, 0 = read in the main one", in_range(0, 1024))
    clips_per_video: int = key(1, "Clips drawn from a video in each epoch", positive())
    on_bad_video: str = key("error", "A video that can't be read ends the run, or is skipped", one_of("error", "skip"))
    flow_encoding: str = key(
        "max_rad", "How flow is written in images: TAO's converter or I3D's", one_of("max_rad", "clip20")
    )
    augmentation_config: AugmentationSpec = field(default_factory=AugmentationSpec)


@dataclass(frozen=True)
class OptimSpec:
    lr: float = key(5e-4, "Learning rate of SGD", positive())
    momentum: float = key(0.9, "Momentum of SGD", PROBABILITY)
    weight_decay: float = key(5e-4, "Weight decay of SGD", at_least(0))
    lr_scheduler: str = key(
        "MultiStep", "MultiStep lowers lr at lr_steps, AutoReduce on a plateau", one_of("MultiStep", "AutoReduce")
    )
    lr_monitor: str = key("val_loss", "Loss that AutoReduce watches", one_of("val_loss", "train_loss"))
    lr_steps: tuple[int, ...] = key((15, 25), "Epochs at which MultiStep lowers lr", ASCENDING)
    lr_decay: float = key(0.1, "Factor by which lr is lowered", both(positive(), in_range(0, 1)))
    patience: int = key(1, "Epochs without progress before AutoReduce lowers lr", at_least(0))
    min_lr: float = key(1e-4, "AutoReduce goes no lower", at_least(0))


@dataclass(frozen=True)
class CudnnSpec:
    benchmark: bool = key(False, "Let cuDNN time its algorithms and take the fastest")
    deterministic: bool = key(True, "Only algorithms that repeat bit for bit")


@dataclass(frozen=True)
class TrainSpec:
    num_gpus: int = key(1, "Processes to train with; the larger of this and the length of gpu_ids", positive(MAX_GPUS))
    gpu_ids: tuple[int, ...] = key((0,), "GPU of each process", GPU_IDS)
    num_nodes: int = key(1, "Machines; must equal torchrun's", positive())
    seed: int = key(1234, "Seed of random, NumPy and torch; below 0 = none")
    num_epochs: int = key(10, "Epochs to train", positive())
    checkpoint_interval: int = key(1, "Epochs (or steps) between checkpoints", positive())
    checkpoint_interval_unit: str = key("epoch", "What checkpoint_interval counts", one_of("epoch", "step"))
    validation_interval: int = key(1, "Epochs between validations", positive())
    resume_training_checkpoint_path: str | None = key(
        None, "Checkpoint to go on from; without it the newest in results_dir"
    )
    results_dir: str | None = key(None, "Folder of checkpoints and logs; null = <results_dir>/train")
    clip_grad_norm: float = key(0.0, "Largest L2 norm of the gradients, 0 = no clipping", at_least(0))
    precision: str | None = key(None, "Arithmetic; null = bf16 where the GPU has it, else fp32", PRECISIONS)
    device: str = key("auto", "Where to train; auto = the GPUs if there are any", DEVICE)
    accumulate_steps: int = key(1, "Batches whose gradients are summed before a step", positive())
    sync_bn: bool = key(False, "Share batch-norm statistics between GPUs")
    optim: OptimSpec = field(default_factory=OptimSpec)
    cudnn: CudnnSpec = field(default_factory=CudnnSpec)


@dataclass(frozen=True)
class EvaluateSpec:
    num_gpus: int = key(
        1, "Processes to evaluate with; the larger of this and the length of gpu_ids", positive(MAX_GPUS)
    )
    gpu_ids: tuple[int, ...] = key((0,), "GPU of each process", GPU_IDS)
    num_nodes: int = key(1, "Machines; must equal torchrun's", positive())
    checkpoint: str | None = key(None, "Checkpoint to evaluate; required")
    test_dataset_dir: str | None = key(None, "Test data: class folders of videos; null = dataset.val_dataset_dir")
    results_dir: str | None = key(None, "Folder of the results; null = <results_dir>/evaluate")
    batch_size: int = key(1, "Clips in a batch", positive())
    video_eval_mode: str = key(
        "center", "Clips of a video: the middle one, evenly spread ones, all", one_of("center", "conv", "all")
    )
    video_num_segments: int = key(10, "Clips of a video in conv mode", positive())
    precision: str = key("fp32", "Arithmetic", PRECISIONS)
    device: str = key("auto", "Where to evaluate; auto = the GPUs if there are any", DEVICE)


@dataclass(frozen=True)
class InferenceSpec:
    num_gpus: int = key(1, "Processes to infer with; the larger of this and the length of gpu_ids", positive(MAX_GPUS))
    gpu_ids: tuple[int, ...] = key((0,), "GPU of each process", GPU_IDS)
    num_nodes: int = key(1, "Machines; must equal torchrun's", positive())
    checkpoint: str | None = key(None, "Checkpoint to run; required")
    inference_dataset_dir: str | None = key(None, "Folder whose children are videos; required")
    results_dir: str | None = key(None, "Folder of the results; null = <results_dir>/inference")
    batch_size: int = key(1, "Clips in a batch", positive())
    video_inf_mode: str = key(
        "center", "Clips of a video: the middle one, evenly spread ones, all", one_of("center", "conv", "all")
    )
    video_num_segments: int = key(10, "Clips of a video in conv mode", positive())
    precision: str = key("fp32", "Arithmetic", PRECISIONS)
    device: str = key("auto", "Where to infer; auto = the GPUs if there are any", DEVICE)


@dataclass(frozen=True)
class ExportSpec:
    checkpoint: str | None = key(None, "Checkpoint to export; required")
    onnx_file: str | None = key(None, "ONNX file to write; null = beside the checkpoint, .onnx")
    gpu_id: int = key(0, "GPU to trace the model on", in_range(0, MAX_GPUS - 1))
    results_dir: str | None = key(None, "Folder of the log; null = <results_dir>/export")


@dataclass(frozen=True)
class Spec:
    model: ModelSpec = field(default_factory=ModelSpec)
    dataset: DatasetSpec = field(default_factory=DatasetSpec)
    train: TrainSpec = field(default_factory=TrainSpec)
    evaluate: EvaluateSpec = field(default_factory=EvaluateSpec)
    inference: InferenceSpec = field(default_factory=InferenceSpec)
    export: ExportSpec = field(default_factory=ExportSpec)
    results_dir: str = key("/results", "Parent of each task's own results_dir")
    encryption_key: str | None = key(
        None,
        "TAO's key for encrypted checkpoints; none is accepted",
        refused="encrypted checkpoints aren't supported by this version; leave it unset",
    )
    # key -> "configs/x.yaml, line 4" or "command line", for what the user gave; notes are lines for the tool to print
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    notes: tuple[str, ...] = field(default=(), compare=False, repr=False)


KEYS = keys_of(Spec)


# --- names of older specs ---

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
TASK_ROOT_NAMES = ("gpu_ids", "gpu_id", "batch_size", "video_num_segments")  # belong to the task that reads them


def _translate(spelled: str, node: yaml.Node, task: str | None) -> tuple[str, yaml.Node]:
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


def _with_sizes(spec: Spec) -> Spec:
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


def _with_gpus(spec: Spec) -> Spec:
    sections = {}
    for task in ("train", "evaluate", "inference"):
        section = getattr(spec, task)
        num_gpus, gpu_ids = _gpus(section.num_gpus, section.gpu_ids)
        sections[task] = replace(section, num_gpus=num_gpus, gpu_ids=gpu_ids)
    return replace(spec, **sections)


def _with_paths(spec: Spec) -> Spec:
    sections = {}
    for task in TASKS:
        section = getattr(spec, task)
        sections[task] = replace(section, results_dir=section.results_dir or os.path.join(spec.results_dir, task))
    evaluate, export = sections["evaluate"], sections["export"]
    sections["evaluate"] = replace(evaluate, test_dataset_dir=evaluate.test_dataset_dir or spec.dataset.val_dataset_dir)
    if export.checkpoint and not export.onnx_file:
        sections["export"] = replace(export, onnx_file=os.path.splitext(export.checkpoint)[0] + ".onnx")
    return replace(spec, **sections)


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


def _i3d_limits(model: ModelSpec) -> Iterator[Problem]:
    if model.backbone != "i3d":
        return
    if model.input_type != "3d":
        yield Problem("model.input_type", f"i3d takes 3d only, got {model.input_type!r}", ("model.backbone",))
    if model.imagenet_pretrained:
        text = "there are no ImageNet weights for i3d: set it to false, or give rgb_pretrained_model_path"
        yield Problem("model.imagenet_pretrained", text, ("model.backbone",))
    for stream in ("rgb", "of"):
        length = getattr(model, f"{stream}_seq_length")
        if model.model_type in (stream, "joint") and length < 9:
            involved = ("model.backbone", "model.model_type")
            yield Problem(f"model.{stream}_seq_length", f"i3d needs at least 9 frames, got {length}", involved)

    for name in ("model.input_height", "model.input_width"):
        side = getattr(model, name.partition(".")[2])
        if not 193 <= side <= 224:
            yield Problem(name, f"i3d needs 193..224 pixels, got {side}", ("model.backbone", "dataset.output_shape"))


def _i3d(spec: Spec, _: str | None) -> Iterator[Problem]:
    for problem in _i3d_limits(spec.model):
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


def _sync_bn(spec: Spec, _: str | None) -> Iterator[Problem]:
    if spec.train.sync_bn and spec.train.device == "cpu":
        text = "needs GPUs, and train.device is 'cpu': set it to false or change the device"
        yield Problem("train.sync_bn", text, ("train.device",))


CROSS_CHECKS: tuple[Callable[[Spec, str | None], Iterable[Problem]], ...] = (
    _required,
    _sizes,
    _i3d,
    _crop,
    _auto_reduce,
    _sync_bn,
)


# --- lines for the tool to print ---


def _naming_notes(placer: Placer) -> Iterator[str]:
    if placer.ignored:
        yield f"TAO keys without a meaning here are ignored: {', '.join(map(shorten_key, placer.ignored))}"
    if placer.renamed:
        yield f"older names were mapped: {', '.join(f'{old} -> {new}' for old, new in placer.renamed.items())}"


def _gpu_notes(given: Spec, task: str | None) -> Iterator[str]:
    for name in ("train", "evaluate", "inference"):
        section = getattr(given, name)
        if task not in (name, None) or not {f"{name}.num_gpus", f"{name}.gpu_ids"} <= set(given.origins):
            continue
        if section.num_gpus != len(section.gpu_ids):
            count, ids = _gpus(section.num_gpus, section.gpu_ids)
            differ = f"{name}.num_gpus {section.num_gpus} and gpu_ids {list(section.gpu_ids)} disagree"
            yield f"{differ}: {count} processes, gpu_ids {shorten(str(list(ids)))}"


def _monitor_notes(spec: Spec, task: str | None) -> Iterator[str]:
    optim = spec.train.optim
    if task in ("train", None) and optim.lr_scheduler != "AutoReduce" and optim.lr_monitor != "val_loss":
        yield f"train.optim.lr_monitor {optim.lr_monitor} is ignored: only AutoReduce watches a loss"


# --- the public functions ---


def load_spec(
    path: str | Path | None,
    overrides: Sequence[str] = (),
    *,
    task: str | None = None,
    checks: Sequence[Callable[[Spec], Iterable[Problem]]] = (),
) -> Spec:
    """The resolved spec of a YAML file (None: the defaults) with `a.b=value` overrides; SpecError lists every problem.

    `task` (train, evaluate, inference, export) asks for the keys that task requires and gives it the old schema's root
    keys. `checks` get the spec, with defaults where a value is wrong, and yield further problems.
    """
    if task not in (None, *TASKS):
        raise ValueError(f"task {task!r} is not one of {', '.join(TASKS)}")
    placer = Placer(KEYS, IGNORED, lambda spelled, node: _translate(spelled, node, task))
    if path is not None:
        placer.place_document(read_document(path))
    for override in overrides:
        placer.place_override(override)
    given = replace(build(Spec, placer.read_values()), origins=_origins(placer, path))
    spec = _with_paths(_with_gpus(_with_sizes(given)))
    problems = _all_problems(placer, spec, task, checks)
    if problems:
        raise SpecProblems("spec" if path is None else shorten_key(str(path)), problems)
    return replace(spec, notes=(*_naming_notes(placer), *_gpu_notes(given, task), *_monitor_notes(spec, task)))


def _origins(placer: Placer, path: str | Path | None) -> dict[str, str]:
    given = ((name, value.origin) for name, value in placer.given.items() if not is_missing_mark(value.node))
    return {name: str(origin) if origin.line is None else f"{path}, {origin}" for name, origin in given}


def _all_problems(
    placer: Placer, spec: Spec, task: str | None, checks: Iterable[Callable[[Spec], Iterable[Problem]]]
) -> list[Problem]:
    """The placer's problems and those of every check whose keys have none yet."""
    problems = list(placer.problems)
    known = {problem.key for problem in problems}
    for found in (*(check(spec, task) for check in CROSS_CHECKS), *(check(spec) for check in checks)):
        for problem in found:
            if known.isdisjoint((problem.key, *problem.involves)):
                given = placer.given.get(problem.key)
                problems.append(replace(problem, origin=given.origin) if given else problem)
                known.add(problem.key)
    return problems


def describe(task: str) -> str:
    """The keys of a task for -h, one a line: name, default, meaning and what is accepted."""
    if task not in TASKS:
        raise ValueError(f"task {task!r} is not one of {', '.join(TASKS)}")
    sections = ("model", "dataset", task, "results_dir", "encryption_key")
    rows = []
    for name, wanted in KEYS.items():
        if name.partition(".")[0] in sections:
            accepted = f" ({wanted.check.accepted})" if wanted.check else ""
            rows.append((name, show_plain(wanted.default), wanted.meaning + accepted))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{name:<{widths[0]}}  {default:<{widths[1]}}  {text}" for name, default, text in rows)


def to_plain(spec: Any) -> dict[str, Any]:
    """A spec, or a section of one, as dicts and lists for YAML and JSON; without encryption_key, origins and notes."""
    plain = {}
    for f in dataclasses.fields(spec):
        value = getattr(spec, f.name)
        if dataclasses.is_dataclass(value):
            plain[f.name] = to_plain(value)
        elif "meaning" in f.metadata and not f.metadata["refused"]:
            plain[f.name] = _plain_value(value)
    return plain


def _plain_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def model_spec_from_plain(mapping: Mapping[str, Any]) -> ModelSpec:
    """The model section of `to_plain`, e.g. out of a checkpoint nobody vouches for; keys left out have their defaults.

    ValueError names the first key that is unknown, of the wrong type or out of range.
    """
    if not isinstance(mapping, Mapping):
        raise ValueError(f"the model spec must be a mapping, got {type(mapping).__name__}")
    keys = keys_of(ModelSpec)
    values: dict[str, Any] = {}
    for name, value in mapping.items():
        if name not in keys:
            raise ValueError(f"model spec: unknown key {shorten(repr(name))}")
        try:
            values[name] = read_plain(value, keys[name])
        except UnreadableValue as error:
            raise ValueError(f"model spec: {name} {error}") from None
    model = ModelSpec(**values)
    for problem in _i3d_limits(model):
        raise ValueError(f"model spec: {problem.key.partition('.')[2]}: {problem.text}")
    return model


def _value(spec: Spec, name: str) -> Any:
    section, _, rest = name.partition(".")
    return getattr(getattr(spec, section), rest)
