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


def test_pain_45_secrets_are_in_no_log_and_no_answer(settings: Settings, sessions: Sessions, tmp_path: Path) -> None:
    register(sessions)
    with transaction(sessions) as session:
        _, key = keys.create(session, name="robot", scopes=["jobs:read", "jobs:write"])
    log, typo = tmp_path / "log", key[:-1] + ("0" if key[-1] != "0" else "1")
    same = {"Sec-Fetch-Site": "same-origin"}
    with serving(settings, log=log, ATFT_ADMIN_KEY=ADMIN, ATFT_LOG_LEVEL="DEBUG") as server:
        with httpx.Client(base_url=server.url) as client:
            asked = {"Authorization": f"Bearer {key}"}
            said = [client.post("/jobs/train", json=SPEC, headers=asked)]
            said += [client.get("/jobs", headers={"Authorization": f"Bearer {wrong}"}) for wrong in (typo, "x", ADMIN)]
            said.append(client.post("/jobs/train", json={"dataset": 1}, headers=asked))
            said += [client.post("/session", json={"key": shown}, headers=same) for shown in (typo, key)]
            cookie = client.cookies[COOKIE]
            said += [client.get("/jobs"), client.post("/jobs/train", json=SPEC, headers=same), client.get("/audit")]
            said.append(client.post("/session", content=key, headers={"Content-Type": "application/json"}))
            said.append(client.get("/readyz?verbose"))
        assert [answer.status_code for answer in said] == [202, 401, 401, 200, 422, 401, 204, 200, 202, 403, 400, 200]
    with serving(
        settings, log=tmp_path / "away", ATFT_DATABASE_URL="postgresql://u:anothersecret@127.0.0.1:1/x"
    ) as away:
        said.append(httpx.get(f"{away.url}/jobs", headers={"Authorization": f"Bearer {key}"}, timeout=30))
        assert said[-1].status_code == 503
    logs = log.read_text() + (tmp_path / "away").read_text()
    assert logs.count("refused") >= 3  # the log does say what happened
    password = urlsplit(settings.database_url.get_secret_value()).password
    secrets = [secret for secret in (key, typo, ADMIN, cookie, keys.digest(key), password, "anothersecret") if secret]
    texts = [logs, *(answer.text for answer in said)]
    assert [secret for secret in secrets for text in texts if secret in text] == []
