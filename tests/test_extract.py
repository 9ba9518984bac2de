"""A video becomes a finished folder of frames and flow, or none; a second run does what is missing or changed."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from action_recognition.clip.flow_encoding import encode_max_rad
from action_recognition.clip.video import Damage
from action_recognition.data.index import index_classes
from action_recognition.errors import DataError, UserError
from action_recognition.preprocess import extract as extraction
from action_recognition.preprocess.extract import Settings, extract, write_image
from action_recognition.preprocess.jobs import Job

pytest.importorskip("cv2", reason="needs OpenCV: pip install .[video]")
FRAMES = [np.full((4, 6, 3), (10 * i, 0, 200), np.uint8) for i in range(5)]
RGB = Settings()
FLOW = Settings(flow="dis")
Reader = Callable[..., Iterator[np.ndarray]]


class StillFlow:
    """A stand-in for a flow method: frame i is followed by motion of (i, -1)."""

    def start(self) -> None:
        self.num_frames = 0

    def add(self, frame: np.ndarray) -> np.ndarray | None:
        self.num_frames += 1
        return flow_of(self.num_frames - 2) if self.num_frames > 1 else None


def flow_of(pair: int) -> np.ndarray:
    flow = np.full((4, 6, 2), (pair, -1), np.float32)
    flow[0, 0] = (8, 0)
    return flow


def video_of(num_frames: int, error: BaseException | None = None, packets_skipped: int = 0) -> Reader:
    """A stand-in for read_video."""

    def read(path: Path, damage: Damage, fps: float | None) -> Iterator[np.ndarray]:
        damage.packets_skipped, damage.fps = packets_skipped, 29.97
        yield from FRAMES[:num_frames]
        if error:
            raise error

    return read


@pytest.fixture
def job(tmp_path: Path) -> Job:
    source = tmp_path / "videos/a/x.avi"
    source.parent.mkdir(parents=True)
    source.write_bytes(b"five frames")
    return Job(source, tmp_path / "train/a/x")


@pytest.fixture
def video(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says what the video file holds."""
    return lambda *args, **kwargs: monkeypatch.setattr(extraction, "read_video", video_of(*args, **kwargs))


def everything_below(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir() or not any(p.iterdir()))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_extract_writes_every_frame_exactly(job: Job, video: Callable[..., None]) -> None:
    video(5, packets_skipped=2)
    outcome = extract(job, RGB)
    assert outcome.line() == {
        "video": "a/x", "source": str(job.source), "frames": 5, "width": 6, "height": 4, "fps": 29.97, "flow": None,
        "preset": None, "encoding": None, "packets_skipped": 2, "frames_patched": 0, "error": None,
    }  # fmt: skip
    assert everything_below(job.target) == ["preprocess.json", *(f"rgb/00000{i}.png" for i in range(5))]
    for i, frame in enumerate(FRAMES):
        np.testing.assert_array_equal(pixels(job.target / f"rgb/00000{i}.png"), frame)


def test_extract_with_flow_writes_a_pair_less_than_frames_and_says_how(job: Job, video: Callable[..., None]) -> None:
    video(3)
    outcome = extract(job, FLOW, StillFlow())
    assert (outcome.flow, outcome.preset, outcome.encoding, outcome.error) == ("dis", "slow", "max_rad", None)
    names = sorted(p.name for p in (job.target / "u").iterdir())
    assert names == sorted(p.name for p in (job.target / "v").iterdir()) == ["000000.jpg", "000001.jpg"]
    for i in range(2):
        u, v = encode_max_rad(flow_of(i))
        assert np.abs(pixels(job.target / f"u/00000{i}.jpg").astype(int) - u).max() <= 6  # JPEG
        assert np.abs(pixels(job.target / f"v/00000{i}.jpg").astype(int) - v).max() <= 6
    assert json.loads((job.target / "flow.json").read_text()) == {
        "method": "dis", "preset": "slow", "encoding": "max_rad", "bound_px": None, "resolution": [6, 4],
    }  # fmt: skip


