"""The memory-mapped reader of a dataset's Arrow cache: opens and checks it, never writes panel files and never copies
features or targets.

CacheError
└── CacheMismatch   the cache is complete, but not the requested one
"""

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pydantic

from atft.checksums import sha256_of
from atft.data.files import METADATA_KEY, NO_RESERVE
from atft.data.schema import FORMAT_VERSION, Days, Manifest

T = TypeVar("T", bound=np.generic)


class CacheError(Exception):
    """The cache cannot be read: a file is missing, cut short, or of another format."""


class CacheMismatch(CacheError):
    """The cache is complete, but not the requested one."""


class Cache:
    """One dataset version, memory-mapped: R rows sorted by (code, date), T trading days, C codes, F features, M market
    columns, H horizons.

    Pickles as its path and fingerprint: a child process maps the same pages again.
    """

    path: Path
    fingerprint: str
    manifest: Manifest
    feature_names: tuple[str, ...]
    market_names: tuple[str, ...]
    horizons: tuple[int, ...]
    days: Days  # [T] datetime64[D]
    codes: tuple[str, ...]
    sectors: tuple[str, ...]
    day_index: npt.NDArray[np.int32]  # [R]
    code_index: npt.NDArray[np.int32]  # [R]
    sector_index: npt.NDArray[np.int32]  # [R], -1 without a sector
    code_offsets: npt.NDArray[np.int64]  # [C+1]
    day_offsets: npt.NDArray[np.int64]  # [T+1]
    day_rows: npt.NDArray[np.int64]  # [R]
    valid: npt.NDArray[np.bool_]  # [R]
    in_universe: npt.NDArray[np.bool_]  # [R]
    features: npt.NDArray[np.float32]  # [R, F], mapped
    targets: npt.NDArray[np.float32]  # [R, H], mapped
    returns: npt.NDArray[np.float32]  # [R], mapped
    beta: npt.NDArray[np.float32]  # [R], mapped
    market: npt.NDArray[np.float32]  # [T, M]
    oracle: dict[str, npt.NDArray[np.float32]] | None

    @classmethod
    def open(cls, path: Path, fingerprint: str | None = None) -> "Cache":
        """Map the cache in folder `path`. Raises CacheError, or CacheMismatch for another `fingerprint`."""
        cache = cls()
        cache.path = path
        cache.manifest = manifest = read_manifest(path)
        if fingerprint is not None and manifest.fingerprint != fingerprint:
            raise CacheMismatch(
                f"the cache {path.name} has fingerprint {manifest.fingerprint}, not {fingerprint}: "
                "build the dataset again"
            )
        cache.fingerprint = manifest.fingerprint
        cache.feature_names, cache.market_names, cache.horizons = (
            manifest.feature_names,
            manifest.market_names,
            manifest.horizons,
        )
        cache._read_panel()
        cache._read_days()
        cache._read_market()
        cache._read_oracle()
        return cache

    def __reduce__(self) -> tuple[Callable[[Path, str | None], "Cache"], tuple[Path, str]]:
        return Cache.open, (self.path, self.fingerprint)

    def verify(self) -> None:
        """Read every byte and compare it with the manifest. Raises CacheError naming the file that changed."""
        check_files(self.path, self.manifest)

    def _read_panel(self) -> None:
        mapped = MappedFile(self.path / "panel.arrow", self.manifest)
        rows = self.manifest.num_rows
        code, sector = mapped.column("code"), mapped.column("sector")
        self.codes = tuple(code.dictionary.to_pylist())
        self.sectors = tuple(sector.dictionary.to_pylist())
        self.code_index = mapped.array(code.indices, np.int32)
        self.sector_index = mapped.array(sector.indices, np.int32)
        known = sector.buffers()[0]
        if known is not None:
            self.sector_index = np.where(unpack_bits(known, sector.offset, rows), self.sector_index, np.int32(-1))
        self.valid, self.in_universe = mapped.booleans("valid"), mapped.booleans("in_universe")
        self.features = mapped.matrix("features", rows, len(self.feature_names))
        self.targets = mapped.matrix("targets", rows, len(self.horizons))
        self.returns = mapped.array(mapped.column("returns"), np.float32)
        self.beta = mapped.array(mapped.column("beta"), np.float32)
        dates = mapped.array(mapped.column("date"), np.int32)
        first = int(dates.min())
        since = dates - first
        present = np.bincount(since) > 0
        self.days = (first + np.flatnonzero(present)).astype("datetime64[D]")
        self.day_index = (np.cumsum(present, dtype=np.int32) - 1).astype(np.int32)[since]
        self.code_offsets = np.searchsorted(self.code_index, np.arange(len(self.codes) + 1)).astype(np.int64)
        if len(self.days) != self.manifest.num_days or len(self.codes) != self.manifest.num_codes:
            raise CacheError(
                f"panel.arrow of cache {self.path.name} does not match its manifest: build the dataset again"
            )

    def _read_days(self) -> None:
        mapped = MappedFile(self.path / "days.arrow", self.manifest)
        rows = mapped.column("rows")
        self.day_offsets = mapped.array(rows.offsets, np.int64)
        self.day_rows = mapped.array(rows.values, np.int64)

    def _read_market(self) -> None:
        mapped = MappedFile(self.path / "market.arrow", self.manifest)
        columns = [mapped.array(mapped.column(name), np.float32) for name in self.market_names]
        self.market = np.stack(columns, axis=1) if columns else np.zeros((self.manifest.num_days, 0), np.float32)

    def _read_oracle(self) -> None:
        self.oracle = None
        if "oracle.arrow" in self.manifest.files:
            mapped = MappedFile(self.path / "oracle.arrow", self.manifest)
            self.oracle = {
                name: mapped.matrix(name, self.manifest.num_rows, len(self.horizons)) for name in ("true", "observed")
            }


