"""The choices behind a DeepStream folder: the deployment's own, and for the rest what comes nearest to the evaluation.

In: a servable Model and Settings. Out: Choices, or an error for a model that the sample can't run.
"""

from dataclasses import dataclass

from action_recognition.clip.contract import Contract
from action_recognition.clip.transform import evaluation_box
from action_recognition.deploy.bundles import Model
from action_recognition.deploy.deepstream_files import Roi
from action_recognition.errors import DeployError, SpecError

SAMPLE_URI = "file:///opt/nvidia/deepstream/deepstream/samples/streams/sample_walk.mov"
DEFAULT_FRAME_SIZE = (1280, 720)
ROI_STEP_PX = 2  # what nvdspreprocess rounds to; a coarser step would move the picture for nothing


@dataclass(frozen=True)
class Settings:
    """What is the deployment's to choose; None is the choice that comes nearest to the evaluation.

    `rois` has one tuple for each source, or one for all, or is empty: what the evaluation looks at. `batch` None is one
    clip for each ROI of each source, `network_mode` None fp16. `threshold` is the score a label must exceed.
    """

    uris: tuple[str, ...] = (SAMPLE_URI,)
    frame_size: tuple[int, int] | None = None
    rois: tuple[tuple[Roi, ...], ...] = ()
    batch: int | None = None
    stride: int = 1
    subsample: int | None = None
    network_mode: str | None = None
    scaling_filter: str = "bilinear"
    threshold: float = 0.0
    headless: bool = False
    with_triton: bool = False


@dataclass(frozen=True)
class Choices:
    """A model, and its settings with every choice made. `rois` are those of each source."""

    model: Model
    settings: Settings
    frame_size: tuple[int, int]
    rois: tuple[tuple[Roi, ...], ...]
    batch: int
    subsample: int
    network_mode: str
    strongly_typed: bool


def make_choices(model: Model, settings: Settings) -> Choices:
    """DeployError for a model that the sample can't run, SpecError for settings that don't fit it."""
    contract = model.contract
    if contract.model_type != "rgb":
        raise DeployError(
            f"{model.path}: model_type is {contract.model_type}; deepstream-3d-action-recognition feeds RGB frames "
            "alone and computes no optical flow; serve the model with tools/bundle.py triton"
        )
    if model.description.output != "softmax":
        raise DeployError(
            f"{model.path}: its output is {model.description.output}; DeepStream's classifier shows the greatest value "
            "above 0, so a clip whose logits are all negative would get no label; export with probabilities: "
            "python tools/export.py export.checkpoint=CHECKPOINT export.softmax=true"
        )
    frame_size = settings.frame_size or DEFAULT_FRAME_SIZE
    if contract.center_crop and not settings.rois and not settings.frame_size:
        raise SpecError(
            "the model was evaluated on the middle of the frames, whose place depends on their size: give "
            "--frame-size WxH, or the places themselves with --roi"
        )
    rois = _rois_of_sources(settings, mimicked_roi(contract, frame_size))
    network_mode, strongly_typed = _precision(model, settings.network_mode)
    return Choices(
        model=model,
        settings=settings,
        frame_size=frame_size,
        rois=rois,
        batch=sum(map(len, rois)) if settings.batch is None else settings.batch,
        subsample=contract.sample_rate - 1 if settings.subsample is None else settings.subsample,
        network_mode=network_mode,
        strongly_typed=strongly_typed,
    )


def _rois_of_sources(settings: Settings, default: Roi) -> tuple[tuple[Roi, ...], ...]:
    num_sources, given = len(settings.uris), settings.rois
    if len(given) not in (0, 1, num_sources):
        raise SpecError(
            f"--roi: given for {len(given)} of {num_sources} sources; give it once for all, or for each one"
        )
    if not given:
        return ((default,),) * num_sources
    return given * num_sources if len(given) == 1 else given


def _precision(model: Model, wanted: str | None) -> tuple[str, bool]:
    """(network mode, strongly typed).

    TensorRT 10 takes the precision of an fp16, bf16 or int8 file from its tensors when the network is strongly typed,
    and then refuses the flags that network-mode would set: mode 0 sets none.
    """
    precision = model.description.precision
    if precision == "fp32":
        if wanted == "int8":
            raise SpecError(
                f"--network-mode int8: {model.path} is fp32, without the ranges that int8 needs; export an int8 model "
                "and bundle that"
            )
        return wanted or "fp16", False
    if wanted not in (None, precision):
        raise SpecError(
            f"--network-mode {wanted}: {model.path} is {precision} already, its tensors decide; leave the option out"
        )
    return "fp32", True


def mimicked_roi(contract: Contract, frame_size: tuple[int, int]) -> Roi:
    """The part of a (width, height) frame that the evaluation sees, at even numbers: 1.5 px off at most.

    DeepStream squashes it to the model's size, as the evaluation does; without centre crop it is the whole frame.
    """
    if not contract.center_crop:
        return Roi(0, 0, frame_size[0] // 2 * 2, frame_size[1] // 2 * 2)
    left, top, right, bottom = evaluation_box(frame_size, contract)
    x, width = _nearest_span(left, right, frame_size[0])
    y, height = _nearest_span(top, bottom, frame_size[1])
    return Roi(x, y, width, height)


def _nearest_span(low: float, high: float, full: int) -> tuple[int, int]:
    """(start, length) in whole steps inside 0..full: the length nearest to high - low, around the same middle."""
    steps = min(max(round((high - low) / ROI_STEP_PX), 1), full // ROI_STEP_PX)
    start = round(((low + high) / ROI_STEP_PX - steps) / 2)
    return start * ROI_STEP_PX, steps * ROI_STEP_PX
