"""docker-compose.yml and the Dockerfile, by the tools that know them. Nothing is built or started by these checks;
tests/integration/test_compose.py starts the services' commands as plain processes.
"""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.compose import BIN, ROOT, SECRETS, config, services

GIVEN = {name: f"given-{name.lower()}" for name in SECRETS}
OURS = {"migrate", "api", "control", "worker", "worker-gpu"}
ONCE = {"migrate"}
SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|AUTH$|KEY$")
REQUIRED = re.compile(r"\$\{[A-Z_]+:\?[^}]+\}")
LOCAL = "127.0.0.1"


def run(program: str, *arguments: str) -> None:
    done = subprocess.run(
        [BIN / program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def rendered() -> dict[str, dict[str, Any]]:
    return services(GIVEN)


@pytest.fixture(scope="module")
def raw() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return found


@pytest.mark.parametrize("profile", ["", "gpu"])
def test_compose_accepts_the_file(profile: str) -> None:
    answer = config(GIVEN, "--quiet", profile=profile)
    assert (answer.returncode, answer.stderr) == (0, "")
    names = set(config(GIVEN, "--services", profile=profile).stdout.split())
    assert names == (OURS | {"postgres", "redis"}) - (set() if profile else {"worker-gpu"})


@pytest.mark.parametrize("missing", SECRETS)
def test_compose_refuses_without_a_secret(missing: str) -> None:
    for given in ({}, {missing: ""}):
        answer = config({name: value for name, value in GIVEN.items() if name != missing} | given, "--quiet")
        assert answer.returncode != 0
        assert f"{missing} is missing a value" in answer.stderr


def test_the_file_is_the_compose_specification() -> None:
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")


@pytest.mark.skipif(shutil.which("hadolint", path=str(BIN)) is None, reason="hadolint comes for x86-64 and macOS only")
def test_hadolint_has_nothing_to_say() -> None:
    run("hadolint", "--failure-threshold", "style", "deploy/Dockerfile")


def test_the_example_names_every_variable() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    used = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", text))
    example = (ROOT / "deploy" / "env.example").read_text()
    assert used == set(re.findall(r"^#?([A-Z_]+)=", example, re.MULTILINE))
    assert set(re.findall(r"^([A-Z_]+)=$", example, re.MULTILINE)) == set(SECRETS)  # required, and empty
    assert "/.env" in (ROOT / ".gitignore").read_text().split()


def test_no_service_has_more_rights_than_it_needs(rendered: dict[str, dict[str, Any]]) -> None:
    for name, service in rendered.items():
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "cap_add", "network_mode", "pid"} & set(service), name
        if name in ONCE:
            assert service["restart"] == "no"
        else:
            assert service["healthcheck"]["test"][0] == "CMD", name
            assert service["restart"] == "unless-stopped", name


def test_only_the_api_is_published_and_on_this_machine_only(rendered: dict[str, dict[str, Any]]) -> None:
    ports = {name: service["ports"] for name, service in rendered.items() if service.get("ports")}
    assert set(ports) == {"api"}
    assert [port["host_ip"] for port in ports["api"]] == [LOCAL]
    asked = services(GIVEN | {"ATFT_ADDRESS": "0.0.0.0", "ATFT_PORT": "9000"})["api"]["ports"]
    assert [(port["host_ip"], port["published"], port["target"]) for port in asked] == [("0.0.0.0", "9000", 8000)]


def leaves(node: object, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, str(key))
    elif isinstance(node, list):
        for value in node:
            yield from leaves(value, name)
    else:
        yield name, str(node)


def test_no_password_is_written_down(raw: dict[str, dict[str, Any]]) -> None:
    found = 0
    for name, value in leaves(raw):
        if SECRET_NAME.search(name):
            assert REQUIRED.fullmatch(value), (name, value)
            found += 1
        for password in re.findall(r"://[^:/@]*:(.+)@", value):
            assert REQUIRED.fullmatch(password), (name, value)
            found += 1
    assert found >= 5


def test_no_command_line_shows_a_password(rendered: dict[str, dict[str, Any]]) -> None:
    for name, service in rendered.items():
        words = [*service["command"], *service.get("healthcheck", {}).get("test", [])]
        assert not [word for word in words for secret in GIVEN.values() if secret in word], name


def test_each_service_gets_the_secrets_that_it_needs(rendered: dict[str, dict[str, Any]]) -> None:
    holders = {
        secret: {name for name, service in rendered.items() if secret in str(service["environment"])}
        for secret in GIVEN.values()
    }
    assert holders["given-postgres_password"] == OURS | {"postgres"}
    assert holders["given-redis_password"] == OURS | {"redis"}
    assert holders["given-atft_admin_key"] == {"api"}


def test_a_worker_is_asked_about_its_own_slot(rendered: dict[str, dict[str, Any]]) -> None:
    for name in ("control", "worker", "worker-gpu"):
        assert rendered[name]["healthcheck"]["test"] == ["CMD", *rendered[name]["command"], "--healthy"]


def test_the_gpu_is_reserved_in_its_profile_only(rendered: dict[str, dict[str, Any]]) -> None:
    assert rendered["worker-gpu"]["profiles"] == ["gpu"]
    [device] = rendered["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", 1, ["gpu"])
    assert [name for name, service in rendered.items() if "deploy" in service] == ["worker-gpu"]


def test_everything_waits_for_the_migration(rendered: dict[str, dict[str, Any]]) -> None:
    for name in OURS - ONCE:
        conditions = {other: need["condition"] for other, need in rendered[name]["depends_on"].items()}
        assert conditions == {
            "postgres": "service_healthy",
            "redis": "service_healthy",
            "migrate": "service_completed_successfully",
        }, name


def test_the_image_is_this_version_with_every_package(rendered: dict[str, dict[str, Any]]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert {rendered[name]["image"] for name in OURS} == {f"atft:{project['project']['version']}"}
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    copied = {word for line in re.findall(r"^COPY (?!--)(.+) \S+$", dockerfile, re.MULTILINE) for word in line.split()}
    tops = {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert tops | {"pyproject.toml", "constraints.txt", "README.md", "LICENSE"} == copied
    sent = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert sent == copied


def test_what_is_written_to_is_a_volume_or_in_memory(rendered: dict[str, dict[str, Any]]) -> None:
    for name in OURS:
        mounts = {mount["target"]: mount.get("read_only", False) for mount in rendered[name]["volumes"]}
        assert mounts == {"/runs": False, "/data": True}, name
        environment = rendered[name]["environment"]
        assert (environment["ATFT_RUN_ROOT"], environment["ATFT_DATA_ROOT"]) == ("/runs", "/data")
        assert [mount.partition(":")[0] for mount in rendered[name]["tmpfs"]] == ["/tmp"]
