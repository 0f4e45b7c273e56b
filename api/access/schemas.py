"""Request and response models of API keys, sessions and the audit log."""

from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr, StringConstraints

from api.http import examples
from api.http.schemas import Page, Time, View, example
from jobs.db.tables import ApiKey, AuditRow

Scope = Literal["jobs:read", "jobs:write", "datasets:write", "admin"]
MAX_BYTES: Final = 2**53


class Quota(BaseModel):
    """Limits of this key that replace the server's defaults."""

    model_config = ConfigDict(extra="forbid")

    jobs: int | None = Field(None, ge=0, le=10**9, description="unfinished jobs")
    streams: int | None = Field(None, ge=0, le=10**6, description="open streams per API process")
    upload_bytes: int | None = Field(None, ge=0, le=MAX_BYTES, description="uploaded bytes per day")


class NewKey(BaseModel):
    """A key to make."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00]+$")]
    scopes: list[Scope] = Field(["jobs:read", "jobs:write", "datasets:write"], min_length=1, max_length=4)
    expires_at: AwareDatetime | None = Field(None, description="RFC 3339, in the future; null: never")
    quota: Quota = Quota()


class KeyView(View):
    """An API key without its secret, of which only the SHA-256 is stored."""

    model_config = example(examples.KEY)

    id: UUID
    name: str
    prefix: str = Field(description="first characters of the key, to identify it")
    scopes: list[str]
    quota: dict[str, int]
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None
    last_used_at: Time | None = Field(description="to the minute")


class MadeKey(KeyView):
    """A new key: the only response that contains the key itself."""

    model_config = example(examples.KEY | {"key": "atft_0123abcd_…"})

    key: str = Field(description="the key itself; it cannot be read again")


class Keys(View):
    """Newest first, revoked ones too."""

    model_config = example({"items": [examples.KEY]})

    items: list[KeyView]


class ShownKey(BaseModel):
    """The key to begin a session with."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    key: SecretStr = Field(max_length=500)


class AuditView(View):
    """One change made by a request or a command."""

    model_config = example(examples.AUDIT)

    id: int
    time: Time
    who: str = Field(description="key:ID, admin (the key of ATFT_ADMIN_KEY), anonymous, or operator (a command)")
    action: str = Field(description="method and route, or the command")
    target: str
    request_id: str | None
    address: str | None


class AuditPage(Page[AuditView]):
    model_config = example({"items": [examples.AUDIT], "next_cursor": None})


KEY_MODELS: Final = (KeyView, MadeKey, Keys, AuditView, AuditPage)


def key_view(row: ApiKey) -> KeyView:
    return KeyView(
        id=row.id,
        name=row.name,
        prefix=f"atft_{row.prefix}",
        scopes=row.scopes,
        quota=row.quota,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )


def audit_view(row: AuditRow) -> AuditView:
    return AuditView(
        id=row.id,
        time=row.time,
        who=row.who,
        action=row.action,
        target=row.target,
        request_id=row.request_id,
        address=row.address,
    )
