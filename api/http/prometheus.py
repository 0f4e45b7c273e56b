"""Prometheus metrics of one application."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from jobs.states import JobKind, JobState


class PrometheusMetrics:
    """Has a registry of its own, so that two applications in one process do not collide."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "atft_http_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "atft_http_request_seconds",
            "Time to the end of the response; streams excluded.",
            ["route"],
            registry=self.registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
        )
        self.streams = Gauge("atft_streams", "Open event streams.", registry=self.registry)
        self.hints_lost = Counter(
            "atft_hints_lost",
            "Hints that could not be sent to the broker; the sweep resends them.",
            registry=self.registry,
        )
        self._jobs = Gauge("atft_jobs", "Jobs by kind and state.", ["kind", "state"], registry=self.registry)
        self._depth = Gauge("atft_queue_depth", "Queued jobs by queue.", ["queue"], registry=self.registry)
        self._workers = Gauge(
            "atft_workers_live", "Workers seen within a minute, by queue.", ["queue"], registry=self.registry
        )
        self._database = Gauge("atft_database_up", "1 when Postgres answered this scrape.", registry=self.registry)

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        method_label = method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"
        self._requests.labels(method_label, route, str(status)).inc()
        if not route.endswith(("/events", "/logs")):
            self._seconds.labels(route).observe(seconds)

    def render(
        self,
        jobs: dict[tuple[JobKind, JobState], int],
        depth: dict[str, int],
        workers: dict[str, int],
        *,
        database_up: bool,
    ) -> bytes:
        """The exposition text. While the database is unreachable the metrics read from it are left out."""
        for gauge in (self._jobs, self._depth, self._workers):
            gauge.clear()
        for (kind, state), number in jobs.items():
            self._jobs.labels(kind.value, state.value).set(number)
        for queue, number in depth.items():
            self._depth.labels(queue).set(number)
        for queue, number in workers.items():
            self._workers.labels(queue).set(number)
        self._database.set(1 if database_up else 0)
        return generate_latest(self.registry)
