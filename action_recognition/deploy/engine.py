"""From an ONNX file to a TensorRT plan: the shapes, the timing cache, the build, and the description beside the plan.

One path for TensorRT 10.14 to 11: networks are strongly typed, so the ONNX file alone decides the precision. Owns the
names of timing caches and what is known of a build's progress.
"""

import json
import logging
import os
import re
import shlex
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any

from action_recognition.deploy.description import Description, description_of, description_path, parse_onnx, read_model
from action_recognition.deploy.gpu import because, check, choose_gpu, load_cuda, load_tensorrt, make_logger
from action_recognition.errors import DeployError, SpecError
from action_recognition.files import writable_parent, write_text, write_whole
from action_recognition.sealing import is_sealed_file, key_from, seal

Profile = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # smallest, best and largest shape
OnProgress = Callable[[float, str], object]  # how much is done, 0..1, and the phase

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How a plan is built. Its kernels are chosen for `opt_batch`: None is 4, or the nearest that the others allow."""

    min_batch: int = 1
    opt_batch: int | None = None
    max_batch: int = 16
    workspace_gib: float | None = None  # None: all the memory of the GPU
    builder_level: int = 3  # 0..5: 5 tries most and takes longest
    version_compatible: bool = False  # loads in later versions, too; the plan brings a runtime along
    hardware_compatible: bool = False  # for all GPUs since Ampere, at some cost in speed
    strict_fp32: bool = False  # without TF32, which rounds what float32 convolutions multiply to 10 bits
    is_inspected: bool = False  # the plan keeps the details of its layers
    device_id: int = 0  # the GPU that builds, of the kind that will run the plan

    def __post_init__(self) -> None:
        low, best, high = self.batches
        if not 1 <= low <= best <= high:
            raise SpecError(f"batches: must be 1 <= min <= opt <= max, got {low}, {best}, {high}")
        if not 0 <= self.builder_level <= 5:
            raise SpecError(f"builder level: must be 0 to 5, got {self.builder_level}")
        if self.workspace_gib is not None and not self.workspace_gib > 0:
            raise SpecError(f"workspace: must be greater than 0 GiB, got {self.workspace_gib}")

    @property
    def batches(self) -> tuple[int, int, int]:
        best = max(self.min_batch, min(4, self.max_batch)) if self.opt_batch is None else self.opt_batch
        return self.min_batch, best, self.max_batch


@dataclass(frozen=True)
class Source:
    """An ONNX file, read and checked, with the shapes that a plan of it shall take."""

    path: Path
    content: bytes
    profiles: dict[str, Profile]
    description: Description | None
    is_sealed: bool


@dataclass(frozen=True)
class Target:
    """The files of a build. The description has its own name, see description_path."""

    plan: Path
    timing_cache: Path | None = None  # None: timing_cache_path()
    inspector: Path | None = None  # gets the details of the layers as JSON


def read_source(path: str | Path, settings: Settings) -> Source:
    """The ONNX file for a build. DeployError where it can't be read, or where more of its shapes vary than the batch.

    A sealed file is opened with AR_ENCRYPTION_KEY; its plan will be sealed with the same.
    """
    model = parse_onnx(content := read_model(path), path)
    constants = {tensor.name for tensor in model.graph.initializer}  # old files list them among the inputs
    values = [value for value in model.graph.input if value.name not in constants]
    profiles = {value.name: _profile(value, settings, path) for value in values}
    return Source(Path(path), content, profiles, description_of(model, path), is_sealed_file(path))


def _profile(value: Any, settings: Settings, path: str | Path) -> Profile:
    shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim)
    if not shape or -1 in shape[1:]:
        raise DeployError(f"{path}: {value.name} has shape {shape}; only axis 0, the batch, may vary (-1)")
    if shape[0] != -1 and set(settings.batches) != {shape[0]}:
        raise DeployError(
            f"{path}: {value.name} is for batches of {shape[0]} only: give that as min, opt and max, or export it anew"
        )
    smallest, best, largest = ((batch, *shape[1:]) for batch in settings.batches)
    return smallest, best, largest


def trtexec_command(source: Source, settings: Settings, target: Target) -> str:
    """The line that builds the same plan with NVIDIA's trtexec, of TensorRT 10 or 11."""
    words = ["trtexec", f"--onnx={source.path}", f"--saveEngine={target.plan}", "--stronglyTyped"]
    for option, which in (("min", 0), ("opt", 1), ("max", 2)):
        shapes = (f"{name}:{'x'.join(map(str, profile[which]))}" for name, profile in source.profiles.items())
        words.append(f"--{option}Shapes={','.join(shapes)}")
    words.append(f"--builderOptimizationLevel={settings.builder_level}")
    if settings.workspace_gib is not None:
        words.append(f"--memPoolSize=workspace:{int(settings.workspace_gib * 1024)}M")
    words += ["--versionCompatible"] * settings.version_compatible
    words += ["--hardwareCompatibilityLevel=ampere+"] * settings.hardware_compatible
    words += ["--noTF32"] * settings.strict_fp32
    words += ["--profilingVerbosity=detailed"] * settings.is_inspected
    words += [f"--device={settings.device_id}"] * (settings.device_id > 0)
    if target.timing_cache is not None:
        words.append(f"--timingCacheFile={target.timing_cache}")
    if target.inspector is not None:
        words.append(f"--exportLayerInfo={target.inspector}")
    return shlex.join(words)


