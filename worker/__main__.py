"""The worker's command line: `python -m worker --queue cpu [--device 0]`, `--control`, or `--healthy`.

The processes that it starts are described in worker/commands.py.
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
    """Replace this process by Celery, or exit with 2 when the slot is taken. With `--healthy` only exit with 0 or 1."""
    parser = argparse.ArgumentParser(prog="python -m worker")
    parser.add_argument("--queue", choices=[CPU, GPU], default=CPU)
    parser.add_argument("--device", type=int, default=0, help="CUDA device; on queue cpu, the index of this worker")
    parser.add_argument(
        "--control", action="store_true", help="run the sweeper and studies instead of jobs; one is enough"
    )
    parser.add_argument(
        "--healthy", action="store_true", help="check the heartbeat of this host's worker in that slot and exit"
    )
    arguments = parser.parse_args()
    settings = Settings()
    host = socket.gethostname()
    slot = DeviceSlot(CONTROL if arguments.control else arguments.queue, arguments.device, host)
    if arguments.healthy:
        sys.exit(_report_health(settings, slot))
    if problem := _missing_setting(settings):
        parser.exit(2, f"{problem}\n")
    if not _lock_slot(settings.run_root / "workers", slot):
        parser.exit(2, f"worker {slot.name} is already running: give another --device, or stop that one first\n")
    argv = (control_argv if arguments.control else worker_argv)(slot, settings.log_level)
    os.execv(argv[0], argv)  # noqa: S606 - no shell is wanted


def _missing_setting(settings: Settings) -> str | None:
    """The message about a missing setting, or None. Without a broker's address Celery would try AMQP for ever."""
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
        problem = f"no heartbeat of worker {slot.name} for {HEARTBEAT_TIMEOUT_SECONDS:.0f} s"
    except OperationalError as error:
        problem = f"Postgres is unavailable: {error.orig}"
    sys.stderr.write(f"{problem}\n")
    return 1


def _lock_slot(folder: Path, slot: DeviceSlot) -> bool:
    """Lock the slot for this process's lifetime, across exec: two trainings must not share a GPU. False if taken."""
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
