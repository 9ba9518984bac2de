"""How a person moves: from an action's name to the joints of a body in metres, frame by frame.

Body frame: x forward, y to the left, z up, floor at 0. Nothing here knows of cameras or pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np

JOINTS = (
    *("pelvis", "chest", "neck", "head", "hair"),
    *("hip_l", "hip_r", "knee_l", "knee_r", "ankle_l", "ankle_r", "toe_l", "toe_r"),
    *("shoulder_l", "shoulder_r", "elbow_l", "elbow_r", "wrist_l", "wrist_r"),
)
FIRST_ARM = JOINTS.index("shoulder_l")
ANKLE_HEIGHT_M = 0.07
LYING_HEIGHT_M = 0.1  # the lowest joint of a body on the floor: half its thickness


@dataclass(frozen=True)
class Body:
    """Lengths in metres; girth is a factor on every thickness."""

    torso: float = 0.52
    head: float = 0.27
    thigh: float = 0.44
    shank: float = 0.43
    foot: float = 0.17
    upper_arm: float = 0.30
    forearm: float = 0.27
    hip_half: float = 0.09
    shoulder_half: float = 0.17
    girth: float = 1.0

    @property
    def height(self) -> float:
        """Standing height in metres."""
        return ANKLE_HEIGHT_M + self.shank + self.thigh + self.torso + self.head


def random_body(rng: np.random.Generator) -> Body:
    """A person's proportions: every length +-8 %, girth 0.8..1.3."""
    lengths = {f.name: getattr(Body, f.name) * rng.uniform(0.92, 1.08) for f in fields(Body)}
    return Body(**(lengths | {"girth": rng.uniform(0.8, 1.3)}))


@dataclass(frozen=True)
class Pose:
    """Angles in degrees over F frames. Limbs are (F, 2), left then right; forward is positive.

    torso leans from upright, thigh and arm swing from straight down, knee and elbow bend. The whole body then tilts
    about its ankles towards `tilt_heading` (0 forward, 90 left), and stands `travel_m` ahead of its start.
    """

    torso: np.ndarray
    thigh: np.ndarray
    knee: np.ndarray
    arm: np.ndarray
    elbow: np.ndarray
    tilt: np.ndarray
    travel_m: np.ndarray
    tilt_heading: float = 0.0

    def reversed(self) -> "Pose":
        """The same motion, last frame first."""
        arrays = {f.name: getattr(self, f.name)[::-1] for f in fields(self) if f.name != "tilt_heading"}
        return replace(self, **arrays)


def standing(rng: np.random.Generator, num_frames: int) -> Pose:
    """A relaxed stance that does not move; the actions below change what they need."""

    def limbs(low: float, high: float) -> np.ndarray:
        return np.tile(rng.uniform(low, high, size=2), (num_frames, 1))

    zero = np.zeros(num_frames)
    return Pose(zero + rng.uniform(-3, 5), limbs(-3, 3), limbs(0, 6), limbs(-12, 12), limbs(5, 25), zero, zero)


def walk(rng: np.random.Generator, num_frames: int) -> Pose:
    """1.6-3.2 strides with opposite arms; a quarter of the people walk in place, as if followed."""
    time = np.linspace(0, 1, num_frames)
    swing, flex, arm_swing = rng.uniform(20, 34), rng.uniform(30, 55), rng.uniform(0.5, 1.1)
    phase = 2 * np.pi * (rng.uniform(1.6, 3.2) * time + rng.random())
    legs = phase[:, None] + np.array([0, np.pi])
    thigh = swing * np.sin(legs)
    return replace(
        standing(rng, num_frames),
        torso=np.full(num_frames, rng.uniform(0, 8)),
        thigh=thigh,
        knee=6 + flex * np.maximum(0, np.cos(legs)),
        arm=-arm_swing * thigh,
        elbow=np.full((num_frames, 2), rng.uniform(8, 35)),
        travel_m=0 * time if rng.random() < 0.25 else rng.uniform(0.5, 1.3) * time,
    )


