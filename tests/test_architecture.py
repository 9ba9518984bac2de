"""Which part may import which: docs/architecture.md, read from the code itself."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
PACKAGE = "action_recognition"

# A part is a module or a folder at the top of the package; what it may import anywhere, and what inside functions only.
GROUND = {"errors"}
ARROWS: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "files": GROUND,
    "machine": set(),
    "doctor": {"machine"},
    "sealing": GROUND,
    "torch_files": GROUND | {"sealing"},
    "clip": GROUND,
    "config": GROUND,
    "data": GROUND | {"machine", "clip", "config", "files"},
    "models": GROUND | {"config", "torch_files"},
    "training": GROUND | {"machine", "config", "files", "sealing", "torch_files"},
    "demo": GROUND | {"clip", "files"},
    "preprocess": GROUND | {"machine", "clip", "files"},
    "deploy": GROUND | {"__init__", "clip", "files", "machine", "sealing"},
    "loading": GROUND | {"clip", "config", "models", "training"},
    "report": GROUND | {"clip", "config", "data", "files", "models", "training"},
    "command_line": GROUND | {"machine", "config"},
    "tasks": GROUND
    | {
        "clip",
        "config",
        "data",
        "deploy",
        "demo",
        "files",
        "loading",
        "machine",
        "models",
        "preprocess",
        "report",
        "sealing",
        "torch_files",
        "training",
    },
}
INSIDE_FUNCTIONS: dict[str, set[str]] = {"deploy": {"loading"}, "command_line": {"training"}}

NEVER_AT_THE_TOP = {"av", "cv2", "onnx", "onnxruntime", "tensorrt", "cuda", "cryptography", "modelopt"}
MAY_LOAD_TORCH = (
    *("models", "training", "tasks", "torch_files", "loading", "report"),
    *("data.prefetch", "data.workers"),
    *("data.dataset", "data.loader", "data.quick", "deploy.export"),
)


@dataclass(frozen=True)
class Import:
    """`module` imports `target`, both dotted and without the package's name where they are ours."""

    module: str
    target: str
    ours: bool
    at_the_top: bool

    def __str__(self) -> str:
        return f"{self.module} -> {self.target}"


def part_of(module: str) -> str:
    return module.partition(".")[0]


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name; a folder's __init__ by the folder's."""
    found = {}
    for path in sorted((REPO / PACKAGE).rglob("*.py")):
        parts = path.relative_to(REPO / PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = ast.parse(
            path.read_text()
        )
    return found


def imports_of(module: str, tree: ast.Module) -> Iterator[Import]:
    """All imports, with those inside functions told apart from those that run when the module is loaded."""

    def walk(node: ast.AST, at_the_top: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                targets = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{module}: imports are written in full"
                targets = list(_from(child))
            else:
                yield from walk(
                    child, at_the_top and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                )
                continue
            for target in targets:
                ours = target.partition(".")[0] == PACKAGE
                yield Import(module, target.partition(".")[2] or "__init__" if ours else target, ours, at_the_top)

    yield from walk(tree, True)


def _from(node: ast.ImportFrom) -> Iterator[str]:
    """`from package.part import module` is an import of package.part.module, of a name one of package.part."""
    for alias in node.names:
        longer = f"{node.module}.{alias.name}"
        yield longer if longer.removeprefix(f"{PACKAGE}.") in modules() else str(node.module)


@cache
def all_imports() -> tuple[Import, ...]:
    return tuple(i for module, tree in modules().items() for i in imports_of(module, tree))


def test_the_reader_of_imports_finds_them_at_the_top_and_inside_functions() -> None:
    tree = ast.parse(
        "import os, av.video\n"
        "from action_recognition.clip import sampling\n"
        "from action_recognition.clip.sampling import window_ids\n"
        "if True:\n    import cv2\n"
        "class A:\n    import onnx\n    def f(self):\n        from torch import nn\n"
    )
    assert [(i.target, i.ours, i.at_the_top) for i in imports_of("x", tree)] == [
        ("os", False, True),
        ("av.video", False, True),
        ("clip.sampling", True, True),
        ("clip.sampling", True, True),
        ("cv2", False, True),
        ("onnx", False, True),
        ("torch", False, False),
    ]


def test_every_part_is_in_the_table_of_arrows() -> None:
    assert {part_of(module) for module in modules()} - set(ARROWS) == set()


@pytest.mark.parametrize("part", sorted(ARROWS))
def test_part_imports_only_what_its_arrows_allow(part: str) -> None:
    wrong = []
    for found in all_imports():
        if found.ours and part_of(found.module) == part:
            allowed = {part} | ARROWS[part] | (set() if found.at_the_top else INSIDE_FUNCTIONS.get(part, set()))
            if part_of(found.target) not in allowed:
                wrong.append(str(found))
    assert wrong == []


def test_modules_import_one_another_without_a_circle() -> None:
    graph: dict[str, set[str]] = {module: set() for module in modules()}
    for found in all_imports():
        if found.ours and found.at_the_top:
            graph[found.module].add(found.target)
    while leaves := {module for module, targets in graph.items() if not targets & set(graph)}:
        for module in leaves:
            del graph[module]
    assert graph == {}


def test_torch_is_loaded_at_the_top_only_where_it_computes() -> None:
    wrong = [
        str(found)
        for found in all_imports()
        if found.at_the_top
        and part_of(found.target) in ("torch", "torchvision")
        and found.module not in MAY_LOAD_TORCH
        and part_of(found.module) not in MAY_LOAD_TORCH
    ]
    assert wrong == []


def test_modules_without_torch_do_not_load_it_through_another_of_ours() -> None:
    """Everything a module loads, down to the last, for those that promise to work without torch."""
    reach: dict[str, set[str]] = {module: set() for module in modules()}
    for found in all_imports():
        if found.at_the_top:
            reach[found.module].add(found.target if found.ours else part_of(found.target))
            if found.ours and found.target.count("."):
                reach[found.module].add(found.target.rpartition(".")[0])  # loading a module loads its folder's __init__
    without = [m for m in modules() if m not in MAY_LOAD_TORCH and part_of(m) not in MAY_LOAD_TORCH]
    for module in without:
        seen, waiting = set(), [module]
        while waiting:
            for target in reach.get(waiting.pop(), set()) - seen:
                seen.add(target)
                waiting.append(target)
        assert not seen & {"torch", "torchvision"}, module
    assert {"data.index", "data.frames", "data.augment", "data.agreement", "clip.video", "command_line"} <= set(without)


def test_libraries_of_one_use_are_never_loaded_at_the_top() -> None:
    wrong = [str(i) for i in all_imports() if i.at_the_top and not i.ours and part_of(i.target) in NEVER_AT_THE_TOP]
    assert wrong == []


def test_nothing_imports_the_tools() -> None:
    in_tools = [
        i for path in sorted((REPO / "tools").glob("*.py")) for i in imports_of(path.stem, ast.parse(path.read_text()))
    ]
    names = {path.stem for path in (REPO / "tools").glob("*.py")}
    assert [str(i) for i in all_imports() if not i.ours and part_of(i.target) == "tools"] == []
    among_tools = [i for i in in_tools if not i.ours and part_of(i.target) in {"tools", *names}]
    benchmark = {name for name in names if name.startswith("benchmark")}  # one tool in several files
    assert [str(i) for i in among_tools if {i.module, i.target} - benchmark] == []
    assert "benchmark_reference" in {i.target for i in among_tools}