def test_extract_with_clip20_records_its_bound(job: Job, video: Callable[..., None]) -> None:
    video(2)
    extract(job, replace(FLOW, encoding="clip20"), StillFlow())
    assert json.loads((job.target / "flow.json").read_text())["bound_px"] == 20.0


def test_extract_with_a_short_edge_shrinks_but_never_enlarges(job: Job, video: Callable[..., None]) -> None:
    video(1)
    assert extract(job, replace(RGB, short_edge=2)).width == 3
    assert pixels(job.target / "rgb/000000.png").shape == (2, 3, 3)
    assert extract(job, replace(RGB, short_edge=100)).height == 4


def test_extract_to_jpg_keeps_the_picture(job: Job, video: Callable[..., None]) -> None:
    video(1)
    extract(job, replace(RGB, frames="jpg"))
    assert np.abs(pixels(job.target / "rgb/000000.jpg").astype(int) - FRAMES[0]).max() <= 3


def test_write_image_as_jpeg_has_quality_95(tmp_path: Path) -> None:
    write_image(tmp_path / "x.jpg", FRAMES[0])
    Image.fromarray(FRAMES[0]).save(tmp_path / "y.jpg", quality=95)
    with Image.open(tmp_path / "x.jpg") as ours, Image.open(tmp_path / "y.jpg") as pillows:
        assert ours.quantization == pillows.quantization  # type: ignore[attr-defined]


# --- a second run ---


