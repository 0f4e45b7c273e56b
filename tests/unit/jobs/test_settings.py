"""Settings from the environment, and the environment of a child process."""

import pytest
from pydantic import ValidationError

from jobs.settings import THREAD_VARIABLES, Settings


def test_urls_get_their_driver() -> None:
    settings = Settings(database_url="postgresql://u:p@h:5/d")
    assert settings.sync_database_url == "postgresql+psycopg://u:p@h:5/d"
    assert settings.async_database_url == "postgresql+asyncpg://u:p@h:5/d"


@pytest.mark.parametrize("url", ["", "mysql://h/d"])
def test_bad_database_url_says_what_to_do(url: str) -> None:
    with pytest.raises(ValueError, match="ATFT_DATABASE_URL"):
        _ = Settings(database_url=url).sync_database_url


def test_pain_45_secrets_do_not_print() -> None:
    settings = Settings(
        database_url="postgresql://u:topsecret@h/d", redis_url="redis://:topsecret@h", admin_key="topsecret"
    )
    assert "topsecret" not in repr(settings)


def test_pain_01_thread_limits_are_in_the_childs_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    environment = Settings().child_environment(2, None)
    assert {environment[name] for name in THREAD_VARIABLES} == {"2"}
    assert environment["MALLOC_ARENA_MAX"] == "2"


def test_pain_09_other_variables_do_not_reach_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ATFT_DATABASE_URL", "LOSS_WEIGHT", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "7")
    environment = Settings().child_environment(1, None)
    assert "ATFT_DATABASE_URL" not in environment
    assert "LOSS_WEIGHT" not in environment
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert Settings().child_environment(1, "3")["CUDA_VISIBLE_DEVICES"] == "3"


def test_a_lease_of_zero_seconds_is_refused() -> None:
    with pytest.raises(ValidationError):
        Settings(lease_seconds=0)
