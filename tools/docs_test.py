"""Run the commands of the guide as a reader would: `make docs-test`.

  python tools/docs_test.py                              # all of DOCUMENTS
  python tools/docs_test.py docs/quickstart.md --show    # with what the commands print
  python tools/docs_test.py docs/two-stream.md --keep work/guide

Every ```sh block of a document runs, in order, command by command in `bash -euo pipefail`, in a folder of the
document's own. It holds videos/<class>/<name>.mp4 and the longer clip.mp4 (the people that tools/make_demo_data.py
renders), and links to tools/ and configs/; `python` is the one that runs this. A command that ends with another exit
code than 0 fails the document; the others still run, and the exit code is 1.

Three things are not as the reader does them. Installations count as done. A block under `<!-- not run: REASON -->` is
left out; both are listed at the end. And so that the whole takes minutes, tools/train.py gets SHORT at the end of its
command: an epoch, clips of 8 frames of 32x32 pixels. A document that begins with the results of `make demo` finds those
of MADE_BEFORE in its folder.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from action_recognition.machine import num_cores

REPO = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", *(f"docs/{name}.md" for name in ("quickstart", "two-stream", "from-tao", "faq", "deploy")))
SHORT = (
    "train.num_epochs=1 train.checkpoint_interval=1 train.validation_interval=1 dataset.batch_size=8 dataset.workers=0 "
    "dataset.clips_per_video=1 model.rgb_seq_length=8 model.of_seq_length=8 model.input_height=32 model.input_width=32 "
    "dataset.output_shape=[32,32] dataset.augmentation_config.crop_smaller_edge=36"
)
RENDER = "python tools/make_demo_data.py demo --no-flow --size 72 --train-per-class 5 --test-per-class 2"
MADE_BEFORE = {"docs/deploy.md": (RENDER, "python tools/train.py configs/demo.yaml")}
INSTALLS = re.compile(r"(python3 -m )?(pip install|venv) ")
LONG_CLIP = 3  # rendered videos, one after the other, make clip.mp4


@dataclass(frozen=True)
class Block:
    """A ```sh block: its document, the line of its first command, its commands, and why it is not run, if so."""

    document: str
    line: int
    commands: tuple[str, ...]
    not_run: str | None


@dataclass
class Outcome:
    """What became of a document: the number of commands that ran, what was left out and why, what failed."""

    num_run: int = 0
    left_out: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def blocks_of(document: str, text: str) -> Iterator[Block]:
    """The ```sh blocks of a document, in order. ValueError for one that is not closed, and for a reason without one."""
    lines = text.split("\n")
    fence: str | None = None
    start, above = 0, ""
    for i, line in enumerate(lines):
        if fence is None:
            if line.startswith("```"):
                fence, start = line[3:].strip(), i + 1
            elif line.strip():
                above = line.strip()
        elif line.strip() == "```":
            if fence == "sh":
                yield Block(document, start + 1, tuple(commands_of(lines[start:i])), _reason(document, start, above))
            fence, above = None, ""
    if fence is not None:
        raise ValueError(f"{document}:{start}: the block is not closed")


def _reason(document: str, line: int, above: str) -> str | None:
    """What stands in the comment above a block, which is what stood before it."""
    if "not run" not in above:
        return None
    found = re.fullmatch(r"<!-- not run: (\S.*) -->", above)
    if not found:
        raise ValueError(f"{document}:{line}: write <!-- not run: REASON --> above the block, not {above!r}")
    return found[1]


def commands_of(lines: Sequence[str]) -> Iterator[str]:
    """Commands of a block: lines that end in a backslash and here-documents stay in one piece, comments go."""
    waiting: list[str] = []
    end_of_text: str | None = None
    for line in lines:
        waiting.append(line)
        if end_of_text is not None:
            if line != end_of_text:
                continue
            end_of_text = None
        elif found := re.search(r"<<-?\s*'?(\w+)'?", line):
            end_of_text = found[1]
            continue
        elif line.endswith("\\"):
            continue
        command = "\n".join(waiting)
        waiting = []
        if command.strip() and not command.lstrip().startswith("#"):
            yield command
    if waiting:
        raise ValueError(f"the block ends within a command: {waiting[0]!r}")


def shortened(command: str) -> str:
    """The command as it is run: training gets SHORT at its end, where overrides win."""
    if not re.search(r"\btools/train\.py(?! -h)\b", command):
        return command
    return f"{_bare(command)} {SHORT}"


def _bare(command: str) -> str:
    """Without the remark at its end."""
    return re.sub(r"\s+#.*$", "", command)


def write_video(path: Path, folders: Sequence[Path]) -> None:
    """The frames of rendered videos, one video after the other, as one file."""
    import av
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    images = [Image.open(image) for folder in folders for image in sorted((folder / "rgb").iterdir())]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"qmax": "3"})
        stream.width, stream.height, stream.pix_fmt = *images[0].size, "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode(None))


def prepare(document: str, folder: Path, rendered: Path) -> None:
    """What a reader has before the first command."""
    folder.mkdir(parents=True)
    for name in ("tools", "configs"):
        (folder / name).symlink_to(REPO / name)
    videos = sorted(rendered.glob("train/*/*"))
    for video in videos:
        write_video(folder / "videos" / video.parent.name / f"{video.name}.mp4", [video])
    write_video(folder / "clip.mp4", videos[:: len(videos) // LONG_CLIP][:LONG_CLIP])
    for command in MADE_BEFORE.get(document, ()):
        run(command, folder).check_returncode()


def run(command: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run one command in the folder, training shortened. Its stdout holds what it said."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPO),
        "XDG_CACHE_HOME": str(folder / ".cache"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", shortened(command)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_document(document: str, work: Path, show: bool) -> Outcome:
    """Run the blocks of a document in a folder of its own under `work`, until a command fails."""
    outcome, folder = Outcome(), work / Path(document).stem
    prepare(document, folder, work / "rendered")
    for block in blocks_of(document, (REPO / document).read_text(encoding="utf-8")):
        where = f"{document}:{block.line}"
        if block.not_run:
            outcome.left_out.append(f"{where}: {block.not_run}")
            continue
        for command in block.commands:
            if INSTALLS.match(command):
                outcome.left_out.append(f"{where}: installed already: {_bare(command)}")
                continue
            started = time.perf_counter()
            ended = run(command, folder)
            seconds = time.perf_counter() - started
            outcome.num_run += 1
            said = ended.stdout if show or ended.returncode else ""
            print(f"{document}  {seconds:.1f} s  $ {command}\n{said}", end="", flush=True)
            if ended.returncode:
                outcome.failed.append(f"{where}: ended with {ended.returncode}: {command}")
                return outcome
    return outcome


def run_all(documents: Sequence[str], work: Path, show: bool, num_jobs: int) -> list[Outcome]:
    """Every document, `num_jobs` at a time."""
    run(f"{RENDER} --test-per-class 0".replace(" demo ", f" {work}/rendered "), REPO).check_returncode()
    with ThreadPoolExecutor(num_jobs) as pool:
        return list(pool.map(lambda document: run_document(document, work, show), documents))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", nargs="*", metavar="DOCUMENT", default=DOCUMENTS, help="paths from the project")
    parser.add_argument("--show", action="store_true", help="print what the commands print")
    parser.add_argument("--jobs", type=int, default=num_cores(), metavar="N", help="documents at a time (%(default)s)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="a new folder to work in, which stays")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the documents and say what was run. Returns the exit code."""
    options = parse_args(argv)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="guide-") as temporary:
        work = Path(options.keep or temporary).resolve()
        work.mkdir(parents=True, exist_ok=True)
        outcomes = run_all(options.documents, work, options.show, options.jobs)
    seconds = time.perf_counter() - started
    num_run = sum(outcome.num_run for outcome in outcomes)
    print(
        f"\n{num_run} commands of {len(outcomes)} documents were run in {seconds:.0f} s; training ended in\n  {SHORT}"
    )
    failed = [f"FAILED {where}" for outcome in outcomes for where in outcome.failed]
    left_out = [where for outcome in outcomes for where in outcome.left_out]
    print("\n  ".join(["not run:", *left_out]))
    print("".join(f"{line}\n" for line in failed), end="")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
