"""The contract of a model: what it expects of its input and what its output means, from training to the edge.

It is stored in every checkpoint and travels with every exported file, so that nothing about the input has to be typed
twice. Owns no files and reads no spec; data/agreement.py makes it from a spec and holds it against one.
"""

import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

CHANNELS = {"rgb": 3, "of": 2}
MODALITIES = {"rgb": ("rgb",), "of": ("of",), "joint": ("rgb", "of")}
_LARGEST = 16384  # pixels or frames; what a file says of itself must not decide how much memory it takes
_CHOICES = {
    "model_type": tuple(MODALITIES),
    "input_type": ("2d", "3d"),
    "sample_strategy": ("consecutive", "random_interval"),
    "flow_encoding": ("max_rad", "clip20"),
}


@dataclass(frozen=True)
class Stream:
    """One modality's clip: how many frames, and the mean and std of each channel for pixels in 0..1."""

    num_frames: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Contract:
    """What goes into a model and what comes out. `streams` are in the order of the model's inputs.

    With `center_crop` a frame's short side is resized to `smaller_edge` and the middle height x width is kept, else the
    frame is resized to height x width whatever its shape. `flow_encoding` matters to optical flow only.
    """

    model_type: str
    input_type: str
    streams: dict[str, Stream]
    height: int
    width: int
    center_crop: bool
    smaller_edge: int
    sample_strategy: str
    sample_rate: int
    flow_encoding: str
    class_names: tuple[str, ...]

    @property
    def modalities(self) -> tuple[str, ...]:
        return MODALITIES[self.model_type]

    @property
    def lengths(self) -> dict[str, int]:
        """The clip length of each modality, in frames."""
        return {modality: stream.num_frames for modality, stream in self.streams.items()}

    @property
    def is_3d(self) -> bool:
        return self.input_type == "3d"

    def to_plain(self) -> dict[str, Any]:
        """The contract as dicts, lists, strings and numbers."""
        return json.loads(json.dumps(asdict(self)))


def contract_from_plain(plain: object) -> Contract:
    """The inverse of Contract.to_plain, for files of unknown origin. ValueError names the field that is wrong."""
    values = _mapping(plain, "contract", [f.name for f in fields(Contract)])
    for name, accepted in _CHOICES.items():
        if values[name] not in accepted:
            raise ValueError(f"contract: {name} {_shown(values[name])} is not one of {', '.join(accepted)}")
    for name in ("height", "width", "smaller_edge", "sample_rate"):
        _check_size(name, values[name])
    if not isinstance(values["center_crop"], bool):
        raise ValueError(f"contract: center_crop must be true or false, got {_shown(values['center_crop'])}")
    _check_crop(values)
    names = values["class_names"]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise ValueError(f"contract: class_names must be a list of names, got {_shown(names)}")
    modalities = MODALITIES[values["model_type"]]
    streams = _mapping(values["streams"], "contract: streams", list(modalities))
    values["streams"] = {m: _stream_from_plain(m, streams[m]) for m in modalities}
    return Contract(**{**values, "class_names": tuple(names)})


def _stream_from_plain(modality: str, plain: object) -> Stream:
    values = _mapping(plain, f"contract: {modality}", [f.name for f in fields(Stream)])
    _check_size(f"{modality} num_frames", values["num_frames"])
    for name in ("mean", "std"):
        numbers = values[name]
        right = isinstance(numbers, list) and len(numbers) == CHANNELS[modality]
        if not right or not all(isinstance(x, int | float) and abs(x) < math.inf for x in numbers):
            raise ValueError(f"contract: {modality} {name} must be {CHANNELS[modality]} numbers, got {_shown(numbers)}")
    if min(values["std"]) <= 0:
        raise ValueError(f"contract: {modality} std must be > 0, got {values['std']!r}")
    return Stream(values["num_frames"], tuple(values["mean"]), tuple(values["std"]))


def _mapping(plain: object, what: str, names: list[str]) -> dict[str, Any]:
    """`plain` as a dict with exactly these names."""
    if not isinstance(plain, Mapping):
        raise ValueError(f"{what}: must be a mapping with {', '.join(names)}, got {type(plain).__name__}")
    if set(plain) != set(names):
        raise ValueError(f"{what}: must have {', '.join(names)}, got {', '.join(map(_name, plain))}")
    return dict(plain)


def _check_crop(values: Mapping[str, Any]) -> None:
    height, width, edge = values["height"], values["width"], values["smaller_edge"]
    if values["center_crop"] and edge < max(height, width):
        raise ValueError(
            f"contract: smaller_edge {edge} is smaller than the {height} x {width} that is cropped from it"
        )


def _shown(value: object) -> str:
    """A value as a message shows it: cut in width, depth and length, since a pickle may hold one without end."""
    return reprlib.repr(value)[:200]


def _name(key: object) -> str:
    return key if isinstance(key, str) else type(key).__name__


def _check_size(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"contract: {name} must be a whole number >= 1, got {_shown(value)}")
    if value > _LARGEST:
        raise ValueError(f"contract: {name} must be at most {_LARGEST}, got {_shown(value)}")
