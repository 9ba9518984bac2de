"""Names, links, folders and lists of every kind: found and read right, or refused by name."""

import csv
import io
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mutate import Hung, damaged, damaged_lines, no_longer_than
from PIL import Image

from action_recognition.clip.transform import Box
from action_recognition.data.frames import open_frames
from action_recognition.data.index import Index, index_classes
from action_recognition.data.lists import read_list
from action_recognition.errors import DataError
from action_recognition.tasks.scoring import write_csv, write_json_lines

SIZE = (8, 6)


def write_image(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE, colour).save(path, "PNG")


def whole(size: tuple[int, int]) -> Box:
    return (0, 0, *size)


def colours(index: Index) -> dict[str, tuple[int, ...]]:
    """{path: colour of the last frame} of all videos."""
    found = {}
    for video in index.videos:
        frames = open_frames(video)
        last = frames.read("rgb", np.array([frames.num_frames - 1]), whole, SIZE)
        assert (last == last[0, 0, 0]).all()
        found[video.path] = tuple(last[0, 0, 0].tolist())
    return found


def indexed(root: Path) -> Index:
    classes = sorted(name for name in os.listdir(root) if (root / name).is_dir() and not name.startswith("."))
    return index_classes(root, classes, ("rgb",), "error")


# --- names ---

PARTS = [b" ", b"  ", b"'", b'"', b"\n", b"\r\n", b"\t", b"\\", b"\xff", b"\xe9", b"\xc3", b"\xed\xa0\x80", b"%s", b"%",
         b"*", b"?", b"[a]", b"{0}", b"$HOME", b"`id`", b";", b"|", b"&", b"<b>", b",", b"=1+1", b"-rf", b"@", b"#",
         b"~", b"a", b"\xc3\xa9", b"e\xcc\x81", b"\xe2\x80\xae", b"\xf0\x9f\x98\x80", b"\x1b[31m", b"\x7f", b"10",
         b"007", b"x" * 50]  # fmt: skip


def odd_name(rng: random.Random) -> str:
    """A name as a disk may hold it: any bytes but / and NUL. Hidden ones are left out: they are no data."""
    name = b"".join(rng.choice(PARTS) for _ in range(rng.randint(1, 4)))
    return os.fsdecode(name if not name.startswith(b".") else b"_" + name)


def test_odd_names_of_classes_videos_and_frames_are_read_and_written_whole(tmp_path: Path, amount, ledger) -> None:
    made, lost = amount(40, 1000), 0
    for seed in range(made):
        rng, root = random.Random(f"name {seed}"), tmp_path / str(seed)
        expected = {}
        for video_id in range(2):
            video = root / odd_name(rng) / odd_name(rng)
            expected[str(video)] = (seed % 256, video_id, 7)
            write_image(video / "rgb" / f"{odd_name(rng)}.png", expected[str(video)])
        index = indexed(root)
        try:
            found = colours(index)
        except (Exception, Hung) as error:
            found = {repr(error): ()}
        names = [*index.class_names, *(video.path for video in index.videos)]
        write_csv(root / "x.csv", [names])
        write_json_lines(root / "x.jsonl", [{"path": name} for name in names])
        (cells,) = csv.reader(io.StringIO((root / "x.csv").read_bytes().decode()))
        lines = [json.loads(line)["path"] for line in (root / "x.jsonl").read_text().split("\n")[:-1]]
        if found != expected or len(cells) != len(names) or lines != names:
            lost += 1
            print(f"seed name {seed}: {expected} became {found}, {cells}")
    ledger.close("odd names of classes, videos and frames", 6 * made, lost, "names are written without escapes")


# --- links that lead in a circle or nowhere ---


def circle(place: Path, rng: random.Random) -> None:
    """In place of a file or folder: a link to itself, to its parent, to another that leads back, or to nothing."""
    place.parent.mkdir(parents=True, exist_ok=True)
    other = place.with_name(f"{place.name}_other")
    target = rng.choice([place, place.parent, other, place.with_name("nowhere"), Path("..") / place.parent.name])
    place.symlink_to(target)
    if target == other:
        other.symlink_to(place)