def sit(rng: np.random.Generator, num_frames: int) -> Pose:
    """Down on a seat at about knee height, leaning forward on the way, and stays there."""
    still = standing(rng, num_frames)
    down = _ease(rng, num_frames, start=(0.1, 0.35), duration=(0.3, 0.5))
    hip = rng.uniform(78, 96)
    seated_arm = rng.uniform(10, 45)
    return replace(
        still,
        torso=still.torso + rng.uniform(20, 45) * np.sin(np.pi * down) + rng.uniform(-6, 6) * down,
        thigh=_blend(still.thigh, hip, down),
        knee=_blend(still.knee, hip + rng.uniform(-8, 4), down),
        arm=_blend(still.arm, seated_arm, down),
        elbow=_blend(still.elbow, rng.uniform(20, 60), down),
    )


def squat(rng: np.random.Generator, num_frames: int) -> Pose:
    """Deep and up again, three in ten twice; six in ten stretch their arms forward."""
    still = standing(rng, num_frames)
    down = _bumps(rng, num_frames, count=1 + int(rng.random() < 0.3))
    hip = rng.uniform(85, 118)
    return replace(
        still,
        torso=still.torso + rng.uniform(15, 40) * down,
        thigh=_blend(still.thigh, hip, down),
        knee=_blend(still.knee, hip + rng.uniform(10, 30), down),
        arm=_blend(still.arm, rng.uniform(70, 95) if rng.random() < 0.6 else rng.uniform(0, 30), down),
        elbow=_blend(still.elbow, rng.uniform(0, 15), down),
    )


def bend(rng: np.random.Generator, num_frames: int) -> Pose:
    """The trunk folds over nearly straight legs, arms hanging, and rises again."""
    still = standing(rng, num_frames)
    down = _bumps(rng, num_frames, count=1)
    return replace(
        still,
        torso=_blend(still.torso, rng.uniform(72, 105), down),
        thigh=_blend(still.thigh, -rng.uniform(4, 14), down),
        knee=_blend(still.knee, rng.uniform(0, 15), down),
        arm=_blend(still.arm, rng.uniform(-5, 20), down),
    )


def fall(rng: np.random.Generator, num_frames: int) -> Pose:
    """The whole body topples about the ankles, faster and faster, in any of four directions, and stays down."""
    still = standing(rng, num_frames)
    linear = _ramp(rng, num_frames, start=(0.1, 0.4), duration=(0.22, 0.42))
    down = linear**2
    return replace(
        still,
        knee=still.knee + rng.uniform(0, 25) * np.sin(np.pi * down)[:, None],
        arm=_blend(still.arm, rng.uniform(-20, 110), down),
        tilt=rng.uniform(82, 92) * down,
        tilt_heading=90.0 * int(rng.integers(4)) + rng.uniform(-25, 25),
    )


def stand(rng: np.random.Generator, num_frames: int) -> Pose:
    """`sit` backwards: one frame of it can't be told from sitting down."""
    return sit(rng, num_frames).reversed()


def getup(rng: np.random.Generator, num_frames: int) -> Pose:
    """`fall` backwards."""
    return fall(rng, num_frames).reversed()


ACTIONS: dict[str, Callable[[np.random.Generator, int], Pose]] = {
    action.__name__: action for action in (walk, sit, squat, fall, bend, stand, getup)
}


def joint_positions(body: Body, pose: Pose) -> np.ndarray:
    """(F, len(JOINTS), 3) metres: forward kinematics, the lower ankle on the floor and the ankles' middle above 0."""
    parts = _upper_body(body, pose)
    for side, name in enumerate("lr"):
        parts |= _leg(body, pose, side, name) | _arm(body, pose, side, name, parts["chest"])
    positions = np.stack([parts[name] for name in JOINTS], axis=1)
    ankles = positions[:, [JOINTS.index("ankle_l"), JOINTS.index("ankle_r")]]
    positions[..., 0] -= ankles[..., 0].mean(axis=1)[:, None]
    positions[..., 2] += (ANKLE_HEIGHT_M - ankles[..., 2].min(axis=1))[:, None]
    positions = _tilted(positions, pose.tilt, pose.tilt_heading)
    positions[..., 0] += pose.travel_m[:, None]
    return positions


def _upper_body(body: Body, pose: Pose) -> dict[str, np.ndarray]:
    up = -_hanging(pose.torso)
    chest = 0.8 * body.torso * up
    # the head gives way to the lean: people look ahead rather than at their knees
    head_up = -_hanging(0.7 * pose.torso)
    head_forward = _hanging(90 - 0.7 * pose.torso)
    neck = body.torso * up
    head = neck + 0.6 * body.head * head_up
    hair = head + body.head * (0.13 * head_up - 0.13 * head_forward)
    return {"pelvis": 0 * up, "chest": chest, "neck": neck, "head": head, "hair": hair}


