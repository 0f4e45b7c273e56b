"""`python -m worker --queue cpu [--device 0]` or `python -m worker --control`: see worker/commands.py. The same with
`--healthy` asks whether that process lives.
"""

import argparse
import fcntl
import os
import socket
import sys
from pathlib import Path

from sqlalchemy.exc import OperationalError

from jobs.broker.queue import CONTROL, CPU, GPU
from jobs.settings import Settings
from worker.commands import control_argv, worker_argv
from worker.slot import DeviceSlot
from worker.upkeep.health import HEARTBEAT_TIMEOUT_SECONDS, is_healthy


def main() -> None:
    """Becomes the Celery process; exits with 2 when another process holds the slot. `--healthy`: exits with 0 or 1."""
    parser = argparse.ArgumentParser(prog="python -m worker")
    parser.add_argument("--queue", choices=[CPU, GPU], default=CPU)
    parser.add_argument("--device", type=int, default=0, help="CUDA device; on queue cpu the number of this worker")
    parser.add_argument("--control", action="store_true", help="sweep instead of running jobs; one is enough")
    parser.add_argument("--healthy", action="store_true", help="was this host's worker in that slot seen of late?")
    arguments = parser.parse_args()
    settings = Settings()
    host = socket.gethostname()
    slot = DeviceSlot(CONTROL if arguments.control else arguments.queue, arguments.device, host)
    if arguments.healthy:
        sys.exit(_report_health(settings, slot))
    if problem := _missing_setting(settings):
        parser.exit(2, f"{problem}\n")
    if not _lock_slot(settings.run_root / "workers", slot):
        parser.exit(2, f"worker {slot.name} runs already: give another --device, or stop that one first\n")
    argv = (control_argv if arguments.control else worker_argv)(slot, settings.log_level)
    os.execv(argv[0], argv)  # noqa: S606 - no shell is wanted


def _missing_setting(settings: Settings) -> str | None:
    """Without a broker's address Celery would look for another kind of broker, for ever."""
    try:
        _ = settings.sync_database_url
    except ValueError as error:
        return str(error)
    if not settings.redis_url.get_secret_value():
        return "ATFT_REDIS_URL is not set: start the service with `atft up`, or point it at a Redis server"
    return None


def _report_health(settings: Settings, slot: DeviceSlot) -> int:
    try:
        if is_healthy(settings, slot):
            return 0
        problem = f"worker {slot.name} was not seen for {HEARTBEAT_TIMEOUT_SECONDS:.0f} s"
    except OperationalError as error:
        problem = f"Postgres is away: {error.orig}"
    sys.stderr.write(f"{problem}\n")
    return 1


def _lock_slot(folder: Path, slot: DeviceSlot) -> bool:
    """Lock the slot for as long as this process lives, through its exec: two trainings on one GPU must not happen."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / f"{slot.name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    os.set_inheritable(descriptor, True)
    return True


if __name__ == "__main__":
    main()
