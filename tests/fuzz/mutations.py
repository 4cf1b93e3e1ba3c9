"""Ways to change an input: as bytes, and as what its format holds, with the checks that the format has made anew."""

import hashlib
import io
import json
import random
import re
import struct
import zipfile
import zlib

from zolab.optim.archive import DIGEST
from zolab.records.log import MARK
from zolab.records.sealed import seal

NUMBERS = (0, -1, 1, 2, 0.5, -0.0, 1e-50, 1e308, 10**8, 2**31, 2**32, 2**63, 2**64, 10**20, 10**200)
VALUES = (None, True, False, "", "x", "none", [], {}, [1], {"a": 1}, [[[]]], "\u0000", "../../x", "x" * 3000)
RAW = ("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "[" * 20_000 + "]" * 20_000, '{"a":' * 5000 + "1" + "}" * 5000)
WORDS = (
    "&a ",
    "*a",
    "!!python/object/apply:os.system ",
    "<<: ",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "\n",
    "  ",
    "'",
    '"',
    ".nan",
    "#",
)
WORDS += (
    "**",
    "(",
    ")",
    "=",
    "==",
    ",",
    "lambda: 0",
    "1e999",
    "0x" + "f" * 40,
    "-" * 500,
    "[" * 300,
    "2020-13-45",
    "\x00",
    "\ud800",
)


def mutated(content: bytes, kind: str, source: random.Random, reseal: bool, only: int | None = None) -> bytes:
    """The content after one to three changes.

    Args:
        content: valid input.
        kind: of `FORMATS`.
        source: decides the changes; from the same state come the same ones.
        reseal: make digests and checksums of the content anew.
        only: make one of the changes, by number.
    """
    seeds = [source.random() for _ in range(source.choice((1, 1, 2, 3)))]
    for number, seed in enumerate(seeds):
        own = random.Random(seed)
        if only in (None, number):
            change = FORMATS[kind] if reseal or own.random() < 0.6 else of_bytes
            content = change(content, own, reseal)
    return content


def of_bytes(content: bytes, source: random.Random, reseal: bool = False) -> bytes:
    """Flip, overwrite, cut, repeat, move or insert."""
    if not content:
        return bytes(source.randrange(256) for _ in range(8))
    data = bytearray(content)
    start = source.randrange(len(data))
    size = min(len(data) - start, source.choice((1, 2, 4, 8, 64, 1000, len(data))))
    part, other = data[start : start + size], source.randrange(len(data))
    match source.choice(("flip", "flip", "flip", "over", "cut", "end", "repeat", "move", "noise")):
        case "flip":
            data[start] ^= 1 << source.randrange(8)
        case "over":
            data[start : start + size] = source.choice((b"\x00", b"\xff", b"\x7f", b"0", b"9", b"\x80"))[:1] * len(part)
        case "cut":
            del data[start : start + size]
        case "end":
            del data[start:]
        case "repeat":
            data[start:start] = bytes(part[:64]) * source.choice((1, 2, 1000))
        case "move":
            data[other:other] = part
        case "noise":
            data[start:start] = source.randbytes(source.choice((1, 8, 100)))
    return bytes(data)


def of_text(content: bytes, source: random.Random, reseal: bool = False) -> bytes:
    """Change a number or a word, or put a piece of syntax somewhere."""
    text = content.decode("utf-8", "surrogateescape")
    matches = list(re.finditer(r"-?\d[\d.e+-]*|\w+", text))
    new = source.choice((*map(str, NUMBERS), *WORDS, *RAW[:5]))
    if matches and source.random() < 0.6:
        place = source.choice(matches)
        text = text[: place.start()] + new + text[place.end() :]
    else:
        at = source.randrange(len(text) + 1)
        text = text[:at] + new + text[at:]
    return text.encode("utf-8", "surrogatepass")


