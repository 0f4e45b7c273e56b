"""Secrets appear in no response and no log, whatever fails."""

from pathlib import Path
from urllib.parse import urlsplit

import httpx

from api.http.auth import COOKIE
from jobs.access import keys
from jobs.db.session import transaction
from jobs.settings import Settings
from tests.integration.api.application import SPEC, Sessions, register
from tests.integration.api.test_server import serving

ADMIN = "the-operators-own-admin-key"


def test_pain_45_secrets_are_in_no_log_and_no_response(settings: Settings, sessions: Sessions, tmp_path: Path) -> None:
    register(sessions)
    with transaction(sessions) as session:
        _, key = keys.create(session, name="robot", scopes=["jobs:read", "jobs:write"])
    log, typo = tmp_path / "log", key[:-1] + ("0" if key[-1] != "0" else "1")
    same = {"Sec-Fetch-Site": "same-origin"}
    with serving(settings, log=log, ATFT_ADMIN_KEY=ADMIN, ATFT_LOG_LEVEL="DEBUG") as server:
        with httpx.Client(base_url=server.url) as client:
            authorization = {"Authorization": f"Bearer {key}"}
            responses = [client.post("/jobs/train", json=SPEC, headers=authorization)]
            wrong_headers = [{"Authorization": f"Bearer {wrong}"} for wrong in (typo, "x", ADMIN)]
            responses += [client.get("/jobs", headers=headers) for headers in wrong_headers]
            responses.append(client.post("/jobs/train", json={"dataset": 1}, headers=authorization))
            responses += [client.post("/session", json={"key": shown}, headers=same) for shown in (typo, key)]
            cookie = client.cookies[COOKIE]
            responses += [client.get("/jobs"), client.post("/jobs/train", json=SPEC, headers=same)]
            responses.append(client.get("/audit"))
            responses.append(client.post("/session", content=key, headers={"Content-Type": "application/json"}))
            responses.append(client.get("/readyz?verbose"))
        statuses = [response.status_code for response in responses]
        assert statuses == [202, 401, 401, 200, 422, 401, 204, 200, 202, 403, 400, 200]
    with serving(
        settings, log=tmp_path / "away", ATFT_DATABASE_URL="postgresql://u:anothersecret@127.0.0.1:1/x"
    ) as away:
        responses.append(httpx.get(f"{away.url}/jobs", headers={"Authorization": f"Bearer {key}"}, timeout=30))
        assert responses[-1].status_code == 503
    logs = log.read_text() + (tmp_path / "away").read_text()
    assert logs.count("refused") >= 3  # the log reports what happened
    password = urlsplit(settings.database_url.get_secret_value()).password
    secrets = [secret for secret in (key, typo, ADMIN, cookie, keys.digest(key), password, "anothersecret") if secret]
    texts = [logs, *(response.text for response in responses)]
    assert [secret for secret in secrets for text in texts if secret in text] == []
