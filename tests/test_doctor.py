"""What tools/doctor.py says of a machine: of this one, and of machines that lack things."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest

from action_recognition import doctor
from action_recognition.doctor import BROKEN, MISSING, NOTE, OK, PACKAGES, Finding, Package, examine_package

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "tools/doctor.py"
GIB = 2**30


def by_name(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_package_that_is_there_has_its_version() -> None:
    found = examine_package(Package("numpy", "numpy", "everything", "pip install numpy", True))
    assert (found.state, found.seen) == (OK, importlib.import_module("numpy").__version__)


def test_package_that_is_missing_says_what_for_and_the_command() -> None:
    found = examine_package(Package("no-such", "no_such_module", "magic", 'pip install -e ".[magic]"'))
    assert (found.state, found.seen) == (MISSING, "not installed")
    assert found.advice == 'for magic: pip install -e ".[magic]"'


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libGL.so.1: cannot open shared object file"),
        RuntimeError("operator torchvision::nms does not exist"),
        ValueError("numpy.dtype size changed, may indicate binary incompatibility"),
        TypeError("Descriptors cannot be created directly"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_package_that_is_installed_and_can_not_be_imported_is_broken_with_the_reason(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr(importlib, "import_module", fail)
    found = examine_package(Package("numpy", "numpy", "everything", "pip install numpy", True))
    assert found.state == BROKEN
    assert found.seen.endswith(f"can't be imported: {error}")
    assert by_name(doctor._flow_engines())["dis"].state == MISSING  # the parts behind are examined too


def test_disk_and_shared_memory_that_are_short_come_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=64 * 2**20))
    found = by_name(doctor._machine(Path.cwd()))
    assert found["free disk"].state == NOTE
    assert found["free disk"].seen == f"0.1 GiB in {Path.cwd()}"
    if "shared memory" in found:
        assert "docker run --shm-size=8g" in found["shared memory"].advice


def test_machine_without_opencv_has_no_dis_and_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_imported", lambda name: None)
    assert by_name(doctor._flow_engines())["dis"].state == MISSING
    assert by_name(doctor._flow_engines())["dis"].advice == 'for flow on a CPU: pip install -e ".[flow]"'


def test_gpu_that_torch_does_not_see_is_broken_with_the_build_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False), version=SimpleNamespace(cuda=None))
    monkeypatch.setattr(doctor, "_nvidia_smi", lambda: ["NVIDIA T4, 535.54, 15360 MiB"])
    monkeypatch.setattr(doctor, "_imported", lambda name: fake if name == "torch" else None)
    found = by_name(doctor._gpus())
    assert found["NVIDIA driver"].seen == "NVIDIA T4, 535.54, 15360 MiB"
    assert (found["torch"].state, found["torch"].seen) == (BROKEN, "sees no GPU; it is built without CUDA")


def test_gpu_that_torch_sees_without_nvidia_smi_is_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 1,
        get_device_capability=lambda i: (8, 7),
        get_device_name=lambda i: "Orin",
        is_bf16_supported=lambda including_emulation: True,
    )
    fake = SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda="12.6"))
    monkeypatch.setattr(doctor, "_nvidia_smi", lambda: None)
    monkeypatch.setattr(doctor, "_imported", lambda name: fake)
    (found,) = doctor._gpus()
    assert (found.name, found.state) == ("torch, cuda:0", OK)
    assert found.seen == "Orin, compute capability 8.7, bf16; torch is built for CUDA 12.6"


def test_onnx_runtime_of_a_cpu_says_so_and_how_to_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    providers = ["AzureExecutionProvider", "CPUExecutionProvider"]
    fake = SimpleNamespace(get_available_providers=lambda: providers)
    monkeypatch.setattr(doctor, "_imported", lambda name: fake if name == "onnxruntime" else None)
    (found,) = doctor._runtimes()
    assert (found.state, found.seen) == (NOTE, "runs on CPU")
    assert found.advice.endswith("pip uninstall onnxruntime; pip install onnxruntime-gpu")  # both have the same module


def test_packages_of_every_extra_are_looked_for() -> None:
    extras = set(re.findall(r'^EXTRAS\["(\w+)"\]|^    "(\w+)": ', (ROOT / "setup.py").read_text("utf-8"), re.M))
    installs = " ".join(package.install for package in PACKAGES)
    assert {name for pair in extras for name in pair if name and f"[{name}]" not in installs} == {"flow", "dev", "all"}


@pytest.mark.slow
def test_tool_prints_each_part_and_ends_with_0_where_all_that_is_needed_is_there() -> None:
    done = subprocess.run([sys.executable, TOOL], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    parts = [line for line in done.stdout.splitlines()[1:] if not line.startswith(" ")]
    assert parts[:2] == ["machine", "packages"]
    assert parts[-2:] == ["runtimes", "optical flow"]


@pytest.mark.slow
def test_tool_ends_with_1_where_a_needed_package_is_missing(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise ImportError('no yaml here')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, TOOL, "--json"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1
    (found,) = (f for f in json.loads(done.stdout) if f["name"] == "pyyaml")
    assert found["state"] == "broken"