def of_json(content: bytes, source: random.Random, reseal: bool = False) -> bytes:
    """Change, remove, rename or double one value; what is sealed may be sealed again."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return of_text(content, source)
    value, raw = _changed(value, source)
    if isinstance(value, dict) and "digest" in value and reseal:
        value = seal({key: part for key, part in value.items() if key not in ("sealed", "digest")})
    return json.dumps(value).replace('"@raw@"', raw).encode()


def of_lines(content: bytes, source: random.Random, reseal: bool = False) -> bytes:
    """The same to a line, or change the lines' order and number."""
    lines = content.splitlines(keepends=True)
    if not lines:
        return of_bytes(content, source)
    at, other = source.randrange(len(lines)), source.randrange(len(lines))
    match source.choice(("json", "json", "json", "drop", "double", "swap", "null")):
        case "json":
            lines[at] = of_json(lines[at], source, reseal) + b"\n"
        case "drop":
            del lines[at]
        case "double":
            lines.insert(other, lines[at])
        case "swap":
            lines[at], lines[other] = lines[other], lines[at]
        case "null":
            lines[at] = source.choice((b"null\n", b"\n", b"[]\n", b"3\n", b"{}\n", b'"x"\n'))
    return b"".join(lines)


def of_log(content: bytes, source: random.Random, reseal: bool = False) -> bytes:
    """The same, perhaps with right checksums."""
    changed = of_lines(content, source)
    if not reseal:
        return changed
    lines, checksum = [], 0
    for line in changed.splitlines():
        body = line.rpartition(MARK)[0] or line[:-1]
        checksum = zlib.crc32(body, checksum)
        lines.append(body + MARK + f'{checksum:08x}"}}\n'.encode())
    return b"".join(lines)


def of_zip(content: bytes, source: random.Random, reseal: bool = False) -> bytes:
    """Change an entry, and write the archive anew with right sizes and checksums."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as old:
            entries, comment = [(entry, old.read(entry)) for entry in old.infolist()], old.comment
    except Exception:  # an earlier change has damaged it
        return of_bytes(content, source)
    if not entries:
        return of_bytes(content, source)
    at, written = source.randrange(len(entries)), io.BytesIO()
    with zipfile.ZipFile(written, "w") as new:
        new.comment = comment
        for number, (entry, part) in enumerate(entries):
            change = of_text if source.random() < 0.3 else of_bytes
            new.writestr(entry.filename, change(part, source) if number == at else part, entry.compress_type)
    changed = written.getvalue()
    if len(comment) == DIGEST and reseal:
        changed = changed[:-DIGEST] + hashlib.sha256(changed[:-DIGEST]).hexdigest().encode()
    return changed


def of_tensors(content: bytes, source: random.Random, reseal: bool = False) -> bytes:
    """Change the header of a safetensors file; what its metadata seals may be sealed again."""
    size = struct.unpack("<Q", content[:8])[0] if len(content) > 8 else 0
    try:
        header = json.loads(content[8 : 8 + size])
        if "zolab" in header.get("__metadata__", {}) and (reseal or source.random() < 0.4):
            header["__metadata__"]["zolab"] = of_json(header["__metadata__"]["zolab"].encode(), source, reseal).decode()
            text = json.dumps(header).encode()
        else:
            text = of_json(content[8 : 8 + size], source)
    except (ValueError, RecursionError, AttributeError, TypeError):
        return of_bytes(content, source)
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def _changed(value, source):
    """A value with a change somewhere inside, and the text that stands for "@raw@"."""
    raw = source.choice(RAW)
    holders = list(_holders(value))
    if not holders:
        return source.choice((*NUMBERS, *VALUES, "@raw@")), raw
    holder = source.choice(holders)
    key = source.choice(list(holder)) if isinstance(holder, dict) else source.randrange(len(holder))
    match source.choice(("value", "value", "value", "raw", "number", "remove", "rename", "near", "double")):
        case "value":
            holder[key] = source.choice(VALUES)
        case "raw":
            holder[key] = "@raw@"
        case "number":
            holder[key] = source.choice(NUMBERS)
        case "remove":
            del holder[key]
        case "rename" if isinstance(holder, dict):
            holder[source.choice((f"{key}x", "", "x" * 3000))] = holder.pop(key)
        case "near" if type(holder[key]) in (int, float):
            holder[key] += source.choice((1, -1, 0.5, 1e-9))
        case _:
            other = source.choice(holders)
            holder[key] = json.loads(json.dumps(other))
    return value, raw


def _holders(value):
    """Every list and mapping that is not empty."""
    stack = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, dict | list) and part:
            yield part
            stack += part.values() if isinstance(part, dict) else part


FORMATS = {
    "text": of_text,
    "json": of_json,
    "lines": of_lines,
    "log": of_log,
    "zip": of_zip,
    "tensors": of_tensors,
    "bytes": of_bytes,
}
