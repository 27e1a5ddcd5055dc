"""Where the members of a tar file stand, read from its headers alone: nothing is unpacked, and no name is a path here.

Formats: ustar, POSIX pax and GNU (`tar`'s and Python's own). Only regular files are members; directories, links and
devices are passed over.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from ssl_jax.core import UserError

BLOCK = 512
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
_REGULAR = (b"0", b"\0", b"7")
_LONGEST = 1 << 20  # bytes of a name or of pax records that are believed


class Member(NamedTuple):
    """A file inside of a tar file: its name, and where its content stands."""

    name: str
    offset: int
    size: int


def members(file: Any, path: str, *, start: int = 0, stop: int) -> Iterator[Member]:
    """Yield the regular files of a tar file that stands in bytes `start` to `stop - 1` of an open file.

    Args:
      file: open for reading bytes, with `seek` and `read`.
      path: what the file is called in messages.
      start: first byte of the tar file, not 0 for one inside another.
      stop: its end.

    Raises:
      UserError: if it is compressed, no tar file, damaged, or ends before its last member does.
    """
    position, name, length = start, None, None
    while position + BLOCK <= stop:
        header = _read(file, position, BLOCK)
        if not header.strip(b"\0"):
            return
        if not _is_header(header):
            raise _no_header(header, path, position - start)
        kind, size = header[156:157], _number(header[124:136]) if length is None else length
        content = position + BLOCK
        if content + size > stop:
            raise UserError(
                f"{path} is cut off: it ends within {name or _name(header)!r}, {content + size - stop:,} bytes early; "
                "copy it again."
            )
        position = content + -(-size // BLOCK) * BLOCK
        if kind in (b"L", b"x"):  # the next header's long name, or its name and size
            record = _read(file, content, min(size, _LONGEST))
            long_name, long_size = (record.rstrip(b"\0"), None) if kind == b"L" else _pax(record)
            name, length = _text(long_name) if long_name is not None else name, long_size or length
        elif kind not in (b"g", b"K"):
            if kind in _REGULAR and not (name or _name(header)).endswith("/"):
                yield Member(name or _name(header), content, size)
            name, length = None, None
    if position == start:
        raise UserError(f"{path} is no tar file: it has {stop - start} bytes; copy it again.")


def _read(file: Any, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


def _is_header(header: bytes) -> bool:
    try:
        checksum = sum(header) - sum(header[148:156]) + 8 * ord(" ")
        return checksum == _number(header[148:156]) and _number(header[124:136]) >= 0
    except ValueError:
        return False


def _no_header(header: bytes, path: str, position: int) -> UserError:
    if position:
        return UserError(f"{path} is damaged at byte {position:,}, where a member should begin; copy it again.")
    packer = next((packer for magic, packer in _COMPRESSED.items() if header.startswith(magic)), None)
    if packer:
        return UserError(
            f"{path} is compressed ({packer}), so its members can't be reached one by one; unpack it to a plain .tar "
            "(images are compressed already)."
        )
    return UserError(f"{path} is no tar file; give uncompressed .tar files.")


def _number(field: bytes) -> int:
    """Octal digits, or where the first bit is set a binary number, as GNU writes sizes beyond 8 GiB."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.strip(b" \0") or b"0", 8)


def _name(header: bytes) -> str:
    name, prefix = header[:100].split(b"\0")[0], header[345:500].split(b"\0")[0]
    posix = header[257:263] == b"ustar\0"
    return _text(prefix + b"/" + name if prefix and posix else name)


def _pax(record: bytes) -> tuple[bytes | None, int | None]:
    """Return path and size out of pax records, which are lines `LENGTH KEY=VALUE`."""
    found: dict[bytes, bytes] = {}
    while record:
        length = record.partition(b" ")[0]
        if not length.isdigit() or not 0 < int(length) <= len(record):
            break
        line, record = record[len(length) + 1 : int(length) - 1], record[int(length) :]
        key, _, value = line.partition(b"=")
        found[key] = value
    digits = found.get(b"size", b"")
    return found.get(b"path"), int(digits) if digits.isdigit() else None


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
