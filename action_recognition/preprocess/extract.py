"""One video to one finished folder of frames and flow, or to none. Runs without torch (RAFT apart).

In: a Job and the Settings of the run. Out: <class>/<video>/{rgb,u,v}, flow.json beside u and v, and preprocess.json,
which tells what the folder was made from, so that a second run knows what is missing or changed.
"""

import errno
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from action_recognition.clip.flow_encoding import CLIP_BOUND_PX, encode_clip20, encode_max_rad
from action_recognition.clip.transform import fit_frame, short_side_to
from action_recognition.clip.video import Damage, read_video
from action_recognition.errors import DataError, UserError
from action_recognition.preprocess.flow import FloFiles, FlowMethod
from action_recognition.preprocess.jobs import Job

FRAME_SUFFIXES = ("png", "jpg")
RECORD, FLOW_RECORD = "preprocess.json", "flow.json"
ENCODE = {"max_rad": encode_max_rad, "clip20": encode_clip20}
_JPEG_QUALITY = 95
_VERSION = 1  # of what a folder holds: a greater one has all folders made again


@dataclass(frozen=True)
class Settings:
    """What the folders of a run are to hold. `flow` is none, dis, nvof, raft or flo (files of another program)."""

    flow: str = "none"
    flow_preset: str = "slow"
    encoding: str = "max_rad"
    frames: str = "png"
    short_edge: int | None = None
    fps: float | None = None
    flow_only: bool = False
    raft_weights: str | None = None

    @property
    def preset(self) -> str | None:
        """The preset of methods that have one."""
        return self.flow_preset if self.flow in ("dis", "nvof", "raft") else None


@dataclass(frozen=True)
class Outcome:
    """What became of a job: what preprocess.jsonl says of it, and whether there was anything to do."""

    video: str
    source: str
    frames: int = 0
    width: int = 0
    height: int = 0
    fps: float | None = None
    flow: str | None = None
    preset: str | None = None
    encoding: str | None = None
    packets_skipped: int = 0
    frames_patched: int = 0
    error: str | None = None
    was_there: bool = field(default=False, compare=False)

    def line(self) -> dict[str, Any]:
        """The outcome as preprocess.jsonl has it."""
        line = asdict(self)
        del line["was_there"]
        return line


def extract(job: Job, settings: Settings, method: FlowMethod | None = None) -> Outcome:
    """Make what `settings` want from a job's source, unless it is there already.

    `method` computes the flow where settings.flow names one. What is wrong with the video comes back as the outcome's
    `error`; UserError where the target can't be written to, which would end all other jobs likewise.
    """
    try:
        for purpose in ("tmp", "old"):  # of a run that was killed
            shutil.rmtree(_beside(job.target, purpose), ignore_errors=True)
        made_from = _made_from(job, settings)
        there = _outcome_there(job.target, settings, made_from)
        return there or _make(job, settings, FloFiles(job.flo) if job.flo else method, made_from)
    except DataError as error:
        return Outcome(job.name, str(job.source), error=str(error))
    except OSError as error:
        advice = "; free some space and start again" if error.errno == errno.ENOSPC else ""
        raise UserError(f"{job.target}: can't be written ({error.strerror or error}){advice}") from error


def _made_from(job: Job, settings: Settings) -> dict[str, Any]:
    """What a folder depends on: the content of its sources, told by sizes and times, and the settings."""
    sources = [job.source / "rgb" if settings.flow_only else job.source, *([job.flo] if job.flo else [])]
    return {"version": _VERSION, "sources": [_stamp(path) for path in sources], "settings": asdict(settings)}


def _stamp(source: Path) -> dict[str, int]:
    try:
        files = [source] if source.is_file() else list(source.iterdir())
        states = [file.stat() for file in files]
    except OSError as error:
        raise DataError(f"{source}: can't be read ({error.strerror})") from error
    newest = max((state.st_mtime_ns for state in states), default=0)
    return {"files": len(files), "bytes": sum(state.st_size for state in states), "modified_ns": newest}


def _outcome_there(target: Path, settings: Settings, made_from: dict[str, Any]) -> Outcome | None:
    """The outcome of a run that has left what is wanted; DataError where something stands there that no run left."""
    record = target / (FLOW_RECORD if settings.flow_only else RECORD)
    parts = [target / name for name in ("u", "v")] if settings.flow_only else [target]
    try:
        made = json.loads(record.read_text())
    except FileNotFoundError:
        if any(part.exists() for part in parts):
            advice = "move it away, or choose another DST; --flow-only adds flow to frames that are there"
            raise DataError(f"{parts[0]}: was not made by this program: {advice}") from None
        return None
    except ValueError as error:
        raise DataError(f"{record}: is damaged ({error}); remove {target} and start again") from error
    if made.get("made_from") != made_from or not all(part.exists() for part in parts):
        return None
    return Outcome(**made["outcome"], was_there=True)


