"""The evidence of every stored job of an earlier release is an instance of what the API documents."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from api.jobs.evidence_schemas import EVIDENCE_EXAMPLES, EvidenceView

STORED: dict[str, Any] = json.loads(
    (Path(__file__).parents[3] / "fixtures" / "dumps" / "0003-74347c2.json").read_text()
)
VIEW: TypeAdapter[EvidenceView] = TypeAdapter(EvidenceView)


@pytest.mark.parametrize("job", STORED["jobs"])
def test_stored_evidence_is_what_is_documented(job: str) -> None:
    stored = STORED["answers"].get(f"/jobs/{STORED['jobs'][job]}/evidence", {})
    found = VIEW.validate_python(stored)
    assert found.model_dump(mode="json", by_alias=True, exclude_unset=True) == stored


def test_evidence_is_closed() -> None:
    with pytest.raises(ValidationError):
        VIEW.validate_python(EVIDENCE_EXAMPLES["RunEvidence"] | {"more": 1})
