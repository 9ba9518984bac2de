"""A small page for one's own eyes: the picture with its labels, the scores, the latest events.

In: pictures, marks and figures, by `show`, which only keeps the latest. Out: http://127.0.0.1:PORT/ with nothing of the
network but this machine in it. Pictures are drawn and packed in the viewers' threads, so that no viewer, slow or gone,
holds up who shows. There is no password: whoever reaches the port sees the picture. Runs without torch.
"""

import io
import json
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

from action_recognition.deploy.events import Event
from action_recognition.deploy.overlay import drawn
from action_recognition.deploy.tracks import Mark
from action_recognition.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_VIEWERS = 8  # at once; a thread each
_PICTURES_A_SEC = 12
_LARGEST_EDGE = 960
_NUM_SCORES = 5
_NUM_EVENTS = 20
_PATIENCE_SEC = 10.0  # with a viewer that takes nothing
_AGAIN_SEC = 2.0  # after which the same picture is sent again, as only sending tells that a viewer is gone
_POLICY = "default-src 'none'; img-src 'self' data:; script-src 'self'; style-src 'self'; connect-src 'self'"


@dataclass(frozen=True)
class _Shot:
    number: int
    picture: np.ndarray
    marks: Sequence[Mark]
    facts: Mapping[str, Any]


class Page:
    """The page, served by threads from the beginning of the block to its end."""

    def __init__(
        self, title: str, class_names: Sequence[str], host: str = "127.0.0.1", port: int = 0, font: str | None = None
    ) -> None:
        """Port 0 takes a free one; `address` says which. UserError where the port can't be had."""
        self.title, self.class_names, self._font = title, class_names, font
        self._shot: _Shot | None = None
        self._events: deque[Event] = deque(maxlen=_NUM_EVENTS)
        self._changed, self._encoding = threading.Condition(), threading.Lock()
        self._encoded = (0, b"")
        self._is_over = False
        self.viewers = threading.BoundedSemaphore(MOST_VIEWERS)
        try:
            self._server = _Server(self, host, port)
        except (OSError, OverflowError) as error:
            raise UserError(f"page: {host}, port {port} can't be opened ({error}); give another --page PORT") from error
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{self._server.server_address[1]}/"

    def show(self, picture: np.ndarray, marks: Sequence[Mark], facts: Mapping[str, Any]) -> None:
        """Replace what is on show: a picture, uint8 (H, W, 3), that nobody changes any more, and plain figures."""
        with self._changed:
            self._shot = _Shot(self._shot.number + 1 if self._shot else 1, picture, marks, facts)
            self._changed.notify_all()

    def tell(self, event: Event) -> None:
        """Add to the list of events."""
        with self._changed:
            self._events.appendleft(event)

    def state(self) -> dict[str, Any]:
        """What the page says in words and numbers, as JSON takes it."""
        with self._changed:
            shot, events = self._shot, list(self._events)
        return {
            "title": self.title,
            "facts": dict(shot.facts) if shot else {},
            "tracks": [self._plain(mark) for mark in shot.marks] if shot else [],
            "events": [event_to_plain(event) for event in events],
        }

    def jpeg_after(self, seen: int) -> tuple[int, bytes] | None:
        """The number and the JPEG of the latest picture; None at the end.

        Waits for one that is newer than `seen`, but no longer than _AGAIN_SEC once there is any.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or self._shot is not None)
            self._changed.wait_for(lambda: self._is_over or (self._shot and self._shot.number > seen), _AGAIN_SEC)
            shot = self._shot
            if self._is_over or shot is None:
                return None
        with self._encoding:  # once for all viewers
            if self._encoded[0] < shot.number:
                self._encoded = shot.number, _jpeg(shot, self._font)
            return self._encoded

    def _plain(self, mark: Mark) -> dict[str, Any]:
        best = np.argsort(-mark.probabilities, kind="stable")[:_NUM_SCORES]
        scores = [[self.class_names[k], round(float(mark.probabilities[k]), 4)] for k in best]
        known = mark.label is not None
        return {
            "track": mark.track if mark.box else None,
            "label": mark.label,
            "score": round(mark.score, 4) if known else None,
            "scores": scores if known else [],
        }

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()


def event_to_plain(event: Event) -> dict[str, Any]:
    """An event as JSON: start and end in seconds, label, score, and the track where there is one."""
    plain: dict[str, Any] = {} if event.track is None else {"track": event.track}
    times = {"start": round(event.start_sec, 3), "end": round(event.end_sec, 3)}
    return plain | times | {"label": event.label, "score": round(event.score, 4)}


def _jpeg(shot: _Shot, font: str | None) -> bytes:
    image = Image.fromarray(drawn(shot.picture, shot.marks, font))
    image.thumbnail((_LARGEST_EDGE, _LARGEST_EDGE))
    packed = io.BytesIO()
    image.save(packed, "JPEG", quality=80)
    return packed.getvalue()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, page: Page, host: str, port: int) -> None:
        self.page, self.is_local = page, host in LOOPBACK
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A viewer that went away is nothing to tell of."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _PATIENCE_SEC

    def do_GET(self) -> None:
        # A page of somebody else's, whose name was made to mean this machine, must not read the picture.
        host = re.sub(r":\d+$", "", self.headers.get("Host", "")).strip("[]")
        path = self.path.partition("?")[0]
        if self.server.is_local and host not in LOOPBACK:
            self.send_error(403, "this page is for this machine alone")
        elif path == "/picture.mjpg":
            self._pictures()
        elif path == "/state.json":
            self._answer("application/json", json.dumps(self.server.page.state()))
        elif path in _FILES:
            self._answer(*_FILES[path])
        else:
            self.send_error(404)

    def _answer(self, kind: str, text: str) -> None:
        content = text.encode()
        self._head(kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _head(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8" if "boundary" not in kind else kind)
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("X-Content-Type-Options", "nosniff")

    def _pictures(self) -> None:
        """The pictures one after the other, as fast as the viewer takes them but no faster than _PICTURES_A_SEC."""
        page, number = self.server.page, 0
        if not page.viewers.acquire(blocking=False):
            self.send_error(503, f"{MOST_VIEWERS} others are looking on")
            return
        try:
            self._head("multipart/x-mixed-replace; boundary=picture")
            self.end_headers()
            while (found := page.jpeg_after(number)) is not None:
                number, jpeg = found
                head = f"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + jpeg + b"\r\n")
                time.sleep(1 / _PICTURES_A_SEC)
        finally:
            page.viewers.release()

    def log_message(self, format: str, *args: Any) -> None:
        """Not on the screen, where the labels are."""


_HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Live recognition</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="page.css">
</head>
<body>
<header><h1 id="title">Live recognition</h1><p id="now" role="status">waiting for the first frame</p></header>
<main>
<img id="picture" alt="the latest picture with its labels">
<section><h2>Now</h2><div id="tracks"></div></section>
<section><h2>Events</h2>
<table><thead><tr><th>from</th><th>to</th><th>label</th><th>score</th></tr></thead><tbody id="events"></tbody></table>
</section>
</main>
<script src="page.js"></script>
</body>
</html>
"""

