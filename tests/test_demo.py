"""The rendered data set: its motions, its exact flow, and a folder that is the same however it came about."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from action_recognition.clip.flow_encoding import encode_max_rad
from action_recognition.demo import DemoSpec, missing_videos, open_dataset, render_videos
from action_recognition.demo.motion import ACTIONS, JOINTS, Body, joint_positions
from action_recognition.demo.render import MARGIN, SUPERSAMPLING, Capsules, Scene, draw_surfaces, render
from action_recognition.demo.scene import random_scene
from action_recognition.errors import DataError, SpecError

TINY = DemoSpec(train_per_class=2, test_per_class=1, frames=3, size=32)


def make(dst: Path, spec: DemoSpec = TINY, workers: int = 1) -> dict[str, bytes]:
    """Renders what is missing in `dst`; {relative path: content}."""
    open_dataset(dst, spec)
    list(render_videos(dst, spec, missing_videos(dst, spec), workers))
    return {path.relative_to(dst).as_posix(): path.read_bytes() for path in dst.rglob("*") if path.is_file()}


def heights(action: str, joint: str, seed: int = 0) -> list[float]:
    """Metres above the floor of a joint at the start, in the middle and at the end of a video of 41 frames."""
    joints = joint_positions(Body(), ACTIONS[action](np.random.default_rng(seed), 41))
    return joints[[0, 20, 40], JOINTS.index(joint), 2].tolist()


def still_scene(camera: np.ndarray, balls: list[tuple[np.ndarray, np.ndarray]] = (), size: int = 64) -> Scene:
    """A scene without noise, of capsules given by their ends (F, 2), radius 6, the first one in front."""
    num_frames, margin = len(camera), int(2 * MARGIN * size)
    stripes = np.indices((size + margin, size + margin)).sum(axis=0) * 3 % 256
    return Scene(
        size=size,
        background=Image.fromarray(np.stack([stripes] * 3, axis=-1).astype(np.uint8)),
        capsules=Capsules(
            start=np.array([start for start, _ in balls]).reshape(-1, num_frames, 2).swapaxes(0, 1),
            end=np.array([end for _, end in balls]).reshape(-1, num_frames, 2).swapaxes(0, 1),
            radius=np.full((len(balls), 2), 6.0),
            depth=np.tile(np.arange(len(balls), dtype=float), (num_frames, 1)),
            colour=np.full((len(balls), 3), 200),
        ),
        camera=camera,
        noise=np.zeros((2 * size, 2 * size), np.float32),
        noise_corners=np.zeros((num_frames, 2), int),
    )


def flows(scene: Scene) -> list[np.ndarray]:
    return [flow for _, flow in render(scene) if flow is not None]


def warp(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Bilinear: each pixel of the result is taken from where `flow` says that it went."""
    rows, columns = np.indices(flow.shape[:2], dtype=float)
    x = np.clip(columns + flow[..., 0], 0, image.shape[1] - 1.001)
    y = np.clip(rows + flow[..., 1], 0, image.shape[0] - 1.001)
    left, top = x.astype(int), y.astype(int)
    right_share, low_share = (x - left)[..., None], (y - top)[..., None]
    image = image.astype(float)
    upper = image[top, left] * (1 - right_share) + image[top, left + 1] * right_share
    lower = image[top + 1, left] * (1 - right_share) + image[top + 1, left + 1] * right_share
    return upper * (1 - low_share) + lower * low_share


# what moves


def test_walk_keeps_the_pelvis_up_and_swings_the_legs_against_each_other() -> None:
    assert min(heights("walk", "pelvis")) > 0.8
    pose = ACTIONS["walk"](np.random.default_rng(0), 41)
    np.testing.assert_allclose(pose.thigh[:, 0], -pose.thigh[:, 1], atol=1e-6)
    assert np.ptp(pose.thigh[:, 0]) > 35


@pytest.mark.parametrize("seed", range(5))
def test_sit_ends_on_a_seat_at_knee_height(seed: int) -> None:
    start, _, end = heights("sit", "pelvis", seed)
    assert start > 0.9
    assert 0.4 < end < 0.65


@pytest.mark.parametrize("seed", range(5))
def test_fall_ends_flat_on_the_floor(seed: int) -> None:
    start, _, end = heights("fall", "head", seed)
    assert start > 1.5
    assert 0.05 < end < 0.5


