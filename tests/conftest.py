"""What tests share: the folder of real videos, if there is one, and made datasets whose pixels say what they are."""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

torch.set_num_threads(1)
# A shell that starts the tests in the background makes them deaf to Ctrl-C, and tests send themselves one.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with data/clips, data/malformed ...: AR_TEST_DATA, else `shared` beside the checkout."""
    root = Path(os.environ.get("AR_TEST_DATA") or Path(__file__).parents[2] / "shared")
    if not (root / "data").is_dir():
        pytest.skip(f"needs real videos in {root / 'data'}; set AR_TEST_DATA to the folder that holds data/")
    return root


@pytest.fixture(scope="session")
def make_tree() -> Callable[..., Path]:
    """`write_tree` below: makes a dataset folder and returns its root."""
    return write_tree


def write_tree(
    root: Path,
    classes: Mapping[str, int] | None = None,
    num_frames: int | Sequence[int] = 6,
    size: tuple[int, int] = (20, 16),
    modalities: Sequence[str] = ("rgb", "of"),
    suffix: str = ".png",
    first: int = 0,
) -> Path:
    """root/<class>/video_<id>/{rgb,u,v}/000000.png ... of `classes`, {name: number of videos}, by default {a: 3, b: 3}.

    Video ids count up over the sorted classes, so they are an Index's, too. Every image has one colour: rgb (video id,
    frame id, class id), u the frame id, v 100 + video id; exact in png only. With N images in rgb, u and v hold N - 1.
    `num_frames` may be one number a video; `first` is the number in the name of the first file.
    """
    counts = dict(sorted((classes or {"a": 3, "b": 3}).items()))
    labels = [label for label, count in enumerate(counts.values()) for _ in range(count)]
    names = list(counts)
    for name in names:
        (root / name).mkdir(parents=True)
    for video_id, label in enumerate(labels):
        length = num_frames if isinstance(num_frames, int) else num_frames[video_id]
        video = root / names[label] / f"video_{video_id:03d}"
        colours: dict[str, list[int | tuple[int, int, int]]] = {}
        if "rgb" in modalities:
            colours["rgb"] = [(video_id, frame_id, label) for frame_id in range(length)]
        if "of" in modalities:
            colours["u"] = list(range(length - 1))
            colours["v"] = [100 + video_id] * (length - 1)
        for folder, of_frames in colours.items():
            (video / folder).mkdir(parents=True)
            for frame_id, colour in enumerate(of_frames):
                image = Image.new("RGB" if folder == "rgb" else "L", size, colour)
                image.save(video / folder / f"{first + frame_id:06d}{suffix}")
    return root
