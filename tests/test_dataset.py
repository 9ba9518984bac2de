"""Videos to clips: the right frames, one draw a clip for all streams, and the same clip wherever it is read."""

import builtins
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from action_recognition.clip.contract import Contract, Stream
from action_recognition.data.augment import Augmentation
from action_recognition.data.dataset import ClipKey, EvaluationWindows, TrainingClips
from action_recognition.data.index import Index, index_classes
from action_recognition.data.loader import TrainingPlan, evaluation_loader, training_loader

MakeTree = Callable[..., Path]
CPU = torch.device("cpu")


def contract(lengths: dict[str, int], input_type: str = "2d", rate: int = 1, size: int = 8) -> Contract:
    streams = {
        m: Stream(t, (0.5,) * (3 if m == "rgb" else 2), (0.5,) * (3 if m == "rgb" else 2)) for m, t in lengths.items()
    }
    model_type = "joint" if len(lengths) == 2 else next(iter(lengths))
    return Contract(
        model_type, input_type, streams, size, size, False, size, "consecutive", rate, "max_rad", ("a", "b")
    )


def index_of(root: Path, modalities: Sequence[str] = ("rgb", "of")) -> Index:
    return index_classes(root, ("a", "b"), modalities, "error")


def clips_of(
    index: Index, of: Contract, flip_prob: float = 0.0, clips_per_video: int = 1, seed: int = 7, crop: str = "no_crop"
) -> TrainingClips:
    augmentation = Augmentation(crop, (of.width, of.height), 12, (1.0,), flip_prob)
    return TrainingClips(index.videos, of, augmentation, clips_per_video, seed)


@pytest.fixture
def index(tmp_path: Path, make_tree: MakeTree) -> Index:
    """3 videos of a and 3 of b, 12 frames each."""
    return index_of(make_tree(tmp_path / "tree", num_frames=12))


@pytest.fixture
def noisy(index: Index) -> Index:
    """The same with noise for pixels, so that crops and flips show."""
    rng = np.random.default_rng(0)
    for video in index.videos:
        for folder in ("rgb", "u", "v"):
            for path in Path(video.path, folder).iterdir():
                pixels = rng.integers(0, 256, (16, 20, 3) if folder == "rgb" else (16, 20), np.uint8)
                Image.fromarray(pixels).save(path, compress_level=0)
    return index


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return list(a) == list(b) and all(np.array_equal(a[m], b[m]) for m in a)


# --- training clips ---


def test_training_clip_holds_frames_of_its_video_in_a_row(index: Index) -> None:
    dataset = clips_of(index, contract({"rgb": 3, "of": 5}))
    for clip_id, video in enumerate(index.videos):
        sample = dataset[ClipKey(0, clip_id, 0.25)]
        assert (sample.video, sample.video_id, sample.weight, sample.problem) == (video, clip_id, 0.25, "")
        rgb, of = sample.clips["rgb"], sample.clips["of"]
        assert rgb.shape == (1, 3, 8, 8, 3)
        assert of.shape == (1, 5, 8, 8, 2)
        assert rgb.dtype == of.dtype == np.uint8
        start = int(of[0, 0, 0, 0, 0])
        assert of[0, :, 0, 0].tolist() == [[start + i, 100 + clip_id] for i in range(5)]
        assert rgb[0, :, 0, 0].tolist() == [[clip_id, start + 1 + i, video.label] for i in range(3)]


def test_training_clips_of_a_video_follow_one_another(index: Index) -> None:
    dataset = clips_of(index, contract({"rgb": 2}), clips_per_video=3)
    assert len(dataset) == 18
    assert [dataset[ClipKey(0, i, 1.0)].video_id for i in (0, 2, 3, 17)] == [0, 0, 1, 5]


def test_training_clips_cover_every_start_over_the_epochs(index: Index) -> None:
    dataset = clips_of(index, contract({"rgb": 9}))
    firsts = {int(dataset[ClipKey(epoch, 0, 1.0)].clips["rgb"][0, 0, 0, 0, 1]) for epoch in range(40)}
    assert firsts == {0, 1, 2}  # as many frames as flow images, 11