def test_bend_folds_the_trunk_and_rises_again() -> None:
    (start, middle, end), hips = heights("bend", "head"), heights("bend", "pelvis")
    assert middle < 1.2 < start
    assert end == pytest.approx(start, abs=0.01)
    assert min(hips) > 0.85


def test_squat_goes_deep_and_ends_upright() -> None:
    pose = ACTIONS["squat"](np.random.default_rng(3), 41)
    pelvis = joint_positions(Body(), pose)[:, JOINTS.index("pelvis"), 2]
    assert pelvis.min() < 0.6
    assert pelvis[-1] == pytest.approx(pelvis[0], abs=0.01)


@pytest.mark.parametrize(("backward", "forward"), [("stand", "sit"), ("getup", "fall")])
def test_pairs_are_each_other_backwards(backward: str, forward: str) -> None:
    there = joint_positions(Body(), ACTIONS[forward](np.random.default_rng(7), 30))
    back = joint_positions(Body(), ACTIONS[backward](np.random.default_rng(7), 30))
    np.testing.assert_array_equal(back, there[::-1])


@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_no_joint_sinks_into_the_floor(action: str) -> None:
    for seed in range(20):
        joints = joint_positions(Body(), ACTIONS[action](np.random.default_rng(seed), 24))
        assert joints[..., 2].min() > -0.15


# what the camera sees


def test_pan_gives_the_background_the_opposite_flow() -> None:
    camera = np.array([[0, 0], [2, -1], [2, 3]], dtype=float)
    first, second = flows(still_scene(camera))
    np.testing.assert_array_equal(first, np.tile([-2, 1], (64, 64, 1)))
    np.testing.assert_array_equal(second, np.tile([0, -4], (64, 64, 1)))


def test_moving_ball_carries_its_flow_and_leaves_the_background_still() -> None:
    path = np.array([[20, 40], [23, 38]], dtype=float)
    (flow,) = flows(still_scene(np.zeros((2, 2)), [(path, path)]))
    assert flow[40, 20].tolist() == [3, -2]  # right and up
    assert flow[40, 20 - 8].tolist() == [0, 0]
    assert 100 < (flow[..., 0] == 3).sum() < 130  # a disc of radius 6


def test_nearer_surface_wins_the_flow() -> None:
    near, far = np.array([[20, 20], [21, 20]], dtype=float), np.array([[26, 20], [26, 25]], dtype=float)
    (flow,) = flows(still_scene(np.zeros((2, 2)), [(near, near), (far, far)]))
    assert flow[20, 23].tolist() == [1, 0]
    assert flow[20, 29].tolist() == [0, 5]


def test_turning_limb_moves_more_towards_its_free_end() -> None:
    hinge = np.full((2, 2), 32.0)
    tip = np.array([[32, 56], [38, 55.5]])
    (flow,) = flows(still_scene(np.zeros((2, 2)), [(hinge, tip)]))
    np.testing.assert_allclose(flow[31, 31], [0, 0], atol=0.5)
    np.testing.assert_allclose(flow[44, 32], [3, -0.25], atol=0.5)
    np.testing.assert_allclose(flow[55, 32], [6, -0.5], atol=0.5)


def test_turning_limb_turns_what_lies_beside_its_axis() -> None:
    hinge = np.full((2, 2), 32.0)
    tip = np.array([[32, 56], [56, 32]])  # a quarter turn: down becomes right, right becomes up
    (flow,) = flows(still_scene(np.zeros((2, 2)), [(hinge, tip)]))
    # 4.5 px right of the axis and 12.5 px along it -> 12.5 px right of the hinge and 4.5 px above it
    np.testing.assert_allclose(flow[44, 36], [8, -17], atol=1e-4)


