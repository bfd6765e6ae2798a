"""Picture files of any depth, written byte by byte: Pillow writes few of those that it reads."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence

PNG = b"\x89PNG\r\n\x1a\n"


def packed(values: Iterable[int], bits: int) -> bytes:
    """Numbers of ``bits`` bits each, the first in the upper bits, filled up to whole bytes."""
    text = "".join(format(value, f"0{bits}b") for value in values)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    rows: Sequence[Sequence[int]],
    bits: int,
    colour: int,
    channels: int = 1,
    *,
    key: Sequence[int] | None = None,
    before: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """A PNG of rows of samples, with a transparent grey or colour ``key``, and chunks ``before`` the pixels."""
    header = struct.pack(">IIBBBBB", len(rows[0]) // channels, len(rows), bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *before]
    if key is not None:
        chunks.append((b"tRNS", struct.pack(f">{len(key)}H", *key)))
    pixels = b"".join(b"\0" + packed(row, bits) for row in rows)
    chunks += [(b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    return PNG + b"".join(chunk(*each) for each in chunks)


def tiff(
    rows: Sequence[Sequence[int]],
    bits: int,
    photometric: int,
    channels: int = 1,
    *,
    kind: int = 1,
    alpha: int | None = None,
) -> bytes:
    """A TIFF of rows of samples; ``kind`` is 1 for numbers from 0, 2 for signed ones; ``alpha`` the extra sample."""
    size = {8: "B", 16: "H", 32: "I"}.get(bits)
    data = b"".join(
        struct.pack(f"<{len(row)}{size}", *(value % (1 << bits) for value in row))
        if size
        else packed(row, bits)
        for row in rows
    )
    # width, height, bits, no compression, photometric, offset, samples, rows of a strip, bytes of it, kind, alpha
    tags = {
        256: [len(rows[0]) // channels],
        257: [len(rows)],
        258: [bits] * channels,
        259: [1],
        262: [photometric],
        273: [0],
        277: [channels],
        278: [len(rows)],
        279: [len(data)],
        339: [kind] * channels,
    }
    if alpha is not None:
        tags[338] = [alpha]
    end = 8 + 2 + 12 * len(tags) + 4
    tags[273] = [end + sum(4 * len(values) for values in tags.values() if len(values) > 1)]
    entries, beyond = b"", b""
    for tag, values in sorted(tags.items()):
        numbers = struct.pack(f"<{len(values)}I", *values)
        place = numbers if len(values) == 1 else struct.pack("<I", end + len(beyond))
        beyond += b"" if len(values) == 1 else numbers
        entries += struct.pack("<HHI", tag, 4, len(values)) + place
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + beyond + data