def test_links_in_a_circle_are_refused_by_name_or_passed_by(tmp_path: Path, amount, ledger) -> None:
    made, lost = amount(24, 400), 0
    for seed in range(made):
        rng, root = random.Random(f"link {seed}"), tmp_path / str(seed)
        colour = (1, 2, 3)
        write_image(root / "a/v/rgb/0.png", colour)
        place = root / rng.choice(["b", "a/w", "a/v/rgb/1.png", "a/w/rgb", "a/w.avi"])
        circle(place, rng)
        try:
            with no_longer_than(20):
                found = colours(index_classes(root, ["a", "b"], ("rgb",), "error"))
            # a link to the parent makes a folder of one more name, with the same videos in it
            fault = "" if found and set(found.values()) == {colour} else f"gave {found}"
        except DataError as error:
            fault = "" if str(place.parent) in str(error) else str(error)
        except (Exception, Hung) as error:
            fault = repr(error)
        if fault:
            lost += 1
            print(f"seed link {seed}: {place} -> {os.readlink(place)}: {fault}")
    ledger.close("links that lead in a circle or nowhere", made, lost, "OSError of a listing is not caught")


def test_link_in_a_circle_beside_listed_videos_does_not_hide_them(tmp_path: Path) -> None:
    write_image(tmp_path / "a/v/rgb/0.png", (1, 2, 3))
    (tmp_path / "a/loop").symlink_to(tmp_path / "a/loop")
    (tmp_path / "list.txt").write_text("a/v 0\n")
    assert [entry.path for entry in read_list(tmp_path / "list.txt").entries] == [str(tmp_path / "a/v")]


# --- folders of many files ---


def test_folder_of_a_hundred_thousand_files_is_indexed_and_read_to_its_last(tmp_path: Path, amount, ledger) -> None:
    made = amount(2000, 100_000)
    folder = tmp_path / "a/v/rgb"
    write_image(folder / "000000.png", (0, 0, 0))
    content = (folder / "000000.png").read_bytes()
    for i in range(1, made - 1):
        (folder / f"{i:06d}.png").write_bytes(content)
    write_image(folder / f"{made - 1:06d}.png", (9, 8, 7))
    start = time.process_time()
    index = indexed(tmp_path)
    took = time.process_time() - start
    (video,) = index.videos
    is_lost = video.files["rgb"].count != made or colours(index) != {video.path: (9, 8, 7)} or video.files["rgb"].names
    print(f"{made} files in {took:.2f} s of CPU time")
    ledger.close("files in one folder", made, int(bool(is_lost) or took > 10), "FrameFiles.of leaves the last one out")


# --- lists ---

ODD_FIELDS = ["../x", "/etc/passwd", "a/../../b", "a//v", "./a/v", "a/./v", "..", ".", "/", "~", "~/x", "\0",
              "9" * 5000, "-1", "-", "1e9", "nan", "inf", "999999999999", "None", '"', "'", ",", "\t", " ", "\ufeff",
              "\ud800", "\udcff",
              "\u2028", "{}", "[]", "null", '{"a": 1}', "é", "x" * 5000, "file:///etc/passwd", "http://x/y",
              "a/v\\n"]  # fmt: skip


def list_seeds() -> dict[str, str]:
    """Each form of list, of the videos a/v0 ... b/v3."""
    videos = [("a", "v0"), ("a", "v1"), ("b", "v2"), ("b", "v3")]
    database = {name: {"subset": "training", "annotations": {"label": label}} for label, name in videos}
    return {
        "spaces.txt": "".join(f"{c}/{v} {'ab'.index(c)}\n" for c, v in videos),
        "frames.txt": "".join(f"{c}/{v} 1 {'ab'.index(c)}\n" for c, v in videos),
        "commas.csv": "".join(f'"{c}/{v}",{c}\n' for c, v in videos),
        "header.csv": "path,label,split\n" + "".join(f"{c}/{v},{c},train\n" for c, v in videos),
        "kinetics.csv": "label,youtube_id,time_start,time_end,split\n"
        + "".join(f"{c},{v},1,2,train\n" for c, v in videos),
        "tabs.txt": "".join(f"{c}/{v}\t{c}\n" for c, v in videos),
        "database.json": json.dumps({"labels": ["a", "b"], "database": database}, indent=1),
    }


