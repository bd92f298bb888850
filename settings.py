"""The service's settings: environment variables, or a `.env` file beside them, read once at start."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from services.storage.location import store_url

PathList = Annotated[tuple[Path, ...], NoDecode]
TextList = Annotated[tuple[str, ...], NoDecode]
TokenList = Annotated[tuple[SecretStr, ...], NoDecode]
_TOKEN_LENGTH = 16


class Settings(BaseSettings):
    """The defaults are safe, without any set-up, for one person on one machine."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", hide_input_in_errors=True)

    host: str = Field(default="127.0.0.1", description="address to listen on; beyond loopback API_TOKENS is required")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on")
    state_dir: Path = Field(default=Path("state"), description="where the service keeps what it must remember")
    database_url: SecretStr | None = Field(
        default=None, description="SQLAlchemy URL of the store; default: an SQLite file under STATE_DIR"
    )
    sqlite_synchronous: Literal["OFF", "NORMAL", "FULL", "EXTRA"] = Field(
        default="NORMAL", description="FULL keeps the last moments in a power loss too; NORMAL loses nothing in a crash"
    )
    lease_seconds: float = Field(
        default=15,
        ge=1,
        le=3600,
        description="how long the owner of a PostgreSQL store may be silent before another service takes it over",
    )
    public_url: str | None = Field(
        default=None, description="where replicas send who wants to change something; unset: HOST and PORT, as they are"
    )
    executor: Literal["auto", "thread", "process", "ray"] = Field(
        default="auto",
        description="where trainings run; auto: in a thread of the service on the CPU, as a process on CUDA",
    )
    ray_address: str | None = Field(
        default=None, description="address of a Ray cluster's dashboard, for the executor ray, e.g. http://head:8265"
    )
    ray_auth_token: SecretStr | None = Field(
        default=None, description="token of that cluster, where it asks for one (RAY_AUTH_MODE=token)"
    )
    allow_commands: bool = Field(
        default=False, description="let requests run programs of their own, with the rights of this service"
    )
    stop_grace_s: float = Field(
        default=10, ge=0, le=3600, description="seconds from SIGTERM to SIGKILL where a process is stopped"
    )
    max_training_concurrent_cpu: int = Field(default=1, ge=1, description="trainings at a time on the CPU")
    max_training_concurrent_gpu: int = Field(default=1, ge=1, description="trainings at a time on each GPU")
    max_queued: int = Field(default=1000, ge=0, description="tasks that may wait before more are refused")
    data_roots: PathList = Field(
        default=(), description="folders that data and weights may be read from, separated by ':'; unset: anywhere"
    )
    save_roots: PathList = Field(
        default=(), description="folders that runs may be written to, separated by ':'; unset: anywhere"
    )
    api_tokens: TokenList = Field(default=(), description="bearer tokens that requests must carry, separated by ','")
    allowed_hosts: TextList = Field(
        default=(), description="host names, beside this machine's, that requests may be addressed to, e.g. of a proxy"
    )
    allowed_origins: TextList = Field(
        default=(),
        description="web origins whose pages may use the service, e.g. https://lab.example, separated by ','",
    )
    alert_private_targets: bool = Field(
        default=False, description="whether alerts may be sent to private, link-local and loopback addresses"
    )
    max_body_bytes: int = Field(default=1_048_576, ge=1024, description="largest request body")
    request_timeout_s: float = Field(
        default=30, gt=0, le=3600, description="seconds that the headers and the body of a request may take to arrive"
    )

    keep_lines_days: float | None = Field(
        default=None, ge=0, description="days after which lines and points of ended tasks are removed; unset: never"
    )
    keep_checkpoints: int | None = Field(
        default=None, ge=0, description="checkpoints, beside best.pt, that a completed training keeps; unset: all"
    )
    resource_samples_s: float | None = Field(
        default=None, ge=1, description="seconds between two lines with what a running task takes; unset: no such lines"
    )
    log_format: Literal["plain", "json"] = Field(
        default="plain", description="lines of the service's own log: for people, or JSON with task and request ids"
    )

    @field_validator("data_roots", "save_roots", mode="before")
    @classmethod
    def _split_paths(cls, value: Any) -> Any:
        return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value

    @field_validator("api_tokens", "allowed_hosts", "allowed_origins", mode="before")
    @classmethod
    def _split_list(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("allowed_origins")
    @classmethod
    def _whole_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not re.fullmatch(r"https?://[^/\s*@]+", origin):
                raise ValueError(
                    f"{origin!r} is no origin of web pages: name each as scheme://host or scheme://host:port"
                )
        return origins

    @field_validator("database_url")
    @classmethod
    def _of_a_store(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not re.match(r"(?:sqlite|postgresql)(?:\+\w+)?://", url.get_secret_value()):
            raise ValueError(
                "it is no URL of a store: postgresql+psycopg://user:password@host/name, or sqlite:////path"
            )
        return url

    @field_validator("ray_address")
    @classmethod
    def _of_the_dashboard(cls, address: str | None) -> str | None:
        if address is not None and not re.fullmatch(r"https?://[^/\s@]+/?", address):
            raise ValueError("it is not the address of a Ray dashboard: name that as http://host:8265")
        return address

    @model_validator(mode="after")
    def _ray_is_somewhere(self) -> Self:
        if self.executor == "ray" and self.ray_address is None:
            raise ValueError("EXECUTOR=ray needs a cluster: set RAY_ADDRESS to its dashboard, as http://host:8265")
        return self

    @model_validator(mode="after")
    def _safe_beyond_loopback(self) -> Self:
        if self.is_loopback:
            return self
        missing = [name for name in ("api_tokens", "data_roots", "save_roots") if not getattr(self, name)]
        if missing:
            names = ", ".join(name.upper() for name in missing)
            raise ValueError(f"HOST={self.host} can be reached by others: set {names} first, or use HOST=127.0.0.1")
        return self

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def doubts(self) -> list[str]:
        """What is allowed and seldom meant, in sentences for the log."""
        folders = {"DATA_ROOTS": self.data_roots, "SAVE_ROOTS": self.save_roots}
        found = [
            f"{name} has {folder}, which is no folder: requests that name something in it are refused until it is"
            for name, roots in folders.items()
            for folder in roots
            if not folder.is_dir()
        ]
        short = any(len(token.get_secret_value()) < _TOKEN_LENGTH for token in self.api_tokens)
        if short and not self.is_loopback:
            found.append(
                f"API_TOKENS has a token of fewer than {_TOKEN_LENGTH} characters, which others can guess: "
                "`openssl rand -hex 32` makes a good one"
            )
        return found

    @property
    def address(self) -> str:
        """Of this service, for people who have reached another one; empty where it is not known."""
        if self.public_url:
            return self.public_url
        if not self.port:
            return ""
        host = socket.gethostname() if self.host in ("0.0.0.0", "::", "") else self.host  # noqa: S104 - a comparison
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def store_url(self) -> str:
        url = None if self.database_url is None else self.database_url.get_secret_value()
        return store_url(url, self.state_dir)