def timing_cache_path(version: str, gpu: str) -> Path:
    """Where measurements are kept from one build to the next: they hold for one TensorRT and one kind of GPU."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return folder / "action_recognition" / f"tensorrt-{version}-{re.sub(r'[^A-Za-z0-9]+', '-', gpu)}.timing"


def build_engine(
    source: Source,
    target: Target,
    settings: Settings | None = None,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> str:
    """Build the plan, write it and what describes it, and return one line about it.

    Takes minutes. Ctrl-C ends the build after the step it is at. A build that does not end well writes nothing but the
    timing cache. DeployError where TensorRT or the GPU is missing, a file would be overwritten or can't be written, or
    TensorRT can't build it.
    """
    settings = settings or Settings()
    _check_target(source, target, overwrite)
    trt, gpu = load_tensorrt(), choose_gpu(load_cuda(), settings.device_id)
    cache = target.timing_cache or timing_cache_path(trt.__version__, gpu)
    if not writable_parent(cache.parent):
        raise DeployError(f"{cache}: the timing cache can't be written there; give another place with --timing-cache")
    build = _Build(trt, source, settings)
    build.start_timing_cache(cache)
    try:
        content = build.run(_Progress(on_progress or (lambda done, phase: None)))
    except BaseException:
        _keep_timings(build, cache)
        raise
    _write_plan(source, target.plan, content, {"tensorrt": trt.__version__, "gpu": gpu})
    build.save_timing_cache(cache)
    if target.inspector is not None:
        write_text(target.inspector, build.layers(content))
    low, best, high = settings.batches
    return f"batches {low} to {high}, best at {best}; TensorRT {trt.__version__}, {gpu}; {len(content) / 2**20:.1f} MiB"


def _keep_timings(build: "_Build", cache: Path) -> None:
    """After a build that failed: what it has measured need not be measured again. Its error is the one to tell."""
    try:
        build.save_timing_cache(cache)
    except OSError as error:
        log.warning("%s: the measurements of the build are lost: %s", cache, str(error))


def _check_target(source: Source, target: Target, overwrite: bool) -> None:
    if source.path.resolve() in (target.plan.resolve(), target.inspector and target.inspector.resolve()):
        raise DeployError(f"{source.path}: is the model itself; give another name with -o")
    for path in (target.plan, description_path(target.plan), target.inspector):
        if path is not None and path.exists() and not overwrite:
            raise DeployError(f"{path}: exists already; give another name with -o, or --overwrite")
        if path is not None and not path.parent.is_dir():
            raise DeployError(f"{path.parent}: no such folder")


def _write_plan(source: Source, path: Path, content: bytes, built_by: dict[str, str]) -> None:
    said = source.description.to_plain() if source.description else {"contract": None}
    beside = description_path(path)
    beside.unlink(missing_ok=True)  # better none, should the next line fail, than that of another plan
    key = key_from(None) if source.is_sealed else None
    write_whole(path, lambda file: file.write(seal(content, key) if key else content))
    write_text(beside, json.dumps({**said, "inputs": source.profiles, **built_by}, indent=2) + "\n")


class _Build:
    """TensorRT's objects for one build."""

    def __init__(self, trt: Any, source: Source, settings: Settings) -> None:
        self._trt, self._source, self._settings = trt, source, settings
        self._logger = make_logger(trt)
        self._builder = trt.Builder(self._logger)
        strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # one day the only way
        self._network = self._builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
        self._parse()
        self._config = self._configure()

    def _parse(self) -> None:
        parser = self._parser = self._trt.OnnxParser(self._network, self._logger)  # holds the weights until the build
        if not parser.parse(self._source.content):
            errors = (parser.get_error(i) for i in range(parser.num_errors))
            lines = [f"\n  {e.node_operator()} {e.node_name()}: {e.desc()}" for e in errors]
            raise DeployError(f"{self._source.path}: TensorRT can't read it:{''.join(lines)}{because(self._logger)}")

    def _configure(self) -> Any:
        trt, settings, config = self._trt, self._settings, self._builder.create_builder_config()
        profile = self._builder.create_optimization_profile()
        for name, (smallest, best, largest) in self._source.profiles.items():
            profile.set_shape(name, smallest, best, largest)
        config.add_optimization_profile(profile)
        config.builder_optimization_level = settings.builder_level
        if settings.workspace_gib is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(settings.workspace_gib * 2**30))
        if settings.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if settings.hardware_compatible:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        if settings.strict_fp32:
            config.clear_flag(trt.BuilderFlag.TF32)
        if settings.is_inspected:
            config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        return config

    def start_timing_cache(self, path: Path) -> None:
        """Go on from the measurements at `path`, if there are any."""
        cache = self._config.create_timing_cache(path.read_bytes() if path.exists() else b"")
        if cache is None or not self._config.set_timing_cache(cache, False):
            raise DeployError(
                f"{path}: is no timing cache of this TensorRT and GPU; delete it, or give another with --timing-cache"
                f"{because(self._logger)}"
            )
        self._known = self._timings()

    def save_timing_cache(self, path: Path) -> None:
        """Write the measurements, if there are other ones than start_timing_cache found."""
        timings = self._timings()
        if timings and timings != self._known:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda file: file.write(timings))

    def _timings(self) -> bytes:
        cache = self._config.get_timing_cache()
        return bytes(cache.serialize() or b"") if cache else b""

    def run(self, progress: "_Progress") -> bytes:
        """The plan. TensorRT works in a thread of its own, so that Ctrl-C finds this one free to hear it."""
        self._config.progress_monitor = self._monitor = _monitor(self._trt, progress)
        with ThreadPoolExecutor(1) as thread:
            try:
                build = thread.submit(self._build)
                while not wait([build], timeout=0.2).done:  # without a timeout, Windows would not hear Ctrl-C
                    pass
            except BaseException:
                progress.cancel()
                raise
        plan = build.result()
        if progress.error is not None:
            raise progress.error
        if plan is None:
            raise DeployError(f"{self._source.path}: TensorRT can't build it{because(self._logger)}")
        return bytes(plan)

    def _build(self) -> Any:
        check(load_cuda().cudaSetDevice, self._settings.device_id)  # each thread has a current GPU of its own
        return self._builder.build_serialized_network(self._network, self._config)

    def layers(self, plan: bytes) -> str:
        """What the plan's layers are, as JSON."""
        runtime = self._trt.Runtime(self._logger)
        runtime.engine_host_code_allowed = True  # of a version-compatible plan: built here, a moment ago
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise DeployError(f"{self._source.path}: TensorRT can't load what it built{because(self._logger)}")
        text: str = engine.create_engine_inspector().get_engine_information(self._trt.LayerInformationFormat.JSON)
        return text