def _leg(body: Body, pose: Pose, side: int, name: str) -> dict[str, np.ndarray]:
    shank_angle = pose.thigh[:, side] - pose.knee[:, side]
    hip = np.tile([0, _outward(side) * body.hip_half, 0], (len(shank_angle), 1))
    knee = hip + body.thigh * _hanging(pose.thigh[:, side])
    ankle = knee + body.shank * _hanging(shank_angle)
    toe = ankle + body.foot * _hanging(82 + 0.5 * np.minimum(shank_angle, 0))
    return {f"hip_{name}": hip, f"knee_{name}": knee, f"ankle_{name}": ankle, f"toe_{name}": toe}


def _arm(body: Body, pose: Pose, side: int, name: str, chest: np.ndarray) -> dict[str, np.ndarray]:
    sideways = np.array([0, _outward(side), 0])
    shoulder = chest + sideways * body.shoulder_half
    elbow = shoulder + body.upper_arm * (_hanging(pose.arm[:, side]) + 0.15 * sideways)
    wrist = elbow + body.forearm * _hanging(pose.arm[:, side] + pose.elbow[:, side])
    return {f"shoulder_{name}": shoulder, f"elbow_{name}": elbow, f"wrist_{name}": wrist}


def _tilted(positions: np.ndarray, tilt: np.ndarray, heading: float) -> np.ndarray:
    """Turns (F, J, 3) by `tilt` degrees (F,) about the floor below the ankles, towards `heading` degrees."""
    angle, towards = np.radians(tilt)[:, None], np.radians(heading)
    direction = np.array([np.cos(towards), np.sin(towards), 0])
    along, height = positions @ direction, positions[..., 2]
    new_along = along * np.cos(angle) + height * np.sin(angle)
    turned = positions + (new_along - along)[..., None] * direction
    turned[..., 2] = height * np.cos(angle) - along * np.sin(angle)
    # what would sink into the floor: the body is lifted as it comes down, the arms are bent aside
    floor_m = ANKLE_HEIGHT_M + (LYING_HEIGHT_M - ANKLE_HEIGHT_M) * np.sin(np.abs(angle))
    lowest = turned[:, :FIRST_ARM, 2].min(axis=1, keepdims=True)
    turned[..., 2] += np.maximum(0, floor_m - lowest) * (np.abs(angle) > 0)
    turned[:, FIRST_ARM:, 2] = np.maximum(turned[:, FIRST_ARM:, 2], LYING_HEIGHT_M)
    return turned


def _hanging(degrees: np.ndarray) -> np.ndarray:
    """(F,) angles from straight down, forward positive -> unit vectors (F, 3)."""
    angle = np.radians(degrees)
    return np.stack([np.sin(angle), np.zeros_like(angle), -np.cos(angle)], axis=-1)


def _outward(side: int) -> int:
    return 1 if side == 0 else -1


def _blend(still: np.ndarray, goal: float, amount: np.ndarray) -> np.ndarray:
    weight = amount.reshape(-1, *[1] * (still.ndim - 1))
    return still + (goal - still) * weight


def _ramp(
    rng: np.random.Generator, num_frames: int, start: tuple[float, float], duration: tuple[float, float]
) -> np.ndarray:
    """0, then a straight line, then 1 (F,); start and duration are ranges, as fractions of the video."""
    time = np.linspace(0, 1, num_frames)
    return np.clip((time - rng.uniform(*start)) / rng.uniform(*duration), 0, 1)


def _ease(
    rng: np.random.Generator, num_frames: int, start: tuple[float, float], duration: tuple[float, float]
) -> np.ndarray:
    linear = _ramp(rng, num_frames, start, duration)
    return linear * linear * (3 - 2 * linear)


def _bumps(rng: np.random.Generator, num_frames: int, count: int) -> np.ndarray:
    """0 -> 1 -> 0 `count` times (F,), each flattened at the top, over before the last 12 % of the video."""
    time = np.linspace(0, 1, num_frames)
    length = rng.uniform(0.55, 0.8)
    start = rng.uniform(0, 0.88 - length)
    progress = np.clip((time - start) / length, 0, 1)
    return np.minimum(1, 1.15 * np.sin(np.pi * count * progress) ** 2)
