"""From a scene to its frames and to the exact optical flow between them.

A scene is a still background and capsules that move before it. One drawing of the capsules' numbers gives both the
colours and, pixel by pixel, which surface is on top and hence whose motion is the flow there.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLING = 2
MARGIN = 0.25  # of the frame, on every side of the background: as far as the camera may move


@dataclass(frozen=True)
class Capsules:
    """K thick lines with round ends, in pixels of the world, over F frames; balls where both ends coincide."""

    start: np.ndarray  # (F, K, 2)
    end: np.ndarray  # (F, K, 2)
    radius: np.ndarray  # (K, 2), at the start and at the end
    depth: np.ndarray  # (F, K), greater is farther away
    colour: np.ndarray  # (K, 3) uint8


@dataclass(frozen=True)
class Scene:
    """All that one video shows. The world's origin is the frame's top left corner while the camera is at (0, 0)."""

    size: int
    background: Image.Image  # the frame and MARGIN around it
    capsules: Capsules
    camera: np.ndarray  # (F, 2): the frame's corner in the world, pixels
    noise: np.ndarray  # (2 * size, 2 * size) grey levels, cut out at another corner for every frame
    noise_corners: np.ndarray  # (F, 2)


def render(scene: Scene, with_flow: bool = True) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Each frame (H, W, 3) uint8 with its flow to the next one (H, W, 2) float32 pixels; None with the last.

    Without `with_flow` every flow is None.
    """
    turns = _turns(scene.capsules) if with_flow else None
    for frame in range(len(scene.camera)):
        surfaces = draw_surfaces(scene, frame)
        last = frame + 1 == len(scene.camera)
        flow = None if turns is None or last else surface_flow(scene, frame, surfaces, turns[frame])
        yield paint(scene, frame, surfaces), flow


def draw_surfaces(scene: Scene, frame: int) -> Image.Image:
    """Which surface is on top: 0 the background, k + 1 capsule k; mode P, SUPERSAMPLING times the frame's size."""
    side = scene.size * SUPERSAMPLING
    canvas = Image.new("P", (side, side))
    draw = ImageDraw.Draw(canvas)
    capsules, corner = scene.capsules, scene.camera[frame]
    # Pillow counts from the first pixel's centre, the world from its edge
    starts = ((capsules.start[frame] - corner) * SUPERSAMPLING - 0.5).tolist()
    ends = ((capsules.end[frame] - corner) * SUPERSAMPLING - 0.5).tolist()
    radii = (capsules.radius * SUPERSAMPLING).tolist()
    for k in np.argsort(-capsules.depth[frame], kind="stable").tolist():
        _draw_capsule(draw, starts[k], ends[k], radii[k], fill=k + 1)
    return canvas


def paint(scene: Scene, frame: int, surfaces: Image.Image) -> np.ndarray:
    """The colours of one frame, (H, W, 3) uint8: the drawn surfaces over the background, with pixel noise."""
    size, margin = scene.size, MARGIN * scene.size
    surfaces.putpalette([0, 0, 0, *scene.capsules.colour.ravel().tolist()])
    # black where the background shows, so that shrinking multiplies the colours by their coverage
    figures = np.asarray(surfaces.convert("RGB").reduce(SUPERSAMPLING), dtype=np.float32)
    drawn = Image.fromarray((np.asarray(surfaces) > 0).astype(np.uint8) * 255)
    coverage = np.asarray(drawn.reduce(SUPERSAMPLING), dtype=np.float32)[..., None] / 255

    left, top = scene.camera[frame] + margin
    window = (1, 0, float(left), 0, 1, float(top))
    behind = scene.background.transform((size, size), Image.Transform.AFFINE, window, Image.Resampling.BILINEAR)
    row, column = scene.noise_corners[frame]
    noise = scene.noise[row : row + size, column : column + size, None]
    return np.clip(figures + np.asarray(behind) * (1 - coverage) + noise + 0.5, 0, 255).astype(np.uint8)


def surface_flow(scene: Scene, frame: int, surfaces: Image.Image, turn: np.ndarray) -> np.ndarray:
    """Motion from `frame` to the next of the surface on top of each pixel, (H, W, 2) float32: x right, y down.

    `turn` (K, 2) is each capsule's cosine and sine. A point on a capsule keeps its place between the ends and its
    offset from the axis.
    """
    middle = SUPERSAMPLING // 2
    top = np.asarray(surfaces)[middle::SUPERSAMPLING, middle::SUPERSAMPLING]
    camera_step = scene.camera[frame + 1] - scene.camera[frame]
    flow = np.tile(-camera_step.astype(np.float32), (*top.shape, 1))
    rows, columns = np.nonzero(top)
    owner = top[rows, columns].astype(np.intp) - 1
    points = np.stack([columns, rows], axis=-1) + 0.5 + scene.camera[frame]

    start, next_start = scene.capsules.start[frame : frame + 2]
    axis, next_axis = scene.capsules.end[frame : frame + 2] - scene.capsules.start[frame : frame + 2]
    along_axis = axis / np.maximum((axis**2).sum(axis=-1, keepdims=True), 1e-9)
    from_start = points - start[owner]
    place = np.clip((from_start * along_axis[owner]).sum(axis=-1), 0, 1)[:, None]
    x, y = (from_start - place * axis[owner]).T  # offset from the axis
    cosine, sine = turn[owner].T
    turned = np.stack([(cosine - 1) * x - sine * y, sine * x + (cosine - 1) * y], axis=-1)
    flow[rows, columns] += (next_start - start)[owner] + place * (next_axis - axis)[owner] + turned
    return flow


def _turns(capsules: Capsules) -> np.ndarray:
    """How far each capsule turns on the screen to the next frame: cosine and sine, (F - 1, K, 2)."""
    axis = capsules.end - capsules.start
    length = np.linalg.norm(axis, axis=-1)
    before, after = axis[:-1], axis[1:]
    scale = np.maximum(length[:-1] * length[1:], 1e-9)
    cosine = (before * after).sum(axis=-1) / scale
    sine = (before[..., 0] * after[..., 1] - before[..., 1] * after[..., 0]) / scale
    # a limb seen end-on has no direction on the screen: it only shifts
    end_on = np.minimum(length[:-1], length[1:]) <= capsules.radius.max(axis=1)
    return np.stack([np.where(end_on, 1, cosine), np.where(end_on, 0, sine)], axis=-1)


def _draw_capsule(
    draw: ImageDraw.ImageDraw, start: list[float], end: list[float], radii: list[float], fill: int
) -> None:
    (x0, y0), (x1, y1), (r0, r1) = start, end, radii
    draw.ellipse((x0 - r0, y0 - r0, x0 + r0, y0 + r0), fill=fill)
    length = math.hypot(x1 - x0, y1 - y0)
    if length < 0.5:
        return
    draw.ellipse((x1 - r1, y1 - r1, x1 + r1, y1 + r1), fill=fill)
    nx, ny = (y0 - y1) / length, (x1 - x0) / length
    side = [(x0 + r0 * nx, y0 + r0 * ny), (x1 + r1 * nx, y1 + r1 * ny)]
    other_side = [(x1 - r1 * nx, y1 - r1 * ny), (x0 - r0 * nx, y0 - r0 * ny)]
    draw.polygon(side + other_side, fill=fill)
