"""The spec: a YAML file and `a.b=value` overrides in; one frozen, resolved Spec out, or a SpecError with every problem.

Opens no file but the spec: whether a folder or a checkpoint exists is for those who open it to say.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from action_recognition.config.declare import Problem, SpecProblems, build, keys_of, shorten, shorten_key, show_plain
from action_recognition.config.keys import (
    KEYS,
    TASKS,
    AugmentationSpec,
    CudnnSpec,
    DatasetSpec,
    EvaluateSpec,
    ExportSpec,
    InferenceSpec,
    ModelSpec,
    OptimSpec,
    Spec,
    TrainSpec,
)
from action_recognition.config.placing import Placer
from action_recognition.config.rules import (
    CROSS_CHECKS,
    IGNORED,
    backbone_defaults,
    backbone_limits,
    backbone_notes,
    gpu_notes,
    monitor_notes,
    naming_notes,
    translate,
    with_gpus,
    with_opset,
    with_paths,
    with_sizes,
)
from action_recognition.config.yaml_values import UnreadableValue, is_missing_mark, read_document, read_plain

__all__ = [
    "KEYS",
    "AugmentationSpec",
    "CudnnSpec",
    "DatasetSpec",
    "EvaluateSpec",
    "ExportSpec",
    "InferenceSpec",
    "ModelSpec",
    "OptimSpec",
    "Problem",
    "Spec",
    "TrainSpec",
    "describe",
    "load_spec",
    "model_spec_from_plain",
    "to_plain",
]


def load_spec(
    path: str | Path | None,
    overrides: Sequence[str] = (),
    *,
    task: str | None = None,
    checks: Sequence[Callable[[Spec], Iterable[Problem]]] = (),
) -> Spec:
    """The resolved spec of a YAML file (None: the defaults) with `a.b=value` overrides; SpecError lists every problem.

    `task` (train, evaluate, inference, export) asks for the keys that task requires and gives it the old schema's root
    keys. `checks` get the spec, with defaults where a value is wrong, and yield further problems.
    """
    if task not in (None, *TASKS):
        raise ValueError(f"task {task!r} is not one of {', '.join(TASKS)}")
    placer = Placer(KEYS, IGNORED, lambda spelled, node: translate(spelled, node, task))
    if path is not None:
        placer.place_document(read_document(path))
    for override in overrides:
        placer.place_override(override)
    values = placer.read_values()
    defaults = backbone_defaults(values)
    given = replace(build(Spec, defaults | values), origins=_origins(placer, path))
    spec = with_opset(with_paths(with_gpus(with_sizes(given))))
    problems = _all_problems(placer, spec, task, checks)
    if problems:
        raise SpecProblems("spec" if path is None else shorten_key(str(path)), problems)
    notes = (naming_notes(placer), gpu_notes(given, task), monitor_notes(spec, task))
    return replace(spec, notes=tuple(chain(*notes, backbone_notes(spec, defaults, task))))


def _origins(placer: Placer, path: str | Path | None) -> dict[str, str]:
    given = ((name, value.origin) for name, value in placer.given.items() if not is_missing_mark(value.node))
    return {name: str(origin) if origin.line is None else f"{path}, {origin}" for name, origin in given}


def _all_problems(
    placer: Placer, spec: Spec, task: str | None, checks: Iterable[Callable[[Spec], Iterable[Problem]]]
) -> list[Problem]:
    """The placer's problems and those of every check whose keys have none yet."""
    problems = list(placer.problems)
    known = {problem.key for problem in problems}
    for found in (*(check(spec, task) for check in CROSS_CHECKS), *(check(spec) for check in checks)):
        for problem in found:
            if known.isdisjoint((problem.key, *problem.involves)):
                given = placer.given.get(problem.key)
                problems.append(replace(problem, origin=given.origin) if given else problem)
                known.add(problem.key)
    return problems


def describe(task: str) -> str:
    """The keys of a task for -h, one a line: name, default, meaning and what is accepted."""
    if task not in TASKS:
        raise ValueError(f"task {task!r} is not one of {', '.join(TASKS)}")
    sections = ("model", "dataset", task, "results_dir", "encryption_key")
    rows = []
    for name, wanted in KEYS.items():
        if name.partition(".")[0] in sections:
            accepted = f" ({wanted.check.accepted})" if wanted.check else ""
            rows.append((name, show_plain(wanted.default), wanted.meaning + accepted))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{name:<{widths[0]}}  {default:<{widths[1]}}  {text}" for name, default, text in rows)


def to_plain(spec: Any) -> dict[str, Any]:
    """A spec, or a section of one, as dicts and lists for YAML and JSON; without encryption_key, origins and notes."""
    plain = {}
    for f in dataclasses.fields(spec):
        value = getattr(spec, f.name)
        if dataclasses.is_dataclass(value):
            plain[f.name] = to_plain(value)
        elif "meaning" in f.metadata and not f.metadata["secret"]:
            plain[f.name] = _plain_value(value)
    return plain


def _plain_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def model_spec_from_plain(mapping: Mapping[str, Any]) -> ModelSpec:
    """The model section of `to_plain`, e.g. out of a checkpoint nobody vouches for; keys left out have their defaults.

    ValueError names the first key that is unknown, of the wrong type or out of range.
    """
    if not isinstance(mapping, Mapping):
        raise ValueError(f"the model spec must be a mapping, got {type(mapping).__name__}")
    keys = keys_of(ModelSpec)
    values: dict[str, Any] = {}
    for name, value in mapping.items():
        if name not in keys:
            raise ValueError(f"model spec: unknown key {shorten(repr(name))}")
        try:
            values[name] = read_plain(value, keys[name])
        except UnreadableValue as error:
            raise ValueError(f"model spec: {name} {error}") from None
    model = ModelSpec(**values)
    for problem in backbone_limits(model):
        raise ValueError(f"model spec: {problem.key.partition('.')[2]}: {problem.text}")
    return model
