"""Settings: a frozen Config from the environment, whose only reader is this module."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs
from dotenv import dotenv_values
from marshmallow import EXCLUDE, Schema, ValidationError, post_load, pre_load, validate
from marshmallow import fields as f

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MIN_SECRET = 32
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB|kB|MB|GB)?")
_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


class ConfigError(Exception):
    """Settings that are missing or make no sense: one line a setting."""


class Size(f.Field[int]):
    """Bytes, or a number with KiB, MiB, GiB, kB, MB, GB."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:  # noqa: ARG002
        match = _SIZE.fullmatch(str(value).strip())
        if match is None or int(match[1]) == 0:
            raise ValidationError("expected a size, such as 1048576 or 16MiB")
        return int(match[1]) * _UNITS[match[2] or "B"]


class Networks(f.Field[tuple[Network, ...]]):
    """CIDR networks, comma separated."""

    def _deserialize(
        self,
        value: Any,
        attr: str | None,  # noqa: ARG002
        data: Any,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[Network, ...]:
        try:
            return tuple(ipaddress.ip_network(part) for part in _parts(value))
        except ValueError as error:
            raise ValidationError(
                f"expected networks, such as 10.0.0.0/8,192.168.1.0/24 ({error})"
            ) from error


class Names(f.Field[tuple[str, ...]]):
    """Words, comma separated."""

    def _deserialize(
        self,
        value: Any,
        attr: str | None,  # noqa: ARG002
        data: Any,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[str, ...]:
        return tuple(_parts(value))


def _parts(value: Any) -> list[str]:
    return [part.strip() for part in str(value).split(",") if part.strip()]


def _seconds(*, zero: bool = False) -> f.Float:
    words = "expected a number of seconds" + (" (0 or more)" if zero else " above 0")
    return f.Float(
        validate=validate.Range(min=0, min_inclusive=zero, error=words),
        error_messages={"invalid": words, "special": words},
    )


def _count(lowest: int = 0, highest: int | None = None) -> f.Integer:
    words = f"expected a whole number from {lowest}" + (f" to {highest}" if highest else "")
    return f.Integer(
        validate=validate.Range(lowest, highest, error=words),
        error_messages={"invalid": words, "too_large": words},
    )


def _days() -> f.Float:
    words = "expected a number of days, 1 to 36500"
    return f.Float(
        validate=validate.Range(1, 36500, error=words),
        error_messages={"invalid": words, "special": words},
    )


def _percent() -> f.Float:
    words = "expected a percentage, 0 to 100"
    return f.Float(
        validate=validate.Range(0, 100, error=words),
        error_messages={"invalid": words, "special": words},
    )


def _is_long(value: str) -> None:
    if len(value.encode()) < MIN_SECRET:
        raise ValidationError(f"expected at least {MIN_SECRET} bytes")


def _is_url(*schemes: str) -> Any:
    def check(value: str) -> None:
        try:
            parts = urlsplit(value)
            parts.port  # noqa: B018 (raises when it is no number)
        except ValueError as error:  # its words may hold a part of a password
            words = "expected a URL (in a password, / is %2F and : is %3A)"
            raise ValidationError(words) from error
        if parts.scheme not in schemes:
            raise ValidationError(f"expected a URL that starts with {' or '.join(schemes)}://")

    return check


_WEB = _is_url("http", "https")


class _Settings(Schema):
    class Meta:
        unknown = EXCLUDE

    server_host = f.String()
    server_port = _count(0, 65535)
    server_url = f.String(validate=_WEB)
    cors_origins = Names()
    database_url = f.String(validate=_is_url("postgresql", "postgres"))
    vpt_data_dir = f.String()
    vpt_pg_bin = f.String()
    vpt_pg_port = _count(1, 65535)
    secret_key = f.String(validate=_is_long)
    host_join_token = f.String(
        validate=validate.Length(min=16, error="expected at least 16 characters")
    )
    host_open_networks = Networks()
    supabase_url = f.String(validate=_WEB)
    supabase_anon_key = f.String()
    supabase_jwt_secret = f.String(validate=_is_long)
    grafana_url = f.String(validate=_WEB)
    grafana_admin_user = f.String()
    grafana_admin_password = f.String()
    grafana_secret_key = f.String()
    vpt_grafana_db_password = f.String()
    vpt_alert_webhook_url = f.String(validate=_WEB)
    openrouter_api_key = f.String()
    cloudflare_r2_endpoint = f.String(validate=_WEB)
    api_key = f.String(
        validate=validate.Regexp(r"[!-~]{1,4096}\Z", error="expected visible ASCII characters")
    )
    vpt_team_id = f.String()
    metrics_token = f.String()
    host_probe_interval = _seconds()
    host_probe_timeout = _seconds()
    host_suspect_after = _count(1)
    host_lost_after = _count(1)
    host_recover_after = _count(1)
    run_grace = _seconds(zero=True)
    infra_retries = _count(0)
    queue_timeout = _seconds()
    campaign_queue_timeout = _seconds()
    max_queued = _count(1)
    step_timeout = _seconds()
    run_timeout = _seconds()
    cancel_grace = _seconds(zero=True)
    inbox_limit = _count(1)
    max_body = Size()
    shutdown_grace = _seconds(zero=True)
    keep_executions_days = _days()
    keep_steps_days = _days()
    keep_screenshots_days = _days()
    keep_samples_days = _days()
    keep_hourly_samples_days = _days()
    min_free_disk = _percent()
    log_format = f.String(
        validate=validate.OneOf(["console", "json"], error="expected console or json")
    )
    log_level = f.String(
        validate=validate.OneOf(
            ["debug", "info", "warning", "error"], error="expected debug, info, warning or error"
        )
    )

    @pre_load
    def _by_name(self, data: Mapping[str, str], **_: Any) -> dict[str, str]:
        known = {k.lower(): v for k, v in data.items() if v != "" and k.isupper()}
        if "flask_secret_key" in known:
            known.setdefault("secret_key", known["flask_secret_key"])
        if "log_level" in known:
            known["log_level"] = known["log_level"].lower()
        return known

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> Config:
        for name in ("vpt_data_dir", "vpt_pg_bin"):
            if name in data:
                data[name] = Path(data[name]).expanduser().absolute()
        return Config(**data)


def default_data_dir() -> Path:
    """Give the platform's user data folder + vpt; as root /var/lib/vpt."""
    if sys.platform != "win32" and os.geteuid() == 0:
        return Path("/var/lib/vpt")
    return Path(platformdirs.user_data_dir("vpt", appauthor=False))


def default_log_format() -> str:
    """Give console on a terminal, else json."""
    return "console" if sys.stderr.isatty() else "json"


def _hidden(default: str | None = None) -> Any:
    return field(default=default, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings; durations in seconds, sizes in bytes. Secrets stay out of its repr."""

    server_host: str = "127.0.0.1"
    server_port: int = 5109
    server_url: str | None = None
    cors_origins: tuple[str, ...] = ()
    database_url: str | None = _hidden()
    embedded: bool = False  # set by the server when DATABASE_URL is of its own database
    vpt_data_dir: Path = field(default_factory=default_data_dir)
    vpt_pg_bin: Path | None = None
    vpt_pg_port: int | None = None
    secret_key: str | None = _hidden()
    host_join_token: str | None = _hidden()
    host_open_networks: tuple[Network, ...] = ()
    supabase_url: str | None = None
    supabase_anon_key: str | None = _hidden()
    supabase_jwt_secret: str | None = _hidden()
    grafana_url: str | None = None
    grafana_admin_user: str | None = None
    grafana_admin_password: str | None = _hidden()
    grafana_secret_key: str | None = _hidden()
    vpt_grafana_db_password: str | None = _hidden()
    vpt_alert_webhook_url: str | None = _hidden()
    openrouter_api_key: str | None = _hidden()
    cloudflare_r2_endpoint: str | None = None
    api_key: str | None = _hidden()
    vpt_team_id: str = "7fdeb4bb-3639-4ec3-959f-b54769a219ce"
    metrics_token: str | None = _hidden()
    host_probe_interval: float = 10.0
    host_probe_timeout: float = 5.0
    host_suspect_after: int = 2
    host_lost_after: int = 6
    host_recover_after: int = 2
    run_grace: float = 60.0
    infra_retries: int = 2
    queue_timeout: float = 3600.0
    campaign_queue_timeout: float = 86400.0
    max_queued: int = 100_000
    step_timeout: float = 300.0
    run_timeout: float = 7200.0
    cancel_grace: float = 60.0
    inbox_limit: int = 100
    max_body: int = 16 * 2**20
    shutdown_grace: float = 10.0
    keep_executions_days: float = 730.0
    keep_steps_days: float = 365.0
    keep_screenshots_days: float = 14.0
    keep_samples_days: float = 7.0
    keep_hourly_samples_days: float = 90.0
    min_free_disk: float = 5.0  # percent
    log_format: str = field(default_factory=default_log_format)
    log_level: str = "info"

    def public(self) -> dict[str, Any]:
        """Give what /api/system/info may show: what is set, no secret, no URL with user info."""
        return {
            item.name.upper(): getattr(self, item.name)
            for item in fields(self)
            if item.name in _PUBLIC
        }


_PUBLIC = {
    "server_host",
    "server_port",
    "host_probe_interval",
    "host_probe_timeout",
    "host_suspect_after",
    "host_lost_after",
    "host_recover_after",
    "run_grace",
    "infra_retries",
    "queue_timeout",
    "campaign_queue_timeout",
    "max_queued",
    "step_timeout",
    "run_timeout",
    "cancel_grace",
    "inbox_limit",
    "max_body",
    "shutdown_grace",
    "keep_executions_days",
    "keep_steps_days",
    "keep_screenshots_days",
    "keep_samples_days",
    "keep_hourly_samples_days",
    "min_free_disk",
    "log_format",
    "log_level",
}


def from_env(env: Mapping[str, str] | None = None, *, folder: Path | None = None) -> Config:
    """Read `.env` in the working folder and then the environment, which wins.

    Raises ConfigError that names every setting at fault and what was expected.
    """
    config: Config = _load(_Settings(), _environment(folder) if env is None else env)
    if config.host_lost_after < config.host_suspect_after:
        raise ConfigError("HOST_LOST_AFTER: expected at least HOST_SUSPECT_AFTER")
    return config


def log_level_now(*, folder: Path | None = None) -> str:
    """Read LOG_LEVEL anew: here `.env` wins, since a process's environment never changes.

    Raises ConfigError.
    """
    return from_env({k: v for k, v in os.environ.items() if v} | _dotenv(folder)).log_level


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """What the commands that ask a server need: its URL, and a user's token."""

    vpt_server: str = "http://127.0.0.1:5109"
    vpt_token: str | None = _hidden()


class _ClientSettings(Schema):
    class Meta:
        unknown = EXCLUDE

    vpt_server = f.String(validate=_WEB)
    vpt_token = f.String()

    @pre_load
    def _by_name(self, data: Mapping[str, str], **_: Any) -> dict[str, str]:
        return {name.lower(): value for name, value in data.items() if name.isupper()}

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> ClientConfig:
        return ClientConfig(**data)


def client_from_env(given: Mapping[str, str | None], *, folder: Path | None = None) -> ClientConfig:
    """Read as `from_env` does; what is given, and not None, wins. Raises ConfigError."""
    named = {name: value for name, value in given.items() if value}
    config: ClientConfig = _load(_ClientSettings(), _environment(folder) | named)
    return config


def _load(schema: Schema, env: Mapping[str, str]) -> Any:
    try:
        return schema.load(env)
    except ValidationError as error:
        raise ConfigError("; ".join(_lines(error.messages_dict))) from error


def _environment(folder: Path | None) -> dict[str, str]:
    return _dotenv(folder) | {k: v for k, v in os.environ.items() if v}


def _dotenv(folder: Path | None) -> dict[str, str]:
    values = dotenv_values((folder or Path.cwd()) / ".env", interpolate=False)
    return {k: v for k, v in values.items() if v}


def _lines(messages: Mapping[str, Any]) -> list[str]:
    return [f"{name.upper()}: {', '.join(map(str, what))}" for name, what in messages.items()]


def with_keys(config: Config) -> Config:
    """Fill in the keys that are missing, made once and kept 0600 in the data folder.

    Raises ConfigError when the data folder cannot be written, or root would write into another's.
    """
    _leave_to_its_owner(config.vpt_data_dir)
    return _filled(config, ("secret_key", "host_join_token", "vpt_grafana_db_password"))


def with_grafana_keys(config: Config) -> Config:
    """Fill in what only Grafana needs, in the same way."""
    return _filled(config, ("grafana_admin_password", "grafana_secret_key"))


def _leave_to_its_owner(folder: Path) -> None:
    """Refuse root in the folder of another account, which could not read what root makes there."""
    if sys.platform != "win32" and os.geteuid() == 0 and folder.exists():
        owner = folder.stat().st_uid
        if owner != 0:
            raise ConfigError(
                f"VPT_DATA_DIR: {folder} belongs to user {owner}: run vpt as that user"
            )


def _filled(config: Config, names: tuple[str, ...]) -> Config:
    missing = [name for name in names if getattr(config, name) is None]
    made: dict[str, Any] = {name: _kept(config.vpt_data_dir, name) for name in missing}
    return replace(config, **made)


def _kept(folder: Path, name: str) -> str:
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        _make_once(path)
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise ConfigError(
            f"VPT_DATA_DIR: expected a folder that can be written ({error})"
        ) from error


def _make_once(path: Path) -> None:
    """Write a new secret beside `path` and link it there: whole or not at all, the first wins."""
    if path.exists():
        return
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(secrets.token_urlsafe(32))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