def _make(job: Job, settings: Settings, flow: FlowMethod | None, made_from: dict[str, Any]) -> Outcome:
    temporary = _beside(job.target, "tmp")
    try:
        temporary.mkdir(parents=True)
        outcome, resolution = _write_images(job, settings, flow, temporary)
        record = {"made_from": made_from, "outcome": outcome.line()}
        if not settings.flow_only:
            _write_json(temporary / RECORD, record)
        if flow:
            about = _about_flow(settings, resolution)
            _write_json(temporary / FLOW_RECORD, {**about, **(record if settings.flow_only else {})})
        (_move_flow if settings.flow_only else _replace)(temporary, job.target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return outcome


def _write_images(
    job: Job, settings: Settings, flow: FlowMethod | None, folder: Path
) -> tuple[Outcome, tuple[int, int]]:
    """All frames and flow images of a job below `folder`. Returns the outcome and the flow's (width, height)."""
    damage, num_frames, resolution = Damage(), 0, (0, 0)
    shape: tuple[int, ...] = ()
    _make_folders(folder, settings, flow)
    if flow:
        flow.start()
    for frame in _frames(job.source, settings, damage):
        if num_frames and frame.shape != shape:
            raise DataError(f"{job.source}: frame {num_frames} is {_size(frame.shape)}, those before {_size(shape)}")
        shape = frame.shape
        if not settings.flow_only:
            write_image(folder / "rgb" / f"{num_frames:06d}.{settings.frames}", frame)
        vectors = flow.add(frame) if flow else None
        if vectors is not None:
            resolution = vectors.shape[1], vectors.shape[0]
            for name, image in zip(("u", "v"), ENCODE[settings.encoding](vectors), strict=True):
                write_image(folder / name / f"{num_frames - 1:06d}.jpg", image)
        num_frames += 1
    if flow and num_frames == 1:
        raise DataError(f"{job.source}: has one frame; flow needs two")
    if isinstance(flow, FloFiles):
        flow.finish()
    outcome = Outcome(
        job.name,
        str(job.source),
        frames=num_frames,
        width=shape[1],
        height=shape[0],
        fps=round(settings.fps or damage.fps, 3) or None,
        flow=settings.flow if flow else None,
        preset=settings.preset,
        encoding=settings.encoding if flow else None,
        packets_skipped=damage.packets_skipped,
        frames_patched=damage.frames_patched,
    )
    return outcome, resolution


def write_image(path: Path, image: np.ndarray) -> None:
    """A uint8 image, RGB (H, W, 3) or grey (H, W), as PNG or as JPEG of quality 95, by the path's suffix."""
    import cv2

    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    # PNG without options: setting even its default level makes OpenCV try filters, which is slower and no smaller
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if path.suffix == ".jpg" else []
    _, content = cv2.imencode(path.suffix, pixels, options)
    path.write_bytes(content.tobytes())  # imwrite would not say why it failed


def _frames(source: Path, settings: Settings, damage: Damage) -> Iterator[np.ndarray]:
    if settings.flow_only:
        yield from _read_images(source / "rgb")
        return
    for frame in read_video(source, damage, settings.fps):
        yield _shrunk(frame, settings.short_edge)


def _shrunk(frame: np.ndarray, short_edge: int | None) -> np.ndarray:
    """A frame whose shorter side is `short_edge`; smaller frames stay as they are."""
    height, width = frame.shape[:2]
    if short_edge is None or min(height, width) <= short_edge:
        return frame
    return fit_frame(Image.fromarray(frame), (0, 0, width, height), short_side_to((width, height), short_edge))


def _read_images(folder: Path) -> Iterator[np.ndarray]:
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not paths:
        raise DataError(f"{folder}: holds no png or jpg image")
    for path in paths:
        try:
            with Image.open(path) as image:
                yield np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{path}: the image can't be read ({error})") from error


def _about_flow(settings: Settings, resolution: tuple[int, int]) -> dict[str, Any]:
    """flow.json: how u and v were made. `bound_px` is the speed of the greatest level; max_rad has one a frame."""
    return {
        "method": settings.flow,
        "preset": settings.preset,
        "encoding": settings.encoding,
        "bound_px": CLIP_BOUND_PX if settings.encoding == "clip20" else None,
        "resolution": list(resolution),
    }


def _make_folders(folder: Path, settings: Settings, flow: FlowMethod | None) -> None:
    for name in ([] if settings.flow_only else ["rgb"]) + (["u", "v"] if flow else []):
        (folder / name).mkdir()


def _replace(made: Path, target: Path) -> None:
    """Put a finished folder in the place of an older one, which is there until then."""
    old = _beside(target, "old")
    if target.exists():
        target.rename(old)
    made.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _move_flow(made: Path, target: Path) -> None:
    """Move flow.json, u and v beside rgb. The record goes first: with it but without u or v, the next run goes on."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("u", "v"):
        shutil.rmtree(target / name, ignore_errors=True)
    for name in (FLOW_RECORD, "u", "v"):
        (made / name).rename(target / name)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


def _beside(target: Path, purpose: str) -> Path:
    return target.with_name(f".{target.name}.{purpose}")


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]} pixels"
