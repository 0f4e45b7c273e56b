"""Writes the files of a cache atomically: into a temporary folder, then fsync and rename."""

import json
import mmap
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from jaxtyping import Bool, Float, Float32, Int

from atft.checksums import sha256_of, sync
from atft.data.schema import Days, FileEntry, Manifest

METADATA_KEY = b"atft"
# Without it the kernel would reserve memory for a private map of any size; mmap names it from Python 3.13 on.
NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class PanelArrays:
    """The rows of panel.arrow but for their features, sorted by (code, date); `sector_index` is -1 without a sector."""

    days: Days
    codes: tuple[str, ...]
    sectors: tuple[str, ...]
    day_index: Int[np.ndarray, " row"]
    day_offsets: Int[np.ndarray, " day1"]
    day_rows: Int[np.ndarray, " row"]
    code_index: Int[np.ndarray, " row"]
    sector_index: Int[np.ndarray, " row"]
    valid: Bool[np.ndarray, " row"]
    in_universe: Bool[np.ndarray, " row"]
    targets: Float[np.ndarray, "row horizon"]
    returns: Float[np.ndarray, " row"]
    beta: Float[np.ndarray, " row"]


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """A temporary folder next to `beside` (same file system, so that a rename is atomic); removed on exit if it still
    exists.
    """
    beside.parent.mkdir(parents=True, exist_ok=True)
    folder = beside.parent / f".{beside.name}.{uuid4().hex[:12]}.tmp"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def create_panel_file(folder: Path, manifest: Manifest, panel: PanelArrays) -> Float32[np.memmap, "row feature"]:
    """Write panel.arrow without its feature values, and return their memory map, [row, feature], to be filled in place:
    several GB are written only once and never held in anonymous memory. Raises OSError on a full disk.
    """
    rows, width = len(panel.day_index), len(manifest.feature_names)
    path = folder / "panel.arrow"
    # Only address space: no page of it is ever touched.
    placeholder = pa.py_buffer(
        mmap.mmap(-1, rows * width * 4, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
    )
    lists = pa.FixedSizeListArray.from_arrays(
        pa.Array.from_buffers(pa.float32(), rows * width, [None, placeholder]), width
    )
    with path.open("wb") as file:
        sink = _PlaceholderSink(file, placeholder)
        _write_to(sink, _panel_columns(panel, lists), _metadata(manifest))
        if sink.offset is None:
            raise RuntimeError("pyarrow did not write the features as one unchanged buffer")
        # Writing to a hole through a map on a full disk raises SIGBUS; allocating it first raises OSError.
        os.posix_fallocate(file.fileno(), sink.offset, rows * width * 4)
    return np.memmap(path, np.float32, "r+", sink.offset, (rows, width))


class _PlaceholderSink:
    """A writable file that skips the bytes of buffer `placeholder` and records their offset."""

    closed = False

    def __init__(self, file: IO[bytes], placeholder: pa.Buffer) -> None:
        self._file, self._placeholder = file, placeholder
        self.offset: int | None = None

    def write(self, data: pa.Buffer | bytes) -> None:
        skipped = self._placeholder
        if isinstance(data, pa.Buffer) and data.address == skipped.address and data.size == skipped.size:
            self.offset = self._file.tell()
            self._file.seek(data.size, os.SEEK_CUR)
        else:
            self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False


def write_side_files(
    folder: Path,
    manifest: Manifest,
    panel: PanelArrays,
    market: Float[np.ndarray, "day column"],
    oracle: Mapping[str, Float[np.ndarray, "row horizon"]] | None,
) -> list[str]:
    """Write the cache's other Arrow files (days, market, oracle); returns their names."""
    metadata = _metadata(manifest)
    _write(folder / "days.arrow", _day_columns(panel), metadata)
    columns = {name: _numbers(market[:, j]) for j, name in enumerate(manifest.market_names)}
    _write(folder / "market.arrow", {"date": _dates(panel.days), **columns}, metadata)
    if oracle is None:
        return ["days.arrow", "market.arrow"]
    _write(folder / "oracle.arrow", {name: _lists(values) for name, values in oracle.items()}, metadata)
    return ["days.arrow", "market.arrow", "oracle.arrow"]


def file_entry(path: Path) -> FileEntry:
    """The manifest's entry of a file."""
    return FileEntry(sha256=sha256_of(path), size_bytes=path.stat().st_size)


def write_manifest(folder: Path, manifest: Manifest, files: Mapping[str, FileEntry]) -> Manifest:
    """Write manifest.json, the last file of a cache; returns the manifest with `files`."""
    whole = manifest.model_copy(update={"files": dict(files)})
    with (folder / "manifest.json").open("w", encoding="utf-8") as file:
        file.write(whole.model_dump_json(indent=1))
        file.flush()
        os.fsync(file.fileno())
    sync(folder)
    return whole


def publish(folder: Path, out: Path) -> None:
    """Rename the finished `folder` to `out`, durably."""
    folder.rename(out)
    sync(out.parent)


def write_arrow(path: Path, columns: Mapping[str, pa.Array], metadata: dict[bytes, bytes]) -> None:
    """Write one Arrow file atomically. Two processes may write the same path: each renames its own temporary file."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}.tmp")
    try:
        _write(temporary, columns, metadata)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def _metadata(manifest: Manifest) -> dict[bytes, bytes]:
    body = manifest.model_dump(mode="json", exclude={"files"})
    return {METADATA_KEY: json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()}


def _write(path: Path, columns: Mapping[str, pa.Array], metadata: dict[bytes, bytes]) -> None:
    with pa.OSFile(str(path), "wb") as sink:
        _write_to(sink, columns, metadata)
    sync(path)


def _write_to(sink: object, columns: Mapping[str, pa.Array], metadata: dict[bytes, bytes]) -> None:
    schema = pa.schema(
        [pa.field(name, array.type, nullable=name == "sector") for name, array in columns.items()], metadata=metadata
    )
    batch = pa.record_batch(list(columns.values()), schema=schema)
    with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression=None)) as writer:
        writer.write_batch(batch)


def _panel_columns(panel: PanelArrays, features: pa.Array) -> dict[str, pa.Array]:
    missing = panel.sector_index < 0
    sectors = _numbers(np.where(missing, 0, panel.sector_index).astype(np.int32), known=~missing)
    return {
        "date": _dates(panel.days[panel.day_index]),
        "code": pa.DictionaryArray.from_arrays(_numbers(panel.code_index.astype(np.int32)), _strings(panel.codes)),
        "sector": pa.DictionaryArray.from_arrays(sectors, _strings(panel.sectors)),
        "valid": _booleans(panel.valid),
        "in_universe": _booleans(panel.in_universe),
        "features": features,
        "targets": _lists(panel.targets),
        "returns": _numbers(panel.returns.astype(np.float32)),
        "beta": _numbers(panel.beta.astype(np.float32)),
    }


def _day_columns(panel: PanelArrays) -> dict[str, pa.Array]:
    rows = pa.LargeListArray.from_arrays(_numbers(panel.day_offsets), _numbers(panel.day_rows))
    return {"date": _dates(panel.days), "rows": rows}


# Arrays are built from buffers: pa.array imports pandas, which takes longer than writing them.


def _numbers(values: npt.NDArray[np.number], known: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    mask = None if known is None or known.all() else _bits(known)
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [mask, pa.py_buffer(np.ascontiguousarray(values))])


def _booleans(values: npt.NDArray[np.bool_]) -> pa.Array:
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, _bits(values)])


def _bits(values: npt.NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(values, bitorder="little"))


def _strings(values: Sequence[str]) -> pa.Array:
    cells = [value.encode() for value in values]
    offsets = np.cumsum([0, *map(len, cells)], dtype=np.int32)
    return pa.Array.from_buffers(pa.string(), len(cells), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(cells))])


def _dates(days: Days) -> pa.Array:
    numbers = days.astype("datetime64[D]").astype(np.int32)
    return pa.Array.from_buffers(pa.date32(), len(numbers), [None, pa.py_buffer(numbers)])


def _lists(values: npt.NDArray[np.float32]) -> pa.Array:
    """A fixed_size_list<float32>[width] array on the memory of `values`, so that a mapped matrix is not copied."""
    rows, width = values.shape
    flat = pa.Array.from_buffers(
        pa.float32(), rows * width, [None, pa.py_buffer(np.ascontiguousarray(values, np.float32))]
    )
    return pa.FixedSizeListArray.from_arrays(flat, width)