def check_list(path: Path, root: Path) -> str:
    """What is wrong with how a list is read, or an empty text."""
    try:
        with no_longer_than(20):
            found = read_list(path, root)
    except DataError as error:
        return "" if str(error).startswith(str(path)) and len(str(error)) < 5000 else f"said {str(error)[:500]!r}"
    except (Exception, Hung) as error:
        return repr(error)
    paths = [os.path.normpath(entry.path) for entry in found.entries]
    strangers = [path for path in paths if not path.startswith(f"{root}{os.sep}") or not os.path.exists(path)]
    return f"gave {strangers[:3]}" if strangers else ""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of two videos, and what lies outside and should stay there."""
    for name in ("a/v0", "a/v1", "b/v2", "b/v3", "a/v0_000001_000002"):
        write_image(tmp_path / "data" / name / "rgb/0.png", (1, 2, 3))
    write_image(tmp_path / "outside/v/rgb/0.png", (6, 6, 6))
    return tmp_path / "data"


def test_mutated_lists_name_videos_below_the_root_or_are_refused(root: Path, amount, ledger) -> None:
    made, lost = amount(210, 5000), 0
    seeds = list_seeds()
    for seed in range(made):
        rng = random.Random(f"list {seed}")
        name = rng.choice([*seeds])
        text = seeds[name]
        if rng.random() < 0.5:
            content = damaged(text.encode(), rng)
        else:
            content = _odd_fields(text, rng).encode("utf-8", "surrogatepass")
        path = root / name
        path.write_bytes(content)
        if fault := check_list(path, root):
            lost += 1
            print(f"seed list {seed}: {name}: {fault}\n{content[:3000]!r}")
        path.unlink()
    ledger.close("mutated lists of seven forms", made, lost, "infinite times are not caught")


def _odd_fields(text: str, rng: random.Random) -> str:
    """A field is exchanged, in CSV, JSON and the rest; then lines are moved about."""
    for _ in range(rng.randint(1, 2)):
        field = rng.choice(["a/v0", "v1", "b", "0", "1", "train", "training", "label", "path", "2"])
        odd = rng.choice(ODD_FIELDS)
        text = text.replace(field, json.dumps(odd)[1:-1] if text.startswith("{") else odd, rng.choice([1, -1]))
    return damaged_lines(text, rng, ODD_FIELDS) if rng.random() < 0.3 else text


def way_out(rng: random.Random, root: Path) -> str:
    """A path to the video outside, however it is written."""
    outside = root.parent / "outside/v"
    climb = "/".join(rng.choice(["..", "./..", "a/../..", "b/./../.."]) for _ in range(rng.randint(1, 3)))
    return rng.choice([f"{climb}/outside/v", str(outside), f"{root}/../outside/v", f"//{outside}",
                       f"{root}//..//outside/v",
                       f"a/../{climb}/outside/v", f"{root.parent}/./outside/v",
                       f"{climb}/{root.name}/../outside/v"])  # fmt: skip


def test_paths_that_lead_out_of_a_lists_root_are_refused(root: Path, amount, ledger) -> None:
    made, lost = amount(50, 1000), 0
    for seed in range(made):
        rng = random.Random(f"out {seed}")
        path, text = rng.choice(
            [
                (root / "x.txt", f"a/v0 0\n{way_out(rng, root)} 1\n"),
                (root / "x.csv", f"path,label\n{way_out(rng, root)},b\n"),
                (root / "x.json", json.dumps({"labels": ["b"], "database": {way_out(rng, root): {
                    "subset": "x", "annotations": {"label": rng.choice(["b", "../outside", "../.."])}}}})),
            ]
        )  # fmt: skip
        path.write_text(text)
        try:
            entries = read_list(path, root).entries
            fault = f"gave {[e.path for e in entries]}" if len(entries) > 1 or "outside" in entries[0].path else ""
        except DataError:
            fault = ""
        if fault:
            lost += 1
            print(f"seed out {seed}: {text!r} {fault}")
    ledger.close("lists with paths out of their root", made, lost, "_inside takes any path")


@pytest.mark.parametrize("make", [lambda path: os.mkfifo(path), lambda path: path.symlink_to("/dev/zero")])
@pytest.mark.parametrize("name", ["list.txt", "list.csv", "list.json"])
def test_list_without_an_end_is_refused_at_once(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    make(tmp_path / name)
    with no_longer_than(5), pytest.raises(DataError, match=r"can't be read \(it is no file\)"):
        read_list(tmp_path / name)
