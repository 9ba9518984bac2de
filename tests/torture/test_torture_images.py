"""Image files, whatever is in them: the right pixels, or an error that names the file, out of both readers alike."""

import io
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mutate import Hung, damaged, forked, no_longer_than, peak_bytes
from PIL import Image

from action_recognition.clip.image import MAX_PIXELS, read_image
from action_recognition.data.quick import open_quickly
from action_recognition.errors import DataError

Seen = np.ndarray | str  # pixels, or the error's text
CHECKED = ("PNG", "PNG grey", "PNG palette", "PNG alpha", "PNG 1 bit")  # kinds whose every byte a checksum covers
UNCHECKED = ("JPEG", "JPEG grey", "JPEG CMYK", "JPEG progressive", "GIF", "BMP", "WEBP")
MODES = {"grey": "L", "palette": "P", "alpha": "RGBA", "1 bit": "1", "CMYK": "CMYK"}


def picture(rng: random.Random, size: tuple[int, int] = (40, 30)) -> Image.Image:
    small = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str) -> bytes:
    """The image as a file of that kind: a format, and what is special about it."""
    name, _, special = kind.partition(" ")
    content = io.BytesIO()
    options = {"PNG": {}, "JPEG": {"quality": 90, "progressive": special == "progressive"}}.get(name, {})
    image.convert(MODES.get(special, "RGB")).save(content, name, **options)
    return content.getvalue()


def by_both(path: Path, mode: str) -> Iterator[Seen]:
    """What the reader of evaluation and deployment makes of a file, and what that of training."""
    for reader in (read_image, lambda *of: open_quickly(*of).as_pillow()):
        try:
            yield np.asarray(reader(str(path), mode))
        except DataError as error:
            yield str(error)


def same(one: Seen, other: Seen) -> bool:
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else isinstance(other, str)


def fault_of(path: Path, mode: str, right: np.ndarray | None) -> str:
    """What is wrong with how a file is read; `right` are its pixels where every change of them must be noticed."""
    try:
        with no_longer_than(20):
            first, second = by_both(path, mode)
    except (Exception, Hung) as error:
        return repr(error)
    if right is None and isinstance(first, str) and isinstance(second, np.ndarray):
        return ""  # a damaged JPEG that Pillow gives up and OpenCV does not; nothing in the file says which is right
    if not same(first, second):
        return "the two readers differ"
    if isinstance(first, str):
        return "" if all(text.startswith(f"{path}: ") for text in (first, second)) else f"{first!r} and {second!r}"
    return "other pixels than before" if right is not None and not np.array_equal(first, right) else ""


@pytest.mark.parametrize("kinds", [CHECKED, UNCHECKED], ids=["checksums", "no checksums"])
def test_mutated_images_are_right_or_refused_by_name(tmp_path: Path, amount, ledger, kinds: tuple[str, ...]) -> None:
    made, lost, refused = amount(150, 2000), 0, 0
    for seed in range(made):
        rng = random.Random(f"image {seed}")
        kind, mode = kinds[seed % len(kinds)], rng.choice(["RGB", "L"])
        content = encoded(picture(rng), kind)
        right = np.asarray(Image.open(io.BytesIO(content)).convert(mode)) if kind in CHECKED else None
        path = tmp_path / f"{seed}.{rng.choice(['png', 'jpg'])}"
        path.write_bytes(damaged(content, rng))
        if fault := fault_of(path, mode, right):
            lost += 1
            print(f"seed image {seed}: {kind} as {mode}: {fault}\n{path.read_bytes()!r}")
        refused += isinstance(next(iter(by_both(path, mode))), str)
    print(f"{refused} of {made} were refused")
    assert refused > 0
    breaks = "PNG checksums are left to Pillow" if kinds == CHECKED else "what OpenCV gives up is taken as an image"
    ledger.close(f"mutated images ({'PNG' if kinds == CHECKED else 'JPEG, GIF, BMP, WebP'})", made, lost, breaks)


# --- kinds of images ---