def test_extract_of_what_is_there_does_nothing(
    job: Job, video: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    video(5)
    first = extract(job, RGB)
    monkeypatch.setattr(extraction, "read_video", lambda *_: pytest.fail("was read again"))
    again = extract(job, RGB)
    assert (again, again.was_there, first.was_there) == (first, True, False)


@pytest.mark.parametrize("change", [{"frames": "jpg"}, {"short_edge": 2}, {"fps": 5.0}, {"flow": "dis"}])
def test_extract_with_other_settings_makes_the_folder_anew(
    job: Job, video: Callable[..., None], change: dict[str, object]
) -> None:
    video(5)
    extract(job, RGB)
    (job.target / "rgb/stray.png").touch()
    assert not extract(job, replace(RGB, **change), StillFlow() if "flow" in change else None).was_there  # type: ignore[arg-type]
    assert not (job.target / "rgb/stray.png").exists()
    assert everything_below(job.target.parent)[0].startswith("x/")  # no temporary folder is left


def test_extract_of_a_changed_video_makes_the_folder_anew(job: Job, video: Callable[..., None]) -> None:
    video(5)
    extract(job, RGB)
    os.utime(job.source, ns=(1, 1))
    video(2)
    assert extract(job, RGB).frames == 2
    assert len(list((job.target / "rgb").iterdir())) == 2


def test_extract_never_touches_a_folder_that_it_did_not_make(job: Job, video: Callable[..., None]) -> None:
    video(5)
    (job.target / "rgb").mkdir(parents=True)
    (job.target / "rgb/000000.png").write_bytes(b"mine")
    assert str(extract(job, RGB).error).startswith(f"{job.target}: was not made by this program: move it away")
    assert everything_below(job.target) == ["rgb/000000.png"]
    assert (job.target / "rgb/000000.png").read_bytes() == b"mine"


@pytest.mark.parametrize("purpose", ["tmp", "old"])
def test_extract_after_a_killed_run_removes_what_that_left(job: Job, video: Callable[..., None], purpose: str) -> None:
    video(2)
    for made in (False, True):
        left_over = job.target.with_name(f".x.{purpose}") / "rgb"
        left_over.mkdir(parents=True)
        (left_over / "000009.png").touch()
        assert extract(job, RGB).was_there == made
        assert everything_below(job.target.parent) == ["x/preprocess.json", "x/rgb/000000.png", "x/rgb/000001.png"]


# --- flow for frames that are there ---


@pytest.fixture
def frames_job(job: Job, video: Callable[..., None]) -> Job:
    video(3)
    extract(job, RGB)
    return Job(job.target, job.target)


FLOW_ONLY = Settings(flow="dis", flow_only=True)


def test_extract_flow_only_adds_u_and_v_beside_the_frames(frames_job: Job) -> None:
    outcome = extract(frames_job, FLOW_ONLY, StillFlow())
    assert (outcome.frames, outcome.error) == (3, None)
    (video,) = index_classes(frames_job.target.parents[1], ("a",), ["rgb", "of"], "error").videos
    assert {folder: files.count for folder, files in video.files.items()} == {"rgb": 3, "u": 2, "v": 2}
    assert extract(frames_job, FLOW_ONLY, StillFlow()).was_there


def test_extract_flow_only_goes_on_where_a_killed_run_left_one_of_two_folders(frames_job: Job) -> None:
    extract(frames_job, FLOW_ONLY, StillFlow())
    (frames_job.target / "v").rename(frames_job.target / "elsewhere")
    outcome = extract(frames_job, FLOW_ONLY, StillFlow())
    assert (outcome.was_there, outcome.error) == (False, None)
    assert len(list((frames_job.target / "v").iterdir())) == 2


def test_extract_flow_only_never_touches_flow_that_it_did_not_make(frames_job: Job) -> None:
    (frames_job.target / "u").mkdir()
    assert "u: was not made by this program" in str(extract(frames_job, FLOW_ONLY, StillFlow()).error)


# --- what goes wrong ---


def test_extract_of_a_source_that_breaks_midway_leaves_nothing(job: Job, video: Callable[..., None]) -> None:
    video(3, DataError("x.avi: is broken"))
    outcome = extract(job, RGB)
    assert (outcome.error, outcome.frames, outcome.video) == ("x.avi: is broken", 0, "a/x")
    assert everything_below(job.target.parent) == []


def test_extract_interrupted_midway_leaves_nothing(job: Job, video: Callable[..., None]) -> None:
    video(3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        extract(job, RGB)
    assert everything_below(job.target.parent) == []


def test_extract_onto_a_full_disk_ends_the_run_and_leaves_nothing(
    job: Job, video: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    video(3)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"train/a/x: can't be written \(No space left on device\); free some space"):
        extract(job, RGB)
    assert everything_below(job.target.parent) == []


def test_extract_has_no_folder_of_the_video_s_name_before_its_last_frame(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path, damage: Damage, fps: float | None) -> Iterator[np.ndarray]:
        for frame in FRAMES:
            assert not job.target.exists()
            yield frame

    monkeypatch.setattr(extraction, "read_video", read)
    assert extract(job, RGB).frames == 5
    assert job.target.exists()


def test_extract_of_a_video_whose_size_changes_is_an_error(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [FRAMES[0], np.zeros((8, 6, 3), np.uint8)]
    monkeypatch.setattr(extraction, "read_video", lambda *_: iter(frames))
    assert str(extract(job, RGB).error).endswith("x.avi: frame 1 is 6x8 pixels, those before 6x4 pixels")


def test_extract_flow_of_a_single_frame_is_an_error(job: Job, video: Callable[..., None]) -> None:
    video(1)
    assert str(extract(job, FLOW, StillFlow()).error).endswith("x.avi: has one frame; flow needs two")


def test_extract_of_a_file_that_is_no_video_says_so(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
    (tmp_path / "x.avi").write_bytes(b"no video")
    outcome = extract(Job(tmp_path / "x.avi", tmp_path / "out/x"), RGB)
    assert str(outcome.error).startswith(f"{tmp_path}/x.avi: can't be opened as a video")


def test_extract_of_a_real_video_makes_a_tree_that_can_be_indexed(tmp_path: Path, data_root: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
    outcome = extract(Job(data_root / "data/malformed/video_90.mov", tmp_path / "a/video_90"), RGB)
    assert outcome.frames == 3
    (video,) = index_classes(tmp_path, ("a",), ["rgb"], "error").videos
    assert Image.open(Path(video.path, "rgb", video.files["rgb"].name(0))).size == (320, 568)
