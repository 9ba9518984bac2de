"""The keys of the spec: type, default, meaning and accepted values of each, in frozen dataclasses."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from action_recognition.config.backbones import VIDEO_BACKBONES
from action_recognition.config.declare import (
    Check,
    at_least,
    both,
    each,
    in_range,
    key,
    keys_of,
    one_of,
    positive,
    shorten,
    show_plain,
)

TASKS = ("train", "evaluate", "inference", "export")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_GPUS = 1024

BACKBONES = one_of("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "i3d", *VIDEO_BACKBONES)
PRECISIONS = one_of("fp32", "bf16", "fp16")
EXPORT_PRECISIONS = ("fp32", "fp16", "bf16", "int8")
PROBABILITY = in_range(0, 1)
VIEWS = Check("1 or 3", lambda v: None if v in (1, 3) else f"must be 1 or 3, got {v}")
BELOW_ONE = Check("0..1, below 1", lambda v: None if 0 <= v < 1 else f"must be >= 0 and < 1, got {v}")


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


def _hue_fault(values: Sequence[float]) -> str | None:
    return None if values[3] <= 0.5 else f"element 4 (hue) must be between 0 and 0.5, got {values[3]}"


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
JITTER = Check("each 0..1, the last 0..0.5", lambda values: each(PROBABILITY).fault(values) or _hue_fault(values))
SIDE_PX = positive(4096)


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
    rgb_pretrained_num_classes: int = key(0, "Classes in the image weights' head, 0 = as the file says", at_least(0))
    of_pretrained_num_classes: int = key(0, "Classes in the flow weights' head, 0 = as the file says", at_least(0))
    num_fc: int = key(64, "Hidden units of the joint head", positive(1_000_000))
    sample_strategy: str = key("consecutive", "Which frames make a clip", one_of("consecutive", "random_interval"))
    sample_rate: int = key(1, "Step between the frames of a clip, 2 = every second frame", positive())
    dropout_ratio: float = key(0.5, "Share of features dropped before the classifier in training", PROBABILITY)
    input_height: int = key(224, "Height of the network's input in pixels", SIDE_PX)
    input_width: int = key(224, "Width of the network's input in pixels", SIDE_PX)
    imagenet_pretrained: bool = key(False, "Start a ResNet from torchvision's ImageNet weights")
    pretrained: str | None = key(
        None, f"Weights that {', '.join(VIDEO_BACKBONES)} start from: kinetics400 (downloaded by torchvision) or a file"
    )


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
    color_jitter: tuple[float, float, float, float] = key(
        (0.0, 0.0, 0.0, 0.0), "Largest change of brightness, contrast, saturation and hue of a training clip", JITTER
    )


@dataclass(frozen=True)
class DatasetSpec:
    train_dataset_dir: str | None = key(None, "Training data: class folders of videos, or a list of videos")
    val_dataset_dir: str | None = key(None, "Validation data, in the same form; none = no validation")
    label_map: Mapping[str, int] | None = key(
        None, "Class name -> index", Check("indices 0..K-1, each once", _label_map_fault)
    )
    output_shape: tuple[int, int] = key((224, 224), "Older form of model.input_height and input_width", each(SIDE_PX))
    batch_size: int = key(
        32, "Clips in a training batch, per process; auto or 0 = as many as memory holds", at_least(0), auto=0
    )
    workers: int = key(8, "Processes that read data, 0 = read in the main one", in_range(0, 1024))
    timeout_sec: float = key(
        600, "Seconds that a batch may take to be read by workers before the run ends", in_range(1, 604800)
    )
    clips_per_video: int = key(1, "Clips drawn from a video in each epoch", positive())
    balance: str = key(
        "none",
        "Rare classes: left rare, weigh more in the loss, or are drawn as often as the others",
        one_of("none", "loss", "sampling"),
    )
    on_bad_video: str = key("error", "A video that can't be read ends the run, or is skipped", one_of("error", "skip"))
    flow_encoding: str = key(
        "max_rad", "How flow is written in images: TAO's converter or I3D's", one_of("max_rad", "clip20")
    )
    cache_dir: str | None = key(
        None, "Folder for decoded frames, kept between runs; null = none, but the user's cache to train on video files"
    )
    index_cache: bool = key(True, "Remember what frame folders hold; false for disks that do not date their folders")
    augmentation_config: AugmentationSpec = field(default_factory=AugmentationSpec)


@dataclass(frozen=True)
class OptimSpec:
    name: str = key("SGD", "SGD with momentum, or AdamW", one_of("SGD", "AdamW"))
    lr: float = key(5e-4, "Learning rate", positive())
    momentum: float = key(0.9, "Momentum of SGD, first beta of AdamW", BELOW_ONE)
    weight_decay: float = key(5e-4, "Weight decay", at_least(0))
    stage_lr_decay: float = key(
        1.0, "Learning rate of a stage as a share of the next one's; the head has lr", both(positive(), in_range(0, 1))
    )
    warmup_epochs: int = key(0, "First epochs in which lr rises from 0, step by step", at_least(0))
    lr_scheduler: str = key(
        "MultiStep",
        "MultiStep lowers lr at lr_steps, AutoReduce on a plateau, Cosine at every step, to 0 at the end",
        one_of("MultiStep", "AutoReduce", "Cosine"),
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
    keep_checkpoints: int | None = key(
        None, "Newest model_epoch_*.pth to keep, besides the best; null = all", positive()
    )
    validation_interval: int = key(1, "Epochs between validations", positive())
    resume_training_checkpoint_path: str | None = key(
        None, "Checkpoint to go on from; without it the newest in results_dir"
    )
    results_dir: str | None = key(None, "Folder of checkpoints and logs; null = <results_dir>/train")
    clip_grad_norm: float = key(0.0, "Largest L2 norm of the gradients, 0 = no clipping", at_least(0))
    precision: str | None = key(None, "Arithmetic; null = bf16 where the GPU has it, else fp32", PRECISIONS)
    device: str = key("auto", "Where to train; auto = the GPUs if there are any", DEVICE)
    accumulate_steps: int = key(1, "Batches whose gradients are summed before a step", positive())
    freeze: str | None = key(
        None,
        "Last stage, from the stem on, whose weights stay as they are",
        one_of("stem", "layer1", "layer2", "layer3", "layer4"),
    )
    label_smoothing: float = key(0.0, "Share of a label that is spread over all classes", BELOW_ONE)
    mixup_alpha: float = key(0.0, "Mix pairs of clips, shares from Beta(alpha, alpha), 0 = off", at_least(0))
    cutmix_alpha: float = key(0.0, "Paste a part of a clip into another, in the same way, 0 = off", at_least(0))
    ema_decay: float = key(
        0.0, "Share of the old in a running mean of the weights, which is validated and saved; 0 = off", BELOW_ONE
    )
    early_stopping: int | None = key(None, "Epochs without a better one after which the run ends", positive())
    gradient_checkpointing: bool = key(False, "Compute each stage twice, to hold less in memory")
    sync_bn: bool = key(False, "Share batch-norm statistics between GPUs")
    memory_format: str = key(
        "auto",
        "How tensors lie in memory; auto = channels_last on CUDA in bf16 and fp16, else contiguous",
        one_of("auto", "contiguous", "channels_last"),
    )
    compile: bool = key(False, "Compile the network with torch.compile; the first steps take minutes")
    report: bool = key(False, "Write the curves to <results_dir>/train/report.html after each epoch, and as PNG")
    wandb_project: str | None = key(None, "Weights & Biases project that gets each epoch's figures too")
    profile: bool = key(False, "Write a timeline of steps 6 to 10 to <results_dir>/train/trace.json")
    timeout_sec: float = key(
        1800, "Seconds that processes wait for one another before the run ends", in_range(1, 604800)
    )
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
    test_dataset_dir: str | None = key(
        None, "Test data: class folders of videos, or a list of videos; null = dataset.val_dataset_dir"
    )
    results_dir: str | None = key(None, "Folder of the results; null = <results_dir>/evaluate")
    batch_size: int = key(1, "Clips in a batch", positive())
    video_eval_mode: str = key(
        "center",
        "Clips of a video: the middle one, evenly spread ones, all; with random_interval conv = as many interleaved "
        "ones as it holds, and all = center for a 3d model of any length",
        one_of("center", "conv", "all"),
    )
    video_num_segments: int = key(10, "Clips of a video in conv mode, with consecutive sampling", positive())
    video_num_crops: int = key(1, "Views of each clip: 1, or 3 crops along the longer side", VIEWS)
    precision: str = key("fp32", "Arithmetic", PRECISIONS)
    report: bool = key(
        False, "Write figures, mistakes and Grad-CAM to <results_dir>/evaluate/report.html, plots as PNG"
    )
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
        "center",
        "Clips of a video: the middle one, evenly spread ones, all; with random_interval conv = as many interleaved "
        "ones as it holds, and all = center for a 3d model of any length",
        one_of("center", "conv", "all"),
    )
    video_num_segments: int = key(10, "Clips of a video in conv mode, with consecutive sampling", positive())
    video_num_crops: int = key(1, "Views of each clip: 1, or 3 crops along the longer side", VIEWS)
    precision: str = key("fp32", "Arithmetic", PRECISIONS)
    device: str = key("auto", "Where to infer; auto = the GPUs if there are any", DEVICE)


@dataclass(frozen=True)
class ExportSpec:
    checkpoint: str | None = key(None, "Checkpoint to export; required")
    onnx_file: str | None = key(
        None, "File to write, .onnx, or .etlt for an encrypted one; null = beside the checkpoint, .onnx"
    )
    gpu_id: int = key(0, "GPU that the checks in torch run on, where there is one", in_range(0, MAX_GPUS - 1))
    precision: str = key("fp32", "Arithmetic inside; input and output stay fp32", one_of(*EXPORT_PRECISIONS))
    opset: int | None = key(None, "ONNX opset; null = 20, with bf16 22, the first that has it", in_range(18, 25))
    softmax: bool = key(False, "Answer probabilities in place of logits")
    overwrite: bool = key(False, "Replace onnx_file where it exists")
    results_dir: str | None = key(
        None, "Folder of status.json, written where this or results_dir is given; null = <results_dir>/export"
    )


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
        "Encrypts checkpoints and .etlt exports, and opens them; better given as AR_ENCRYPTION_KEY in the environment",
        secret=True,
    )
    # key -> "configs/x.yaml, line 4" or "command line", for what the user gave; notes are lines for the tool to print
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    notes: tuple[str, ...] = field(default=(), compare=False, repr=False)


KEYS = keys_of(Spec)
