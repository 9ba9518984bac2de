"""Specs, whatever is in them: each tool ends with a message and 2, or goes on to its work. No traceback, no hang."""

import io
import random
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import yaml
from mutate import REPO, Hung, damaged, damaged_lines, no_longer_than
from test_config import DOCUMENTED_SPEC, ODD_TEXTS, ODD_VALUES

from action_recognition.tasks import evaluate, export, inference, train
from action_recognition.training import distributed

TASKS = {"train": (train, "train"), "evaluate": (evaluate, "evaluate"), "inference": (inference, "infer"),
         "export": (export, "export")}  # fmt: skip
SEEDS = [path.read_text() for path in sorted((REPO / "configs").glob("*.yaml"))] + [DOCUMENTED_SPEC]
SEEDS += ["""\
model_config: {model_type: rgb, backbone: resnet_34, rgb_seq_length: 3, input_type: "3d", num_fc: 64}
dataset_config: {train_dataset_dir: /data/train, label_map: {a: 0, b: 1}, augmentation_config: {of_input_rgb: [0.25]}}
train_config: {epochs: 7, optim: {lr: 0.01, lr_steps: [5, 15]}, gpu_ids: [0]}
output_dir: /results
gpu_ids: [1]
key:
""", """\
model: /checkpoint
batch_size: 4
test_dataset_dir: /data/test
inference_dataset_dir: /data/test/a
output_file: /results/o.onnx
video_eval_mode: conv
video_num_segments: 5
gpu_id: 0
"""]  # fmt: skip
WORDS = [*ODD_TEXTS, "nan", ".inf", "-.inf", "1e400", "-1", "0", "9" * 30, "0x10", "1_000", "1:30", "2026-01-01"]
WORDS += ["!!python/object/apply:os.system [echo]", "!!binary aaaa", "!<x>", "&a [*a]", "*b", "<<: *a", "? [1]"]
WORDS += [
    "é",
    "\U0001f600",
    "\u202e",
    "\ufeff",
    "\x85",
    "\x1b[31m",
    "\u017f",
    "'",
    "\\",
    "[[[[",
    "}}",
    "null",
    "~",
    "true",
]
WORDS += ["/dev/null", "/", ".", "a" * 5000, "/" + "b" * 5000, "resnet18", "joint", "3d", "[1, 2, 3]", "{a: {b: 1}}"]
OVERRIDES = [
    "model",
    "dataset",
    "train.optim.lr",
    "dataset.label_map",
    "results_dir",
    "model.backbone",
    "encryption_key",
]
ALL_NEED = ["results_dir=/results", "dataset.label_map=null", "dataset.val_dataset_dir=null", "dataset.cache_dir=null"]
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def paths(tmp_path: Path, make_tree: Callable[..., Path]) -> dict[str, str]:
    """What stands for the paths of the seeds: things that are there."""
    for part in ("train", "test"):
        make_tree(tmp_path / part, {"a": 1, "b": 1}, num_frames=2)
    checkpoint = tmp_path / "checkpoint.pth"
    checkpoint.write_bytes(b"none")
    return {"/data/train": str(tmp_path / "train"), "/data/test": str(tmp_path / "test"),
            "/checkpoint": str(checkpoint), "/results": str(tmp_path / "results")}  # fmt: skip


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """A tool as its file runs it, with nothing but the work itself left out: exit code and standard error."""
    for module, name in TASKS.values():
        monkeypatch.setattr(module, name, lambda spec, say: [say(note) for note in spec.notes])
    monkeypatch.setattr(distributed, "launch", lambda *_: 0)

    def main(task: str, arguments: list[str], seconds: int = 20) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [f"tools/{task}.py", *arguments])
        said = io.StringIO()
        with redirect_stderr(said), redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as end, \
                no_longer_than(seconds):  # fmt: skip
            runpy.run_path(str(REPO / f"tools/{task}.py"), run_name="__main__")
        return int(end.value.code or 0), said.getvalue()

    return main


def needed(task: str, paths: dict[str, str]) -> list[str]:
    """Overrides that give a task what it can't do without."""
    data = {"train": ["dataset.train_dataset_dir=/data/train"],
            "evaluate": ["evaluate.checkpoint=/checkpoint", "evaluate.test_dataset_dir=/data/test"],
            "inference": ["inference.checkpoint=/checkpoint", "inference.inference_dataset_dir=/data/test/a"],
            "export": ["export.checkpoint=/checkpoint"]}[task]  # fmt: skip
    return [with_paths(text, paths) for text in [*data, *ALL_NEED]]


def with_paths(text: str, paths: dict[str, str]) -> str:
    return re.sub("|".join(paths), lambda match: paths[match[0]], text)


def mutated(rng: random.Random, paths: dict[str, str]) -> bytes:
    text = with_paths(rng.choice(SEEDS), paths)
    kind = rng.randrange(4)
    if kind == 0:
        return damaged(text.encode(), rng)
    if kind < 3:
        return damaged_lines(text, rng, WORDS).encode("utf-8", "surrogatepass")
    plain = yaml.safe_load(text)
    for _ in range(rng.randint(1, 3)):
        section = rng.choice([value for value in plain.values() if isinstance(value, dict)] or [plain])
        name = rng.choice([*section] * 4 + [*plain] + ["lr", 1, None, "x" * 3000])
        rng.choice([section, plain])[name] = rng.choice([*ODD_VALUES, section, list(section), rng.choice(list(WORDS))])
    return yaml.safe_dump(plain).encode("utf-8", "surrogatepass")


