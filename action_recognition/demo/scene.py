"""Draws lots for one video: the person, how they are seen, what they wear, the room, the clutter and the camera."""

import colorsys
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from action_recognition.demo.motion import ACTIONS, JOINTS, joint_positions, random_body
from action_recognition.demo.render import MARGIN, Capsules, Scene

HEIGHT_IN_FRAME = (0.76, 0.9)  # of a standing person
MAX_YAW_DEG = 30.0  # from the side view, either way
MAX_PITCH_DEG = 14.0
WALL_TONES = (140, 205)
MIN_CONTRAST = 55  # grey levels by which clothes are darker than the wall
FAR_SIDE_LIGHT = 0.78  # the limbs behind the trunk are darker, or they would melt into those before it
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Clothes:
    """Colours of a person's surfaces."""

    skin: Colour
    hair: Colour
    shirt: Colour
    sleeves: Colour
    trousers: Colour
    shanks: Colour
    shoes: Colour


# from joint, to joint, radius at each in metres, whose colour
LIMBS = (
    ("shoulder", "elbow", 0.052, 0.042, "shirt"),
    ("elbow", "wrist", 0.042, 0.032, "sleeves"),
    ("wrist", "wrist", 0.045, 0.045, "skin"),
    ("hip", "knee", 0.085, 0.060, "trousers"),
    ("knee", "ankle", 0.060, 0.042, "shanks"),
    ("ankle", "toe", 0.048, 0.035, "shoes"),
)
TRUNK = (
    ("pelvis", "chest", 0.115, 0.125, "shirt"),
    ("shoulder_l", "shoulder_r", 0.065, 0.065, "shirt"),
    ("hip_l", "hip_r", 0.095, 0.095, "trousers"),
    ("chest", "head", 0.055, 0.055, "skin"),
    ("head", "head", 0.105, 0.105, "skin"),
    ("hair", "hair", 0.112, 0.112, "hair"),
)


def random_scene(action: str, person_id: int, seed: int, num_frames: int, size: int) -> Scene:
    """The scene of one video, the same for the same arguments; the person's build depends on `person_id` alone."""
    body = random_body(np.random.default_rng([seed, person_id]))
    rng = np.random.default_rng([seed, person_id, 1 + list(ACTIONS).index(action)])
    joints = joint_positions(body, ACTIONS[action](rng, num_frames))
    pixels_per_m = float(rng.uniform(*HEIGHT_IN_FRAME)) * size / body.height
    points, depth = _project(joints, rng)
    points = points * pixels_per_m
    points = points + _placement(points, rng, size)

    floor_y = float(points[..., 1].max())
    tone = rng.uniform(*WALL_TONES)
    background = _room(rng, size, tone, floor_y)
    if rng.random() < 0.5:
        _paint_seat(background, rng, size, tone, points[:, JOINTS.index("pelvis"), 0].mean(), floor_y)
    person = _person(body.girth * pixels_per_m, _random_clothes(rng, tone), points, depth)
    clutter = [_thing(rng, num_frames, size, tone) for _ in range(rng.integers(0, 3))]
    return Scene(
        size=size,
        background=background,
        capsules=_together([person, *clutter]),
        camera=_camera_path(rng, num_frames, size),
        noise=rng.normal(0, rng.uniform(0, 2.5), size=(2 * size, 2 * size)).astype(np.float32),
        noise_corners=rng.integers(0, size, size=(num_frames, 2)),
    )


def _project(joints: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Joints (F, J, 3) seen from a random side: metres on the screen (F, J, 2), y down, and depth (F, J)."""
    turned_round = 180 * int(rng.integers(2))
    yaw = np.radians(rng.uniform(-MAX_YAW_DEG, MAX_YAW_DEG) + turned_round)
    pitch = np.radians(rng.uniform(0, MAX_PITCH_DEG))
    x, y, z = np.moveaxis(joints, -1, 0)
    across = x * np.cos(yaw) - y * np.sin(yaw)
    away = x * np.sin(yaw) + y * np.cos(yaw)
    # seen from above, what is farther away stands higher on the screen
    screen_y = -(z * np.cos(pitch) + away * np.sin(pitch))
    return np.stack([across, screen_y], axis=-1), away * np.cos(pitch) - z * np.sin(pitch)


def _placement(points: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    """The shift (2,) in pixels that puts the whole motion into the frame, or its middle if it is too wide."""
    low, high = points.min(axis=(0, 1)), points.max(axis=(0, 1))
    slack = size * 0.9 - (high[0] - low[0])
    left = size * 0.05 + (slack * rng.random() if slack > 0 else slack / 2)
    bottom = size * rng.uniform(0.9, 0.97)
    return np.array([left - low[0], bottom - high[1]])


def _person(pixels_per_m: float, clothes: Clothes, points: np.ndarray, depth: np.ndarray) -> Capsules:
    """The trunk and both sides' limbs, from joints on the screen (F, J, 2) and their depth (F, J)."""
    hips = [JOINTS.index("hip_l"), JOINTS.index("hip_r")]
    far_side = "lr"[int(depth[:, hips].mean(axis=0).argmax())]
    parts = [(*part, 1.0) for part in TRUNK]
    for start, end, start_radius, end_radius, wears in LIMBS:
        for side in "lr":
            light = FAR_SIDE_LIGHT if side == far_side else 1.0
            parts.append((f"{start}_{side}", f"{end}_{side}", start_radius, end_radius, wears, light))
    starts, ends, start_radii, end_radii, worn, lights = zip(*parts, strict=True)
    a, b = ([JOINTS.index(name) for name in names] for names in (starts, ends))
    return Capsules(
        start=points[:, a],
        end=points[:, b],
        radius=np.stack([start_radii, end_radii], axis=-1) * pixels_per_m,
        depth=(depth[:, a] + depth[:, b]) / 2,
        colour=np.array([_shade(getattr(clothes, wears), light) for wears, light in zip(worn, lights, strict=True)]),
    )


def _together(parts: list[Capsules]) -> Capsules:
    return Capsules(
        start=np.concatenate([part.start for part in parts], axis=1),
        end=np.concatenate([part.end for part in parts], axis=1),
        radius=np.concatenate([part.radius for part in parts]),
        depth=np.concatenate([part.depth for part in parts], axis=1),
        colour=np.concatenate([part.colour for part in parts]),
    )


def _random_clothes(rng: np.random.Generator, tone: float) -> Clothes:
    skin = _shade((236, 188, 158), rng.uniform(0.4, 1.05))
    hair = _shade((200, 150, 90), rng.uniform(0.1, 0.9))
    shirt, trousers = _contrasting(rng, tone), _contrasting(rng, tone)
    return Clothes(
        skin=skin,
        hair=hair,
        shirt=shirt,
        sleeves=skin if rng.random() < 0.5 else shirt,
        trousers=trousers,
        shanks=skin if rng.random() < 0.25 else trousers,
        shoes=_shade((255, 255, 255), rng.uniform(0.08, 0.95)),
    )


def _contrasting(rng: np.random.Generator, tone: float) -> Colour:
    """A random colour whose brightness is at least MIN_CONTRAST below the wall's."""
    while True:
        rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.15, 0.9), rng.uniform(0.1, 1))
        red, green, blue = (round(255 * channel) for channel in rgb)
        if 0.3 * red + 0.59 * green + 0.11 * blue <= tone - MIN_CONTRAST:
            return red, green, blue