def test_training_clip_depends_on_seed_epoch_and_clip_id_alone(noisy: Index) -> None:
    of = contract({"rgb": 3, "of": 5})
    make = lambda seed: clips_of(noisy, of, flip_prob=0.5, seed=seed, crop="random_crop")  # noqa: E731
    first, other, reseeded = make(7), make(7), make(8)
    for clip_id in range(5, -1, -1):  # in another order, after other clips
        other[ClipKey(3, clip_id, 1.0)]
    clip = first[ClipKey(0, 2, 1.0)].clips
    assert same(clip, other[ClipKey(0, 2, 0.5)].clips)
    assert not same(clip, other[ClipKey(1, 2, 1.0)].clips)
    assert not same(clip, reseeded[ClipKey(0, 2, 1.0)].clips)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_training_clips_are_the_same_with_any_number_of_workers(noisy: Index, num_workers: int) -> None:
    def epochs(workers: int) -> list[list[torch.Tensor]]:
        dataset = clips_of(noisy, contract({"rgb": 2, "of": 3}), 0.5, clips_per_video=2, crop="random_crop")
        plan = TrainingPlan(len(dataset), batch_size=5, accumulate_steps=1, seed=1)
        loader, seen = training_loader(dataset, plan, workers, CPU), []
        for epoch in range(2):
            plan.start_at(epoch, 0)
            seen.append([t for batch in loader for t in (*batch.inputs.values(), batch.labels, batch.weights)])
        return seen

    alone, shared = epochs(0), epochs(num_workers)
    assert len(alone[0]) == 3 * 5  # rgb, of, mirrored, labels, weights
    assert all(torch.equal(a, b) for x, y in zip(alone, shared, strict=True) for a, b in zip(x, y, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(*alone, strict=True))


def test_flipped_clip_is_the_same_clip_and_says_that_it_is_to_be_mirrored(noisy: Index) -> None:
    of = contract({"rgb": 3, "of": 5})
    plain, flipped = clips_of(noisy, of, flip_prob=0.0), clips_of(noisy, of, flip_prob=1.0)
    for clip_id in range(3):
        a, b = (dataset[ClipKey(0, clip_id, 1.0)] for dataset in (plain, flipped))
        assert (a.mirrored, b.mirrored) == (False, True)
        assert same(a.clips, b.clips)


def test_joint_streams_share_one_draw_of_crop(tmp_path: Path, make_tree: MakeTree) -> None:
    root = make_tree(tmp_path / "tree", {"a": 1}, num_frames=2)
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (16, 20), np.uint8)
    Image.fromarray(np.dstack([grey] * 3)).save(root / "a/video_000/rgb/000000.png")
    for folder in "uv":
        Image.fromarray(grey).save(root / "a/video_000" / folder / "000000.png")
    dataset = clips_of(index_of(root), contract({"rgb": 1, "of": 1}), flip_prob=0.5, crop="random_crop")
    flips = 0
    for epoch in range(20):
        sample = dataset[ClipKey(epoch, 0, 1.0)]
        for channel in (0, 1):
            np.testing.assert_array_equal(sample.clips["of"][..., channel], sample.clips["rgb"][..., 0])
        flips += sample.mirrored
    assert 4 <= flips <= 16


def test_training_clip_of_a_bad_video_is_a_problem_and_not_another_video(index: Index) -> None:
    for path in Path(index.videos[2].path, "rgb").iterdir():
        path.write_bytes(b"no image")
    sample = clips_of(index, contract({"rgb": 3}))[ClipKey(0, 2, 0.5)]
    assert (sample.video_id, sample.clips, sample.weight) == (2, {}, 0.5)
    assert sample.problem.startswith(f"{index.videos[2].path}/rgb/0000")
    assert "the image can't be read" in sample.problem
    assert sample.problems == [(index.videos[2].path, sample.problem)]


