"""Sealed files: encrypted with a key of the user's, and useless to whoever changes a byte of them.

In: the content of a file and a key, any text. Out: the same content sealed, or opened again. The key is not written
anywhere.

A file is a header and pieces: AES-256-GCM over PIECE bytes at a time, under a key that scrypt makes of the user's and
of a random salt. The header says how, and is authenticated with every piece; a piece's nonce holds its number and
whether it is the last one, so that none can be taken away, moved or brought from another file (the STREAM construction
of eprint.iacr.org/2015/189).
"""

import os
import secrets
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from action_recognition.errors import CheckpointError, SpecError, UserError

MAGIC = b"\x89ARSEAL\n"  # no text and no zip file begins so
VERSION = 1
ENVIRONMENT = "AR_ENCRYPTION_KEY"
PIECE = 16 * 2**20  # bytes; GCM takes less than 2 GiB in one go
LOG2_COST = 15  # scrypt's N; 32 MiB and a tenth of a second
TAO_ENCRYPTED = (
    "encrypted by TAO, with a cipher that is not public. In the TAO container, resume the training without an "
    "encryption_key and use the plain .pth it saves, or export the model and use the plain .onnx"
)
HOW_TO_GIVE_A_KEY = f"set {ENVIRONMENT} in the environment, or encryption_key in the spec"

_HEADER = struct.Struct(">8sBBBBI16s7s")  # magic, version, log2 N, r, p, bytes in a piece, salt, start of the nonces
_TAG_BYTES = 16
_MAX_LOG2_COST, _R, _P = 17, 8, 1  # a header that asks for more than 128 MiB of memory is damaged, or made for harm


def seal(content: bytes, key: str) -> bytes:
    """`content`, sealed. UserError where the cryptography package is missing."""
    return b"".join(sealed_pieces(content, key))


def sealed_pieces(content: bytes | memoryview, key: str) -> Iterator[bytes]:
    """What `seal` returns, bit by bit: for files that should not be twice in memory."""
    header = _HEADER.pack(MAGIC, VERSION, LOG2_COST, _R, _P, PIECE, secrets.token_bytes(16), secrets.token_bytes(7))
    cipher, nonces = _opened(header, key)
    yield header
    view = memoryview(content)
    num_pieces = max(1, -(-len(view) // PIECE))
    for i in range(num_pieces):
        piece = view[i * PIECE : (i + 1) * PIECE]
        yield cipher.encrypt(_nonce(nonces, i, i + 1 == num_pieces), piece, header)


def unseal(content: bytes, key: str, what: str) -> bytes:
    """The content that was sealed. CheckpointError, opening with `what`, for a wrong key and for a changed byte."""
    _check_ours(content, what)
    header, piece_bytes = _checked_header(content, what)
    cipher, nonces = _opened(header, key)
    body = memoryview(content)[_HEADER.size :]
    step = piece_bytes + _TAG_BYTES
    num_pieces = max(1, -(-len(body) // step))
    parts = []
    for i in range(num_pieces):
        nonce = _nonce(nonces, i, i + 1 == num_pieces)
        parts.append(_decrypted(cipher, nonce, body[i * step : (i + 1) * step], header, what, is_first=i == 0))
    return b"".join(parts)


def is_sealed(content: bytes) -> bool:
    """True for what `seal` returns, also where it was damaged behind its first bytes."""
    return content[: len(MAGIC)] == MAGIC


def is_sealed_file(path: str | os.PathLike[str]) -> bool:
    """`is_sealed` of a file, of which only the first bytes are read. False where it can't be read."""
    try:
        with open(path, "rb") as file:
            return is_sealed(file.read(len(MAGIC)))
    except OSError:
        return False


def unseal_file(path: str | os.PathLike[str], key: str | None) -> bytes:
    """The content of a sealed file, by `key` or the environment's. SpecError where there is none; else as `unseal`."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror}") from error
    _check_ours(content, str(path))
    key = key_from(key)
    if key is None:
        raise SpecError(f"{path}: is encrypted; {HOW_TO_GIVE_A_KEY}")
    return unseal(content, key, str(path))


def key_from(spec_key: str | None) -> str | None:
    """The key that was given: encryption_key of the spec, or AR_ENCRYPTION_KEY. SpecError where both are and differ."""
    of_environment = os.environ.get(ENVIRONMENT) or None
    if spec_key and of_environment and spec_key != of_environment:
        raise SpecError(f"encryption_key and {ENVIRONMENT} are both given and differ; leave one of them out")
    return spec_key or of_environment


def plain_note(path: str | os.PathLike[str], key: str | None) -> str | None:
    """The line to say where a key was given and the file at `path` is not sealed, else None."""
    if key_from(key) is None or is_sealed_file(path):
        return None
    return f"{path}: is not encrypted: read without the key"


def check_can_seal() -> None:
    """UserError where the cryptography package is missing: better now than when the first file is due."""
    _cryptography()


def _check_ours(content: bytes, what: str) -> None:
    if not is_sealed(content):
        raise CheckpointError(f"{what}: was not encrypted by this program. If it comes from TAO, it is {TAO_ENCRYPTED}")


def _checked_header(content: bytes, what: str) -> tuple[bytes, int]:
    """The header, and how many bytes of content are in a piece."""
    header = content[: _HEADER.size]
    if len(header) < _HEADER.size:
        raise CheckpointError(f"{what}: encrypted and cut off: it has {len(content)} bytes, too few for any content")
    _, version, log2_cost, r, p, piece_bytes, _, _ = _HEADER.unpack(header)
    if version != VERSION:
        raise CheckpointError(f"{what}: encrypted in format {version}; this program knows {VERSION}. Newer, or damaged")
    if not 1 <= log2_cost <= _MAX_LOG2_COST or (r, p) != (_R, _P) or not 1 <= piece_bytes <= 2**30:
        raise CheckpointError(f"{what}: encrypted and damaged: its header asks for what this program never writes")
    return header, piece_bytes


def _opened(header: bytes, key: str) -> tuple[Any, bytes]:
    """The cipher under the key of this file, and the start of its nonces."""
    scrypt, aes_gcm, _ = _cryptography()
    _, _, log2_cost, r, p, _, salt, nonces = _HEADER.unpack(header)
    derived = scrypt(salt=salt, length=32, n=2**log2_cost, r=r, p=p).derive(key.encode())
    return aes_gcm(derived), nonces


def _nonce(start: bytes, number: int, is_last: bool) -> bytes:
    return start + struct.pack(">I?", number, is_last)


def _decrypted(cipher: Any, nonce: bytes, piece: memoryview, header: bytes, what: str, is_first: bool) -> bytes:
    _, _, invalid_tag = _cryptography()
    try:
        plain: bytes = cipher.decrypt(nonce, piece, header)
    except (invalid_tag, ValueError):  # ValueError: shorter than its tag
        cause = (
            "the key is not the one it was encrypted with, or it has" if is_first else "the key is right, but it has"
        )
        raise CheckpointError(f"{what}: can't be decrypted: {cause} been changed, damaged or cut off") from None
    return plain


def _cryptography() -> tuple[Any, Any, Any]:
    try:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
    except ImportError:
        text = (
            "encrypted files need the cryptography package: pip install '.[crypto]', or write plain ones without a key"
        )
        raise UserError(text) from None
    return Scrypt, AESGCM, InvalidTag