def extra(rng: random.Random) -> list[str]:
    words = [word for word in WORDS if "\0" not in word]
    return [
        f"{rng.choice(OVERRIDES)}{rng.choice(['=', '=', '.x='])}{rng.choice(words)}"
        for _ in range(rng.choice([0, 0, 0, 1, 2]))
    ]


def fault_of(code: int, said: str) -> str:
    """What is wrong with how a tool ended, or an empty text."""
    if code not in (0, 2):
        return f"exit code {code}: {said[-500:]}"
    if "Traceback" in said or (code == 2) != bool(re.search("^error: .|^usage: ", said)):
        return f"exit code {code} and {said[-500:]!r}"
    return f"a message of {len(said)} characters" if len(said) > 50_000 else ""


@pytest.mark.parametrize("task", [*TASKS])
def test_a_mutated_spec_is_run_or_refused_with_a_message(tmp_path, paths, run: Run, amount, ledger, task: str) -> None:
    made, lost, valid = amount(12, 2500), 0, 0
    for seed in range(made):
        rng = random.Random(f"{task} {seed}")
        spec = tmp_path / "spec.yaml"
        spec.write_bytes(mutated(rng, paths))
        arguments = [str(spec), *extra(rng), *(needed(task, paths) if rng.random() < 0.7 else [])]
        try:
            code, said = run(task, arguments)
            fault = fault_of(code, said)
            valid += code == 0
        except (Exception, Hung) as error:
            fault = repr(error)
        if fault:
            lost += 1
            print(f"seed {task} {seed}: {fault}\narguments {arguments}\nspec {spec.read_bytes()!r}")
    print(f"{valid} of {made} were valid")
    assert made < 100 or valid > made // 30, "hardly one was valid"
    ledger.close(f"mutated specs through tools/{task}.py", made, lost, "YAML's numbers out of range are not caught")


def test_mutated_specs_in_processes_of_their_own_end_with_a_message(tmp_path, paths, amount, ledger) -> None:
    made, lost = amount(2, 100), 0
    for seed in range(made):
        rng = random.Random(f"process {seed}")
        task = rng.choice(["train", "train", "train", "export", "inference"])
        spec = tmp_path / "spec.yaml"
        spec.write_bytes(mutated(rng, paths))
        ends = {"train": ["dataset.train_dataset_dir=/nowhere"], "export": [],
                "inference": ["inference.num_gpus=1", "inference.gpu_ids=[0]"]}[task]  # fmt: skip
        command = [sys.executable, f"tools/{task}.py", str(spec), *needed(task, paths), *ends]
        done = subprocess.run(command, cwd=REPO, capture_output=True, timeout=120, check=False)
        said = done.stderr.decode()
        # 1: the spec was good, and the checkpoint is none
        is_told = said.startswith(("error: ", "usage: ")) and "Traceback" not in said
        if done.returncode not in (1, 2) or not is_told or (done.returncode == 1 and "checkpoint.pth" not in said):
            lost += 1
            print(f"seed process {seed}: {command} ended with {done.returncode}: {said}\nspec {spec.read_bytes()!r}")
    ledger.close("mutated specs, each in a process", made, lost, "run_tool no longer catches SpecError")


# --- YAML that is made to explode ---


def exploding(rng: random.Random, witness: Path) -> str:
    size = rng.choice([10, 1000, 4900, 100_000])
    keys = "".join(f"absent_{i}: 1\n" for i in range(min(size, 15_000)))
    anchors = "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(rng.randint(5, 60)))
    return rng.choice([
        f"a0: &a0 x\n{anchors}model: *a5\n",
        f"a0: &a0 {{b: 1}}\n{anchors}dataset: {{label_map: {{a: *a5}}}}\n",
        "&a [*a]\n", "model: &a {b: *a}\n", "model: &m\n  <<: *m\n",
        keys, f"model:\n{re.sub('^', '  ', keys, flags=re.MULTILINE)}",
        "[" * size, "{a: " * size, "- " * size, "? " * size, "a:\n" + "".join(" " * i + "a:\n" for i in range(200)),
        f"model: {'x' * size}\n", f"train: {{num_epochs: {'9' * size}}}\n", f"results_dir: '{'/..' * (size // 3)}'\n",
        f"model: !!python/object/apply:pathlib.Path.touch ['{witness}']\n",
        f"results_dir: !!python/object/new:os.system [touch {witness}]\n",
        f"dataset: !!python/object/apply:subprocess.check_output\n  args: [touch {witness}]\n  kwds: {{shell: true}}\n",
        f"%TAG ! tag:yaml.org,2002:python/\n---\nmodel: !object/apply:os.system [touch {witness}]\n",
        f"model: !!python/name:{'os.' * (size // 3)}system ''\n",
    ])  # fmt: skip


def test_yaml_that_explodes_or_carries_code_is_refused_at_once(tmp_path, paths, run: Run, amount, ledger) -> None:
    made, lost = amount(12, 400), 0
    witness, spec = tmp_path / "witness", tmp_path / "spec.yaml"
    for seed in range(made):
        rng = random.Random(f"exploding {seed}")
        spec.write_text(exploding(rng, witness))
        try:
            code, said = run("train", [str(spec), *needed("train", paths)], seconds=5)
            fault = fault_of(code, said)
        except (Exception, Hung) as error:
            fault = repr(error)
        if fault or witness.exists():
            lost += 1
            print(f"seed exploding {seed}: {fault or 'ran the code'}\nspec begins {spec.read_bytes()[:2000]!r}")
            witness.unlink(missing_ok=True)
    ledger.close("YAML with exploding aliases, tags and depth", made, lost, "compose_node looks at no tag")
