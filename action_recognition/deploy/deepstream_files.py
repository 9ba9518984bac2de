"""DeepStream's key files read back: sections of key=value lines, and what nvdspreprocess is told in its own.

The rules are GLib's GKeyFile's, which DeepStream reads them with: a line that begins with # is a comment, a list is
divided by ;, of a key that stands twice the last one counts.
"""

from collections.abc import Mapping
from configparser import ConfigParser
from configparser import Error as KeyFileError
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from action_recognition.errors import DeployError

KeyFile = dict[str, dict[str, str]]  # section -> key -> value
FILTERS = {"nearest": 0, "bilinear": 1}  # NvBufSurfTransform_Inter; the others are hardware's own


class Roi(NamedTuple):
    """A part of a frame, in pixels of the frame."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Preprocess:
    """What happens to one ROI of one source on its way to the model.

    `roi` None is the whole frame. A pixel x of channel c becomes scales[c] * (x - offsets[c]). A clip holds
    `num_frames` frames, every (subsample + 1)-th one; the next clip starts `stride` of those later.
    """

    is_3d: bool
    num_frames: int
    height: int
    width: int
    roi: Roi | None
    scaling_filter: str
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    stride: int
    subsample: int


def read_key_file(path: Path) -> KeyFile:
    """The sections of a key file. DeployError where it can't be read."""
    parser = ConfigParser(
        delimiters=("=",), comment_prefixes=("#",), strict=False, interpolation=None, empty_lines_in_values=False
    )
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # keys as they are written
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, KeyFileError) as error:
        raise DeployError(f"{path}: can't be read as a key file ({error})") from error
    return {section: dict(parser[section]) for section in parser.sections()}


def read_preprocess(path: Path, source: int = 0, roi: int = 0) -> Preprocess:
    """What a file for nvdspreprocess and the sequence library says of the `roi`-th ROI of a source.

    DeployError names the key that lacks or is wrong.
    """
    content = read_key_file(path)
    sections = ("property", "user-configs", "group-0")
    values = {key: value for section in sections for key, value in content.get(section, {}).items()}
    try:
        shape = whole_numbers(values, "network-input-shape")
        is_3d = len(shape) == 5
        return Preprocess(
            is_3d=is_3d,
            num_frames=shape[2] if is_3d else shape[1] // 3,
            height=shape[-2],
            width=shape[-1],
            roi=rois_of(values, source)[roi] if values["process-on-roi"] == "1" else None,
            scaling_filter=_filter(values["scaling-filter"]),
            scales=channel_numbers(values, "channel-scale-factors"),
            offsets=channel_numbers(values, "channel-mean-offsets"),
            stride=whole_number(values, "stride"),
            subsample=whole_number(values, "subsample"),
        )
    except KeyError as error:
        raise DeployError(f"{path}: lacks {error.args[0]}") from error
    except ValueError as error:
        raise DeployError(f"{path}: {error}") from error
    except IndexError as error:
        raise DeployError(f"{path}: has no ROI {roi} of source {source}") from error


def read_frame_size(path: Path) -> tuple[int, int]:
    """(width, height) that the app's file has every source scaled to."""
    app = read_key_file(path).get("action-recognition", {})
    missing = [key for key in ("muxer-width", "muxer-height") if key not in app]
    if missing:
        raise DeployError(f"{path}: lacks {', '.join(missing)}")
    return whole_number(app, "muxer-width"), whole_number(app, "muxer-height")


def whole_number(values: Mapping[str, str], key: str) -> int:
    """KeyError where the key lacks, ValueError where its value is no whole number; so do the next two."""
    try:
        return int(values[key])
    except ValueError:
        raise ValueError(f"{key} must be a whole number, got {values[key]!r}") from None


def whole_numbers(values: Mapping[str, str], key: str) -> tuple[int, ...]:
    """The numbers of a list."""
    text = values[key].removesuffix(";")
    try:
        return tuple(int(part) for part in text.split(";")) if text else ()
    except ValueError:
        raise ValueError(f"{key} must be whole numbers divided by ;, got {text!r}") from None


def channel_numbers(values: Mapping[str, str], key: str) -> tuple[float, float, float]:
    """One number for each of R, G, B; of fewer the last is repeated, as the library does."""
    text = values[key].removesuffix(";")
    try:
        numbers = [float(part) for part in text.split(";")]
    except ValueError:
        raise ValueError(f"{key} must be numbers divided by ;, got {text!r}") from None
    red, green, blue = [*numbers, numbers[-1], numbers[-1]][:3]
    return red, green, blue


def rois_of(values: Mapping[str, str], source: int) -> tuple[Roi, ...]:
    """The ROIs of a source; none where their key lacks. ValueError where they are no left;top;width;height;left..."""
    key = f"roi-params-src-{source}"
    numbers = whole_numbers(values, key) if key in values else ()
    if len(numbers) % 4:
        raise ValueError(f"{key} must be left;top;width;height for each ROI, got {len(numbers)} numbers")
    return tuple(Roi(*numbers[i : i + 4]) for i in range(0, len(numbers), 4))


def _filter(number: str) -> str:
    for name, known in FILTERS.items():
        if number == str(known):
            return name
    raise ValueError(f"scaling-filter must be one of {FILTERS} to be followed, got {number}")