def test_reading_two_epochs_lists_no_folder(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[object] = []
    for name in ("scandir", "listdir", "walk"):
        monkeypatch.setattr(os, name, lambda *args: listed.append(args) or iter(()))
    monkeypatch.setattr(Path, "iterdir", lambda self: listed.append(self) or iter(()))
    opened: list[object] = []
    open_file = builtins.open
    monkeypatch.setattr(builtins, "open", lambda *args, **kind: opened.append(args[0]) or open_file(*args, **kind))
    training, windows = clips_of(index, contract({"rgb": 2})), EvaluationWindows(index.videos, contract({"rgb": 2}))
    for epoch in range(2):
        assert not any(training[ClipKey(epoch, i, 1.0)].problem for i in range(6))
        assert not any(windows[i].problem for i in range(6))
    assert listed == []
    assert len(opened) == 2 * 6 * 2 * 2  # and each frame is opened once a clip


# --- evaluation windows ---


def test_evaluation_windows_of_the_centre_are_the_middle_frames(index: Index) -> None:
    sample = EvaluationWindows(index.videos, contract({"rgb": 3, "of": 5}))[4]
    assert sample.clips["of"][:, :, 0, 0].tolist() == [[[i, 104] for i in (3, 4, 5, 6, 7)]]
    assert sample.clips["rgb"][:, :, 0, 0].tolist() == [[[4, i, 1] for i in (4, 5, 6)]]


def test_evaluation_windows_of_conv_are_spread_over_the_video(index: Index) -> None:
    sample = EvaluationWindows(index.videos, contract({"rgb": 4}), "conv", 3)[0]
    assert sample.clips["rgb"].shape == (3, 4, 8, 8, 3)
    assert sample.clips["rgb"][:, :, 0, 0, 1].tolist() == [
        [1, 2, 3, 4],
        [4, 5, 6, 7],
        [6, 7, 8, 9],
    ]  # 8 starts of 11 - 4 + 1


@pytest.mark.parametrize(("input_type", "shape"), [("2d", (3, 4, 8, 8, 3)), ("3d", (1, 12, 8, 8, 3))])
def test_evaluation_windows_of_all_take_every_frame(tmp_path, make_tree, input_type: str, shape) -> None:
    index = index_of(make_tree(tmp_path / "tree", {"a": 1}, num_frames=12), ["rgb"])
    clips = EvaluationWindows(index.videos, contract({"rgb": 4}, input_type), "all")[0].clips["rgb"]
    assert clips.shape == shape
    assert clips[..., 0, 0, 1].ravel().tolist() == list(range(12))


def test_evaluation_windows_of_all_for_a_3d_model_of_fixed_length_are_clips_of_that_length(tmp_path, make_tree) -> None:
    index = index_of(make_tree(tmp_path / "tree", {"a": 1}, num_frames=12), ["rgb"])
    windows = EvaluationWindows(index.videos, contract({"rgb": 4}, "3d"), "all", least_frames=None)
    assert windows[0].clips["rgb"].shape == (3, 4, 8, 8, 3)


def test_evaluation_windows_of_all_for_a_3d_model_are_usual_clips_where_a_video_is_too_short_for_it(
    tmp_path: Path, make_tree: MakeTree
) -> None:
    index = index_of(make_tree(tmp_path / "tree", {"a": 2}, num_frames=(12, 13)), ["rgb"])
    windows = EvaluationWindows(index.videos, contract({"rgb": 16}, "3d"), "all", least_frames=13)
    assert windows[0].clips["rgb"][..., 0, 0, 1].tolist() == [[*range(12), *range(4)]]
    assert windows[1].clips["rgb"].shape == (1, 13, 8, 8, 3)


def test_evaluation_windows_read_each_frame_once(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, open_image = [], Image.open
    monkeypatch.setattr(Image, "open", lambda path: opened.append(path) or open_image(path))
    EvaluationWindows(index.videos, contract({"rgb": 8}), "conv", 10)[0]
    assert len(opened) == len(set(opened)) <= 11  # not 10 windows of 8


def test_evaluation_windows_of_a_bad_video_are_a_problem(index: Index) -> None:
    Path(index.videos[1].path, "v/000005.png").unlink()
    sample = EvaluationWindows(index.videos, contract({"of": 4}))[1]
    assert sample.clips == {}
    assert sample.problem.endswith("v/000005.png: the file has vanished since the folder was listed")


def test_what_workers_are_sent_can_be_pickled(index: Index) -> None:
    of = contract({"rgb": 2, "of": 3})
    dataset, windows = clips_of(index, of, flip_prob=0.5), EvaluationWindows(index.videos, of, "conv", 2)
    plan = TrainingPlan(6, 2, 1, seed=3)
    loader, evaluation = training_loader(dataset, plan, 0, CPU), evaluation_loader(windows, 0, CPU)
    for thing in (dataset, windows, plan, loader.collate_fn, evaluation.collate_fn):
        assert type(pickle.loads(pickle.dumps(thing))) is type(thing)
    again, key = pickle.loads(pickle.dumps(dataset)), ClipKey(1, 4, 1.0)
    assert same(again[key].clips, dataset[key].clips)
    assert list(pickle.loads(pickle.dumps(plan))) == list(plan)
    assert pickle.loads(pickle.dumps(dataset[key])).video == index.videos[4]


def test_three_views_of_a_window_are_windows_of_their_own_in_the_order_of_the_views(noisy: Index) -> None:
    of = contract({"rgb": 2})
    once, thrice = (EvaluationWindows(noisy.videos, of, "conv", 2, n)[0].clips["rgb"] for n in (1, 3))
    assert (once.shape, thrice.shape) == ((2, 2, 8, 8, 3), (6, 2, 8, 8, 3))
    assert len({window.tobytes() for window in thrice}) == 6
    of_middle, of_whole = thrice[2].mean(axis=(1, 2)), once[0].mean(axis=(1, 2))
    np.testing.assert_allclose(of_middle, of_whole, atol=25)  # the same frames, of another part


def test_repeated_clip_is_of_the_same_video_with_draws_of_its_own(noisy: Index) -> None:
    clips = clips_of(noisy, contract({"rgb": 2}), crop="random_crop")
    first, again = (clips[ClipKey(0, clip_id, 1.0)] for clip_id in (4, 4 + len(clips)))
    assert (first.video_id, again.video_id) == (4, 4)
    assert not np.array_equal(first.clips["rgb"], again.clips["rgb"])
