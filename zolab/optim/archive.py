"""Arrays in one compressed file that tells when a bit of it was changed: an .npz archive whose comment is its digest.

NumPy reads it like any other. Here it is read with less trust: nothing is made before its size is known to be true.
"""

import hashlib
import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from tokenize import TokenError

import numpy as np

# What zipfile, zlib and NumPy's reader of headers, which takes them for Python, raise at damage.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, LookupError, OSError, RuntimeError, SyntaxError, TokenError, TypeError)
END = b"PK\5\6"  # begins the last 22 bytes of a zip archive, but for its comment
DIGEST = 64  # hex digits of SHA-256, the archive's last bytes
ROOM, RATIO = 160 << 20, 40  # bytes that a file may unpack to: so many, and so many times its own size


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of a file with these arrays."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict(arrays))  # pyrefly: ignore[bad-argument-type]  (its keywords are names of arrays)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"0" * DIGEST
    content = buffer.getvalue()[:-DIGEST]
    return content + hashlib.sha256(content).hexdigest().encode()


def unpack(content: bytes) -> dict[str, np.ndarray]:
    """The arrays in a file's content.

    Raises:
        ValueError: it is no such archive, was changed, or claims to be larger than it may be.
    """
    older = content[-22:-18] == END and content[-2:] == b"\0\0"  # an archive without a comment
    if not older and hashlib.sha256(content[:-DIGEST]).hexdigest().encode() != content[-DIGEST:]:
        raise ValueError("its digest is that of other content")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(info.file_size for info in archive.infolist()) > ROOM + RATIO * len(content):
                raise ValueError("it claims more content than it can hold")
            return {info.filename.removesuffix(".npy"): _array(archive.read(info)) for info in archive.infolist()}
    except DAMAGE as error:
        raise ValueError(f"it is no whole archive: {str(error)[:100]}") from error


def _array(content: bytes) -> np.ndarray:
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    rest = content[stream.tell() :]
    if dtype.hasobject or fortran or math.prod(shape) * dtype.itemsize != len(rest):
        raise ValueError("an array is not what it claims to be")
    return np.frombuffer(rest, dtype).reshape(shape)
