"""Label a camera, a stream, a video file or a folder of images as it comes. Exported models need no torch.

  python tools/live.py model.onnx 0                                  # camera 0, or /dev/video0; Ctrl-C ends it
  python tools/live.py model.onnx rtsp://camera/1 --events events.jsonl --page
  python tools/live.py model.plan clip.mp4 --video labelled.mp4
  python tools/live.py results/train/ar_model_best.pth clip.mp4      # a checkpoint, where torch is installed
  python tools/live.py model.onnx hall.mp4 --tracks hall.txt         # each tracked person for itself

Prints a line for each change of label: the time, the label, its score. Events are lines of JSON, added to the file as
they end. The page shows picture, scores and events to this machine's browser. Of cameras and addresses the newest
frames count: what would be older than --max-latency is dropped and counted, and a lost address is opened again.
"""

import argparse
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from action_recognition.clip.contract import Contract
from action_recognition.deploy.live import EventLog, Session, default_stride, paced
from action_recognition.deploy.overlay import OverlayVideo, checked_font, choose_font, missing_letters
from action_recognition.deploy.page import LOOPBACK, Page
from action_recognition.deploy.recognizer import Recognizer
from action_recognition.deploy.sources import Dropped, Frame, Live, frames_of, is_live, source_of, without_password
from action_recognition.deploy.tracks import TrackRecognizer, read_tracks
from action_recognition.deploy.window import checked_rate, rate_advice
from action_recognition.errors import Interrupted, SpecError, UserError

MOST_WAITING = 64  # frames, however long --max-latency is: they are whole pictures, and memory has an end
DEFAULT_PORT = 8000


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", help="ONNX file, TensorRT plan or checkpoint")
    add("source", help="camera (0, /dev/video0), address (rtsp://, http://), video file, folder of images")
    add("--device", help="cpu, cuda or cuda:N (plans: cuda, all else: cpu)")
    add("--trust", action="store_true", help="let a version-compatible plan run the code it carries")
    add("--seconds", type=above(0), default=math.inf, metavar="S", help="end after S seconds of the source")
    looks = parser.add_argument_group("what is looked at, and when a label counts")
    looks.add_argument("--rate", type=whole(1), metavar="N", help="take every N-th frame (default: as trained)")
    looks.add_argument("--stride", type=whole(1), metavar="N",
                       help="frames from one look to the next (default: a quarter of a window)")  # fmt: skip
    looks.add_argument("--fps", type=above(0), metavar="N",
                       help="frames a second of a folder of images (25); of a video: in place of its own")  # fmt: skip
    looks.add_argument("--smoothing", type=share, default=0.5, metavar="W",
                       help="weight of the newest look in the running average; 1 is none (%(default)s)")  # fmt: skip
    looks.add_argument("--unknown", type=share, default=0.5, metavar="P",
                       help="below this probability the label is `unknown` (%(default)s)")  # fmt: skip
    results = parser.add_argument_group("results besides the lines")
    results.add_argument("--events", type=Path, metavar="FILE.jsonl", help="add events to this file as they end")
    results.add_argument("--video", type=Path, metavar="FILE.mp4", help="write the frames with their labels")
    results.add_argument("--overwrite", action="store_true", help="replace --video where it exists")
    results.add_argument("--page", type=whole(0), nargs="?", const=DEFAULT_PORT, metavar="PORT",
                         help=f"show it on http://127.0.0.1:PORT/ ({DEFAULT_PORT}; 0: a free one)")  # fmt: skip
    results.add_argument("--host", metavar="ADDRESS",
                         help="serve the page on this address, to all who reach it: there is no password")  # fmt: skip
    results.add_argument("--font", type=Path, metavar="FILE",
                         help="of the labels in pictures (default: one of the system's that has them)")  # fmt: skip
    people = parser.add_argument_group("each person for itself")
    people.add_argument("--tracks", type=Path, metavar="FILE", help="boxes: MOTChallenge, or frame,track,x1,y1,x2,y2")
    people.add_argument("--margin", type=above(-1e-9), default=0.2, metavar="M",
                        help="of the box's longer side, around it (%(default)s)")  # fmt: skip
    people.add_argument("--missing", type=whole(0), default=15, metavar="N",
                        help="a track without a box for more than N frames is over (%(default)s)")  # fmt: skip
    live = parser.add_argument_group("cameras and addresses")
    live.add_argument("--max-latency", type=above(0), default=0.5, metavar="S",
                      help=f"seconds that a frame may wait (%(default)s); {MOST_WAITING} wait at most")  # fmt: skip
    live.add_argument("--retries", type=whole(0), default=10, metavar="N",
                      help="attempts in a row to open a lost address again (%(default)s)")  # fmt: skip
    options = parser.parse_args(argv)
    for name, other in (("host", "page"), ("overwrite", "video")):
        if getattr(options, name) and getattr(options, other) is None:
            parser.error(f"--{name}: is for --{other}, which is not given")
    if options.font and options.video is None and options.page is None:
        parser.error("--font: is for --video and --page, and neither is given")
    return options


def whole(least: int) -> Any:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least}, got {text}")
        return int(text)

    return number


