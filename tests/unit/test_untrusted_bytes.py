"""Each parser of untrusted input returns a value or raises its declared error, never another exception."""

import base64
import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from python_multipart.multipart import parse_options_header

from api.access.routes import _parse_cursor as parse_audit_cursor
from api.datasets.routes import _parse as parse_spec
from api.datasets.uploads import _Receiver
from api.http.deps import expected_version
from api.http.errors import Refused
from api.http.middleware import is_origin_of
from api.streams.routes import _seq as parse_event_id
from atft import events
from atft.spec.base import Spec
from atft.spec.data import DatasetRef, DatasetSpec
from atft.spec.job import TrainSpec
from atft.spec.study import HpoSpec
from jobs.access import keys
from jobs.errors import Invalid
from jobs.paths import NotFound, OutsideRoot, resolve_inside
from jobs.record.queries import read_cursor, split_ref, write_cursor
from jobs.settings import Settings

quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
HEADER = st.text(st.characters(max_codepoint=255), max_size=40)  # how a server decodes a header's bytes


def near(valid: object) -> st.SearchStrategy[bytes]:
    """JSON text of `valid` with one value replaced, or cut off: it reaches deeper into a parser than noise does."""
    text = json.dumps(valid)

    def paths(found: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        inner = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
        return [path, *(below for key, part in inner for below in paths(part, (*path, key)))]

    def replaced(choice: tuple[tuple[Any, ...], object]) -> bytes:
        path, value = choice
        whole = {"": json.loads(text)}
        at: Any = whole
        for step in ("", *path)[:-1]:
            at = at[step]
        at[("", *path)[-1]] = value
        return json.dumps(whole[""]).encode()

    odd = JSON | st.sampled_from([10**400, -1, 0, 1e308, -1e308, 5e-324, float("nan"), "\0", "\ud800", "x" * 9000])
    cut = st.integers(0, len(text)).map(lambda at: text[:at].encode())
    return st.tuples(st.sampled_from(paths(json.loads(text))), odd).map(replaced) | cut | st.binary(max_size=60)


EVENTS = [
    events.Log(child_seq=1, message="m"),
    events.Evidence(child_seq=2, body={"a": {"b": [1.5, None]}}),
    events.Metrics(child_seq=3, step=1, values={"v": 0.5}),
    events.Checkpointed(child_seq=4, path="p", step=1, epoch=1, sha256="s"),
    events.Finished(child_seq=5, artifacts=[events.Artifact(name="a", path="b")], result={"x": 1}),
]


@quick
@given(line=st.one_of([near(event.model_dump(mode="json")) for event in EVENTS]))
def test_line_of_a_child_is_an_event_or_a_protocol_error(line: bytes) -> None:
    try:
        event = events.parse(line)
    except ValidationError:
        return
    line_again = event.model_dump_json()
    assert events.parse(line_again) == event
    assert "\\u0000" not in line_again.replace("\\\\", "")  # Postgres takes no NUL
    json.loads(line_again, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_nan_and_infinity_break_the_protocol(number: str) -> None:
    line = json.dumps({"type": "evidence", "child_seq": 1, "body": {"a": [{"b": 7}]}}).replace("7", number)
    with pytest.raises(ValidationError):
        events.parse(line)
    ours = events.Evidence(body={"a": float("nan")}).model_dump_json()
    assert events.parse(ours) == events.Evidence.model_validate_json(ours)  # we write null for NaN


def test_nul_becomes_the_replacement_character_and_a_backslash_stays() -> None:
    log = events.Log(child_seq=1, message="a\0\0b \\u0000 \\\0")
    parsed = events.parse(log.model_dump_json())
    assert isinstance(parsed, events.Log)
    assert parsed.message == "a\ufffd\ufffdb \\u0000 \\\ufffd"


SPECS: list[tuple[type[Spec], dict[str, Any]]] = [
    (TrainSpec, TrainSpec(dataset="d").model_dump(mode="json")),
    (DatasetSpec, {"name": "d", "planted": {}, "universe": {"file": "u", "columns": {"code": "c"}}}),
    (
        HpoSpec,
        {
            "base": {"dataset": "d"},
            "space": {
                "optimizer.lr": {"kind": "float", "low": 0.1, "high": 0.2, "step": 0.01},
                "model.hidden_size": {"kind": "int", "low": 8, "high": 64, "step": 8},
            },
        },
    ),
]


@pytest.mark.parametrize(("kind", "valid"), SPECS, ids=lambda part: getattr(part, "__name__", ""))
@quick
@given(data=st.data())
def test_spec_is_valid_or_refused_field_by_field(kind: type[Spec], valid: dict[str, Any], data: st.DataObject) -> None:
    body = data.draw(near(valid))
    try:
        spec = kind.model_validate_json(body)
    except ValidationError:
        return
    assert kind.model_validate(spec.model_dump(mode="json")) == spec
    assert len(spec.digest()) > 8


def _is_client_error(error: Refused) -> None:
    assert error.status_code in (400, 413, 422)


@quick
@given(text=JSON.map(json.dumps).map(str.encode) | st.binary())
def test_spec_part_of_an_upload_is_an_object_or_refused(text: bytes) -> None:
    try:
        assert isinstance(parse_spec(text), dict)
    except Refused as error:
        _is_client_error(error)


@pytest.mark.parametrize("hours", [-23, 23])
def test_cursor_with_the_first_or_last_timestamp_is_refused(hours: int) -> None:
    zone = timezone(timedelta(hours=hours))
    for moment in (datetime.min.replace(tzinfo=zone), datetime.max.replace(tzinfo=zone)):
        with contextlib.suppress(Invalid):
            assert read_cursor(write_cursor(moment, uuid4()))[0].tzinfo is UTC


def values_or(parse: Callable[[str], object], *errors: type[Exception]) -> Callable[[str], None]:
    def check(text: str) -> None:
        try:
            parse(text)
        except errors:
            return

    return check


REF: TypeAdapter[str] = TypeAdapter(DatasetRef)
PARSERS: dict[str, Callable[[str], None]] = {
    "cursor": values_or(read_cursor, Invalid),
    "cursor of the audit log": values_or(parse_audit_cursor, Invalid),
    "Last-Event-ID": values_or(lambda text: parse_event_id(text, text), Refused),
    "If-Match": values_or(expected_version),
    "key": values_or(keys.is_well_formed),
    "secret": values_or(keys.digest),
    "origin": values_or(lambda text: is_origin_of(text, text)),
    "name@version": values_or(split_ref),
    "reference": values_or(REF.validate_python, ValidationError),
}


@pytest.mark.parametrize("name", PARSERS)
@quick
@given(text=HEADER | st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_request_fields_are_parsed_or_refused(name: str, text: str) -> None:
    PARSERS[name](text)


@quick
@given(text=HEADER)
def test_content_type_has_a_boundary_or_none(text: str) -> None:
    assert isinstance(parse_options_header(text)[1].get(b"boundary", b""), bytes)


@quick
@given(moment=st.text(max_size=30), row=JSON)
def test_cursor_that_looks_like_one_is_read_or_refused(moment: str, row: object) -> None:
    text = base64.urlsafe_b64encode(json.dumps([moment, row]).encode()).decode()
    PARSERS["cursor"](text)


@quick
@given(
    name=st.binary(max_size=20),
    file_name=st.binary(max_size=30) | st.sampled_from([b"../../x.csv", b"a\\..\\b.csv", b'a"b.csv', b"\xff.csv"]),
    noise=st.binary(max_size=60),
    at=st.integers(0, 200),
)
def test_multipart_is_taken_or_refused_and_stays_in_its_folder(
    tmp_path_factory: pytest.TempPathFactory, name: bytes, file_name: bytes, noise: bytes, at: int
) -> None:
    folder = tmp_path_factory.mktemp("m") / "upload"
    folder.mkdir()
    body = (
        b'--b\r\nContent-Disposition: form-data; name="spec"\r\n\r\n{}\r\n'
        b'--b\r\nContent-Disposition: form-data; name="'
        + name
        + b'"; filename="'
        + file_name
        + b'"\r\n\r\n1\r\n--b--\r\n'
    )
    receiver = _Receiver(folder, b"b", 100)
    try:
        receiver.write(body[:at] + noise + body[at:])
    except Refused as error:
        _is_client_error(error)
    finally:
        receiver.close()
    assert {path.name for path in folder.parent.iterdir()} == {"upload"}
    assert all(path.parent == folder and path.is_file() for path in folder.rglob("*"))


@quick
@given(path=st.text(max_size=60) | st.lists(st.sampled_from(["..", ".", "a", "", "b.csv", "~"])).map("/".join))
def test_path_is_under_the_root_or_refused(path: str) -> None:
    root = Path(__file__).parent
    try:
        found = resolve_inside(root, path, folders=True)
    except (OutsideRoot, NotFound):
        return
    assert found.is_relative_to(root.resolve())
    assert found != root.resolve()


@quick
@given(
    name=st.sampled_from([name for name in Settings.model_fields if name not in ("database_url", "redis_url")]),
    value=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
)
def test_setting_is_taken_or_refused_by_name(name: str, value: str) -> None:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(f"ATFT_{name.upper()}", value)
        try:
            Settings()
        except ValidationError as error:
            wrong = {str(part).lower().removeprefix("atft_") for found in error.errors() for part in found["loc"]}
        else:
            return
    assert wrong == {name}
