"""Which frames of a video make a clip: frame ids from counts alone, no files and no state.

In: the number of frames, the clip length, how to sample. Out: int64 arrays of ids in [0, num_frames), (T,) for a clip
or (S, T) for the windows of a video. `rng` given means random (training), None means the centre. The arithmetic is
TAO ActionRecognitionNet's, float64 with truncation, so that a model sees the same frames in both.
"""

from collections.abc import Mapping

import numpy as np

Ids = np.ndarray


def consecutive_ids(num_frames: int, clip_len: int, rate: int = 1, rng: np.random.Generator | None = None) -> Ids:
    """Ids of `clip_len` frames, `rate` apart: from a random start with `rng`, else from the middle.

    A video shorter than clip_len * rate is looped. Returns (T,). ValueError if an argument is < 1.
    """
    _require_positive(num_frames=num_frames, clip_len=clip_len, rate=rate)
    num_starts = num_frames - clip_len * rate + 1
    if num_starts <= 0:
        start = 0
    elif rng is None:
        start = int(num_starts / 2)
    else:
        start = int(rng.integers(num_starts))
    return (start + rate * np.arange(clip_len)) % num_frames


def interval_ids(num_frames: int, clip_len: int, rng: np.random.Generator | None = None) -> Ids:
    """Ids of `clip_len` frames spread over the whole video: one a part, a random one with `rng`, else the middle one.

    With `rng` the parts are num_frames // clip_len long and a rest at the end is never drawn; a shorter video gives
    sorted random ids with repetition. Returns (T,). ValueError if an argument is < 1.
    """
    _require_positive(num_frames=num_frames, clip_len=clip_len)
    part = num_frames // clip_len
    if rng is None:
        return _middles(num_frames / clip_len, clip_len)
    if part == 0:
        return np.sort(rng.integers(num_frames, size=clip_len))
    return part * np.arange(clip_len) + rng.integers(part, size=clip_len)


def segment_ids(num_frames: int, clip_len: int, rate: int, num_segments: int) -> Ids:
    """Ids of `num_segments` consecutive clips whose starts are spread evenly: (S, T).

    A video shorter than clip_len * rate gives one looped clip, S = 1. ValueError if an argument is < 1.
    """
    _require_positive(num_frames=num_frames, clip_len=clip_len, rate=rate, num_segments=num_segments)
    num_starts = num_frames - clip_len * rate + 1
    starts = _middles(num_starts / num_segments, num_segments) if num_starts > 0 else np.zeros(1, dtype=np.int64)
    return (starts[:, None] + rate * np.arange(clip_len)) % num_frames


def block_ids(num_frames: int, clip_len: int, rate: int = 1) -> Ids:
    """Every frame once, in clips: blocks of clip_len * rate frames, each split into its `rate` phases: (S, T).

    A rest shorter than a block is dropped; a video shorter than one block is looped to one clip.
    """
    _require_positive(num_frames=num_frames, clip_len=clip_len, rate=rate)
    span = clip_len * rate
    if num_frames < span:
        return (rate * np.arange(clip_len) % num_frames)[None]
    starts = np.arange(num_frames // span)[:, None] * span + np.arange(rate)
    return starts.reshape(-1, 1) + rate * np.arange(clip_len)


def comb_ids(num_frames: int, clip_len: int) -> Ids:
    """The num_frames // clip_len clips that each take every (num_frames // clip_len)-th frame: (S, T).

    A video shorter than clip_len gives one clip that holds its last frame.
    """
    _require_positive(num_frames=num_frames, clip_len=clip_len)
    step = num_frames // clip_len
    if step == 0:
        return np.minimum(np.arange(clip_len), num_frames - 1)[None]
    return np.arange(step)[:, None] + step * np.arange(clip_len)


def training_ids(
    num_frames: int, lengths: Mapping[str, int], strategy: str, rate: int, rng: np.random.Generator
) -> dict[str, Ids]:
    """One random clip for each modality: {modality: (T,)}, the shorter stream taken from the longer one's ids."""
    longest = max(lengths.values())
    if strategy == "consecutive":
        ids = consecutive_ids(num_frames, longest, rate, rng)
        return {m: ids[consecutive_ids(longest, length)] for m, length in lengths.items()}
    ids = interval_ids(num_frames, longest, rng)
    return {m: ids if length == longest else ids[_random_parts(longest, length, rng)] for m, length in lengths.items()}


def window_ids(
    num_frames: int,
    lengths: Mapping[str, int],
    *,
    strategy: str,
    rate: int = 1,
    mode: str = "center",
    num_segments: int = 10,
    whole_clip: bool = False,
) -> dict[str, Ids]:
    """The windows of a video that are evaluated: {modality: (S, T)}.

    `lengths` are the clip lengths by modality. `mode` center: the middle clip; conv: `num_segments` clips; all: every
    frame, as one clip of all frames where the model takes any length (`whole_clip`, 3D), else in clips. Two modalities
    share their times: the shorter one picks from the longer one's ids (its centre in center, evenly spread in conv
    and all).
    """
    longest = max(lengths.values())
    windows = _windows(num_frames, longest, strategy, rate, mode, num_segments, whole_clip)
    centred = mode == "center" and strategy == "consecutive"
    positions = consecutive_ids if centred else interval_ids
    return {
        m: windows if length == longest else windows[:, positions(windows.shape[1], length)]
        for m, length in lengths.items()
    }


def _windows(
    num_frames: int, clip_len: int, strategy: str, rate: int, mode: str, num_segments: int, whole_clip: bool
) -> Ids:
    consecutive = strategy == "consecutive"
    if mode == "conv":
        return segment_ids(num_frames, clip_len, rate, num_segments) if consecutive else comb_ids(num_frames, clip_len)
    if mode == "all" and whole_clip and consecutive:
        return np.arange(num_frames)[None]
    if mode == "all" and not whole_clip:
        return block_ids(num_frames, clip_len, rate) if consecutive else comb_ids(num_frames, clip_len)
    clip = consecutive_ids(num_frames, clip_len, rate) if consecutive else interval_ids(num_frames, clip_len)
    return clip[None]


def _middles(part: float, count: int) -> Ids:
    """The middles of `count` parts of float length `part`, truncated: int(part / 2 + part * i)."""
    return (part / 2 + part * np.arange(count)).astype(np.int64)


def _random_parts(length: int, num: int, rng: np.random.Generator) -> Ids:
    """One random position in each of `num` parts of length // num; the last part reaches to the end."""
    starts = length // num * np.arange(num)
    return rng.integers(starts, np.append(starts[1:], length))


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
