"""The frame cache: the same pixels with it and without, made anew when it must be, and safe when things go wrong."""

import os
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from lossless import noise, write_lossless
from PIL import Image

from action_recognition.clip.contract import Contract, Stream
from action_recognition.data import cache
from action_recognition.data.augment import Augmentation
from action_recognition.data.cache import (
    Job,
    KeptSize,
    default_cache_dir,
    disk_free,
    disk_needed,
    fingerprint,
    job_of,
    kept_for_evaluation,
    kept_for_training,
    look_up,
    pack,
    pack_all,
)
from action_recognition.data.dataset import ClipKey, EvaluationWindows, TrainingClips
from action_recognition.data.frames import open_frames
from action_recognition.data.index import Video, index_classes
from action_recognition.data.packed import HEADER_BYTES, read_header
from action_recognition.errors import DataError

MakeTree = Callable[..., Path]
SIZE = (41, 33)  # of the frames; the flow images are smaller
EDGE = 24


def contract(model_type: str = "rgb", center_crop: bool = False) -> Contract:
    all_streams = {"rgb": Stream(4, (0.5,) * 3, (0.5,) * 3), "of": Stream(6, (0.5,) * 2, (0.5,) * 2)}
    streams = all_streams if model_type == "joint" else {model_type: all_streams[model_type]}
    return Contract(model_type, "2d", streams, 16, 20, center_crop, EDGE, "consecutive", 1, "max_rad", ("a",))


def augmentation(crop_type: str) -> Augmentation:
    return Augmentation(crop_type, (20, 16), EDGE, (1.0, 0.875, 0.75), 0.5)


@pytest.fixture
def noisy(tmp_path: Path, make_tree: MakeTree) -> Path:
    """root/a/video_000: 12 frames of noise, and 11 flow images at two thirds of their size."""
    root = make_tree(tmp_path / "tree", {"a": 1}, num_frames=12)
    for folder, size in (("rgb", SIZE), ("u", (27, 22)), ("v", (27, 22))):
        paths = sorted((root / "a/video_000" / folder).iterdir())
        for path, pixels in zip(paths, noise(len(paths), size, seed=len(folder)), strict=True):
            Image.fromarray(pixels if folder == "rgb" else pixels[..., ord(folder) % 3]).save(path)
    return root


def video_of(root: Path, *modalities: str) -> Video:
    (video,) = index_classes(root, ("a",), modalities, "error").videos
    return video


def with_cache(video: Video, kept: KeptSize, cache_dir: Path) -> Video:
    job = job_of(video, kept, cache_dir)
    assert pack(job) == ""
    return replace(video, packed=job.path)


def apart(a: np.ndarray, b: np.ndarray) -> int:
    """The greatest difference in grey levels."""
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())


# --- the same pixels ---


@pytest.mark.parametrize("model_type", ["rgb", "of", "joint"])
@pytest.mark.parametrize("flip_prob", [0.0, 1.0])
@pytest.mark.parametrize("crop_type", ["no_crop", "random_crop"])
def test_training_clips_out_of_the_cache_are_those_of_the_images(
    model_type: str, flip_prob: float, crop_type: str, noisy: Path, tmp_path: Path
) -> None:
    of, augment = contract(model_type), replace(augmentation(crop_type), flip_prob=flip_prob)
    plain = video_of(noisy, *of.modalities)
    packed = with_cache(plain, kept_for_training(augment), tmp_path / "cache")
    for epoch in range(6):
        samples = [TrainingClips([video], of, augment, 1, 7)[ClipKey(epoch, 0, 1.0)] for video in (plain, packed)]
        assert [sample.mirrored for sample in samples] == [flip_prob == 1] * 2
        clips, ours = (sample.clips for sample in samples)
        assert list(clips) == list(ours) == list(of.modalities)
        assert max(apart(clips[m], ours[m]) for m in clips) <= 1