def check_files(path: Path, manifest: Manifest) -> None:
    """Read every file of the cache in folder `path`. Raises CacheError naming one that is not what was written."""
    for name, entry in manifest.files.items():
        if sha256_of(path / name) != entry.sha256:
            raise CacheError(f"{name} of cache {path.name} has changed since it was built: build the dataset again")


def read_manifest(path: Path) -> Manifest:
    """The manifest of the cache in folder `path`. Raises CacheError if files are missing or of another size."""
    try:
        text = (path / "manifest.json").read_bytes()
    except OSError as error:
        raise CacheError(f"no cache in {path.name}: manifest.json cannot be read ({error.strerror})") from error
    try:
        manifest = Manifest.model_validate_json(text)
    except pydantic.ValidationError as error:
        raise CacheError(
            f"manifest.json of cache {path.name} is not one of format {FORMAT_VERSION}: build the dataset again"
        ) from error
    if manifest.format_version != FORMAT_VERSION:
        raise CacheError(
            f"cache {path.name} has format {manifest.format_version}, this program reads {FORMAT_VERSION}: "
            "build the dataset again"
        )
    for name, entry in manifest.files.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != entry.size_bytes:
            raise CacheError(f"{name} of cache {path.name} is missing or cut short: build the dataset again")
    return manifest


def unpack_bits(buffer: pa.Buffer, offset: int, length: int) -> npt.NDArray[np.bool_]:
    """`length` bits from bit `offset` on. pyarrow's own functions import pandas and pyarrow.compute: half a second."""
    return np.unpackbits(np.frombuffer(buffer, np.uint8), count=offset + length, bitorder="little")[offset:].view(
        np.bool_
    )


class MappedFile:
    """An Arrow file of one record batch, read through a private, writable memory map.

    pyarrow's own buffers are read-only, about which torch warns; writes to a private map never reach the file.
    """

    def __init__(self, path: Path, manifest: Manifest | None) -> None:
        self.name = path.name
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                self._bytes = mmap.mmap(
                    file.fileno(), size, flags=mmap.MAP_PRIVATE | NO_RESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE
                )
            buffer = pa.py_buffer(self._bytes)
            self._base = buffer.address
            reader = pa.ipc.open_file(buffer)
            if reader.num_record_batches != 1:
                raise CacheError(f"{self.name} has {reader.num_record_batches} record batches, not 1")
            self._batch = reader.get_batch(0)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise CacheError(f"{self.name} cannot be read as an Arrow file ({error})") from error
        self.metadata: dict[bytes, bytes] = reader.schema.metadata or {}
        if manifest is not None:
            metadata = self.metadata.get(METADATA_KEY, b"")
            if f'"fingerprint":"{manifest.fingerprint}"'.encode() not in metadata:
                raise CacheMismatch(f"{self.name} does not belong to the manifest beside it: build the dataset again")

    def column(self, name: str) -> pa.Array:
        if name not in self._batch.schema.names:
            raise CacheError(f"{self.name} has no column {name!r}")
        return self._batch.column(name)

    def array(self, array: pa.Array, dtype: type[T]) -> npt.NDArray[T]:
        """The values of a primitive array without nulls, [length], on the map."""
        if len(array) == 0:  # its buffer may lie anywhere
            return np.empty(0, dtype)
        buffer = array.buffers()[-1]
        offset = buffer.address - self._base + array.offset * np.dtype(dtype).itemsize
        return np.frombuffer(self._bytes, dtype=dtype, count=len(array), offset=offset)

    def booleans(self, name: str) -> npt.NDArray[np.bool_]:
        """A column of booleans without nulls, as a copy."""
        column = self.column(name)
        return unpack_bits(column.buffers()[1], column.offset, len(column))

    def matrix(self, name: str, rows: int, width: int) -> npt.NDArray[np.float32]:
        """A fixed_size_list<float32>[width] column as [rows, width], on the map."""
        column = self.column(name)
        if len(column) != rows or column.type != pa.list_(pa.float32(), width):
            raise CacheError(
                f"column {name} of {self.name} is {column.type} with {len(column)} rows, "
                f"not float32[{width}] with {rows}"
            )
        return self.array(column.values, np.float32).reshape(rows, width)
