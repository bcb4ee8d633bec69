"""Formats that are not text tables, recognised by their first bytes, and what to do with such files."""

from __future__ import annotations

BOM = b"\xef\xbb\xbf"
"""UTF-8's byte order mark. At the start of a file it is not part of the text."""

_UNPACK = "unpack it first"
_BEGINNINGS = (
    (b"\xff\xfe", "UTF-16 text", "convert it first: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "convert it first: iconv -f UTF-16 -t UTF-8"),
    (b"PK\x03\x04", "a zip archive (or an Excel workbook)", _UNPACK),
    (b"PK\x05\x06", "an empty zip archive", _UNPACK),
    (b"BZh", "compressed by bzip2", f"{_UNPACK}: bunzip2"),
    (b"\xfd7zXZ\x00", "compressed by xz", f"{_UNPACK}: unxz"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", f"{_UNPACK}: unzstd"),
    (b"\x04\x22\x4d\x18", "compressed by lz4", f"{_UNPACK}: unlz4"),
    (b"\x1f\x9d", "compressed by compress", f"{_UNPACK}: uncompress"),
    (b"\x1f\x8b", "compressed by gzip twice", f"{_UNPACK}: gunzip"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"PARE", "an encrypted Parquet file", "write it without encryption"),
    (b"ORC", "an ORC file", "write it as Parquet or text"),
    (b"Obj\x01", "an Avro file", "write it as Parquet or text"),
    (b"ARROW1", "an Arrow (Feather) file", "write it as Parquet or text"),
    (b"FEA1", "a Feather file", "write it as Parquet or text"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "write it as Parquet or text"),
    (b"\x93NUMPY", "a NumPy file", "write it as Parquet or text"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook", "write it as CSV"),
    (b"SQLite format 3\x00", "an SQLite database", "write a table of it as CSV"),
    (b"%PDF-", "a PDF document", "give a table of text"),
    (b"version https://git-lfs.github.com/spec", "a pointer of Git LFS, not the file itself", "fetch it: git lfs pull"),
    (b'{"', "JSON", "write it as Parquet or CSV"),
    (b"[{", "JSON", "write it as Parquet or CSV"),
    (b"<!doctype html", "a web page, perhaps that of a failed download", "fetch the file again"),
    (b"<html", "a web page, perhaps that of a failed download", "fetch the file again"),
)
_TAR = (257, b"ustar")
BEGINNING_BYTES = 512


def no_text(beginning: bytes) -> str:
    """Return which other format a file has, and what to do with it; empty if it may be text.

    Args:
        beginning: The first BEGINNING_BYTES, after decompression by gzip.
    """
    for magic, name, cure in _BEGINNINGS:
        if beginning[: len(magic)].lower() == magic.lower():
            return f"is {name}; {cure}"
    if beginning[_TAR[0] :].startswith(_TAR[1]):
        return f"is a tar archive; {_UNPACK}: tar -xf"
    if b"\0" in beginning:
        is_utf_16 = beginning[1::2].count(0) > len(beginning) // 4 or beginning[::2].count(0) > len(beginning) // 4
        return f"has zero bytes, so it is not text{' (perhaps UTF-16)' if is_utf_16 else ''}; convert it to UTF-8 text"
    return ""