def above(bound: float) -> Any:
    def number(text: str) -> float:
        value = _float(text)
        if not bound < value < math.inf:
            raise argparse.ArgumentTypeError(f"must be a number above {round(bound, 6):g}, got {text}")
        return value

    return number


def share(text: str) -> float:
    if not 0 < _float(text) <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, got {text}")
    return float(text)


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def follower(recognize: Recognizer, options: argparse.Namespace) -> TrackRecognizer:
    contract = recognize.contract
    rate = checked_rate(contract, options.rate)
    stride = options.stride or default_stride(contract, rate)
    return TrackRecognizer(recognize, stride, rate, options.margin, options.missing, options.smoothing, options.unknown)


def frames(options: argparse.Namespace, contract: Contract, dropped: Dropped) -> Iterator[Frame]:
    source = source_of(options.source)
    if options.tracks and is_live(source):
        raise SpecError(
            f"--tracks: {without_password(options.source)} is live, and boxes of a file are for the frames of a file; "
            "with a tracker of your own, use TrackRecognizer (docs/live.md)"
        )
    live = Live(MOST_WAITING, options.max_latency, options.retries, note)
    found = frames_of(source, contract.modalities, dropped, options.fps, live)
    return paced(found) if options.page is not None and not is_live(source) else found


def note(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def say(text: str) -> None:
    """A line for who reads on; where nobody does (`| head -1`), that is the end."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)  # whatever names are made of
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left to be said
        raise Interrupted("nobody reads on", signal.SIGPIPE) from None


def run(options: argparse.Namespace) -> None:
    """Print what is seen, and the summary however it ends."""
    boxes = read_tracks(options.tracks) if options.tracks else None
    with ExitStack() as stack:
        recognize = stack.enter_context(Recognizer.open(options.model, options.device, options.trust))
        follow, dropped = follower(recognize, options), Dropped()
        source = frames(options, recognize.contract, dropped)
        session = Session(follow, dropped, boxes, say=say)
        if options.video or options.page is not None:
            session.font = font(recognize.contract.class_names, options)
        if options.events:
            session.log = stack.enter_context(EventLog(options.events))
        if options.video:
            session.video = stack.enter_context(OverlayVideo(options.video, options.overwrite))
        if options.page is not None:
            title = without_password(options.source)
            host, names = options.host or LOOPBACK[0], recognize.contract.class_names
            session.page = Page(title, names, host, options.page, session.font)
            stack.enter_context(session.page)
            note(f"page: {session.page.address}")
        end_by_signals(session, stack)
        note(introduction(follow, recognize.contract, options))
        try:
            session.run(source, options.seconds)
        finally:
            conclude(session, options)


def font(names: Sequence[str], options: argparse.Namespace) -> str | None:
    """The font for these names, told of what it lacks."""
    chosen = checked_font(options.font) if options.font else choose_font(names)
    if missing := missing_letters(chosen, names):
        shown = missing if len(missing) <= 20 else f"{missing[:20]}..."
        note(f"{chosen or 'the font of Pillow'}: has no {shown}, so boxes stand in the pictures there; "
             "give a --font FILE that has them")  # fmt: skip
    return chosen


def introduction(follow: TrackRecognizer, contract: Contract, options: argparse.Namespace) -> str:
    advice = rate_advice(contract, options.rate)
    window = f"{max(contract.lengths.values())} of {follow.num_frames} frames"
    stride = f"looked at every {follow.stride}" if follow.stride > 1 else "looked at with every frame"
    text = f"{options.model}: windows have {window}, {stride}; unknown below {options.unknown:g}"
    return f"{text}\n{advice}" if advice else text


def conclude(session: Session, options: argparse.Namespace) -> None:
    if not session.num_frames:
        return  # an error says why
    note(session.summary())
    if session.dropped.frames:
        room = "a larger --stride, or no --video" if options.video else "a larger --stride"
        note(f"dropped frames came faster than they were taken, and make windows last longer; try {room}")
    if session.boxes is not None:
        late = sum(number >= session.num_frames for number in session.boxes)
        if session.is_at_end and (late or not session.num_boxed):
            note(f"{options.tracks}: {session.num_boxed} of its {len(session.boxes)} frames were in the source, "
                 f"which gave {session.num_frames}")  # fmt: skip
        if misfit := session.misfit():
            note(f"{options.tracks}: {misfit}")


def end_by_signals(session: Session, stack: ExitStack) -> None:
    """Ctrl-C, unless the shell keeps it from us, and SIGTERM end the session in good order."""

    def end(number: int, place: object) -> None:
        session.interrupt(Interrupted("interrupted", number))

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            stack.callback(signal.signal, number, signal.signal(number, end))


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 2 for options that contradict the model, 1 for the source and the model."""
    options = parse_args(argv)
    try:
        run(options)
    except SpecError as error:
        note(f"error: {error}")
        return 2
    except UserError as error:
        note(f"error: {error}")
        return 1
    except KeyboardInterrupt as error:
        return 128 + (error.number if isinstance(error, Interrupted) else signal.SIGINT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
