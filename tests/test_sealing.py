"""Sealed files: what comes back, and that nothing does where the key is wrong or a byte was changed."""

import io
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import MakeTree, run_evaluate, run_infer, run_train, use_tiny_models

from action_recognition import sealing
from action_recognition.deploy.recognizer import Recognizer
from action_recognition.errors import CheckpointError, SpecError, UserError
from action_recognition.loading import load_checkpoint
from action_recognition.sealing import is_sealed, is_sealed_file, key_from, plain_note, seal, unseal, unseal_file
from action_recognition.torch_files import read_file
from action_recognition.training.checkpoint import read_checkpoint

HEADER_BYTES = 39
CONTENT = b"weights"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that cost next to nothing, small pieces, and no key from outside."""
    pytest.importorskip("cryptography", reason="needs cryptography: pip install '.[crypto]'")
    monkeypatch.setattr(sealing, "LOG2_COST", 1)
    monkeypatch.setattr(sealing, "PIECE", 16)
    monkeypatch.delenv("AR_ENCRYPTION_KEY", raising=False)


@pytest.mark.parametrize("num_bytes", [0, 1, 15, 16, 17, 32, 100])
def test_unseal_gives_back_content_of_any_length(num_bytes: int) -> None:
    content = bytes(range(num_bytes))
    sealed = seal(content, "key")
    assert unseal(sealed, "key", "file") == content
    assert len(sealed) == HEADER_BYTES + num_bytes + 16 * max(1, -(-num_bytes // 16))  # a tag of 16 bytes a piece


def test_sealed_content_shows_nothing_of_the_content_or_the_key() -> None:
    sealed = seal(b"A" * 64, "my key")
    assert b"AAAA" not in sealed
    assert b"my key" not in sealed


def test_same_content_sealed_twice_differs_in_salt_nonce_and_all_that_follows() -> None:
    first, second = seal(CONTENT, "key"), seal(CONTENT, "key")
    assert first[:16] == second[:16]  # magic, version, cost, size of a piece
    assert first[16:32] != second[16:32]
    assert first[32:39] != second[32:39]
    assert first[39:46] != second[39:46]


def test_file_sealed_with_another_size_of_piece_and_cost_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = seal(CONTENT * 9, "key")
    monkeypatch.setattr(sealing, "PIECE", 5)
    monkeypatch.setattr(sealing, "LOG2_COST", 2)
    assert unseal(sealed, "key", "file") == CONTENT * 9


def test_key_may_be_any_text() -> None:
    assert unseal(seal(CONTENT, "schlüssel 钥匙 🔑"), "schlüssel 钥匙 🔑", "file") == CONTENT


# --- what must not open ---


@pytest.mark.parametrize("wrong", ["Key", "key ", "kez", "k"])
def test_unseal_with_another_key_is_an_error_that_shows_neither(wrong: str) -> None:
    with pytest.raises(
        CheckpointError, match=r"^m\.pth: can't be decrypted: the key is not the one it was encrypted"
    ) as e:
        unseal(seal(CONTENT, "key"), wrong, "m.pth")
    assert repr(wrong) not in str(e.value)


@pytest.mark.parametrize("place", range(HEADER_BYTES + 20 + 2 * 16))
def test_unseal_with_any_byte_changed_is_an_error(place: int) -> None:
    """A file of two pieces; three changes of each byte: the lowest bit, the highest, all."""
    content = bytes(range(20))
    sealed = seal(content, "key")
    assert len(sealed) == HEADER_BYTES + 20 + 2 * 16
    for change in (1, 128, 255):
        changed = bytearray(sealed)
        changed[place] ^= change
        with pytest.raises(
            CheckpointError, match=r"^file: (was not encrypted|encrypted (in format|and)|can't be decrypt)"
        ):
            unseal(bytes(changed), "key", "file")


@pytest.mark.parametrize("num_bytes", range(8, HEADER_BYTES + 32 + 2 * 16))
def test_unseal_of_a_file_cut_off_anywhere_is_an_error(num_bytes: int) -> None:
    sealed = seal(bytes(range(32)), "key")
    with pytest.raises(CheckpointError, match=r"^file: (encrypted and cut off|can't be decrypted)"):
        unseal(sealed[:num_bytes], "key", "file")


def test_unseal_of_a_file_that_lost_its_last_piece_says_that_the_key_is_right() -> None:
    sealed = seal(bytes(48), "key")
    with pytest.raises(CheckpointError, match=r"^file: can't be decrypted: the key is right, but it has been changed"):
        unseal(sealed[:-40], "key", "file")


def test_unseal_of_a_file_with_bytes_behind_it_is_an_error() -> None:
    with pytest.raises(CheckpointError, match=r"^file: can't be decrypted"):
        unseal(seal(CONTENT, "key") + b"x", "key", "file")


def test_unseal_of_pieces_that_changed_places_is_an_error() -> None:
    sealed = seal(bytes(range(48)), "key")
    header, first, second, rest = sealed[:39], sealed[39:71], sealed[71:103], sealed[103:]
    with pytest.raises(CheckpointError, match=r"^file: can't be decrypted"):
        unseal(header + second + first + rest, "key", "file")


def test_unseal_of_a_header_before_the_pieces_of_another_file_is_an_error() -> None:
    first, second = seal(CONTENT, "key"), seal(CONTENT, "key")
    with pytest.raises(CheckpointError, match=r"^file: can't be decrypted"):
        unseal(first[:HEADER_BYTES] + second[HEADER_BYTES:], "key", "file")


def test_header_that_asks_for_more_memory_than_any_file_needs_is_refused_before_it_is_taken() -> None:
    sealed = bytearray(seal(CONTENT, "key"))
    sealed[9] = 63  # 2**63 times 1 KiB
    with pytest.raises(CheckpointError, match=r"^file: encrypted and damaged: its header asks for what"):
        unseal(bytes(sealed), "key", "file")


def test_file_of_a_newer_format_is_named_as_such() -> None:
    sealed = bytearray(seal(CONTENT, "key"))
    sealed[8] = 2
    with pytest.raises(CheckpointError, match=r"^file: encrypted in format 2; this program knows 1\. Newer, or"):
        unseal(bytes(sealed), "key", "file")


def test_files_of_tao_are_refused_with_how_to_get_plain_ones() -> None:
    etlt = struct.pack("<i", 0) + bytes(64)
    with pytest.raises(CheckpointError, match=r"^m\.etlt: was not encrypted by this program.*use the plain \.onnx$"):
        unseal(etlt, "nvidia_tao", "m.etlt")


# --- files and keys ---


def test_is_sealed_tells_sealed_files_from_others(tmp_path: Path) -> None:
    (tmp_path / "sealed").write_bytes(seal(CONTENT, "key"))
    (tmp_path / "plain").write_bytes(b"PK\x03\x04")
    (tmp_path / "empty").touch()
    assert is_sealed(seal(b"", "key"))
    assert [is_sealed_file(tmp_path / name) for name in ("sealed", "plain", "empty", "none")] == [True] + [False] * 3


def test_unseal_file_takes_the_key_given_or_that_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(seal(CONTENT, "key"))
    assert unseal_file(tmp_path / "a", "key") == CONTENT
    monkeypatch.setenv("AR_ENCRYPTION_KEY", "key")
    assert unseal_file(tmp_path / "a", None) == CONTENT


def test_unseal_file_without_a_key_says_how_to_give_one(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(seal(CONTENT, "key"))
    expected = r"a\.pth: is encrypted; set AR_ENCRYPTION_KEY in the environment, or encryption_key in the spec$"
    with pytest.raises(SpecError, match=expected):
        unseal_file(tmp_path / "a.pth", None)


@pytest.mark.parametrize(
    ("of_spec", "of_environment", "expected"),
    [(None, None, None), ("a", None, "a"), (None, "b", "b"), ("a", "a", "a"), ("", "", None), ("a", "", "a")],
)
def test_key_from_spec_and_environment(
    of_spec: str | None, of_environment: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if of_environment is not None:
        monkeypatch.setenv("AR_ENCRYPTION_KEY", of_environment)
    assert key_from(of_spec) == expected


def test_two_different_keys_are_an_error_that_shows_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AR_ENCRYPTION_KEY", "first_secret")
    with pytest.raises(SpecError, match=r"^encryption_key and AR_ENCRYPTION_KEY are both given and differ; leave") as e:
        key_from("second_secret")
    assert "secret" not in str(e.value)


def test_plain_note_is_for_plain_files_read_with_a_key(tmp_path: Path) -> None:
    (tmp_path / "sealed").write_bytes(seal(CONTENT, "key"))
    (tmp_path / "plain").write_bytes(CONTENT)
    assert plain_note(tmp_path / "sealed", "key") is None
    assert plain_note(tmp_path / "plain", None) is None
    assert plain_note(tmp_path / "plain", "key") == f"{tmp_path / 'plain'}: is not encrypted: read without the key"


def test_without_cryptography_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = seal(CONTENT, "key")
    for name in ("cryptography.exceptions", "cryptography.hazmat.primitives.kdf.scrypt"):
        monkeypatch.setitem(sys.modules, name, None)
    expected = r"^encrypted files need the cryptography package: pip install '\.\[crypto\]', or write"
    for call in (lambda: seal(CONTENT, "key"), lambda: unseal(sealed, "key", "file"), sealing.check_can_seal):
        with pytest.raises(UserError, match=expected):
            call()


@pytest.mark.slow
def test_file_of_several_pieces_of_the_real_size_and_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    content = io.BytesIO(b"0123456789abcdef" * (3 * 2**20)).getvalue()  # 48 MiB: three pieces, full to the last byte
    sealed = seal(content, "key")
    assert len(sealed) == HEADER_BYTES + len(content) + 3 * 16
    assert unseal(sealed, "key", "file") == content


# --- whole runs ---

KEY = "geheim_4711"
GIVEN = f"encryption_key={KEY}"


@pytest.fixture
def tree(make_tree: MakeTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_tiny_models(monkeypatch)
    return make_tree(tmp_path / "data", {"a": 3, "b": 3}, modalities=("rgb",))


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_key_is_in_no_file_and_no_line_of_any_task(tree: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    said = run_train(tree, results, GIVEN, "train.num_epochs=2", f"dataset.val_dataset_dir={tree}")[1]
    said += run_train(tree, results, GIVEN, "train.num_epochs=3")[1]
    best = results / "train" / "ar_model_best.pth"
    said += run_evaluate(best, tree, results, GIVEN)[1]
    said += run_infer(best, tree / "a", results, GIVEN)[1]
    with pytest.raises(CheckpointError, match=r"ar_model_best\.pth: can't be decrypted") as error:
        run_evaluate(best, tree, results, f"{GIVEN}_2")
    files = all_bytes(results)
    assert {"train/spec.yaml", "train/status.json", "evaluate/results.json", "inference/status.json"} <= set(files)
    for name, content in files.items():
        assert KEY.encode() not in content, name
        if name.endswith(".pth"):
            assert KEY.encode() not in unseal(content, KEY, name), name
    assert KEY not in "\n".join([*said, str(error.value)])
    assert said.count("checkpoints are encrypted with the key given; without it they can't be read again") == 2


def test_run_with_a_key_writes_no_checkpoint_that_is_not_sealed(tree: Path, tmp_path: Path) -> None:
    run_train(tree, tmp_path, GIVEN, "train.num_epochs=2", "dataset.batch_size=2")
    names = sorted(path.name for path in (tmp_path / "train").glob("*.pth"))
    assert names == ["ar_model_best.pth", "ar_model_latest.pth", "model_epoch_000.pth", "model_epoch_001.pth"]
    assert all(is_sealed_file(tmp_path / "train" / name) for name in names)


def test_checkpoints_saved_by_steps_are_sealed(tree: Path, tmp_path: Path) -> None:
    by_step = ("train.checkpoint_interval_unit=step", "train.checkpoint_interval=1", "dataset.batch_size=2")
    run_train(tree, tmp_path, GIVEN, "train.num_epochs=1", *by_step)
    assert is_sealed_file(tmp_path / "train" / "ar_model_latest.pth")


def test_sealed_run_stopped_and_resumed_ends_as_a_plain_one_that_was_not_stopped(tree: Path, tmp_path: Path) -> None:
    """Bit for bit: dropout, shuffling and all."""
    how = ("dataset.batch_size=2", "train.seed=7")
    run_train(tree, tmp_path / "plain", "train.num_epochs=3", *how)
    run_train(tree, tmp_path / "sealed", GIVEN, "train.num_epochs=1", *how)
    said = run_train(tree, tmp_path / "sealed", GIVEN, "train.num_epochs=3", *how)[1]
    latest = [tmp_path / name / "train" / "ar_model_latest.pth" for name in ("plain", "sealed")]
    assert f"resuming from {latest[1]} at epoch 1" in said
    plain, sealed = read_checkpoint(latest[0]), read_checkpoint(latest[1], KEY)
    assert all(torch.equal(plain["state_dict"][name], sealed["state_dict"][name]) for name in plain["state_dict"])
    for row in (*plain["history"], *sealed["history"]):
        del row["data_sec"], row["compute_sec"]  # how long an epoch took is no figure to compare
    assert plain["history"] == sealed["history"]
    momenta = [content["optimizer"]["state"][0]["momentum_buffer"] for content in (plain, sealed)]
    assert torch.equal(*momenta)


def test_key_of_the_environment_seals_and_opens(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AR_ENCRYPTION_KEY", KEY)
    run_train(tree, tmp_path, "train.num_epochs=1")
    best = tmp_path / "train" / "ar_model_best.pth"
    assert is_sealed_file(best)
    assert run_evaluate(best, tree, tmp_path)[0]["videos"] == 6
    recognize = Recognizer.from_checkpoint(best)
    monkeypatch.delenv("AR_ENCRYPTION_KEY")
    frames = np.zeros((4, 16, 20, 3), np.uint8)
    assert Recognizer.from_checkpoint(best, key=KEY)(frames) == recognize(frames)
    assert load_checkpoint(best, key=KEY)[1] == recognize.contract


def test_sealed_checkpoint_without_a_key_says_how_to_give_one_whatever_reads_it(tree: Path, tmp_path: Path) -> None:
    run_train(tree, tmp_path, GIVEN, "train.num_epochs=1")
    best = tmp_path / "train" / "ar_model_best.pth"
    readers = {
        "resume": lambda: run_train(tree, tmp_path, "train.num_epochs=2"),
        "pretrained": lambda: run_train(tree, tmp_path / "new", f"model.rgb_pretrained_model_path={best}"),
        "evaluate": lambda: run_evaluate(best, tree, tmp_path),
        "inference": lambda: run_infer(best, tree / "a", tmp_path),
        "load_checkpoint": lambda: load_checkpoint(best),
        "Recognizer": lambda: Recognizer.from_checkpoint(best),
    }
    for read in readers.values():
        with pytest.raises(SpecError, match=r"\.pth: is encrypted; set AR_ENCRYPTION_KEY in the environment, or encr"):
            read()


def test_sealed_weights_to_start_from_are_opened(tree: Path, tmp_path: Path) -> None:
    run_train(tree, tmp_path, GIVEN, "train.num_epochs=1")
    best = tmp_path / "train" / "ar_model_best.pth"
    said = run_train(tree, tmp_path / "new", GIVEN, f"model.rgb_pretrained_model_path={best}", "train.num_epochs=1")[1]
    assert any(line.startswith(f"rgb_pretrained_model_path {best}: 7 tensors loaded") for line in said)


def test_plain_files_with_a_key_given_are_read_with_a_line(tree: Path, tmp_path: Path) -> None:
    run_train(tree, tmp_path, "train.num_epochs=1")
    latest = tmp_path / "train" / "ar_model_latest.pth"
    note = f"{latest}: is not encrypted: read without the key"
    assert run_evaluate(latest, tree, tmp_path, GIVEN)[1].count(note) == 1
    weights = f"model.rgb_pretrained_model_path={latest}"
    assert run_train(tree, tmp_path / "new", GIVEN, weights, "train.num_epochs=1")[1].count(note) == 1
    assert run_train(tree, tmp_path, GIVEN, "train.num_epochs=2")[1].count(note) == 1  # the resume
    assert is_sealed_file(latest)


def test_damaged_sealed_checkpoint_names_the_one_before_it(tree: Path, tmp_path: Path) -> None:
    run_train(tree, tmp_path, GIVEN, "train.num_epochs=2", "dataset.batch_size=2")
    latest = tmp_path / "train" / "ar_model_latest.pth"
    content = bytearray(latest.read_bytes())
    content[-1] ^= 1
    latest.unlink()  # the other names of the file stay whole
    latest.write_bytes(content)
    expected = (
        r"ar_model_latest\.pth: can't be decrypted: the key is right, but .*\nto go on without it, use .*epoch_001\.pth"
    )
    with pytest.raises(CheckpointError, match=expected):
        run_train(tree, tmp_path, GIVEN, "train.num_epochs=3")


def test_training_with_a_key_and_without_cryptography_ends_before_an_epoch_is_spent(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(UserError, match=r"^encrypted files need the cryptography package: pip install"):
        run_train(tree, tmp_path, GIVEN, "train.num_epochs=1")
    assert not list(tmp_path.rglob("*.pth"))


def test_read_file_of_something_else_that_was_sealed_says_so(tmp_path: Path) -> None:
    (tmp_path / "m.etlt").write_bytes(seal(b"an ONNX file", KEY))
    with pytest.raises(CheckpointError, match=r"m\.etlt: "):
        read_file(tmp_path / "m.etlt", KEY)