_CSS = """:root { color-scheme: light dark; --line: #8886; }
body { margin: 0 auto; max-width: 72rem; padding: 0 1rem 2rem; font: 16px/1.4 system-ui, sans-serif; }
h1 { font-size: 1.1rem; margin: 1rem 0 0; overflow-wrap: anywhere; } h2 { font-size: 1rem; margin: 0 0 .5rem; }
#now { margin: .2rem 0 1rem; opacity: .75; font-variant-numeric: tabular-nums; }
main { display: grid; gap: 1rem 2rem; grid-template-columns: minmax(0, 2fr) minmax(14rem, 1fr); align-items: start; }
#picture { width: 100%; min-height: 6rem; max-height: 80vh; object-fit: contain; grid-row: span 2; }
#picture { background: #000; border-radius: .4rem; }
.track + .track { border-top: 1px solid var(--line); margin-top: .8rem; padding-top: .8rem; }
.label { font-size: 1.3rem; font-weight: 600; overflow-wrap: anywhere; } .unknown { opacity: .6; }
.score { display: grid; grid-template-columns: 1fr 6rem 3rem; gap: .5rem; align-items: center; }
.score span { overflow-wrap: anywhere; } .score span:last-child { text-align: right; }
meter { width: 100%; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .15rem .5rem .15rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td:nth-child(3) { overflow-wrap: anywhere; } td:nth-child(-n + 2) { white-space: nowrap; }
@media (max-width: 40rem) { main { grid-template-columns: minmax(0, 1fr); } }
"""

_JS = """"use strict";
const at = (id) => document.getElementById(id);
function make(tag, text, kind) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  return element;
}
function trackView(track) {
  const view = make("div", undefined, "track");
  const name = track.label === null ? "not yet known" : track.label;
  const label = (track.track === null ? "" : track.track + ": ") + name;
  const isKnown = track.label !== null && track.label !== "unknown";
  view.append(make("div", label, isKnown ? "label" : "label unknown"));
  for (const [score_name, value] of track.scores) {
    const row = make("div", undefined, "score"), meter = make("meter");
    meter.value = value;
    meter.setAttribute("aria-label", score_name);
    row.append(make("span", score_name), meter, make("span", (100 * value).toFixed(0) + " %"));
    view.append(row);
  }
  return view;
}
function eventView(event) {
  const row = make("tr");
  const who = event.track === undefined ? "" : event.track + ": ";
  for (const text of [event.start.toFixed(1) + " s", event.end.toFixed(1) + " s", who + event.label,
                      event.score.toFixed(2)]) row.append(make("td", text));
  return row;
}
/* A stream of pictures that broke off does not begin again by itself, and often tells of no error. */
function showPictures() {
  at("picture").src = "picture.mjpg?" + Date.now();
}
let isLost = false, polled = Date.now();
async function poll() {
  try {
    const answer = await fetch("state.json", { cache: "no-store" });
    const state = await answer.json();
    document.title = state.title;
    at("title").textContent = state.title;
    if (state.facts.text) at("now").textContent = state.facts.text;
    at("tracks").replaceChildren(...state.tracks.map(trackView));
    at("events").replaceChildren(...state.events.map(eventView));
    if (isLost || Date.now() - polled > 10000) showPictures();
    isLost = false;
    polled = Date.now();
    setTimeout(poll, 250);
  } catch (error) {
    isLost = true;
    at("now").textContent = "the recognition has ended, or can't be reached; what you see is its last word";
    setTimeout(poll, 2000);
  }
}
at("picture").addEventListener("error", () => setTimeout(showPictures, 2000));
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) showPictures();
});
showPictures();
poll();
"""

_FILES = {
    "/": ("text/html", _HTML),
    "/page.css": ("text/css", _CSS),
    "/page.js": ("text/javascript", _JS),
}