@dataclass
class _Phase:
    parent: str | None
    num_steps: int
    num_done: int = 0


class _Progress:
    """How far a build is, from its nested phases; called from TensorRT's threads, which no error may reach."""

    def __init__(self, report: OnProgress) -> None:
        self._report, self._phases = report, dict[str, _Phase]()
        self._lock, self._cancelled = Lock(), Event()
        self.error: BaseException | None = None

    def cancel(self) -> None:
        self._cancelled.set()

    def start(self, name: str, parent: str | None, num_steps: int) -> None:
        with self._lock:
            self._phases[name] = _Phase(parent, num_steps)
            self._tell(name)

    def step(self, name: str) -> bool:
        """False to end the build."""
        with self._lock:
            if name in self._phases:
                self._phases[name].num_done += 1
                self._tell(name)
        return not self._cancelled.is_set()

    def finish(self, name: str) -> None:
        with self._lock:
            self._phases.pop(name, None)

    def _tell(self, phase: str) -> None:
        try:
            self._report(min(1.0, sum(self._done(n) for n, p in self._phases.items() if p.parent is None)), phase)
        except BaseException as error:  # kept for the thread that waits, which raises it
            self.error = error
            self._cancelled.set()

    def _done(self, name: str) -> float:
        """How much of a phase is done, with what its inner phases have done of the step it is at."""
        phase = self._phases[name]
        inner = min(1.0, sum(self._done(n) for n, p in self._phases.items() if p.parent == name))
        return min(1.0, (phase.num_done + inner) / phase.num_steps)


def _monitor(trt: Any, progress: _Progress) -> Any:
    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step(phase_name)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()
