"""Writes the rendered videos as a data set: DST/{train,test}/<class>/<video>/{rgb,u,v}/000000.jpg and DST/demo.json.

The same DemoSpec gives the same bytes, however many processes write them and however often they were interrupted.
"""

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from action_recognition.clip.flow_encoding import encode_max_rad
from action_recognition.demo.render import render
from action_recognition.demo.scene import random_scene
from action_recognition.errors import DataError, SpecError

RENDERER = 1  # raise it when the same spec gives other pixels: an older folder is then refused, not mixed
MANIFEST = "demo.json"
CLASSES = ("walk", "sit", "squat", "fall", "bend")
PAIR_CLASSES = ("walk", "sit", "stand", "fall", "getup")
# person ids: a video's person follows from its number, and no person is in both sets
FIRST_PERSON = {"train": 0, "test": 100_000}
MAX_PER_CLASS = 100_000
ORDERS = ("forward", "reversed", "shuffled")
# by default JPEG stores colour at half the size, which smears limbs of three pixels
IMAGE_OPTIONS: dict[str, dict[str, Any]] = {"jpg": {"quality": 90, "subsampling": 0}, "png": {"compress_level": 3}}


@dataclass(frozen=True)
class DemoSpec:
    """What is rendered. size is the side of the square frames in pixels; `pairs` takes the time-reversed classes.

    `order` other than forward writes each video's frames backwards or shuffled: what a model knows without their order.
    """

    train_per_class: int = 100
    test_per_class: int = 60
    frames: int = 24
    size: int = 96
    seed: int = 0
    pairs: bool = False
    flow: bool = True
    image_format: str = "jpg"
    order: str = "forward"

    def __post_init__(self) -> None:
        limits = {
            "train_per_class": (0, MAX_PER_CLASS),
            "test_per_class": (0, MAX_PER_CLASS),
            "frames": (2, 10_000),
            "size": (32, 1024),
            "seed": (0, 2**32 - 1),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise SpecError(f"{name}: must be {low}..{high}, got {getattr(self, name)}")
        if self.image_format not in IMAGE_OPTIONS:
            raise SpecError(f"image_format: must be one of {', '.join(IMAGE_OPTIONS)}, got {self.image_format!r}")
        if self.order not in ORDERS:
            raise SpecError(f"order: must be one of {', '.join(ORDERS)}, got {self.order!r}")
        if self.order != "forward" and self.flow:
            raise SpecError(f"order: {self.order} frames have no flow between them; leave the flow out (--no-flow)")

    @property
    def classes(self) -> tuple[str, ...]:
        return PAIR_CLASSES if self.pairs else CLASSES


@dataclass(frozen=True)
class DemoVideo:
    """One video to render, and its folder under DST."""

    split: str
    action: str
    person_id: int

    @property
    def path(self) -> Path:
        return Path(self.split, self.action, f"{self.action}_person{self.person_id:06d}")


def all_videos(spec: DemoSpec) -> list[DemoVideo]:
    """Every video of the data set: each person does each action once, in their own clothes and rooms."""
    counts = {"train": spec.train_per_class, "test": spec.test_per_class}
    return [
        DemoVideo(split, action, FIRST_PERSON[split] + number)
        for split, count in counts.items()
        for action in spec.classes
        for number in range(count)
    ]


def open_dataset(dst: Path, spec: DemoSpec) -> None:
    """Makes `dst` ready to be rendered into. DataError if it holds anything but the same data set, whole or begun."""
    manifest = dst / MANIFEST
    if manifest.exists():
        _check_same(manifest, spec)
    elif dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
        raise DataError(f"{dst}: exists and is not a rendered data set (no {MANIFEST}); name a new or empty folder")
    else:
        dst.mkdir(parents=True, exist_ok=True)
        _write_manifest(manifest, spec)
    shutil.rmtree(_scratch(dst), ignore_errors=True)


def missing_videos(dst: Path, spec: DemoSpec) -> list[DemoVideo]:
    """The videos of `spec` that are not in `dst` yet."""
    return [video for video in all_videos(spec) if not (dst / video.path).exists()]


def render_videos(dst: Path, spec: DemoSpec, videos: list[DemoVideo], workers: int = 1) -> Iterator[DemoVideo]:
    """Renders `videos` into an opened `dst` and yields each one when its folder is complete, in the order given."""
    write = partial(_write_video, dst, spec)
    if workers <= 1:
        yield from map(write, videos)
    else:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            yield from pool.map(write, videos, chunksize=4)
    shutil.rmtree(_scratch(dst), ignore_errors=True)


def _write_video(dst: Path, spec: DemoSpec, video: DemoVideo) -> DemoVideo:
    scene = random_scene(video.action, video.person_id, spec.seed, spec.frames, spec.size)
    unfinished = _scratch(dst) / video.path.name
    for stream in ("rgb", "u", "v") if spec.flow else ("rgb",):
        (unfinished / stream).mkdir(parents=True)
    for number, (frame, flow) in zip(_order(spec, video), render(scene, with_flow=spec.flow), strict=True):
        images = {"rgb": frame}
        if flow is not None:
            images["u"], images["v"] = encode_max_rad(flow)
        for stream, image in images.items():
            _write_image(unfinished / stream / f"{number:06d}.{spec.image_format}", image)
    target = dst / video.path
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(unfinished, target)
    return video


def _order(spec: DemoSpec, video: DemoVideo) -> list[int]:
    """The number that each rendered frame is written under."""
    numbers = list(range(spec.frames))
    if spec.order == "shuffled":
        return [int(n) for n in np.random.default_rng((spec.seed, video.person_id)).permutation(numbers)]
    return numbers[::-1] if spec.order == "reversed" else numbers


def _write_image(path: Path, image: np.ndarray) -> None:
    Image.fromarray(image).save(path, **IMAGE_OPTIONS[path.suffix[1:]])


def _scratch(dst: Path) -> Path:
    return dst / ".unfinished"


def _write_manifest(manifest: Path, spec: DemoSpec) -> None:
    people = {split: [first, first + getattr(spec, f"{split}_per_class")] for split, first in FIRST_PERSON.items()}
    content = {"renderer": RENDERER, "spec": asdict(spec), "classes": spec.classes, "people": people}
    unfinished = manifest.with_suffix(".tmp")
    unfinished.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(unfinished, manifest)


def _check_same(manifest: Path, spec: DemoSpec) -> None:
    """DataError unless the data set in `manifest` is the one that `spec` and this renderer would give."""
    try:
        content = json.loads(manifest.read_text())
        found = asdict(DemoSpec()) | content["spec"] | {"renderer": content["renderer"]}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{manifest}: not readable as a rendered data set's parameters ({error!r})") from error
    wanted = asdict(spec) | {"renderer": RENDERER}
    other = [name for name in wanted if found.get(name) != wanted[name]]
    if other:
        differences = ", ".join(f"{name} {found.get(name)!r} (asked for {wanted[name]!r})" for name in other)
        raise DataError(
            f"{manifest.parent}: holds a rendered data set with {differences}; "
            "name another folder, or ask for the same to complete it"
        )
