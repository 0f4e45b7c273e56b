"""SHA-256 of files, remembered while a file is provably the one that was read, and durable writes."""

import ctypes
import hashlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

CHUNK: Final = 1 << 22
SETTLED_NS: Final = 2_000_000_000  # coarse file times: a write just after the hashing may leave the same ones
MAX_REMEMBERED: Final = 100_000
# ext, XFS, Btrfs, ZFS, F2FS. Elsewhere a change may leave no trace: tmpfs does not note writes through a memory map,
# and a network file system shows the times of its own cache.
_LOCAL_DISKS: Final = frozenset({0xEF53, 0x58465342, 0x9123683E, 0x2FC12FC1, 0xF2F52010})


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb", buffering=0) as file:
        # Larger chunks than hashlib.file_digest's: after each one the thread must take the GIL again.
        digest, chunk = hashlib.sha256(), memoryview(bytearray(CHUNK))
        while count := file.readinto(chunk):
            digest.update(chunk[:count])
        return digest.hexdigest()


def sync(path: Path) -> None:
    """Flush a file or folder to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe in a file's place raises, and does not wait
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write `content` to `path` atomically, and durably once this returns. `mode` is that of a new file."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync(path.parent)


def seal(path: Path) -> None:
    """Write a finished file's SHA-256 beside it: for files that no row and no manifest names."""
    write_atomic(_seal_of(path), f"{sha256_of(path)}\n".encode())


def is_sealed(path: Path) -> bool:
    """True if the file exists and has the bytes that it was sealed with."""
    try:
        return _seal_of(path).read_bytes() == f"{sha256_of(path)}\n".encode()
    except FileNotFoundError:
        return False


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


class _Identity(NamedTuple):
    """What changes when a file's bytes do, on a local disk."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path) -> "_Identity":
        found = path.stat()
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class Checksums:
    """SHA-256 of files. Each is read once, and again when its identity has changed: so a process reads all that it
    uses at least once. Damage that leaves a file's times alone, as that of a disk, is found by `reread` only.
    """

    def __init__(self, on_local_disk: Callable[[Path], bool] | None = None) -> None:
        self._on_local_disk = on_local_disk or is_on_local_disk
        self.num_read = 0  # files
        self._remembered: dict[Path, tuple[_Identity, str]] = {}

    def sha256(self, path: Path, *, reread: bool = False) -> str:
        """The file's SHA-256, after a flush: only then do its times tell of every write; `reread` distrusts the memory.
        Raises OSError.
        """
        sync(path)
        before, began_ns = _Identity.of(path), time.time_ns()
        remembered = self._remembered.get(path)
        if remembered is not None and remembered[0] == before and not reread:
            return remembered[1]
        self._remembered.pop(path, None)
        self.num_read += 1
        found = sha256_of(path)
        settled = began_ns - before.ctime_ns > SETTLED_NS and _Identity.of(path) == before
        if settled and self._on_local_disk(path):
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[path] = before, found
        return found


def is_on_local_disk(path: Path) -> bool:
    """True on a file system whose files cannot change without a new time. Never true where that is not known."""
    if sys.platform != "linux":
        return False
    found = (ctypes.c_long * 32)()  # struct statfs, whose first member is the type
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(path), ctypes.byref(found)) != 0:
        return False
    return found[0] & 0xFFFFFFFF in _LOCAL_DISKS
