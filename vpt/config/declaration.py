"""The settings, each declared once: its type, default, meaning, and whether it is public.

README's table and .env.example are made of this: `python -m vpt.config` writes them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from vpt.config import values as v
from vpt.config.data_folder import default_data_dir
from vpt.config.origins import origin_of, path_of
from vpt.config.values import Network, ValueType

_MADE = "made once, kept in the data folder"
_META = "setting"


@dataclass(frozen=True, slots=True)
class Setting:
    """What is declared of a setting beside its name, its type and its default.

    `meaning` is a sentence, `otherwise` says what holds when it is not set, `alias` is a second
    name, and `heading` begins a group of settings.
    """

    value_type: ValueType
    meaning: str
    otherwise: str
    public: bool
    alias: str
    heading: str


def _setting(
    value_type: ValueType,
    default: Any,
    meaning: str,
    otherwise: str = "",
    *,
    public: bool = False,
    secret: bool = False,
    alias: str = "",
    heading: str = "",
) -> Any:
    """Declare one: `default` may be a function; a secret stays out of the repr."""
    declared = Setting(value_type, meaning, otherwise, public, alias, heading)
    more: Any = {"default_factory" if callable(default) else "default": default}
    return field(repr=not secret, metadata={_META: declared}, **more)


def default_log_format() -> str:
    """Return console on a terminal, else json."""
    return "console" if sys.stderr.isatty() else "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings of a server; durations in seconds, sizes in bytes."""

    server_host: str = _setting(
        v.TEXT,
        "127.0.0.1",
        "Address to listen on; 0.0.0.0 is all of them.",
        public=True,
        heading="The server",
    )
    server_port: int = _setting(v.whole(0, 65535), 5109, "Port to listen on.", public=True)
    server_url: str | None = _setting(
        v.PUBLIC_URL,
        None,
        "The URL that people use, such as https://vpt.example; its path is a prefix of all routes.",
        "SERVER_HOST and SERVER_PORT",
    )
    trusted_proxies: tuple[Network, ...] = _setting(
        v.NETWORKS,
        (),
        "Networks of the reverse proxies whose X-Forwarded-… headers count, such as 127.0.0.1/32.",
    )
    cors_origins: tuple[str, ...] = _setting(
        v.ORIGINS,
        (),
        "Origins whose pages may call the API, comma separated, such as https://pages.example.",
    )
    max_body: int = _setting(
        v.SIZE,
        4 * 2**20,
        "Largest body of a request, 8MiB at most; larger ones get 413.",
        public=True,
    )
    shutdown_grace: float = _setting(
        v.SECONDS_OR_0,
        10.0,
        "How long steps in flight get at SIGTERM. Raise the limit of what stops vpt with it.",
        public=True,
    )
    log_format: str = _setting(
        v.one_of("console", "json"),
        default_log_format,
        "How to log: console or json.",
        "console on a terminal, else json",
        public=True,
    )
    log_level: str = _setting(
        v.one_of("debug", "info", "warning", "error"),
        "info",
        "Lowest level that is logged: debug, info, warning or error; SIGHUP reads it again.",
        public=True,
    )

    database_url: str | None = _setting(
        v.url("postgresql", "postgres"),
        None,
        "A PostgreSQL from 15 on, Supabase and poolers too: postgresql://user:password@host/name.",
        "vpt's own PostgreSQL",
        secret=True,
        heading="Data",
    )
    database_pool: int = _setting(
        v.whole(1, 1000),
        10,
        "Connections to the database for requests and runs, beside one for the server's claim.",
        public=True,
    )
    embedded: bool = False  # no setting: the server notes here that DATABASE_URL is its own
    vpt_data_dir: Path = _setting(  # noqa: RUF009 (it is a field())
        v.FOLDER,
        default_data_dir,
        "Folder of vpt's own database, screenshots and keys.",
        "user data folder + vpt; as root /var/lib/vpt; without a home /var/tmp/vpt-<user id>",
    )
    vpt_pg_bin: Path | None = _setting(  # noqa: RUF009
        v.FOLDER,
        None,
        "Folder of other PostgreSQL binaries for vpt's own database; never read from .env.",
        "searched for",
    )
    vpt_pg_port: int | None = _setting(
        v.whole(1, 65535),
        None,
        "Port of 127.0.0.1 at which vpt's own database answers as well; Grafana needs that.",
    )

    secret_key: str | None = _setting(
        v.secret(v.MIN_SECRET),
        None,
        "Signs tokens and seals hosts' secrets, 32 bytes at least; FLASK_SECRET_KEY is read, too.",
        _MADE,
        secret=True,
        alias="FLASK_SECRET_KEY",
        heading="Keys",
    )
    host_join_token: str | None = _setting(
        v.TOKEN, None, "Lets any host join, 16 characters at least.", _MADE, secret=True
    )
    metrics_token: str | None = _setting(
        v.TOKEN,
        None,
        "Beside users' tokens this one, 16 characters at least, may read GET /metrics.",
        secret=True,
    )
    api_key: str | None = _setting(
        v.VISIBLE,
        None,
        "Key of VirtualPyTest hosts that joined with a credential and have no key of their own.",
        secret=True,
    )
    vpt_team_id: str = _setting(
        v.TEXT,
        "7fdeb4bb-3639-4ec3-959f-b54769a219ce",
        "The team id that is sent to VirtualPyTest hosts.",
    )

    host_open_networks: tuple[Network, ...] = _setting(
        v.NETWORKS,
        (),
        "Networks whose hosts join without a credential (and without API_KEY), such as 10.0.0.0/8.",
        heading="Hosts",
    )
    host_probe_interval: float = _setting(
        v.SECONDS, 10.0, "Time between two probes of a host, ±20 %.", public=True
    )
    host_probe_timeout: float = _setting(
        v.SECONDS, 5.0, "Longest time that a host may take to answer a probe.", public=True
    )
    host_suspect_after: int = _setting(
        v.whole(1), 2, "Missed probes in a row after which a host gets no new work.", public=True
    )
    host_lost_after: int = _setting(
        v.whole(1), 6, "Missed probes in a row after which a host is lost.", public=True
    )
    host_recover_after: int = _setting(
        v.whole(1), 2, "Answered probes in a row after which a host is back.", public=True
    )
    inbox_limit: int = _setting(
        v.whole(1), 100, "Commands that may wait for one host; more get 503.", public=True
    )

    run_grace: float = _setting(
        v.SECONDS_OR_0,
        60.0,
        "How long a run waits for its lost host.",
        public=True,
        heading="Executions",
    )
    infra_retries: int = _setting(
        v.whole(0),
        2,
        "More attempts after an infrastructure error. What did nothing where it failed may go on to"
        " each device that fits and was not tried yet.",
        public=True,
    )
    retry_backoff: float = _setting(
        v.SECONDS_OR_0,
        1.0,
        "How long a device gets no run that just failed on it, when no other device fits; four"
        " times as long with each failure.",
        public=True,
    )
    device_pause: float = _setting(
        v.SECONDS,
        10.0,
        "How long a device gets no runs after three infrastructure errors in a row; twice as long"
        " with each further one, up to 360 times as long.",
        public=True,
    )
    queue_timeout: float = _setting(
        v.SECONDS, 3600.0, "Longest time in the queue of an execution that names none.", public=True
    )
    campaign_queue_timeout: float = _setting(
        v.SECONDS, 86400.0, "The same for executions of a campaign.", public=True
    )
    fit_grace: float = _setting(
        v.SECONDS_OR_0,
        120.0,
        "How long an execution waits for a device when no registered one fits any more.",
        public=True,
    )
    max_queued: int = _setting(
        v.whole(1), 100_000, "Executions that may be queued; more get 503.", public=True
    )
    step_timeout: float = _setting(
        v.SECONDS, 300.0, "Longest time of a step that names none.", public=True
    )
    run_timeout: float = _setting(
        v.SECONDS, 7200.0, "Longest time of an attempt that names none.", public=True
    )
    cancel_grace: float = _setting(
        v.SECONDS_OR_0,
        60.0,
        "How long a device is held after a timeout when its host does not confirm the stop.",
        public=True,
    )

    keep_executions_days: float = _setting(
        v.DAYS,
        730.0,
        "Days that executions, campaign executions and the audit are kept.",
        public=True,
        heading="What is kept",
    )
    keep_steps_days: float = _setting(
        v.DAYS, 365.0, "Days that steps of executions are kept.", public=True
    )
    keep_screenshots_days: float = _setting(
        v.DAYS, 14.0, "Days that screenshots are kept.", public=True
    )
    keep_samples_days: float = _setting(
        v.DAYS, 7.0, "Days that samples of hosts are kept.", public=True
    )
    keep_hourly_samples_days: float = _setting(
        v.DAYS, 90.0, "Days that hourly means of these samples are kept.", public=True
    )
    min_free_disk: float = _setting(
        v.PERCENT,
        5.0,
        "Percent of the data folder's disk that must be free; below that new runs get 503.",
        public=True,
    )

    grafana_url: str | None = _setting(
        v.WEB,
        None,
        "URL of Grafana for the health check, such as http://127.0.0.1:3001.",
        heading="Grafana",
    )
    grafana_admin_user: str | None = _setting(
        v.TEXT, None, "Name of Grafana's administrator.", "admin"
    )
    grafana_admin_password: str | None = _setting(
        v.TEXT,
        None,
        "Password of that administrator; read at Grafana's first start only.",
        _MADE,
        secret=True,
    )
    grafana_secret_key: str | None = _setting(
        v.TEXT,
        None,
        "Encrypts what Grafana stores; set it before Grafana's first start.",
        _MADE,
        secret=True,
    )
    vpt_grafana_db_password: str | None = _setting(
        v.TEXT,
        None,
        "Password of the database role vpt_grafana; the same for all vpt of one PostgreSQL.",
        _MADE,
        secret=True,
    )
    vpt_alert_webhook_url: str | None = _setting(
        v.WEB,
        None,
        "URL to which Grafana sends its alerts.",
        "none: alerts are shown in Grafana only",
        secret=True,
    )

    supabase_url: str | None = _setting(
        v.WEB,
        None,
        "URL of the Supabase project.",
        heading="External services, watched by the health check when set",
    )
    supabase_anon_key: str | None = _setting(
        v.TEXT, None, "Anonymous key of the Supabase project.", secret=True
    )
    supabase_jwt_secret: str | None = _setting(
        v.secret(v.MIN_SECRET),
        None,
        "With it people sign in with tokens of the Supabase project; 32 bytes at least.",
        secret=True,
    )
    openrouter_api_key: str | None = _setting(v.TEXT, None, "Key of OpenRouter.", secret=True)
    cloudflare_r2_endpoint: str | None = _setting(v.WEB, None, "Endpoint of Cloudflare R2.")

    def public(self) -> dict[str, Any]:
        """Return what /api/system/info may show: no secret, no URL with user info."""
        return {
            item.name.upper(): getattr(self, item.name)
            for item, setting in settings_of(Config)
            if setting.public
        }

    @property
    def origins(self) -> tuple[str, ...]:
        """Return the origins whose pages may call the API: CORS_ORIGINS, and that of SERVER_URL."""
        own = (origin_of(self.server_url),) if self.server_url else ()
        return tuple(dict.fromkeys((*self.cors_origins, *own)))

    @property
    def prefix(self) -> str:
        """Return the path of SERVER_URL, below which the routes are reached, too: "" or "/vpt"."""
        return path_of(self.server_url) if self.server_url else ""

    @property
    def page_url(self) -> str:
        """Return the URL of the page; on this machine when the server listens on all addresses."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.server_host, self.server_host)  # noqa: S104
        name = f"[{host}]" if ":" in host else host
        return (self.server_url or f"http://{name}:{self.server_port}").rstrip("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """The settings of the commands that ask a server."""

    vpt_server: str = _setting(
        v.WEB,
        "http://127.0.0.1:5109",
        "URL of the server that the commands ask.",
        heading="vpt run, ls, logs, import and export",
    )
    vpt_token: str | None = _setting(
        v.TEXT, None, "Token with which they ask: one of vpt token.", secret=True
    )


def settings_of(declaration: Any) -> Iterator[tuple[Field[Any], Setting]]:
    """Yield the settings of Config or ClientConfig, each with its field."""
    for item in fields(declaration):
        if _META in item.metadata:
            yield item, item.metadata[_META]