@pytest.mark.parametrize("action", ["walk", "sit", "fall", "bend"])
def test_next_frame_warped_by_the_flow_is_this_frame(action: str) -> None:
    scene = random_scene(action, person_id=3, seed=0, num_frames=24, size=96)
    scene.noise[:] = 0
    frames, flow = zip(*render(scene), strict=True)
    for t in range(23):
        here, there = (np.asarray(draw_surfaces(scene, i))[1::SUPERSAMPLING, 1::SUPERSAMPLING] for i in (t, t + 1))
        rows, columns = np.indices((96, 96))
        moved_rows, moved_columns = ((a + flow[t][..., i]).round() for a, i in ((rows, 1), (columns, 0)))
        inside = (moved_rows >= 0) & (moved_rows < 96) & (moved_columns >= 0) & (moved_columns < 96)
        landed = there[moved_rows.clip(0, 95).astype(int), moved_columns.clip(0, 95).astype(int)]
        seen_twice = inside & (here == landed)
        error = np.abs(warp(frames[t + 1], flow[t]) - frames[t]).max(axis=-1)
        person = seen_twice & (here > 0)
        assert person.sum() > 0.5 * (here > 0).sum()
        # the rest are outlines, mixed with what lies behind
        assert (error[seen_twice] <= 4).mean() > 0.9
        assert (error[person] <= 4).mean() > 0.6
        assert np.median(error[person]) <= 1.5


def test_build_belongs_to_the_person_and_clothes_to_the_video() -> None:
    walk, bend, other = (random_scene(a, p, 0, 4, 64) for a, p in (("walk", 5), ("bend", 5), ("walk", 6)))

    def build(scene: Scene) -> float:  # thickness of the trunk over that of the head... both scale with the girth
        return scene.capsules.radius[0, 0] / scene.capsules.radius[4, 0]

    assert build(walk) == pytest.approx(build(bend))
    assert not np.array_equal(walk.capsules.colour[:1], bend.capsules.colour[:1])
    assert not np.array_equal(walk.capsules.colour[:1], other.capsules.colour[:1])


# what lies in the folder


def test_tree_has_n_frames_and_one_flow_pair_fewer_per_video(tmp_path: Path) -> None:
    files = make(tmp_path / "demo")
    video = "train/walk/walk_person000000"
    assert [name for name in sorted(files) if name.startswith(f"{video}/")] == [
        *(f"{video}/rgb/{t:06d}.jpg" for t in range(3)),
        *(f"{video}/u/{t:06d}.jpg" for t in range(2)),
        *(f"{video}/v/{t:06d}.jpg" for t in range(2)),
    ]
    assert len(files) == 1 + 5 * (2 + 1) * (3 + 2 + 2)
    sizes = {Image.open(tmp_path / "demo" / video / stream / "000000.jpg").mode for stream in ("rgb", "u", "v")}
    assert sizes == {"RGB", "L"}


def test_u_holds_the_flow_in_x_and_v_in_y(tmp_path: Path) -> None:
    make(tmp_path / "demo", DemoSpec(train_per_class=1, test_per_class=0, frames=8, size=32, image_format="png"))
    video = tmp_path / "demo" / "train" / "walk" / "walk_person000000"
    flow = flows(random_scene("walk", person_id=0, seed=0, num_frames=8, size=32))
    for t in range(7):
        stored = [np.asarray(Image.open(video / stream / f"{t:06d}.png")) for stream in ("u", "v")]
        np.testing.assert_array_equal(stored, encode_max_rad(flow[t]))


def test_no_person_is_in_both_sets(tmp_path: Path) -> None:
    make(tmp_path / "demo")
    people = {
        split: {path.name.rsplit("_", 1)[1] for path in (tmp_path / "demo" / split).glob("*/*")}
        for split in ("train", "test")
    }
    assert people == {"train": {"person000000", "person000001"}, "test": {"person100000"}}
    assert json.loads((tmp_path / "demo" / "demo.json").read_text())["people"] == {
        "train": [0, 2],
        "test": [100_000, 100_001],
    }


def test_same_spec_gives_the_same_bytes_whatever_the_workers(tmp_path: Path) -> None:
    assert make(tmp_path / "one") == make(tmp_path / "two", workers=2)


def test_another_seed_gives_another_picture(tmp_path: Path) -> None:
    name = "test/fall/fall_person100000/rgb/000000.jpg"
    small = DemoSpec(train_per_class=0, test_per_class=1, frames=2, size=32, flow=False)
    other = DemoSpec(train_per_class=0, test_per_class=1, frames=2, size=32, flow=False, seed=1)
    assert make(tmp_path / "a", small)[name] != make(tmp_path / "b", other)[name]


