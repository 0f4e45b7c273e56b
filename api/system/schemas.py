"""Response models of workers and health checks."""

from typing import Final, Literal
from uuid import UUID

from pydantic import Field

from api.http import examples
from api.http.schemas import Time, View, example


class WorkerView(View):
    model_config = example(examples.WORKER)

    name: str
    host: str
    queue: str
    device: str
    busy_with: UUID | None = Field(description="the job it is running")
    started_at: Time
    last_seen: Time
    live: bool = Field(description="seen within the last minute")
    problem: str | None = Field(description="why it takes no job, such as a run root that is not this service's")


class Workers(View):
    """Worker processes by their own heartbeat."""

    model_config = example({"items": [examples.WORKER]})

    items: list[WorkerView]


class Health(View):
    model_config = example({"status": "ok", "checks": {"database": {"ok": True, "detail": "responded in 1 ms"}}})

    status: Literal["ok", "unavailable"]
    checks: dict[str, "Check"] | None = Field(None, description="only with ?verbose")


class Check(View):
    model_config = example({"ok": True, "detail": "responded in 1 ms"})

    ok: bool
    detail: str


SYSTEM_MODELS: Final = (WorkerView, Workers, Health, Check)
