"""Both flow encodings at their boundaries, and what their inverses give back."""

import numpy as np
import pytest

from action_recognition.clip import flow_encoding


def flow_of(*vectors: tuple[float, float]) -> np.ndarray:
    """One row of flow vectors (x, y), (1, W, 2)."""
    return np.array([vectors], dtype=np.float32)


def test_max_rad_puts_x_in_u_and_y_in_v_scaled_by_the_longest_vector() -> None:
    u, v = flow_encoding.encode_max_rad(flow_of((4, 0), (0, -4), (-2, 2), (0, 0)))
    # 2 / 4 * 127.999 + 128 = 191.9995, truncated
    assert u.tolist() == [[255, 128, 64, 128]]
    assert v.tolist() == [[128, 0, 191, 128]]
    assert u.dtype == v.dtype == np.uint8


def test_max_rad_measures_the_vector_not_its_larger_component() -> None:
    u, v = flow_encoding.encode_max_rad(flow_of((3, 4), (0, 0)))
    assert (u[0, 0], v[0, 0]) == (204, 230)  # 3 / 5 and 4 / 5 of the range


def test_max_rad_of_motion_below_one_pixel_is_not_blown_up() -> None:
    u, _ = flow_encoding.encode_max_rad(flow_of((0.5, 0)))
    assert u.tolist() == [[191]]


def test_max_rad_given_the_radius_comes_back_to_one_level() -> None:
    flow = np.random.default_rng(0).normal(0, 3, size=(20, 30, 2))
    radius_px = flow_encoding.max_radius_px(flow)
    back = flow_encoding.decode_max_rad(*flow_encoding.encode_max_rad(flow), radius_px)
    assert np.abs(back - flow).max() <= radius_px / 127


def test_max_rad_decoded_without_radius_is_in_units_of_the_fastest_pixel() -> None:
    still_and_fast = flow_encoding.decode_max_rad(*flow_encoding.encode_max_rad(flow_of((0, 0), (8, 0))))
    np.testing.assert_allclose(still_and_fast, flow_of((0, 0), (1, 0)), atol=0.005)


@pytest.mark.parametrize(
    ("pixels", "level"), [(-30, 0), (-20, 0), (-0.1, 127), (0, 128), (0.05, 128), (10, 191), (20, 255), (999, 255)]
)
def test_clip20_encodes_boundaries(pixels: float, level: int) -> None:
    u, v = flow_encoding.encode_clip20(flow_of((pixels, -pixels)))
    assert u[0, 0] == level
    assert abs(int(v[0, 0]) - (255 - level)) <= 1


def test_clip20_inside_the_bound_comes_back_to_half_a_level() -> None:
    flow = np.random.default_rng(0).uniform(-20, 20, size=(20, 30, 2))
    back = flow_encoding.decode_clip20(*flow_encoding.encode_clip20(flow))
    assert np.abs(back - flow).max() <= 20 / 255 + 1e-6
    assert back.dtype == np.float32


@pytest.mark.parametrize("encode", [flow_encoding.encode_max_rad, flow_encoding.encode_clip20])
def test_encode_refuses_another_shape_or_values_that_are_not_finite(encode) -> None:
    with pytest.raises(ValueError, match=r"flow must be \(H, W, 2\), x then y, got \(2, 4, 4\)"):
        encode(np.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match="flow must be finite, got 1 values that are not"):
        encode(flow_of((np.nan, 0)))


@pytest.mark.parametrize("decode", [flow_encoding.decode_max_rad, flow_encoding.decode_clip20])
def test_decode_refuses_images_of_two_sizes(decode) -> None:
    with pytest.raises(ValueError, match=r"got \(4, 4\) and \(4, 5\)"):
        decode(np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8))
