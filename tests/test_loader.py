"""Which clips make a batch on which process, what a clip weighs, and how samples are stacked."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from action_recognition.clip.contract import Contract, Stream
from action_recognition.data import loader as loading
from action_recognition.data.augment import Augmentation
from action_recognition.data.dataset import ClipKey, EvaluationWindows, Sample, TrainingClips
from action_recognition.data.index import Video, index_classes
from action_recognition.data.loader import (
    Batch,
    ToInput,
    TrainingPlan,
    evaluation_loader,
    mirror,
    training_loader,
    usable_workers,
    window_batches,
)

MakeTree = Callable[..., Path]
CPU = torch.device("cpu")
RGB = Contract(
    model_type="rgb",
    input_type="2d",
    streams={"rgb": Stream(2, (0.5, 0.25, 0.0), (0.5, 0.25, 1.0))},
    height=4,
    width=6,
    center_crop=False,
    smaller_edge=4,
    sample_strategy="consecutive",
    sample_rate=1,
    flow_encoding="max_rad",
    class_names=("a", "b"),
)
# num_clips, batch_size, accumulate_steps, num_processes
SHAPES = [
    (1, 1, 1, 1),
    (10, 3, 1, 1),
    (10, 3, 2, 1),
    (12, 3, 2, 2),
    (13, 3, 2, 2),
    (7, 8, 4, 4),
    (65, 4, 3, 5),
    (64, 4, 2, 8),
    (3, 1, 1, 4),
    (100, 7, 1, 3),
]


@pytest.mark.parametrize("epoch", range(4))
def test_balanced_plan_has_as_many_clips_equally_many_of_each_class_and_few_clips_again(epoch: int) -> None:
    labels = [0] * 7 + [1] * 2 + [2] * 2  # 11 clips: 4, 4 and 3 of the classes
    plan = TrainingPlan(11, 4, 1, 0, labels=labels)
    plan.start_at(epoch, 0)
    clip_ids = [key.clip_id for batch in plan for key in batch]
    assert (len(clip_ids), len(set(clip_ids))) == (11, 11)
    counts = [[labels[i % 11] for i in clip_ids].count(c) for c in range(3)]
    assert sorted(counts) == [3, 4, 4]
    assert {i % 11 for i in clip_ids} >= {7, 8, 9, 10}  # of a small class, each clip before any comes again


def plans(num_clips: int, batch_size: int, accumulate: int, world: int, seed: int = 0) -> list[TrainingPlan]:
    return [TrainingPlan(num_clips, batch_size, accumulate, seed, rank, world) for rank in range(world)]


def steps_of(batches: Sequence[Sequence[list[ClipKey]]], accumulate: int) -> list[list[ClipKey]]:
    """Batches by process -> the clips of each optimizer step over all processes."""
    lengths = {len(of_rank) for of_rank in batches}
    assert len(lengths) == 1  # every process goes through as many batches
    return [
        [key for of_rank in batches for batch in of_rank[i : i + accumulate] for key in batch]
        for i in range(0, lengths.pop(), accumulate)
    ]


# --- the plan ---


@pytest.mark.parametrize("shape", SHAPES)
def test_plan_covers_every_clip_once_over_all_processes(shape: tuple[int, int, int, int]) -> None:
    num_clips, batch_size, accumulate, world = shape
    batches = [list(plan) for plan in plans(*shape)]
    steps = steps_of(batches, accumulate)
    assert sorted(key.clip_id for step in steps for key in step) == list(range(num_clips))
    assert all(len(batch) <= batch_size for of_rank in batches for batch in of_rank)
    assert [len(step) for step in steps[:-1]] == [batch_size * accumulate * world] * (len(steps) - 1)
    for plan, of_rank in zip(plans(*shape), batches, strict=True):
        assert (plan.num_steps, len(plan)) == (len(steps), len(of_rank))


@pytest.mark.parametrize("shape", SHAPES)
def test_plan_weights_make_the_mean_over_processes_the_mean_over_the_step_s_clips(
    shape: tuple[int, int, int, int],
) -> None:
    accumulate = shape[2]
    losses = np.random.default_rng(0).random(shape[0])
    batches = [list(plan) for plan in plans(*shape)]
    for i, step in enumerate(steps_of(batches, accumulate)):
        micro = slice(i * accumulate, (i + 1) * accumulate)
        by_process = [sum(k.weight * losses[k.clip_id] for batch in b[micro] for k in batch) for b in batches]
        assert np.mean(by_process) == pytest.approx(np.mean([losses[key.clip_id] for key in step]))


def test_plan_weights_of_a_short_last_step_are_larger() -> None:
    weights = [[key.weight for key in batch] for batch in TrainingPlan(10, 2, 2, seed=0)]
    assert weights == [[0.25, 0.25]] * 4 + [[0.5, 0.5]]


@pytest.mark.parametrize("world", [2, 3, 4])
def test_plan_of_several_processes_takes_the_same_steps_as_one_with_larger_batches(world: int) -> None:
    several = steps_of([list(plan) for plan in plans(50, 3, 2, world)], 2)
    alone = steps_of([list(TrainingPlan(50, 3 * world, 2, seed=0))], 2)
    clip_ids = [[sorted(key.clip_id for key in step) for step in steps] for steps in (several, alone)]
    assert clip_ids[0] == clip_ids[1]


@pytest.mark.parametrize(
    ("num_clips", "batch_size", "num_processes", "smallest"),
    [(7, 2, 1, 1), (8, 2, 1, 2), (8, 3, 1, 2), (3, 8, 1, 3), (9, 4, 2, 1), (8, 4, 2, 4), (13, 4, 2, 2), (5, 1, 1, 1)],
)
def test_plan_says_the_size_of_its_smallest_batch(
    num_clips: int, batch_size: int, num_processes: int, smallest: int
) -> None:
    plans = [TrainingPlan(num_clips, batch_size, 1, 0, rank, num_processes) for rank in range(num_processes)]
    assert min(max(1, len(batch)) for plan in plans for batch in plan) == smallest
    assert {plan.smallest_batch for plan in plans} == {smallest}


def test_plan_order_differs_by_epoch_and_by_seed_and_not_by_run() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        plan = TrainingPlan(50, 4, 1, seed)
        plan.start_at(epoch, 0)
        keys = [key for batch in plan for key in batch]
        assert {key.epoch for key in keys} == {epoch}
        return [key.clip_id for key in keys]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))}) == 4
    assert order(0, 0) != sorted(order(0, 0))


@pytest.mark.parametrize("first_step", [0, 1, 3, 4, 5])
def test_plan_started_in_the_middle_of_an_epoch_gives_the_tail(first_step: int) -> None:
    plan = TrainingPlan(41, 3, 3, seed=5, rank=0, num_processes=1)
    plan.start_at(2, 0)
    whole = list(plan)
    assert plan.num_steps == 5
    plan.start_at(2, first_step)
    assert list(plan) == whole[first_step * 3 :]
    assert len(plan) == len(whole[first_step * 3 :])
    assert plan.num_steps == 5


# --- batches ---


@pytest.fixture
def videos(tmp_path: Path, make_tree: MakeTree) -> list[Video]:
    """2 videos of a and 5 of b."""
    root = make_tree(tmp_path / "tree", {"a": 2, "b": 5}, num_frames=6, modalities=["rgb"])
    return index_classes(root, ("a", "b"), ["rgb"], "error").videos


def training_clips(videos: list[Video]) -> TrainingClips:
    return TrainingClips(videos, RGB, Augmentation("no_crop", (6, 4), 4, (1.0,), 0.0), 1, seed=0)


def spoil(video: Video) -> None:
    for path in Path(video.path, "rgb").iterdir():
        path.write_bytes(b"")


def test_training_batch_stacks_clips_with_their_labels_and_weights(videos: list[Video]) -> None:
    plan = TrainingPlan(7, 4, 1, seed=0)
    batches = list(training_loader(training_clips(videos), plan, 0, CPU))
    assert [len(batch) for batch in batches] == [4, 3]
    for batch, keys in zip(batches, plan, strict=True):
        assert batch.inputs["rgb"].shape == (len(keys), 2, 4, 6, 3)
        assert batch.inputs["rgb"].dtype == torch.uint8
        assert batch.video_ids == [key.clip_id for key in keys]
        assert batch.inputs["rgb"][:, 0, 0, 0, 0].tolist() == batch.video_ids
        assert batch.videos == [videos[i].path for i in batch.video_ids]
        assert batch.labels.tolist() == [videos[i].label for i in batch.video_ids]
        torch.testing.assert_close(batch.weights, torch.tensor([key.weight for key in keys]))
        assert batch.problems == []


def test_training_batch_leaves_out_a_bad_video_and_keeps_the_weights_of_the_rest(videos: list[Video]) -> None:
    spoil(videos[3])
    (batch,) = training_loader(training_clips(videos), TrainingPlan(7, 7, 1, seed=0), 0, CPU)
    assert sorted(batch.video_ids) == [0, 1, 2, 4, 5, 6]
    assert [path for path, _ in batch.problems] == [videos[3].path]
    torch.testing.assert_close(batch.weights, torch.full((6,), 1 / 7))


def test_training_batch_that_lost_all_its_clips_is_one_black_clip_of_weight_0(videos: list[Video]) -> None:
    spoil(videos[0])
    (batch,) = training_loader(training_clips(videos[:1]), TrainingPlan(1, 4, 1, seed=0), 0, CPU)
    assert batch.inputs["rgb"].shape == (1, 2, 4, 6, 3)
    assert not batch.inputs["rgb"].any()
    assert (batch.weights.tolist(), batch.labels.tolist(), batch.video_ids) == ([0.0], [0], [])
    assert [path for path, _ in batch.problems] == [videos[0].path]


def test_training_batch_of_a_process_without_clips_is_one_black_clip_of_weight_0(videos: list[Video]) -> None:
    plan = TrainingPlan(2, 1, 1, seed=0, rank=2, num_processes=3)
    assert list(plan) == [[]]
    (batch,) = training_loader(training_clips(videos[:2]), plan, 0, CPU)
    assert (batch.weights.tolist(), batch.problems, len(batch.inputs["rgb"])) == ([0.0], [], 1)


def test_loaders_leave_torch_s_random_state_alone(videos: list[Video]) -> None:
    before = torch.get_rng_state()
    list(training_loader(training_clips(videos), TrainingPlan(7, 4, 1, seed=0), 0, CPU))
    list(evaluation_loader(EvaluationWindows(videos, RGB), 0, CPU))
    assert torch.equal(torch.get_rng_state(), before)


# --- evaluation ---


@pytest.mark.parametrize("num_processes", [1, 2, 3, 7, 9])
def test_evaluation_shards_hold_each_video_once_without_padding(videos: list[Video], num_processes: int) -> None:
    windows = EvaluationWindows(videos, RGB)
    shards = [
        [sample.video_id for sample in evaluation_loader(windows, 0, CPU, rank, num_processes)]
        for rank in range(num_processes)
    ]
    assert sorted(video_id for shard in shards for video_id in shard) == list(range(7))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_evaluation_loader_with_workers_gives_the_same_samples_in_the_same_order(videos: list[Video]) -> None:
    windows = EvaluationWindows(videos, RGB, "conv", 3)
    alone, shared = (list(evaluation_loader(windows, workers, CPU)) for workers in (0, 2))
    assert [sample.video_id for sample in shared] == list(range(7))
    for a, b in zip(alone, shared, strict=True):
        assert a.video == b.video
        assert torch.equal(a.clips["rgb"], b.clips["rgb"])


def sample_of(video_id: int, num_windows: int, clip_len: int = 2, problem: str = "") -> Sample:
    """A sample whose window s is filled with video_id * 10 + s."""
    filled = torch.arange(video_id * 10, video_id * 10 + num_windows, dtype=torch.uint8)
    clips = {"rgb": filled.view(-1, 1, 1, 1, 1).expand(num_windows, clip_len, 4, 6, 3)}
    return Sample(Video(f"v{video_id}", video_id % 2, {}), video_id, {} if problem else clips, problem=problem)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8, 100])
def test_window_batches_of_any_size_hold_the_same_windows(batch_size: int) -> None:
    samples = [sample_of(0, 3), sample_of(1, 1), sample_of(2, 4), sample_of(3, 1)]
    batches = list(window_batches(samples, batch_size))
    assert [fill for b in batches for fill in b.inputs["rgb"][:, 0, 0, 0, 0].tolist()] == [
        0,
        1,
        2,
        10,
        20,
        21,
        22,
        23,
        30,
    ]
    assert [i for b in batches for i in b.video_ids] == [0, 0, 0, 1, 2, 2, 2, 2, 3]
    assert [label for b in batches for label in b.labels.tolist()] == [0, 0, 0, 1, 0, 0, 0, 0, 1]
    assert [len(b) for b in batches[:-1]] == [batch_size] * (len(batches) - 1)


def test_window_batches_part_windows_of_two_lengths() -> None:
    samples = [sample_of(0, 1, clip_len=5), sample_of(1, 1, clip_len=5), sample_of(2, 1, clip_len=7)]
    batches = list(window_batches(samples, 8))
    assert [tuple(b.inputs["rgb"].shape[:2]) for b in batches] == [(2, 5), (1, 7)]


def test_window_batches_pass_on_the_problem_of_a_bad_video() -> None:
    batches = list(window_batches([sample_of(0, 1), sample_of(1, 1, problem="is bad"), sample_of(2, 1)], 8))
    assert sorted(i for b in batches for i in b.video_ids) == [0, 2]
    assert [entry for b in batches for entry in b.problems] == [("v1", "is bad")]
    assert [len(b) for b in batches] == [0, 2]


# --- mirrors ---


def test_mirror_of_rgb_turns_columns_around_and_keeps_values() -> None:
    clips = torch.arange(2 * 2 * 2 * 3 * 3, dtype=torch.uint8).view(2, 2, 2, 3, 3)
    mirrored = mirror(clips, "rgb")
    assert mirrored[0, 0, 0].tolist() == [[6, 7, 8], [3, 4, 5], [0, 1, 2]]
    assert torch.equal(mirrored, clips.flip(3))


def test_mirror_of_flow_negates_u_and_not_v() -> None:
    clips = torch.zeros((1, 1, 1, 3, 2), dtype=torch.uint8)
    clips[0, 0, 0, :, 0] = torch.tensor([0, 100, 255])  # to the left, nearly still, to the right
    clips[0, 0, 0, :, 1] = torch.tensor([1, 2, 3])
    mirrored = mirror(clips, "of")
    assert mirrored[0, 0, 0, :, 0].tolist() == [0, 155, 255]
    assert mirrored[0, 0, 0, :, 1].tolist() == [3, 2, 1]
    assert clips[0, 0, 0, :, 0].tolist() == [0, 100, 255]  # what was given is untouched


def test_to_input_mirrors_the_clips_that_the_batch_says_and_no_other() -> None:
    clips = torch.randint(0, 256, (3, 2, 4, 6, 3), dtype=torch.uint8)
    inputs = {"rgb": clips, "mirrored": torch.tensor([True, False, True])}
    expected = torch.stack([clips[0].flip(2), clips[1], clips[2].flip(2)])
    assert torch.equal(ToInput(RGB, CPU)(inputs)[0], ToInput(RGB, CPU)({"rgb": expected})[0])
    assert list(inputs) == ["rgb", "mirrored"]  # as it was, for another pass


def test_training_batches_say_which_clips_are_to_be_mirrored(videos: list[Video]) -> None:
    dataset = training_clips(videos)
    dataset.augmentation = replace(dataset.augmentation, flip_prob=0.5)
    batches = list(training_loader(dataset, TrainingPlan(len(dataset), 4, 1, seed=0), 0, CPU))
    expected = [[dataset[ClipKey(0, i, 1.0)].mirrored for i in batch.video_ids] for batch in batches]
    assert [batch.inputs["mirrored"].tolist() for batch in batches] == expected
    assert {True, False} == {flag for flags in expected for flag in flags}


# --- the rest ---


def test_to_input_on_the_device_is_normalised_and_in_the_contract_s_order() -> None:
    clips = torch.full((1, 2, 4, 6, 3), 255, dtype=torch.uint8)
    (x,) = ToInput(RGB, CPU)({"rgb": clips})
    assert x.dtype == torch.float32
    assert x.shape == (1, 6, 4, 6)
    torch.testing.assert_close(x[0, :, 0, 0], torch.tensor([1.0, 1, 3, 3, 1, 1]))


@pytest.mark.parametrize(
    ("is_3d", "layout"),
    [
        (True, torch.contiguous_format),
        (True, torch.channels_last_3d),
        (False, torch.contiguous_format),
        (False, torch.channels_last),
    ],
)
def test_to_input_lies_in_memory_as_asked_for_with_the_same_values(is_3d: bool, layout: torch.memory_format) -> None:
    clips = torch.arange(2 * 2 * 4 * 6 * 3, dtype=torch.uint8).reshape(2, 2, 4, 6, 3)
    contract = replace(RGB, input_type="3d" if is_3d else "2d")
    (x,) = ToInput(contract, CPU, layout)({"rgb": clips})
    assert x.is_contiguous(memory_format=layout)
    blue = x[1, 2] if is_3d else x[1, 4:]  # (T, H, W) of the second clip; mean 0, std 1
    torch.testing.assert_close(blue, clips[1, ..., 2] / 255)


@pytest.mark.parametrize(
    ("asked", "cores", "processes", "expected"), [(8, 4, 1, 4), (2, 4, 1, 2), (0, 4, 1, 0), (8, 4, 3, 1), (8, 2, 4, 1)]
)
def test_usable_workers_are_no_more_than_the_cores_of_a_process(
    monkeypatch: pytest.MonkeyPatch, asked: int, cores: int, processes: int, expected: int
) -> None:
    monkeypatch.setattr(loading, "num_cores", lambda: cores)
    assert usable_workers(asked, processes) == expected


def test_batch_length_is_its_number_of_clips() -> None:
    assert len(Batch({}, torch.zeros(3), torch.zeros(3), [], [])) == 3
