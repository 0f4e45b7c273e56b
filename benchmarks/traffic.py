"""Load generator for load.py: raw HTTP/1.1 over keep-alive connections, parsed in C, on one event loop.

Loopback only, with limits on connections, requests and seconds. A request that takes longer than LIMIT_SECONDS or gets
a status other than 2xx counts as an error.
"""

import asyncio
import itertools
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import httptools

LIMIT_SECONDS: Final = 30.0
MAX_REQUESTS: Final = 200_000
MAX_CONNECTIONS: Final = 2_000
LOOPBACK: Final = "127.0.0.1"
_SENT: Final = re.compile(rb'"bench/sent":([0-9.]+)')


def request(method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {LOOPBACK}", *(f"{name}: {value}" for name, value in headers.items())]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Connection(asyncio.Protocol):
    """An HTTP connection with one request at a time. Body bytes go to `on_data` where it is given, else are kept."""

    def __init__(self, on_data: Callable[[bytes], None] | None = None) -> None:
        self._on_data = on_data
        self._body = bytearray()
        self._response: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own is no subclass
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._response is not None and not self._response.done():
            self._response.set_exception(ConnectionError(f"the server closed the connection: {error}"))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._on_data(body) if self._on_data is not None else self._body.extend(body)

    def on_message_complete(self) -> None:
        if self._response is not None and not self._response.done():
            self._response.set_result((self.status, bytes(self._body)))

    async def send(self, raw: bytes) -> tuple[int, bytes]:
        self._body.clear()
        self._response = asyncio.get_running_loop().create_future()
        self.transport.write(raw)
        async with asyncio.timeout(LIMIT_SECONDS):
            return await self._response


async def connect(port: int, on_data: Callable[[bytes], None] | None = None) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(lambda: Connection(on_data), LOOPBACK, port)
    return connection


@dataclass
class LoadResult:
    """Latencies (seconds), errors and bytes of one run of requests."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    bytes: int = 0
    generator_cpu_seconds: float = 0.0

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds

    def add(self, other: "LoadResult") -> None:
        self.seconds += other.seconds
        self.latencies += other.latencies
        self.errors += other.errors
        self.bytes += other.bytes
        self.generator_cpu_seconds += other.generator_cpu_seconds


def percentiles(latencies: Sequence[float]) -> dict[str, float]:
    """p50, p99 and maximum, in milliseconds."""
    if len(latencies) < 2:
        raise ValueError(f"{len(latencies)} responses are too few for percentiles")
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    return {"p50_ms": cuts[49] * 1e3, "p99_ms": cuts[98] * 1e3, "max_ms": max(latencies) * 1e3}


async def run_load(
    port: int, make_request: Callable[[int], bytes], *, connections: int, seconds: float, rate: float | None = None
) -> LoadResult:
    """Send requests for `seconds`. Without `rate` each connection sends the next one at once (peak load). With it
    request i is due at i / rate and its latency counts from then, which avoids coordinated omission.
    """
    if connections > MAX_CONNECTIONS:
        raise ValueError(f"at most {MAX_CONNECTIONS} connections")
    load, numbers = LoadResult(), itertools.count()
    pool = [await connect(port) for _ in range(connections)]
    start, cpu = time.perf_counter(), time.process_time()
    end = start + seconds

    async def send_requests(connection: Connection) -> None:
        for number in numbers:
            due = time.perf_counter() if rate is None else start + number / rate
            if due >= end or number >= MAX_REQUESTS or len(load.errors) > 100:
                return
            if rate is not None and (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            try:
                status, body = await connection.send(make_request(number))
            except (TimeoutError, ConnectionError) as error:
                load.errors.append(repr(error))
                return
            if 200 <= status < 300:
                load.latencies.append(time.perf_counter() - due)
                load.bytes += len(body)
            else:
                load.errors.append(f"{status} {body[:200].decode(errors='replace')}")

    await asyncio.gather(*(send_requests(connection) for connection in pool))
    load.seconds, load.generator_cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    for connection in pool:
        connection.transport.close()
    return load


async def read_streams(port: int, requests: Sequence[bytes], seconds: float) -> tuple[LoadResult, int]:
    """Keep all these streams open for `seconds`; return the latency of each event that carries its send time, and how
    many streams were still open. Events received while the streams are being opened do not count.
    """
    if len(requests) > MAX_CONNECTIONS:
        raise ValueError(f"at most {MAX_CONNECTIONS} streams")
    load, counting = LoadResult(), False

    def make_callback() -> Callable[[bytes], None]:
        rest = b""

        def on_data(body: bytes) -> None:
            nonlocal rest
            whole, end, rest = (rest + body).rpartition(b"\n\n")
            if counting and end:
                now = time.time()
                load.latencies.extend(now - float(sent) for sent in _SENT.findall(whole))
                load.bytes += len(body)

        return on_data

    streams = [await connect(port, make_callback()) for _ in requests]
    responses = []
    for stream, raw in zip(streams, requests, strict=True):
        responses.append(asyncio.create_task(stream.send(raw)))
        await asyncio.sleep(0.002)
    await asyncio.sleep(3.0)
    counting, start, cpu = True, time.perf_counter(), time.process_time()
    await asyncio.sleep(seconds)
    counting, load.seconds, load.generator_cpu_seconds = False, time.perf_counter() - start, time.process_time() - cpu
    ended = [response for response in responses if response.done()]
    load.errors += [repr(response.exception() or response.result()) for response in ended]
    for response in responses:
        response.cancel()
    for stream in streams:
        stream.transport.close()
    await asyncio.gather(*responses, return_exceptions=True)
    return load, len(streams) - len(ended)
