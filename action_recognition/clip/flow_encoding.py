"""Optical flow <-> the two grey images u (x) and v (y) that are stored beside the frames.

Flow is (H, W, 2) in pixels per frame, x to the right and y down. Two encodings exist in the wild and nothing in the
pixels tells them apart: max_rad scales each frame by its own fastest pixel, clip20 maps a fixed -20..20 pixels.
"""

import numpy as np

CLIP_BOUND_PX = 20.0


def encode_max_rad(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flow to u, v (H, W) uint8, scaled by the frame's greatest speed (at least 1 px); no motion is 128."""
    _check_flow(flow)
    scaled = flow / max_radius_px(flow) * 127.999 + 128
    levels = scaled.astype(np.uint8)
    return levels[..., 0], levels[..., 1]


def max_radius_px(flow: np.ndarray) -> float:
    """The scale that `encode_max_rad` divides by and does not store: the length of the longest vector, at least 1."""
    squares = np.square(flow)
    return max(1.0, float(np.sqrt((squares[..., 0] + squares[..., 1]).max(initial=0))))  # ten times faster than sum()


def decode_max_rad(u: np.ndarray, v: np.ndarray, radius_px: float = 1.0) -> np.ndarray:
    """Inverse of `encode_max_rad`, (H, W, 2) float32, to half a level (one at level 128) given the frame's `radius_px`.

    The files do not hold the radius: without it the flow comes back in units of the frame's greatest speed.
    """
    levels = _stack_images(u, v)
    # encoding truncates, so a level stands for the half-open step above it; 128, no motion, must come back as 0
    centred = np.where(levels == 128, levels, levels + 0.5)
    return ((centred - 128) / 127.999 * radius_px).astype(np.float32)


def encode_clip20(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flow to u, v (H, W) uint8: -20 px or less is 0, 20 px or more is 255; no motion is 128 (127.5, rounded)."""
    _check_flow(flow)
    clipped = np.clip(flow, -CLIP_BOUND_PX, CLIP_BOUND_PX)
    levels = np.round(255 * (clipped + CLIP_BOUND_PX) / (2 * CLIP_BOUND_PX)).astype(np.uint8)
    return levels[..., 0], levels[..., 1]


def decode_clip20(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Inverse of `encode_clip20`, (H, W, 2) float32 pixels, to half a level (0.0785 px)."""
    levels = _stack_images(u, v)
    return (levels / 255 * (2 * CLIP_BOUND_PX) - CLIP_BOUND_PX).astype(np.float32)


def _check_flow(flow: np.ndarray) -> None:
    if flow.ndim != 3 or flow.shape[2] != 2:
        raise ValueError(f"flow must be (H, W, 2), x then y, got {flow.shape}")
    if not np.isfinite(flow).all():
        raise ValueError(f"flow must be finite, got {int((~np.isfinite(flow)).sum())} values that are not")


def _stack_images(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    if u.shape != v.shape or u.ndim != 2:
        raise ValueError(f"u and v must be grey images of one size, got {u.shape} and {v.shape}")
    return np.stack([u, v], axis=-1).astype(np.float64)
