"""`atft up` without starting anything: its lock, its socket, its processes, the URLs of embedded servers."""

import os
import signal
import socket
from pathlib import Path

import pytest

from client.local.up import AlreadyUp, Interrupted, LocalService, UpError, UpOptions


def service(var: Path, port: int = 0, workers: int = 1, gpus: int = 0) -> LocalService:
    options = UpOptions(host="127.0.0.1", port=port, var=var, workers=workers, urls={}, gpus=gpus)
    return LocalService(options, log=lambda _: None, announce_ready=lambda _: None)


def read_urls(local: LocalService, output: bytes) -> dict[str, str]:
    read_end, write_end = os.pipe()
    os.write(write_end, output)
    os.close(write_end)
    return local._read_urls(read_end)


def test_a_second_service_in_the_same_folder_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    with service(tmp_path)._lock_folder(), pytest.raises(AlreadyUp, match=f"process {os.getpid()}"):
        service(tmp_path)._lock_folder()
    with service(tmp_path)._lock_folder() as lock:
        assert lock.name == str(tmp_path / "up.lock")


def test_a_port_in_use_is_an_error_that_names_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UpError, match=f"127.0.0.1:{port}.*--port"):
            service(tmp_path, port)._listen()


def test_there_is_one_process_for_each_worker_and_device(tmp_path: Path) -> None:
    local = service(tmp_path, workers=2, gpus=1)
    with local._listen() as listener:
        processes = local._make_processes(listener)
        assert [process.name for process in processes] == [
            "api",
            "worker-cpu-0",
            "worker-cpu-1",
            "worker-gpu-0",
            "control",
        ]
        assert processes[0].pass_fds == (listener.fileno(),)
        assert list(processes[3].command[-4:]) == ["--queue", "gpu", "--device", "0"]


def test_the_urls_of_the_embedded_servers_are_read_up_to_the_end_of_their_output(tmp_path: Path) -> None:
    urls = {"ATFT_DATABASE_URL": "postgresql://u:p=q@h/d", "ATFT_REDIS_URL": "redis://h:1/0"}
    lines = "".join(f"{name}={url}\n" for name, url in urls.items())
    assert read_urls(service(tmp_path), lines.encode()) == urls
    assert read_urls(service(tmp_path), b"an error\nATFT_REDIS_URL=redis://h:1/0") == {
        "ATFT_REDIS_URL": "redis://h:1/0"
    }


def test_a_signal_interrupts_the_start(tmp_path: Path) -> None:
    local = service(tmp_path)
    local._record_signal(signal.SIGTERM, None)
    with pytest.raises(Interrupted):
        read_urls(local, b"")