@pytest.mark.parametrize("order", ["reversed", "shuffled"])
def test_another_order_writes_the_same_frames_in_that_order(tmp_path: Path, order: str) -> None:
    forward = DemoSpec(train_per_class=0, test_per_class=1, frames=6, size=32, flow=False)
    frames = [content for path, content in sorted(make(tmp_path / "forward", forward).items()) if "/fall/" in path]
    other = [c for p, c in sorted(make(tmp_path / order, replace(forward, order=order)).items()) if "/fall/" in p]
    assert sorted(other) == sorted(frames)
    assert (other == frames[::-1]) is (order == "reversed")
    assert other != frames


def test_interrupted_run_leaves_whole_videos_only_and_is_completed(tmp_path: Path) -> None:
    complete = make(tmp_path / "complete")
    dst = tmp_path / "begun"
    open_dataset(dst, TINY)
    run = render_videos(dst, TINY, missing_videos(dst, TINY))
    first, second = next(run), next(run)
    run.close()
    torn = dst / ".unfinished" / "sit_person000000" / "rgb"
    torn.mkdir(parents=True)
    (torn / "000000.jpg").write_bytes(b"half a fr")

    assert {path.relative_to(dst) for path in dst.glob("t*/*/*")} == {first.path, second.path}
    assert len(missing_videos(dst, TINY)) == 13
    assert make(dst) == complete


def test_complete_data_set_has_nothing_missing(tmp_path: Path) -> None:
    make(tmp_path / "demo")
    open_dataset(tmp_path / "demo", TINY)
    assert missing_videos(tmp_path / "demo", TINY) == []


def test_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match=r"exists and is not a rendered data set \(no demo.json\)"):
        open_dataset(tmp_path, TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_folder_with_other_parameters_is_refused_and_says_which(tmp_path: Path) -> None:
    make(tmp_path / "demo", DemoSpec(train_per_class=0, test_per_class=0))
    with pytest.raises(DataError, match=r"seed 0 \(asked for 3\)"):
        open_dataset(tmp_path / "demo", DemoSpec(train_per_class=0, test_per_class=0, seed=3))


@pytest.mark.parametrize("text", ["", "[]", '{"spec": {}}'])
def test_unreadable_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "demo.json").write_text(text)
    with pytest.raises(DataError, match="not readable as a rendered data set's parameters"):
        open_dataset(tmp_path, TINY)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frames": 1}, r"frames: must be 2..10000, got 1"),
        ({"size": 31}, r"size: must be 32..1024, got 31"),
        ({"train_per_class": -1}, r"train_per_class: must be 0..100000, got -1"),
        ({"image_format": "gif"}, r"image_format: must be one of jpg, png, got 'gif'"),
        ({"order": "odd"}, r"order: must be one of forward, reversed, shuffled, got 'odd'"),
        ({"order": "reversed"}, r"order: reversed frames have no flow between them; leave the flow out"),
    ],
)
def test_impossible_spec_is_refused_with_the_value(wrong: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        DemoSpec(**wrong)


# the tool


@pytest.fixture
def tool() -> ModuleType:
    path = Path(__file__).parents[1] / "tools" / "make_demo_data.py"
    spec = importlib.util.spec_from_file_location("make_demo_data", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tool_says_how_many_videos_and_frames_and_where(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dst = tmp_path / "demo"
    options = ["--train-per-class", "1", "--test-per-class", "0", "--frames", "2", "--size", "32", "--no-flow"]
    assert tool.main([str(dst), *options, "--pairs", "--png", "--workers", "1"]) == 0
    assert f"5 videos, 10 frames rendered into {dst} in " in capsys.readouterr().out
    assert sorted(path.name for path in (dst / "train").iterdir()) == ["fall", "getup", "sit", "stand", "walk"]
    assert len(list(dst.rglob("*.png"))) == 10


def test_tool_exits_with_2_on_a_bad_argument(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        tool.main([str(tmp_path / "demo"), "--frames", "1"])
    assert stop.value.code == 2
    assert "frames: must be 2..10000, got 1" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_tool_exits_with_1_on_a_folder_it_must_not_fill(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert tool.main([str(tmp_path)]) == 1
    assert "not a rendered data set" in capsys.readouterr().err
