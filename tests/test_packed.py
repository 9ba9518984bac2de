"""Files of packed frames: what is written comes back, and a file that is not whole is never read as if it were."""

import json
from pathlib import Path

import numpy as np
import pytest
from lossless import noise

from action_recognition.data.packed import HEADER_BYTES, PackedHeader, open_packed, read_header, write_packed
from action_recognition.errors import DataError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """5 frames of rgb and 4 of u and v, another size."""
    path = tmp_path / "deep" / "x.frames"
    flow = noise(4, (10, 8), seed=1)
    write_packed(path, {"rgb": noise(5), "u": flow[..., 0], "v": flow[..., 1]}, "a source", "short16")
    return path


def test_packed_frames_come_back_bit_for_bit(path: Path) -> None:
    folders = open_packed(path)
    assert list(folders) == ["rgb", "u", "v"]
    flow = noise(4, (10, 8), seed=1)
    np.testing.assert_array_equal(folders["rgb"], noise(5))
    np.testing.assert_array_equal(folders["u"], flow[..., 0])
    np.testing.assert_array_equal(folders["v"], flow[..., 1])


def test_packed_file_that_has_been_replaced_is_read_anew(path: Path) -> None:
    before = open_packed(path)["rgb"]
    write_packed(path, {"rgb": noise(5, seed=3)}, "another source", "short16")
    np.testing.assert_array_equal(open_packed(path)["rgb"], noise(5, seed=3))
    np.testing.assert_array_equal(before, noise(5))  # as long as somebody holds it


def test_header_of_packed_frames_says_shapes_and_source(path: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {"rgb": (5, 16, 20, 3), "u": (4, 8, 10), "v": (4, 8, 10)}
    assert read_header(path) == PackedHeader(shapes, "a source", "short16")
    assert path.stat().st_size == HEADER_BYTES + 5 * 16 * 20 * 3 + 2 * 4 * 8 * 10


def test_writing_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def frames():  # type: ignore[no-untyped-def]
        yield from noise(3)
        raise DataError("frame 3 is bad")

    with pytest.raises(DataError, match="frame 3 is bad"):
        write_packed(tmp_path / "x.frames", {"rgb": frames()}, "s", "k")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kept", [0, 7, 100, HEADER_BYTES - 1, HEADER_BYTES, -1])
def test_packed_file_that_is_cut_off_is_damaged(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    for read in (read_header, open_packed):
        with pytest.raises(DataError, match=r"x\.frames: is damaged: it (does not begin as|has [\d,]+ bytes in place)"):
            read(path)


def test_packed_file_with_bytes_too_many_is_damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DataError, match=r"is damaged: it has 9,537 bytes in place of 9,536"):
        open_packed(path)


def with_header(path: Path, change: dict[str, object]) -> None:
    """The same file with another JSON."""
    content = path.read_bytes()
    plain = {"shapes": {"rgb": [5, 16, 20, 3]}, "source": "s", "kept": "k", **change}
    text = json.dumps(plain).encode()
    start = content[:12] + len(text).to_bytes(4, "little") + text
    path.write_bytes(start.ljust(HEADER_BYTES, b"\0") + content[HEADER_BYTES:])


@pytest.mark.parametrize(
    "shapes", [{"rgb": [5, 16, -20, 3]}, {"rgb": [5, 16]}, {"rgb": "5163"}, {"rgb": [5.0, 16, 20, 3]}, {"rgb": 5}, [1]]
)
def test_packed_file_with_impossible_shapes_is_damaged(path: Path, shapes: object) -> None:
    with_header(path, {"shapes": shapes})
    with pytest.raises(DataError, match=r"is damaged: its header can't be read \("):
        read_header(path)


def test_packed_file_whose_header_is_no_json_is_damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[16] = ord("x")
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"is damaged: its header can't be read \("):
        open_packed(path)


def test_packed_file_of_another_format_has_no_header_for_us_and_is_not_opened(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[8] = 2
    path.write_bytes(content)
    assert read_header(path) is None
    with pytest.raises(DataError, match=r"x\.frames: packed frames of another format than 1; remove the file"):
        open_packed(path)


def test_packed_file_that_is_missing_says_so(tmp_path: Path) -> None:
    for read in (read_header, open_packed):
        with pytest.raises(DataError, match=r"no\.frames: can't be read \(No such file or directory\)"):
            read(tmp_path / "no.frames")
