"""Settings from `ATFT_…` environment variables; nothing else reads the environment. A job's spec says what to compute,
settings say where.
"""

import os
import shutil
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import make_url

THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMEXPR_MAX_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
    "ARROW_IO_THREADS",
    "ARROW_NUM_THREADS",
    "TORCHINDUCTOR_COMPILE_THREADS",
)


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of a folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="ATFT_", frozen=True, extra="ignore")

    database_url: SecretStr = Field(
        SecretStr(""), description="postgresql://…; required (atft up sets it for embedded servers)"
    )
    redis_url: SecretStr = Field(SecretStr(""), description="redis://…")
    data_root: Path = Field(
        Path("var/data"), description="the only folder that server paths of datasets may lie in; read only"
    )
    run_root: Path = Field(Path("var/runs"), description="uploads, caches, runs, artifacts")
    bind: str = "127.0.0.1"
    admin_key: SecretStr | None = None
    lease_seconds: float = Field(30.0, gt=0)
    sweep_seconds: float = Field(10.0, gt=0)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    max_body_bytes: int = Field(1_000_000, gt=0, description="JSON bodies")
    max_upload_bytes: int = Field(20_000_000_000, gt=0)
    quota_jobs: int = Field(10_000, ge=0, description="of one key: unfinished jobs")
    quota_streams: int = Field(1_000, ge=0, description="of one key: open streams, in each API process")
    quota_upload_bytes: int = Field(100_000_000_000, ge=0, description="of one key: uploads per day")
    quota_requests: int = Field(120_000, gt=0, description="of one key: requests per minute, in each API process")
    min_free_bytes: int = Field(
        2_000_000_000, ge=0, description="with less free disk than this no job or upload is accepted"
    )
    fork_server: bool = Field(
        default=True, description="fork children from a process that has their imports, one for each worker"
    )
    keep_checkpoints_days: float = Field(7.0, ge=0, description="of finished jobs, for a retry")
    keep_logs_days: float = Field(90.0, ge=0, description="the raw output of finished jobs")
    keep_trials_days: float = Field(30.0, ge=0, description="files of a study's trials except the best")

    def _driver_url(self, driver: str) -> str:
        url = self.database_url.get_secret_value()
        if not url:
            raise ValueError(
                "ATFT_DATABASE_URL is not set: start the service with `atft up`, or point it at a Postgres server"
            )
        scheme, _, rest = url.partition("://")
        if scheme.split("+")[0] not in ("postgresql", "postgres"):
            raise ValueError("ATFT_DATABASE_URL must be a postgresql:// URL")
        return f"postgresql+{driver}://{rest}"

    @cached_property
    def async_database_url(self) -> str:
        return self._driver_url("asyncpg")

    @cached_property
    def sync_database_url(self) -> str:
        return self._driver_url("psycopg")

    @cached_property
    def studies_database_url(self) -> str:
        """The URL of the same database with the schema `optuna` as its search path, for Optuna and its own tools."""
        url = make_url(self.sync_database_url)
        return url.update_query_dict({"options": "-csearch_path=optuna"}).render_as_string(hide_password=False)

    @property
    def jobs_root(self) -> Path:
        """Folder of the jobs' files; `{jobs_root}/{job}/{attempt}/` belongs to one attempt."""
        return self.run_root / "jobs"

    @property
    def caches_root(self) -> Path:
        return self.run_root / "caches"

    @property
    def uploads_root(self) -> Path:
        return self.run_root / "uploads"

    def child_environment(self, threads: int, cuda_device: str | None) -> dict[str, str]:
        """The complete environment of a child process: thread limits that hold from its start, and no setting of the
        service.

        `cuda_device` is the value of CUDA_VISIBLE_DEVICES; None hides every GPU.
        """
        keep = {
            "PATH",
            "HOME",
            "LANG",
            "LC_ALL",
            "TZ",
            "TMPDIR",
            "LD_LIBRARY_PATH",
            "VIRTUAL_ENV",
            "USER",
            "PYTHONPATH",
        }
        environment = {name: value for name, value in os.environ.items() if name in keep}
        environment |= dict.fromkeys(THREAD_VARIABLES, str(threads))
        return environment | {
            "MALLOC_ARENA_MAX": "2",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_WAIT_POLICY": "PASSIVE",
            "CUDA_VISIBLE_DEVICES": "" if cuda_device is None else cuda_device,
            "PYTHONUNBUFFERED": "1",
            "PYTHONHASHSEED": "0",
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        }
