"""The training augmentation: which part of a frame is seen, at which size, and what a mirror does to flow."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from action_recognition.clip.transform import fit_frame
from action_recognition.data.augment import PLACES, SAME_COLOURS, Augmentation, Draw, recolour

CENTRE = PLACES.index((2, 2))
BELOW_ONE = float(np.nextafter(1, 0))


def augmentation(crop_type: str, size: tuple[int, int] = (8, 6), edge: int = 12, **kinds) -> Augmentation:
    return Augmentation(crop_type, size, edge, kinds.get("scales", (1.0,)), kinds.get("flip_prob", 0.5))


def draw(x: float = 0.0, y: float = 0.0, scale: float = 1.0, place: int = CENTRE) -> Draw:
    return Draw(x, y, scale, place, False)


def where(size: tuple[int, int]) -> Image.Image:
    """An image whose red says the column and green the row."""
    rows, columns = np.indices((size[1], size[0]))
    return Image.fromarray(np.stack([columns, rows, rows * 0], axis=-1).astype(np.uint8))


def fit(crop: Augmentation, drawn: Draw, image: Image.Image) -> np.ndarray:
    """A frame as the clip shows it. Pillow refuses a box that leaves the frame."""
    return fit_frame(image, crop.box(image.size, drawn), crop.size)


def test_no_crop_shows_the_whole_frame() -> None:
    assert augmentation("no_crop").box((31, 17), draw(0.5, 0.5)) == (0, 0, 31, 17)


# --- random_crop ---


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (0.0, 0.0, (0, 0, 8, 6)),
        (0.5, 0.5, (4, 3, 12, 9)),
        (BELOW_ONE, 0.0, (8, 0, 16, 6)),  # the right end of 16 columns
        (0.0, BELOW_ONE, (0, 6, 8, 12)),  # the lower end of 12 rows
    ],
)
def test_random_crop_reaches_both_ends_of_the_frame(x: float, y: float, expected: tuple[float, ...]) -> None:
    assert augmentation("random_crop").box((16, 12), draw(x, y)) == expected


def test_random_crop_places_are_drawn_evenly() -> None:
    crop, rng = augmentation("random_crop"), np.random.default_rng(0)
    boxes = [crop.box((16, 12), crop.draw(rng)) for _ in range(4500)]
    for side, num_places in ((0, 9), (1, 7)):
        places, counts = np.unique([box[side] for box in boxes], return_counts=True)
        assert places.tolist() == list(range(num_places))
        assert np.abs(counts - 4500 / num_places).max() < 5 * (4500 / num_places) ** 0.5


def test_random_crop_window_is_cut_from_the_resized_frame() -> None:
    box = augmentation("random_crop").box((32, 24), draw(BELOW_ONE, 0))  # half size: 16 x 12
    assert box == (16, 0, 32, 12)


def test_random_crop_at_full_size_is_the_window_itself() -> None:
    fitted = fit(augmentation("random_crop"), draw(0.5, 0.5), where((16, 12)))
    assert fitted.shape == (6, 8, 3)
    assert fitted[0, 0].tolist() == [4, 3, 0]
    assert fitted[-1, -1].tolist() == [11, 8, 0]


# --- multi_scale_crop ---


@pytest.mark.parametrize("scale", [1.0, 0.875, 0.75, 0.4])
@pytest.mark.parametrize("place", range(13))
def test_multi_scale_crop_is_always_resized_to_the_output(scale: float, place: int) -> None:
    crop = augmentation("multi_scale_crop", (10, 10), 40, scales=(scale,))
    assert fit(crop, draw(scale=scale, place=place), where((60, 45))).shape == (10, 10, 3)


def test_multi_scale_crop_has_the_13_places_of_tsn() -> None:
    crop = augmentation("multi_scale_crop", (8, 8), 40)
    corners = [crop.box((56, 40), draw(scale=0.6, place=place))[:2] for place in range(13)]
    # a window of 24 in 56 x 40: quarters of (32, 16) are (8, 4)
    assert corners == [
        *((0, 0), (32, 0), (0, 16), (32, 16), (16, 8)),
        *((0, 8), (32, 8), (16, 16), (16, 0)),
        *((8, 4), (24, 4), (8, 12), (24, 12)),
    ]


def test_multi_scale_crop_draws_every_place_and_every_scale() -> None:
    crop, rng = augmentation("multi_scale_crop", scales=(1.0, 0.875, 0.75)), np.random.default_rng(0)
    draws = [crop.draw(rng) for _ in range(1000)]
    assert {d.place for d in draws} == set(range(13))
    assert {d.scale for d in draws} == {1.0, 0.875, 0.75}


@pytest.mark.parametrize(
    ("scale", "side"),
    [(0.5, 20), (0.55, 24), (0.65, 24), (0.66, 24), (0.675, 27), (0.525, 21), (1.0, 40)],  # 22, 26, 26 snap to 24
)
def test_multi_scale_crop_window_snaps_to_the_output_when_less_than_3_px_off(scale: float, side: int) -> None:
    left, top, right, bottom = augmentation("multi_scale_crop", (24, 24), 40).box((40, 40), draw(scale=scale))
    assert (right - left, bottom - top) == (side, side)


def test_multi_scale_crop_never_asks_for_more_than_the_frame_holds() -> None:
    box = augmentation("multi_scale_crop", (8, 8), 12).box((12, 12), draw(scale=1.5))
    assert box == (0, 0, 12, 12)


# --- both ---


@pytest.mark.parametrize("crop_type", ["random_crop", "multi_scale_crop"])
def test_box_of_odd_sizes_never_leaves_the_frame(crop_type: str) -> None:
    crop = augmentation(crop_type, (7, 5), 9, scales=(1.0, 0.66))
    for size in ((w, h) for w in range(1, 90, 4) for h in range(1, 60, 7)):
        image = Image.new("L", size)
        for end in (0.0, BELOW_ONE):
            for place, scale in ((0, 1.0), (3, 0.66)):
                fitted = fit(crop, Draw(end, end, scale, place, False), image)
                assert fitted.shape == (5, 7)


def test_one_draw_shows_the_same_part_of_streams_of_two_resolutions() -> None:
    crop = augmentation("random_crop", (8, 8), 12)
    one = crop.draw(np.random.default_rng(3))
    left, top, right, bottom = crop.box((48, 36), one)
    assert crop.box((96, 72), one) == (2 * left, 2 * top, 2 * right, 2 * bottom)


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0.0), (1.0, 1.0), (0.25, 0.25)])
def test_draw_flips_with_the_given_probability(probability: float, share: float) -> None:
    crop, rng = augmentation("no_crop", flip_prob=probability), np.random.default_rng(0)
    assert np.mean([crop.draw(rng).flip for _ in range(2000)]) == pytest.approx(share, abs=0.04)


def test_draw_takes_as_many_random_numbers_whatever_the_crop_type() -> None:
    left = []
    for crop_type in ("no_crop", "random_crop", "multi_scale_crop"):
        rng = np.random.default_rng(5)
        augmentation(crop_type, flip_prob=0.3).draw(rng)
        left.append(rng.random())
    assert left[0] == left[1] == left[2]


# --- colours ---


def test_draw_of_colours_stays_within_the_jitter_and_leaves_the_other_choices_as_they_are() -> None:
    plain, jitter = augmentation("random_crop"), replace(augmentation("random_crop"), color_jitter=(0.4, 0.3, 0.2, 0.1))
    for seed in range(200):
        one, other = (a.draw(np.random.default_rng(seed)) for a in (plain, jitter))
        assert one.colours == SAME_COLOURS
        assert replace(other, colours=SAME_COLOURS) == one
        assert all(abs(c - s) <= b for c, s, b in zip(other.colours, SAME_COLOURS, (0.4, 0.3, 0.2, 0.1), strict=True))


def test_brightness_multiplies_every_frame_alike() -> None:
    clip = np.full((2, 3, 4, 3), 100, np.uint8)
    assert (recolour(clip, (1.5, 1.0, 1.0, 0.0)) == 150).all()
    assert recolour(clip, SAME_COLOURS) is clip


def test_saturation_of_nothing_leaves_grey() -> None:
    clip = np.random.default_rng(0).integers(256, size=(2, 3, 4, 3), dtype=np.uint8)
    grey = recolour(clip, (1.0, 1.0, 0.0, 0.0))
    assert (grey == grey[..., :1]).all()
    red = np.array([[[[200, 0, 0]]]], np.uint8)
    assert recolour(red, (1.0, 1.0, 1.0, 1 / 3)).tolist() == [[[[0, 200, 0]]]]  # a third of a turn: red is green