def png(width: int, height: int, content: bytes, bits: int = 8, colour: int = 0) -> bytes:
    """A PNG file of rows that each begin with their filter, compressed. `colour`: 0 grey, 2 RGB."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", content), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def deep_png(image: Image.Image, rng: random.Random) -> bytes:
    """The image with 16 bits a channel: its own 8 in front of others."""
    pixels = np.asarray(image)
    low = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, pixels.shape)
    deep = (pixels.astype(np.uint16) << 8 | low).astype(">u2").reshape(len(pixels), -1)
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    return png(*image.size, zlib.compress(rows), 16, 2 if pixels.ndim == 3 else 0)


def saved(image: Image.Image, name: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, name, **options)
    return content.getvalue()


def turned(image: Image.Image, orientation: int) -> bytes:
    """The image as a camera held otherwise stores it: turned back, with a mark that says how."""
    T = Image.Transpose
    undo = {1: None, 2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE, 6: T.ROTATE_90,
            7: T.TRANSVERSE, 8: T.ROTATE_270}[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(image if undo is None else image.transpose(undo), "PNG", exif=exif)


def kinds(image: Image.Image, rng: random.Random) -> Iterator[tuple[str, bytes, np.ndarray | None]]:
    """(what it is, the file, its RGB pixels or None where it must be refused)."""
    rgb, more = np.asarray(image), [picture(rng, image.size), picture(rng, image.size)]
    grey, palette = image.convert("L"), image.quantize(rng.choice([2, 16, 256]))
    yield "16-bit grey", deep_png(grey, rng), None
    yield "16-bit RGB", deep_png(image, rng), rgb
    yield "float", saved(image.convert("F"), "TIFF"), None
    yield "palette", saved(palette, "PNG"), np.asarray(palette.convert("RGB"))
    yield "palette with a transparent colour", saved(palette, "PNG", transparency=1), np.asarray(palette.convert("RGB"))
    yield "grey", saved(grey, "PNG"), np.asarray(grey.convert("RGB"))
    yield "grey with alpha", saved(grey.convert("LA"), "PNG"), np.asarray(grey.convert("RGB"))
    alpha = image.copy()
    alpha.putalpha(rng.randrange(256))
    yield "alpha", saved(alpha, "PNG"), rgb
    yield "1 bit", saved(image.convert("1"), "PNG"), np.asarray(image.convert("1").convert("RGB"))
    cmyk = saved(image.convert("CMYK"), "JPEG")
    yield "CMYK", cmyk, np.asarray(Image.open(io.BytesIO(cmyk)).convert("RGB"))
    for name in ("PNG", "GIF", "WEBP"):
        yield f"animated {name}", saved(image, name, save_all=True, append_images=more), None
    several = saved(image, "MPO", save_all=True, append_images=more[:1])  # of two more, Pillow 10 writes a broken file
    yield "camera's picture with previews", several, np.asarray(Image.open(io.BytesIO(several)).convert("RGB"))
    orientation = rng.randrange(1, 9)
    yield f"EXIF orientation {orientation}", turned(image, orientation), rgb
    yield "EXIF of noise", saved(image, "PNG", exif=rng.randbytes(60)), rgb
    yield "PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch x) (w) file\n%%EOF\n", None


def test_images_of_every_kind_are_right_or_refused_by_name(tmp_path: Path, amount, ledger) -> None:
    made, lost = 0, 0
    for seed in range(amount(2, 60)):
        rng = random.Random(f"kind {seed}")
        for kind, content, right in kinds(picture(rng, (rng.randint(1, 50), rng.randint(1, 50))), rng):
            path = tmp_path / rng.choice(["x.png", "x.jpg"])
            path.write_bytes(content)
            seen = list(by_both(path, "RGB"))
            is_good = [np.array_equal(s, right) if right is not None else f"{path}: " in s for s in seen]
            if not all(is_good):
                lost += 1
                print(f"seed kind {seed}: {kind}: {[s if isinstance(s, str) else s.shape for s in seen]}")
            made += 1
    ledger.close("images of 17 kinds", made, lost, "EXIF marks are not looked at")


def test_orientation_of_a_jpeg_is_seen_by_both_readers(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(random.Random(0)).save(tmp_path / "x.jpg", exif=exif)
    first, second = by_both(tmp_path / "x.jpg", "RGB")
    assert first.shape == (40, 30, 3)
    assert np.array_equal(first, second)


# --- images that claim to be huge ---


def compressed_zeros(count: int) -> bytes:
    """zlib's form of at least so many zeros: one block again and again, since compressing them all takes seconds."""
    times, block = -(-count // 2**20), zlib.compressobj(9, zlib.DEFLATED, -15)
    part = block.compress(bytes(2**20)) + block.flush(zlib.Z_FULL_FLUSH)
    checksum = (times * 2**20 % 65521) << 16 | 1  # Adler-32 of zeros
    return b"\x78\x9c" + part * times + b"\x03\x00" + struct.pack(">I", checksum)


def huge(side: int) -> Iterator[tuple[str, bytes]]:
    """Files of `side` x `side` pixels and less than a megabyte; all but the first only say that they are so large."""
    yield "grey.png", png(side, side, compressed_zeros(side * (side // 8 + 2)), 1)
    yield "rgb.png", png(side, side, compressed_zeros(side * 3), 8, 2)
    little = Image.new("RGB", (40, 30))
    jpeg, gif, bmp = (saved(little, name) for name in ("JPEG", "GIF", "BMP"))
    yield "huge.jpg", jpeg.replace(struct.pack(">HH", 30, 40), struct.pack(">HH", side, side))
    yield "gif.png", gif.replace(struct.pack("<HH", 40, 30), struct.pack("<HH", side, side))
    yield "bmp.png", bmp.replace(struct.pack("<ii", 40, 30), struct.pack("<ii", side, side))


def read_all(paths: list[Path]) -> Iterator[tuple[str, bool, int]]:
    """(file and what became of it, whether it was refused by name, the memory it took) for each file and reader."""
    for path in paths:
        before = peak_bytes()
        for seen in by_both(path, "RGB"):
            is_refused = isinstance(seen, str) and seen.startswith(f"{path}: ")
            yield f"{path.name}: {seen}", is_refused, peak_bytes() - before


def test_huge_images_are_refused_before_they_take_memory(tmp_path: Path, amount, ledger) -> None:
    sides = [50_000, 65_000, 30_000, 13_000, 9_000][: amount(1, 5)]
    assert all(side * side > MAX_PIXELS for side in sides)
    paths = []
    for side in sides:
        for name, content in huge(side):
            paths.append(tmp_path / f"{side}_{name}")
            paths[-1].write_bytes(content)
    told, end = forked(lambda: read_all(paths), 12 << 30, 60)
    bad = [said for said, is_refused, num_bytes in told if not is_refused or num_bytes > 100 << 20]
    print(end, *bad, sep="\n")
    made = 2 * len(paths)
    ledger.close("images of up to 65,000 x 65,000 pixels", made, made - len(told) + len(bad), "MAX_PIXELS is lifted")
