"""Base classes and types of the response models: times, pages, and problems (RFC 9457)."""

from datetime import datetime
from typing import Annotated, Any, Final, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from api.http import examples

Time = Annotated[
    datetime,
    PlainSerializer(
        lambda t: t.isoformat(timespec="milliseconds").replace("+00:00", "Z"), return_type=str, when_used="json"
    ),
]
Metrics = dict[str, float | None]
Item = TypeVar("Item")


class View(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


def example(*values: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": list(values)})


class FieldError(View):
    """One thing that is wrong with a request."""

    model_config = example(examples.FIELD_ERROR)

    detail: str
    code: str
    pointer: str | None = Field(
        None, description="JSON pointer (RFC 6901) into the body; null for other parts of the request"
    )
    parameter: str | None = Field(None, description="name of the query, path or header parameter")
    location: str | None = Field(None, description="query, path, header: where the parameter is")


class Problem(View):
    """An RFC 9457 problem. `code` is stable, for programs; `detail` says what to do, for people."""

    model_config = example(examples.PROBLEM)

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str = Field(description="also in the X-Request-ID header and the server's log")
    errors: list[FieldError] = []


class Page(View, Generic[Item]):
    """Newest first. `next_cursor` is opaque; null on the last page."""

    items: list[Item]
    next_cursor: str | None


HTTP_MODELS: Final = (FieldError, Problem)
