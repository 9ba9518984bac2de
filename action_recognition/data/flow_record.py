"""How the flow images of a data set were made, as flow.json beside u and v says, held against what the model takes.

Nothing in the pixels tells the encodings apart, and a model that was trained on one is lost on the other.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from action_recognition.data.index import Index, in_threads
from action_recognition.errors import DataError

FLOW_RECORD = "flow.json"
ENCODING_WITHOUT_RECORD = "max_rad"  # TAO's converter leaves no record


def checked_flow(index: Index, flow_encoding: str, said_by: str) -> Index:
    """The index, with a note on flow images without a record, and on those made by several methods.

    `said_by` names what asks for `flow_encoding`, a spec key or a checkpoint. DataError where a record contradicts it.
    """
    paths = [os.path.join(video.path, FLOW_RECORD) for video in index.videos if "u" in video.files]
    records = {path: record for path, record in zip(paths, in_threads(_read, paths), strict=True) if record is not None}
    for path, (_, encoding) in records.items():
        if encoding != flow_encoding:
            raise DataError(
                f"{path}: u and v are in the encoding {encoding!r}, and {said_by} takes "
                f"{flow_encoding!r}; make them again with tools/preprocess.py --encoding {flow_encoding}"
            )
    notes = [
        *_on_missing(len(paths) - len(records), flow_encoding, said_by),
        *_on_methods(m for m, _ in records.values()),
    ]
    return replace(index, notes=index.notes + notes)


def _read(path: str) -> tuple[str, str] | None:
    """The method (with its preset) and the encoding, or None where there is no record."""
    try:
        record = json.loads(Path(path).read_text())
        return " ".join(str(part) for part in (record["method"], record.get("preset")) if part), str(record["encoding"])
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is damaged ({error}); make the flow again, or remove this file") from error


def _on_missing(num_missing: int, flow_encoding: str, said_by: str) -> list[str]:
    if not num_missing:
        return []
    line = f"{num_missing} videos have no {FLOW_RECORD}: their flow counts as {ENCODING_WITHOUT_RECORD}"
    differs = f", which is not the {flow_encoding} of {said_by}" if flow_encoding != ENCODING_WITHOUT_RECORD else ""
    return [line + differs]


def _on_methods(methods: Iterable[str]) -> list[str]:
    counts = Counter(methods)
    if len(counts) < 2:
        return []
    listing = ", ".join(f"{method} ({count} videos)" for method, count in counts.most_common())
    return [f"flow made in different ways, which the model sees: {listing}"]
