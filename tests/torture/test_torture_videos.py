"""Video files, whatever is in them: read to the end, with what is damaged counted, or refused by name.

Most codecs have no checksums, so that some damage can't be told from a picture: there the decoder's frames are given.
"""

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mutate import damaged, forked, peak_bytes

from action_recognition.clip.image import MAX_PIXELS
from action_recognition.clip.video import Damage, read_video
from action_recognition.errors import DataError

av = pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
CODECS = {"a.avi": "mpeg4", "b.mp4": "mpeg4", "c.mp4": "libx264", "d.avi": "mjpeg", "e.mpg": "mpeg1video",
          "f.webm": "libvpx", "g.mov": "png", "h.mkv": "ffv1"}  # fmt: skip
SIZE = (64, 48)
FORMATS = {"mjpeg": "yuvj420p", "png": "rgb24"}
MAX_BYTES, MAX_SEC = 200 << 20, 20.0


def write_video(path: Path, codec: str, num_frames: int = 12, size: tuple[int, int] = SIZE) -> Path:
    """A bar that moves over a background that grows brighter."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = size
        stream.pix_fmt = FORMATS.get(codec, "yuv420p")
        for i in range(num_frames):
            pixels = np.full((size[1], size[0], 3), 15 * i, np.uint8)
            pixels[:, 5 * i : 5 * i + 4] = 200
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def read_all(paths: list[Path], fps: float | None) -> Iterator[tuple[str, str, float, int]]:
    """(what was read, error, seconds, bytes of memory) for each video; what was read is `Damage` and the frames."""
    for path in paths:
        start, before, damage, frames, error = time.process_time(), peak_bytes(), Damage(), [], ""
        try:
            for frame in read_video(path, damage, fps):
                assert frame.dtype == np.uint8
                assert frame.ndim == 3
                frames.append(frame)
        except DataError as refused:
            error = str(refused)
        yield (frames, damage), error, time.process_time() - start, peak_bytes() - before


def outcome(right: list[np.ndarray], read: tuple[list[np.ndarray], Damage], error: str) -> str:
    frames, damage = read
    if error:
        return "refused"
    if len(frames) == len(right) and all(map(np.array_equal, frames, right)):
        return "right"
    return "counted" if damage.packets_skipped or damage.frames_patched else "other frames"


def test_mutated_videos_are_read_to_the_end_or_refused_by_name(tmp_path: Path, amount, ledger) -> None:
    made, outcomes = amount(40, 300), Counter()
    seeds = {name: write_video(tmp_path / name, codec) for name, codec in CODECS.items()}
    right = {name: list(read_video(path, Damage())) for name, path in seeds.items()}
    assert all(len(frames) == 12 for frames in right.values())
    names = [list(CODECS)[seed % len(CODECS)] for seed in range(made)]
    paths = []
    for seed, name in enumerate(names):
        paths.append(tmp_path / f"{seed}_{name}")
        paths[-1].write_bytes(damaged(seeds[name].read_bytes(), random.Random(f"video {seed}")))
    told, end = forked(lambda: read_all(paths, None), 4 << 30, 2 * MAX_SEC)
    lost = made - len(told)
    if end:
        print(f"seed video {len(told)}: {end}: {paths[len(told)].read_bytes()!r}")
    for seed, (read, error, seconds, num_bytes) in enumerate(told):
        outcomes[f"{names[seed]}: {outcome(right[names[seed]], read, error)}"] += 1
        if seconds > MAX_SEC or num_bytes > MAX_BYTES or (error and not error.startswith(f"{paths[seed]}: ")):
            lost += 1
            print(f"seed video {seed}: {error!r}, {seconds:.1f} s, {num_bytes:,} bytes: {paths[seed].read_bytes()!r}")
    print(sorted(outcomes.items()))
    ledger.close("mutated videos of 8 kinds", made, lost, "FFmpeg's errors are not caught")


@pytest.mark.parametrize("name", ["a.avi", "c.mp4", "e.mpg"])
def test_most_damage_that_changes_frames_is_noticed(tmp_path: Path, amount, ledger, name: str) -> None:
    """Some bytes of a frame are changed. Not all can be noticed, see above: three in four must be."""
    made, outcomes = amount(10, 100), Counter()
    content = write_video(tmp_path / name, CODECS[name]).read_bytes()
    right = list(read_video(tmp_path / name, Damage()))
    with av.open(str(tmp_path / name)) as container:
        parts = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.pos is not None]
    parts = parts or [(len(content) // 3, len(content) // 3)]  # frames and what is between them lie mixed
    for seed in range(made):
        rng, path = random.Random(f"byte {seed}"), tmp_path / f"{seed}_{name}"
        changed = bytearray(content)
        start, size = rng.choice(parts)
        for _ in range(4):
            changed[start + rng.randrange(size)] ^= rng.randrange(1, 256)
        path.write_bytes(changed)
        ((read, error, _, _),) = read_all([path], None)
        outcomes[outcome(right, read, error)] += 1
    print(outcomes)
    is_lost = outcomes["other frames"] > made // 4
    ledger.close(f"bytes of frames changed, {CODECS[name]}", made, int(is_lost), "made-up frames are not counted")


def test_videos_of_huge_frames_are_refused_before_they_take_memory(tmp_path: Path, amount, ledger) -> None:
    """Frames as large as they claim: made by the encoder, and out of headers that say otherwise."""
    side = 8300
    assert side * side > MAX_PIXELS
    paths = [tmp_path / "huge.mov"]
    with av.open(str(paths[0]), "w") as container:
        stream = container.add_stream("png", rate=25, options={"compression_level": "1"})
        stream.width, stream.height, stream.pix_fmt = side, side, "gray"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((side, side), np.uint8), format="gray")))
        container.mux(stream.encode(None))
    little = paths[0].read_bytes()
    for claimed in [64, 1, 60_000, 2**15 - 1][: amount(1, 4)]:  # the container says another size than the stream
        paths.append(tmp_path / f"claims_{claimed}.mov")
        paths[-1].write_bytes(little.replace(side.to_bytes(2, "big") * 2, claimed.to_bytes(2, "big") * 2))
        assert paths[-1].read_bytes() != little
    told, end = forked(lambda: read_all(paths, None), 8 << 30, MAX_SEC)
    bad = [f"{error or 'was read'}, {num_bytes:,} bytes" for _, error, _, num_bytes in told
           if not error or num_bytes > MAX_BYTES]  # fmt: skip
    print(end, *bad, sep="\n")
    ledger.close("videos of huge frames", len(paths), len(paths) - len(told) + len(bad), "MAX_PIXELS is lifted")


def write_at(path: Path, times: list[int]) -> Path:
    """A video whose frames stand at these times, in 1/25 s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuvj420p"
        grey = np.full((SIZE[1] * 3 // 2, SIZE[0]), 128, np.uint8)
        for time_then in times:
            for packet in stream.encode(av.VideoFrame.from_ndarray(grey, format="yuvj420p")):
                packet.pts = packet.dts = time_then
                container.mux(packet)
    return path


def test_time_stamps_that_jump_end_in_no_more_frames_than_a_minute_each(tmp_path: Path, amount, ledger) -> None:
    """At a wanted rate frames are repeated: a jump of years must not be filled."""
    paths = []
    for seed in range(amount(10, 200)):
        rng = random.Random(f"times {seed}")
        jumps = [rng.choice([1, 1, 10, 1000, 2000, 10**6]) for _ in range(12)]
        times = [sum(jumps[: i + 1]) for i in range(12)]
        paths.append(write_at(tmp_path / f"{seed}.{rng.choice(['mkv', 'mov'])}", times))
    told, end = forked(lambda: ((len(frames), error) for (frames, _), error, *_ in read_all(paths, 1.0)), 4 << 30, 40)
    bad = [seed for seed, (count, error) in enumerate(told) if count > 12 * 60 or (not count and not error)]
    print(end, bad, told)
    ledger.close("videos whose time stamps jump", len(paths), len(paths) - len(told) + len(bad), "jumps are believed")