@pytest.mark.parametrize("model_type", ["rgb", "of", "joint"])
@pytest.mark.parametrize(("center_crop", "levels"), [(False, 0), (True, 1)])
def test_evaluation_windows_out_of_the_cache_are_those_of_the_images(
    model_type: str, center_crop: bool, levels: int, noisy: Path, tmp_path: Path
) -> None:
    of = contract(model_type, center_crop)
    plain = video_of(noisy, *of.modalities)
    packed = with_cache(plain, kept_for_evaluation(of), tmp_path / "cache")
    clips, ours = (EvaluationWindows([video], of, "conv", 3)[0].clips for video in (plain, packed))
    assert {m: clip.shape[0] for m, clip in ours.items()} == dict.fromkeys(of.modalities, 3)
    assert max(apart(clips[m], ours[m]) for m in clips) <= levels


@pytest.mark.parametrize("crop_type", ["random_crop", "multi_scale_crop"])
def test_crops_of_frames_that_have_the_kept_size_are_exact(crop_type: str, tmp_path: Path, make_tree: MakeTree) -> None:
    root = make_tree(tmp_path / "tree", {"a": 1}, num_frames=5, size=(32, EDGE), modalities=["rgb"])
    for path, pixels in zip(sorted((root / "a/video_000/rgb").iterdir()), noise(5, (32, EDGE)), strict=True):
        Image.fromarray(pixels).save(path)
    of, augment = contract(), augmentation(crop_type)
    plain = video_of(root, "rgb")
    packed = with_cache(plain, kept_for_training(augment), tmp_path / "cache")
    for epoch in range(6):
        key = ClipKey(epoch, 0, 1.0)
        clips, ours = (TrainingClips([video], of, augment, 1, 7)[key].clips["rgb"] for video in (plain, packed))
        np.testing.assert_array_equal(clips, ours)


def test_random_crop_out_of_the_cache_is_a_copy_without_pillow(
    noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    augment = augmentation("random_crop")
    packed = with_cache(video_of(noisy, "rgb"), kept_for_training(augment), tmp_path / "cache")
    monkeypatch.setattr(Image, "fromarray", lambda *_: pytest.fail("Pillow is used"))
    sample = TrainingClips([packed], contract(), augment, 1, 7)[ClipKey(0, 0, 1.0)]
    assert sample.clips["rgb"].shape == (1, 4, 16, 20, 3)


def test_video_file_is_packed_into_the_frames_of_its_images(noisy: Path, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
    images = sorted((noisy / "a/video_000/rgb").iterdir())
    path = write_lossless(tmp_path / "b/x.avi", [np.asarray(Image.open(image)) for image in images])
    kept = KeptSize(EDGE, (20, 16))
    clips = [
        open_frames(with_cache(video, kept, tmp_path / "cache")).read(
            "rgb", np.arange(12), lambda frame: (0, 0, *frame), (29, EDGE)
        )
        for video in (video_of(noisy, "rgb"), Video(str(path), 0))
    ]
    np.testing.assert_array_equal(clips[0], clips[1])


def test_number_of_frames_out_of_the_cache_is_that_of_the_shortest_stream(noisy: Path, tmp_path: Path) -> None:
    packed = with_cache(video_of(noisy, "rgb", "of"), KeptSize(0, (20, 16)), tmp_path)
    assert open_frames(packed).num_frames == 11


# --- what is kept, and where ---


@pytest.mark.parametrize(
    ("kept", "name", "size"),
    [
        (kept_for_training(augmentation("random_crop")), "short24", (29, 24)),
        (kept_for_training(augmentation("multi_scale_crop")), "short24", (29, 24)),
        (kept_for_training(augmentation("no_crop")), "20x16", (20, 16)),
        (kept_for_evaluation(contract()), "20x16", (20, 16)),
        (kept_for_evaluation(contract(center_crop=True)), "short24", (29, 24)),
    ],
)
def test_kept_size_is_the_one_that_the_transform_resizes_to(kept: KeptSize, name: str, size: tuple[int, int]) -> None:
    assert kept.name == name
    assert kept.of(SIZE) == size


def test_file_lies_under_the_kept_size_the_root_the_class_and_the_video(noisy: Path, tmp_path: Path) -> None:
    path = Path(job_of(video_of(noisy, "rgb", "of"), KeptSize(EDGE, (20, 16)), tmp_path).path)
    size, root, class_name, name = path.relative_to(tmp_path).parts
    assert (size, root[:5], class_name, name) == ("short24-rgb-u-v", "tree-", "a", "video_000.frames")


def test_same_names_under_two_roots_are_two_files_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = KeptSize(EDGE, (20, 16))
    one, other = (job_of(Video(f"{tmp_path}/{r}/data/a/x.avi", 0), kept, "c").path for r in "12")
    assert one != other
    monkeypatch.chdir(tmp_path)
    assert job_of(Video("1/data/a/x.avi", 0), kept, "c").path == one


@pytest.mark.skipif(os.name == "nt", reason="LOCALAPPDATA there")
def test_default_folder_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "action_recognition/frames"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/u")
    assert default_cache_dir() == Path("/home/u/.cache/action_recognition/frames")


# --- made anew, or not ---


@pytest.fixture
def job(noisy: Path, tmp_path: Path) -> Job:
    """Packed."""
    job = job_of(video_of(noisy, "rgb"), KeptSize(EDGE, (20, 16)), tmp_path / "cache")
    assert look_up(job) == (False, "")
    assert pack(job) == ""
    return job


def test_packed_video_that_has_not_changed_is_found(job: Job) -> None:
    assert look_up(job) == (True, "")


@pytest.mark.parametrize("change", ["time", "content", "one more"])
def test_changed_image_makes_the_packed_file_stale(job: Job, noisy: Path, change: str) -> None:
    image = noisy / "a/video_000/rgb/000005.png"
    stat = image.stat()
    if change == "time":
        os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1000))
    if change == "content":
        image.write_bytes(image.read_bytes() + b"x")
        os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    if change == "one more":
        (noisy / "a/video_000/rgb/000012.png").write_bytes(image.read_bytes())
    assert look_up(replace(job, video=video_of(noisy, "rgb"))) == (False, "")


