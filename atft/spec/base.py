"""Base class of all specs: frozen, no extra fields, with a digest. Cross-field errors point at the field to change."""

import hashlib
import json
from typing import Annotated, Any, Final, NoReturn

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo
from pydantic_core import PydanticCustomError


class Spec(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), validate_default=True
    )

    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON form: equal specs have equal digests."""
        return digest(self.model_dump(mode="json", by_alias=True))


def digest(body: object) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def mix(*numbers: int) -> int:
    """A seed in [0, 2^63) by SHA-256 of whole numbers of any size: the same on every machine."""
    text = ",".join(str(int(number)) for number in numbers)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


STORED: Final = {"stored": True}  # the validation context of a spec that was accepted when it was stored


def is_stored(info: ValidationInfo) -> bool:
    """Whether a spec is read back, so that rules for new ones, which may be stricter than those of its time, are left
    out.
    """
    return bool(info.context) and info.context == STORED


def refuse(pointer: str, message: str, **context: Any) -> NoReturn:
    """Raise a validation error that points at a field, by a JSON pointer relative to the model that raises."""
    raise PydanticCustomError("value_error", "{message}", {"message": message, "pointer": pointer, **context})


def _horizons(value: tuple[int, ...]) -> tuple[int, ...]:
    if not value:
        raise ValueError("give at least one horizon")
    if any(not 1 <= h <= 250 for h in value):
        raise ValueError("horizons are 1 to 250 trading days")
    if list(value) != sorted(set(value)):
        raise ValueError("horizons must be increasing, without repeats")
    return value


Horizons = Annotated[tuple[int, ...], AfterValidator(_horizons)]
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
