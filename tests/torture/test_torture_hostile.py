"""Files made for harm: no code in them runs, they take no more memory than files do, and are refused by name."""

import csv
import io
import json
import os
import pickle
import random
import subprocess
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from mutate import Hung, damaged, forked, no_longer_than, peak_bytes
from onnx import TensorProto, helper
from simulated_tensorrt import TENSORRT, Plan, install
from tiny import save_sigmoid_model, use_tiny_models
from tiny_onnx import RGB, clips, expected, onnx_bytes, onnx_model

from action_recognition.config import DatasetSpec, ModelSpec
from action_recognition.data import index_cache
from action_recognition.data.index import index_classes
from action_recognition.data.lists import read_list
from action_recognition.data.packed import open_packed, read_header
from action_recognition.deploy.description import describe_onnx, describe_plan, description_path
from action_recognition.deploy.executor import OnnxExecutor, open_executor
from action_recognition.errors import UserError
from action_recognition.loading import load_checkpoint
from action_recognition.models.weights import load_pretrained
from action_recognition.tasks.scoring import write_csv, write_json_lines
from action_recognition.torch_files import read_file, read_weights
from action_recognition.training.checkpoint import read_checkpoint

Reader = Callable[[Path], object]


class Calls:
    """An object whose unpickling calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def fault_of(read: Reader, path: Path, may_be_read: bool = False) -> str:
    """What is wrong with how a hostile file is refused, or an empty text."""
    try:
        with no_longer_than(30):
            read(path)
    except UserError as error:
        text = str(error)
        return "" if path.name in text and len(text) < 5000 else f"said {text[:500]!r}"
    except (Exception, Hung) as error:
        return repr(error)[:500]
    return "" if may_be_read else "was read"


# --- pickles that run code ---


def payload(rng: random.Random, witness: Path) -> Any:
    command = f"touch {witness}"
    call = rng.choice(
        [
            Calls(Path.touch, witness),
            Calls(os.system, command),
            Calls(os.mkdir, str(witness)),
            Calls(subprocess.check_output, ["touch", str(witness)]),
            Calls(exec, f"open({str(witness)!r}, 'w')"),
            Calls(eval, f"open({str(witness)!r}, 'w')"),
            Calls(open, str(witness), "w"),
            Calls(torch.load, str(witness)),
            Calls(np.save, str(witness), np.zeros(1)),
        ]
    )
    return rng.choice(
        [call, {"state_dict": {"a": call}}, {"a": torch.zeros(1), "b": call}, [call], {"epoch": 1, "rng": call}]
    )


def with_code(rng: random.Random, path: Path, witness: Path) -> None:
    """A file that runs code when it is unpickled: by itself, as PyTorch writes it now, and as it did before."""
    content, protocol = payload(rng, witness), rng.randrange(2, 6)
    form = rng.randrange(3)
    if form == 0:
        path.write_bytes(pickle.dumps(content, protocol))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == 1, pickle_protocol=protocol)


def index_of(path: Path) -> None:
    """The index of a folder whose remembered index is `path`: what is wrong with that is a note."""
    root, cache = path.parent / "data", path.parent / "cache"
    (root / "a/v/rgb").mkdir(parents=True, exist_ok=True)
    (root / "a/v/rgb/0.png").touch()
    at = index_cache.cache_path(root, cache)
    at.parent.mkdir(parents=True, exist_ok=True)
    content = path.read_bytes()
    at.write_bytes(index_cache._start(index_cache.hashlib.sha256(content).hexdigest()) + content)
    dataset = DatasetSpec(cache_dir=str(cache))
    found = index_cache.with_memory(
        lambda frames_in: index_classes(root, ["a"], ("rgb",), "error", frames_in), root, dataset
    )
    assert [video.path for video in found.videos] == [str(root / "a/v")]
    assert found.notes, "nothing was said of the damaged file"


def pretrained(path: Path) -> None:
    load_pretrained(torch.nn.Linear(1, 1), ModelSpec(model_type="rgb", rgb_pretrained_model_path=str(path)), 2)


PLACES: dict[str, tuple[str, Reader]] = {
    "checkpoint": ("x.pth", read_checkpoint),
    "checkpoint to label with": ("x.pth", load_checkpoint),
    "weights": ("x.pth", read_weights),
    "pretrained weights": ("x.pth", pretrained),
    "packed frames": ("x.frames", open_packed),
    "header of packed frames": ("x.frames", read_header),
    "remembered index": ("x.jsonl", index_of),
    "list": ("x.txt", read_list),
    "list, csv": ("x.csv", read_list),
    "list, json": ("x.json", read_list),
    "ONNX file": ("x.onnx", OnnxExecutor),
    "plan's description": ("x.plan.json", lambda path: describe_plan(path.with_suffix(""))),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("place", [*PLACES])
def test_pickles_that_run_code_run_none_wherever_they_are_loaded(tmp_path: Path, amount, ledger, place: str) -> None:
    made, lost = amount(6, 200), 0
    (name, read), witness = PLACES[place], tmp_path / "witness"
    for seed in range(made):
        path = tmp_path / name
        with_code(random.Random(f"code {seed}"), path, witness)
        fault = fault_of(read, path, may_be_read=read is index_of)
        if fault or witness.exists():
            lost += 1
            print(f"seed code {seed}: {fault or 'the code ran'}: {path.read_bytes()[:1000]!r}")
            subprocess.run(["rm", "-rf", witness], check=True)
    ledger.close(f"pickles that run code, as {place}", made, lost, "torch.load reads with weights_only=False"
                 if name == "x.pth" else "the place takes pickles")  # fmt: skip


# --- checkpoints of absurd shapes, and of absurd content ---


def absurd(rng: random.Random) -> Any:
    """A state dict that claims or asks for a thousand times what its file holds."""
    many = rng.choice([2**28, 2**30, 2**33, 2**40])
    return rng.choice(
        [
            lambda: torch.zeros(1).expand(many),
            lambda: torch.zeros(2, 1).as_strided((many, 2), (0, 1)),
            lambda: torch.empty(many, device="meta"),
            lambda: torch.zeros(many, layout=torch.sparse_coo),
            lambda: Calls(torch.Tensor, many),
            lambda: Calls(torch.DoubleTensor, many),
            lambda: Calls(bytearray, many),
            lambda: Calls(torch.UntypedStorage, many),
            lambda: Calls(torch._utils._rebuild_device_tensor_from_cpu_tensor,
                          torch.zeros(1).expand(many), torch.float64, "cpu", False),
            lambda: Calls(torch._utils._rebuild_tensor_v2, torch.zeros(1)._typed_storage(), 0, (many,), (1,), False,
                          OrderedDict()),
            lambda: Calls(torch._utils._rebuild_tensor_v2, torch.zeros(1)._typed_storage(), many, (1,), (1,), False,
                          OrderedDict()),
        ]
    )()  # fmt: skip


def read_all(paths: list[Path]) -> Iterator[tuple[str, int]]:
    for path in paths:
        before = peak_bytes()
        yield fault_of(read_weights, path), peak_bytes() - before


def test_checkpoints_of_absurd_shapes_are_refused_before_they_take_memory(tmp_path: Path, amount, ledger) -> None:
    paths = []
    for seed in range(amount(24, 400)):
        rng = random.Random(f"absurd {seed}")
        paths.append(tmp_path / f"{seed}.pth")
        entries = {"a": torch.zeros(3), "fc.weight": absurd(rng)}
        content = rng.choice([entries, {"state_dict": entries, "epoch": 1}])
        torch.save(content, paths[-1], _use_new_zipfile_serialization=rng.random() < 0.6)
    told, end = forked(lambda: read_all(paths), 4 << 30, 60)
    bad = [f"seed absurd {seed}: {fault}, {num_bytes:,} bytes" for seed, (fault, num_bytes) in enumerate(told)
           if fault or num_bytes > 100 << 20]  # fmt: skip
    print(end, *bad, sep="\n")
    ledger.close(
        "checkpoints of absurd shapes", len(paths), len(paths) - len(told) + len(bad), "_MAKES_MEMORY finds nothing"
    )


def bomb(depth: int = 40) -> list[Any]:
    """A list of a few hundred bytes whose text would fill all disks."""
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner] * 10
    return inner


def changed_entry(content: Any, rng: random.Random) -> None:
    """One entry, however deep, becomes something else."""
    path, at = [], content
    while isinstance(at, dict) and at and (not path or rng.random() < 0.8):
        path.append(rng.choice([key for key in at if key != "rng"] or [*at]))
        at = at[path[-1]]
    for key in path[:-1]:
        content = content[key]
    odd = [
        None,
        -1,
        0,
        2**40,
        10**400,
        1e308,
        float("nan"),
        "x" * 10_000,
        b"x",
        [],
        {},
        bomb(),
        {"a": bomb()},
        [bomb()] * 3,
    ]
    odd += [
        torch.zeros(0),
        torch.full((2, 6), float("nan")),
        torch.zeros(5, 5),
        {1: 2},
        True,
        (1,),
        "\0",
        ["a"] * 100_000,
    ]
    content[path[-1]] = rng.choice(odd)
    if rng.random() < 0.2:
        del content[path[-1]]


def test_checkpoints_of_absurd_content_load_or_are_refused(tmp_path: Path, monkeypatch, amount, ledger) -> None:
    use_tiny_models(monkeypatch)
    made, lost = amount(60, 2000), 0
    path = tmp_path / "x.pth"
    for seed in range(made):
        rng = random.Random(f"content {seed}")
        content = save_sigmoid_model(path)
        for _ in range(rng.randint(1, 2)):
            changed_entry(content, rng)
        torch.save(content, path)
        if fault := fault_of(load_checkpoint, path, may_be_read=True):
            lost += 1
            print(f"seed content {seed}: {fault}")
    ledger.close("checkpoints of absurd content", made, lost, "values are shown whole in messages")


def test_damaged_checkpoints_load_as_they_were_or_are_refused(tmp_path: Path, amount, ledger) -> None:
    made, lost = amount(60, 2000), 0
    path = tmp_path / "x.pth"
    right = save_sigmoid_model(path)["state_dict"]
    content = path.read_bytes()
    for seed in range(made):
        path.write_bytes(damaged(content, random.Random(f"damage {seed}")))
        fault = fault_of(
            lambda path: None if _same(read_file(path)["state_dict"], right) else 1 / 0, path, may_be_read=True
        )
        if fault:
            lost += 1
            print(f"seed damage {seed}: {fault}")
    ledger.close("damaged checkpoints", made, lost, "checksums of the parts are not looked at")


def _same(state: Any, right: dict[str, torch.Tensor]) -> bool:
    return list(state) == list(right) and all(torch.equal(state[name], right[name]) for name in right)


# --- ONNX files and plans ---


def outside_model(rng: random.Random, secret: Path) -> onnx.ModelProto:
    """A model that has a weight in another file, wherever in the model weights may be."""
    model = onnx_model()
    tensor = TensorProto(name="stolen", dims=[48, 3], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    location = rng.choice([str(secret), secret.name, f"../{secret.parent.name}/{secret.name}", f"./{secret.name}",
                           "/etc/passwd",
                           "../" * 12 + "etc/passwd", "/dev/zero", "/proc/self/environ",
                           "*/_ORT_MEM_ADDR_/*"])  # fmt: skip
    tensor.external_data.add(key="location", value=location)
    if rng.random() < 0.5:
        tensor.external_data.add(key="offset", value=rng.choice(["0", "4", "-1", "99999999999999"]))
        tensor.external_data.add(key="length", value="576")
    constant = helper.make_node("Constant", [], ["stolen_too"], value=tensor)
    place = rng.randrange(4)
    if place == 0:
        model.graph.initializer[0].CopyFrom(tensor)
        model.graph.initializer[0].name = "input_rgb_weight"
    elif place == 1:
        model.graph.initializer.append(tensor)
    elif place == 2:
        model.graph.node.insert(0, constant)
    else:
        branch = helper.make_graph([constant], "branch", [], [helper.make_tensor_value_info("stolen_too", 1, None)])
        always = helper.make_node(
            "Constant", [], ["always"], value=helper.make_tensor("b", TensorProto.BOOL, [], [True])
        )
        chosen = helper.make_node("If", ["always"], ["chosen"], then_branch=branch, else_branch=branch)
        model.graph.node.insert(0, chosen)
        model.graph.node.insert(0, always)
    return model


def absurd_model(rng: random.Random) -> onnx.ModelProto:
    """A model whose weights, input or description is of no sense."""
    model, many = onnx_model(), rng.choice([2**31, 2**40, 2**62, -(2**40)])
    kind = rng.randrange(5)
    if kind == 0:
        model.graph.initializer[0].dims[rng.randrange(2)] = many
    elif kind == 1:
        model.graph.initializer.append(
            TensorProto(name="w", dims=[abs(many), 2], data_type=TensorProto.FLOAT, raw_data=b"1234")
        )
    elif kind == 2:
        model.graph.input[0].type.tensor_type.elem_type = rng.choice([0, 7, 10, 16, 99])
    else:
        text = {3: "[" * 100_000, 4: json.dumps({"height": 10**300, "streams": [[[[]]]]})}[kind]
        next(prop for prop in model.metadata_props if prop.key == "contract").value = text
    return model


def test_onnx_files_that_point_outside_or_make_no_sense_are_refused(
    tmp_path: Path, monkeypatch, amount, ledger
) -> None:
    made, lost = amount(40, 1000), 0
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install .[deploy]")
    monkeypatch.chdir(tmp_path)  # where ONNX Runtime looks for the files of a model that comes as bytes
    secret, path = tmp_path / "secret.bin", tmp_path / "x.onnx"
    secret.write_bytes(np.ones((48, 3), np.float32).tobytes())
    for seed in range(made):
        rng = random.Random(f"onnx {seed}")
        is_outside = rng.random() < 0.6
        path.write_bytes((outside_model(rng, secret) if is_outside else absurd_model(rng)).SerializeToString())
        faults = [fault_of(OnnxExecutor, path), fault_of(describe_onnx, path, may_be_read=not is_outside)]
        if any(faults):
            lost += 1
            print(f"seed onnx {seed}: {faults}: {path.read_bytes()[:500]!r}")
    ledger.close(
        "ONNX files that point outside or make no sense", made, lost, "weights in other files are not looked for"
    )


def run_model(path: Path) -> None:
    with OnnxExecutor(path) as run:
        rows = {name: shape[1:] for name, shape in run.inputs.items()}
        if rows == RGB and run.max_batch is None:
            run(clips(2))


def run_all(paths: list[Path]) -> Iterator[str]:
    for path in paths:
        yield fault_of(run_model, path, may_be_read=True)


def test_damaged_onnx_files_run_or_are_refused(tmp_path: Path, amount, ledger) -> None:
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install .[deploy]")
    content, paths = onnx_bytes(), []
    for seed in range(amount(40, 1000)):
        paths.append(tmp_path / f"{seed}.onnx")
        paths[-1].write_bytes(damaged(content, random.Random(f"graph {seed}")))
    told, end = forked(lambda: run_all(paths), 8 << 30, 60)
    bad = [f"seed graph {seed}: {fault}" for seed, fault in enumerate(told) if fault]
    print(end, *bad, sep="\n")
    ledger.close(
        "damaged ONNX files", len(paths), len(paths) - len(told) + len(bad), "ONNX Runtime's errors are not caught"
    )


def test_plans_with_code_for_the_host_run_only_with_trust(tmp_path: Path, monkeypatch, amount, ledger) -> None:
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install .[deploy]")
    install(monkeypatch)
    made, lost = amount(10, 200), 0
    for seed in range(made):
        rng = random.Random(f"plan {seed}")
        path = tmp_path / f"{seed}{rng.choice(['.plan', '.engine', '.trt', '.PLAN'])}"
        largest, has_code = rng.randint(1, 6), rng.random() < 0.8
        profiles = {"input_rgb": [[n, *RGB["input_rgb"]] for n in (1, 1, largest)]}
        path.write_bytes(Plan(onnx_bytes(), profiles, TENSORRT.__version__, "Simulated GPU", has_code).to_bytes())
        fault = fault_of(lambda path: open_executor(path).close(), path, may_be_read=not has_code)
        inputs = clips(largest, seed=seed)
        with open_executor(path, trust=True) as run:
            if fault or not np.allclose(run(inputs)["fc_pred"], expected(inputs), atol=1e-4):
                lost += 1
                print(f"seed plan {seed}: {fault}")
    ledger.close("plans with code for the host", made, lost, "engine_host_code_allowed is always set")


def test_descriptions_of_plans_of_any_kind_are_read_or_refused(tmp_path: Path, amount, ledger) -> None:
    plan, made, lost = tmp_path / "x.plan", amount(60, 2000), 0
    contract = json.loads(onnx_model().metadata_props[0].value)
    content = json.dumps({"contract": contract, "output": "logits", "precision": "fp32"}).encode()
    for seed in range(made):
        rng = random.Random(f"description {seed}")
        odd = [
            b"[" * 100_000,
            b"9" * 5000,
            b"1e999",
            b"NaN",
            b"null",
            b'"' + b"x" * 99_999 + b'"',
            b"{}",
            b"\xff",
            b"-0",
        ]
        value = rng.choice([b"4", b"0.5", b"false", b'"rgb"', b'"fp32"', b"5"])
        changed = content.replace(value, rng.choice(odd)) if rng.random() < 0.5 else damaged(content, rng)
        description_path(plan).write_bytes(changed)
        if fault := fault_of(lambda _: describe_plan(plan), description_path(plan), may_be_read=True):
            lost += 1
            print(f"seed description {seed}: {fault}: {changed[:1000]!r}")
    ledger.close("descriptions of plans of any kind", made, lost, "RecursionError is not caught")


# --- reports ---

STARTS = ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"]
NAMES = ["cmd|' /C calc'!A0", "HYPERLINK(\"http://x\",\"y\")", "<script>alert(1)</script>",
         "</td><img src=x onerror=a()>",
         "[a](javascript:b)", "|a|b|", "a,b", 'a"b', "a\nb", "a\r\nb", "\x1b[2J", "\0", "é", "\udcff", "1+1",
         "a;=1+1"]  # fmt: skip


def test_names_with_formulas_and_markup_are_text_in_csv_and_json(tmp_path: Path, amount, ledger) -> None:
    made, lost = amount(100, 5000), 0
    for seed in range(made):
        rng = random.Random(f"report {seed}")
        row = [rng.choice([*STARTS, ""]) * rng.randint(1, 2) + rng.choice(NAMES) for _ in range(4)]
        write_csv(tmp_path / "x.csv", [row, [*row, 0.5]])
        write_json_lines(tmp_path / "x.jsonl", [{"path": name} for name in row])
        text = (tmp_path / "x.csv").read_bytes().decode()
        cells = [cell for line in csv.reader(io.StringIO(text, newline="")) for cell in line]
        lines = [json.loads(line)["path"] for line in (tmp_path / "x.jsonl").read_text().split("\n")[:-1]]
        if len(cells) != 9 or any(cell.startswith(tuple(STARTS)) for cell in cells) or lines != row:
            lost += 1
            print(f"seed report {seed}: {row} became {text!r}")
    ledger.close("names with formulas and markup in reports", made, lost, "a leading = gets no quote")