@pytest.mark.parametrize("change", ["time", "size"])
def test_changed_video_file_has_another_fingerprint(tmp_path: Path, change: str) -> None:
    video = Video(str(tmp_path / "x.avi"), 0)
    Path(video.path).write_bytes(b"video")
    stat, before = os.stat(video.path), fingerprint(video)
    assert fingerprint(video) == before
    if change == "size":
        Path(video.path).write_bytes(b"videos")
    os.utime(video.path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1000 * (change == "time")))
    assert fingerprint(video) != before


def test_other_kept_size_under_the_same_name_of_file_is_stale(job: Job) -> None:
    assert look_up(replace(job, kept=KeptSize(EDGE + 1, (20, 16)))) == (False, "")


def test_file_of_another_format_is_stale(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("action_recognition.data.packed._FORMAT", 2)
    assert look_up(job) == (False, "")
    assert pack(job) == ""
    assert look_up(job) == (True, "")


def test_damaged_file_is_told_and_packed_anew(job: Job) -> None:
    content = Path(job.path).read_bytes()
    Path(job.path).write_bytes(content[:-1])
    is_there, problem = look_up(job)
    assert not is_there
    assert problem == f"{job.path}: is damaged: it has {len(content) - 1:,} bytes in place of {len(content):,}"
    assert pack(job) == ""
    assert Path(job.path).read_bytes() == content


def test_clip_of_a_file_that_was_damaged_while_training_is_a_problem(job: Job) -> None:
    Path(job.path).write_bytes(b"")
    dataset = TrainingClips([replace(job.video, packed=job.path)], contract(), augmentation("random_crop"), 1, 7)
    assert dataset[ClipKey(0, 0, 1.0)].problem.endswith("is damaged: it does not begin as packed frames do")


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_is_not(job: Job) -> None:
    old, new = (Path(job.path).with_name(f".video_000.frames.{name}.tmp") for name in ("abc", "def"))
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    assert pack(job) == ""
    assert (old.exists(), new.exists()) == (False, True)


# --- what can go wrong ---


def test_video_that_cannot_be_read_is_a_problem_and_leaves_no_file(job: Job, noisy: Path) -> None:
    Path(job.path).unlink()
    (noisy / "a/video_000/rgb/000011.png").write_bytes(b"no image")
    assert "rgb/000011.png: the image can't be read (" in pack(job)
    assert list(Path(job.path).parent.iterdir()) == []


def test_frames_of_two_sizes_are_a_problem(job: Job, noisy: Path) -> None:
    Image.new("RGB", (9, 9)).save(noisy / "a/video_000/rgb/000003.png")
    assert pack(job).endswith("video_000: rgb/000003.png is 9x9 pixels, earlier frames are 41x33")


def test_video_that_vanished_is_a_problem(tmp_path: Path) -> None:
    job = job_of(Video(f"{tmp_path}/gone.avi", 0), KeptSize(EDGE, (20, 16)), tmp_path)
    assert look_up(job) == (False, "")
    assert pack(job) == f"{tmp_path}/gone.avi: can't be read (No such file or directory)"


def test_disk_that_is_full_is_an_error_that_names_the_file(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "write_packed", full)
    with pytest.raises(
        DataError, match=r"video_000\.frames: can't be written \(No space left on device\); set dataset\.cache_dir="
    ):
        pack(job)


def test_two_processes_that_pack_one_video_leave_one_whole_file(job: Job) -> None:
    content = Path(job.path).read_bytes()
    Path(job.path).unlink()
    processes = [get_context("spawn").Process(target=pack, args=(job,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert Path(job.path).read_bytes() == content
    assert os.listdir(Path(job.path).parent) == ["video_000.frames"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_pack_all_gives_every_job_in_order_with_its_problem(
    num_workers: int, tmp_path: Path, make_tree: MakeTree
) -> None:
    root = make_tree(tmp_path / "tree", {"a": 4}, num_frames=2, modalities=["rgb"])
    (root / "a/video_002/rgb/000001.png").write_bytes(b"no image")
    videos = index_classes(root, ("a",), ["rgb"], "error").videos
    jobs = [job_of(video, KeptSize(0, (8, 8)), tmp_path / "cache") for video in videos]
    outcomes = list(pack_all(jobs, num_workers))
    assert [job for job, _ in outcomes] == jobs
    assert [bool(problem) for _, problem in outcomes] == [False, False, True, False]
    assert [look_up(job)[0] for job in jobs] == [True, True, False, True]


# --- the disk ---


def test_disk_needed_for_folders_of_images_is_what_they_take(noisy: Path, tmp_path: Path) -> None:
    job = job_of(video_of(noisy, "rgb", "of"), KeptSize(EDGE, (20, 16)), tmp_path / "cache")
    assert pack(job) == ""
    assert disk_needed([job]) == os.path.getsize(job.path)


def test_disk_needed_for_video_files_is_estimated_from_some_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
    monkeypatch.setattr(cache, "_MAX_PROBED", 2)
    kept = KeptSize(0, (8, 6))
    jobs = [job_of(Video(f"{tmp_path}/{i}.avi", 0), kept, tmp_path) for i in range(5)]
    for i, job in enumerate(jobs):
        write_lossless(Path(job.video.path), noise(10 + 30 * (i % 2)))
    assert disk_needed(jobs) == 5 * (HEADER_BYTES + 10 * 8 * 6 * 3)  # those of 0, 2 and 4


def test_disk_needed_for_what_cannot_be_read_is_little(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
    (tmp_path / "x.avi").write_bytes(b"no video")
    assert disk_needed([job_of(Video(f"{tmp_path}/x.avi", 0), KeptSize(EDGE, (20, 16)), tmp_path)]) == 0
    assert disk_needed([]) == 0


def test_disk_free_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert disk_free(tmp_path / "a/b/c") == pytest.approx(disk_free(tmp_path), rel=0.05)


def test_header_of_a_packed_video_says_what_it_was_made_of(job: Job) -> None:
    header = read_header(job.path)
    assert header is not None
    assert (header.shapes, header.kept) == ({"rgb": (12, 24, 29, 3)}, "short24")
    assert header.source == fingerprint(job.video)