def _shade(colour: Colour, light: float) -> Colour:
    red, green, blue = (min(255, round(level * light)) for level in colour)
    return red, green, blue


def _room(rng: np.random.Generator, size: int, tone: float, floor_y: float) -> Image.Image:
    """Wall and floor in soft, pale noise, with up to two boxes; wider than the frame by MARGIN on every side."""
    margin = round(MARGIN * size)
    side = size + 2 * margin
    tint = rng.uniform(-14, 14, size=3)
    coarse = rng.normal(0, rng.uniform(2, 6), size=(7, 7)).clip(-20, 20) + 128
    clouds = Image.fromarray(coarse.astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    wall = np.asarray(clouds, dtype=np.float64)[..., None] - 128 + tone + tint
    horizon = margin + round(floor_y - size * rng.uniform(0.02, 0.12))
    wall[horizon:] += rng.uniform(12, 30) * rng.choice([-1, 1])
    room = Image.fromarray(wall.clip(0, 255).astype(np.uint8))
    for _ in range(rng.integers(0, 3)):
        centre = rng.uniform(0, side, size=2)
        _paint_box(room, rng, tone, centre, rng.uniform(0.05, 0.16, size=2) * size)
    return room


def _paint_seat(
    room: Image.Image, rng: np.random.Generator, size: int, tone: float, pelvis_x: float, floor_y: float
) -> None:
    """A box of seat height behind the person, whatever they do: a seat alone must not give sitting away."""
    half = np.array([rng.uniform(0.08, 0.14), rng.uniform(0.08, 0.11)]) * size
    centre = np.array([pelvis_x + rng.uniform(-0.1, 0.1) * size, floor_y - half[1]]) + round(MARGIN * size)
    _paint_box(room, rng, tone, centre, half)


def _paint_box(room: Image.Image, rng: np.random.Generator, tone: float, centre: np.ndarray, half: np.ndarray) -> None:
    level = float(np.clip(tone + rng.uniform(12, 32) * rng.choice([-1, 1]), 0, 255))
    colour = _shade((255, 255, 255), level / 255)
    (left, top), (right, bottom) = (centre - half).tolist(), (centre + half).tolist()
    ImageDraw.Draw(room).rectangle((left, top, right, bottom), fill=colour)


def _thing(rng: np.random.Generator, num_frames: int, size: int, tone: float) -> Capsules:
    """Something small that crosses the scene at a steady pace, a quarter of the time before the person."""
    time = np.linspace(0, 1, num_frames)[:, None]
    origin, target = rng.uniform(0, size, size=(2, 2))
    path = origin + (target - origin) * rng.uniform(0.2, 0.8) * time
    length = rng.uniform(-0.08, 0.08, size=2) * size
    return Capsules(
        start=path[:, None],
        end=(path + length)[:, None],
        radius=np.full((1, 2), rng.uniform(0.015, 0.035) * size),
        depth=np.full((num_frames, 1), -9.0 if rng.random() < 0.25 else 9.0),
        colour=np.array([_contrasting(rng, tone)]),
    )


def _camera_path(rng: np.random.Generator, num_frames: int, size: int) -> np.ndarray:
    """A slow pan with a little shake, (F, 2) pixels, never outside MARGIN."""
    pan = np.linspace(-0.5, 0.5, num_frames)[:, None] * rng.uniform(-0.04, 0.04, size=2) * size
    shake = rng.normal(0, rng.uniform(0, 0.003) * size, size=(num_frames, 2))
    return np.clip(pan + shake, -MARGIN * size, MARGIN * size)
