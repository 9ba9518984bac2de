"""A timeline of a few training steps, for chrome://tracing or ui.perfetto.dev."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from torch.profiler import profile, schedule

from action_recognition.files import write_whole

# Before them come the first batches, cuDNN's choice of algorithms, compiling: nothing that later steps have.
FIRST_STEP, NUM_STEPS = 5, 5


class Trace:
    """Records steps FIRST_STEP to FIRST_STEP + NUM_STEPS - 1 of this start, counted from 0, and writes them to `path`.

    A run that ends sooner writes what there is of them. With `enabled` false it does nothing.
    """

    def __init__(self, path: Path, say: Callable[[str], None], enabled: bool) -> None:
        self.path, self._say, self._is_written = path, say, False
        self._profiler: profile | None = None
        if enabled:
            steps = schedule(wait=FIRST_STEP - 1, warmup=1, active=NUM_STEPS, repeat=1)
            self._profiler = profile(schedule=steps, on_trace_ready=self._write)
            self._profiler.start()

    def step_done(self) -> None:
        """Note the end of a step."""
        if self._profiler:
            self._profiler.step()
            if self._is_written:
                self.close()

    def close(self) -> None:
        """Stop recording."""
        if self._profiler:
            self._profiler.stop()
            self._profiler = None
            if not self._is_written:
                self._say(f"train.profile: no trace, because the run ended before the end of its step {FIRST_STEP + 1}")

    def _write(self, profiler: profile) -> None:
        num_steps = profiler.step_num - FIRST_STEP
        if num_steps == 0:
            return
        with tempfile.TemporaryDirectory() as folder:
            exported = Path(folder, "trace.json")
            profiler.export_chrome_trace(str(exported))
            with exported.open("rb") as content:
                write_whole(self.path, lambda file: shutil.copyfileobj(content, file))
        self._is_written = True
        self._say(f"train.profile: the timeline of {num_steps} step{'s' * (num_steps > 1)} is in {self.path}")
