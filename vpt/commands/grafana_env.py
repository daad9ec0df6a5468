"""The environment variables of Grafana, derived from DATABASE_URL and the data folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from vpt.config import Config, ConfigError
from vpt.store.grafana_role import ROLE

#: In a checkout grafana/ is beside the package, in a wheel inside it.
FOLDER = next(
    path
    for path in (Path(__file__).parents[1] / "grafana", Path(__file__).parents[2] / "grafana")
    if path.is_dir()
)
#: Where alerts go without VPT_ALERT_WEBHOOK_URL: Grafana wants a URL, and nothing listens there.
NOWHERE = "http://127.0.0.1:9/"
_POSTGRES = 5432
_POOLER = ".pooler.supabase.com"  # the user name contains the project there
_LOCAL = ("127.0.0.1", "::1", "localhost")
_SAFE = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")


def grafana_env(config: Config) -> dict[str, str]:
    """Return the variables that grafana/ uses; `config` has its Grafana keys.

    Raises ConfigError when Grafana cannot reach the database.
    """
    return _database(config) | {
        "VPT_GRAFANA_DB_PASSWORD": config.vpt_grafana_db_password or "",
        "VPT_GRAFANA_HOME": str(FOLDER),
        "VPT_GRAFANA_DATA": str(config.vpt_data_dir / "grafana"),
        "VPT_ALERT_WEBHOOK_URL": config.vpt_alert_webhook_url or NOWHERE,
        "GRAFANA_ADMIN_USER": config.grafana_admin_user or "admin",
        "GRAFANA_ADMIN_PASSWORD": config.grafana_admin_password or "",
        "GRAFANA_SECRET_KEY": config.grafana_secret_key or "",
    }


def as_lines(env: dict[str, str]) -> str:
    """Return NAME=value lines for a shell, systemd's EnvironmentFile and, mostly, docker."""
    return "\n".join(
        f"{name}={value if _SAFE.fullmatch(value) else shlex.quote(value)}"
        for name, value in env.items()
    )


def _database(config: Config) -> dict[str, str]:
    if config.database_url is not None:
        return _external(config.database_url)
    if config.vpt_pg_port is None:
        raise ConfigError(
            "VPT_PG_PORT: Grafana needs a port to reach vpt's own database: set it for"
            " vpt serve too, or set DATABASE_URL"
        )
    return _named(f"127.0.0.1:{config.vpt_pg_port}", ROLE, "vpt", "disable")


def _external(dsn: str) -> dict[str, str]:
    url = urlsplit(dsn)
    query = {name: values[-1] for name, values in parse_qs(url.query).items()}
    if "," in f"{url.netloc.rpartition('@')[2]}{query.get('host', '')}":
        raise ConfigError("DATABASE_URL: Grafana supports one host only: set its variables by hand")
    host = query.get("host") or unquote(url.hostname or "") or "127.0.0.1"
    port, user = int(query.get("port") or url.port or _POSTGRES), ROLE
    if host.endswith(_POOLER):  # on 6543 it keeps no prepared statements, which Grafana needs
        port, user = _POSTGRES, f"{ROLE}.{(url.username or '').partition('.')[2]}"
    name = unquote(url.path.strip("/")) or query.get("dbname") or unquote(url.username or "")
    return _named(_address(host, port), user, name, _sslmode(host, query.get("sslmode")))


def _address(host: str, port: int) -> str:
    if not host.startswith("/"):
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if port != _POSTGRES:
        raise ConfigError(
            "DATABASE_URL: Grafana can use a socket of port 5432 only: let PostgreSQL listen on"
            " 127.0.0.1 too, and set Grafana's variables by hand"
        )
    return host


def _sslmode(host: str, asked: str | None) -> str:
    """Return a mode that Grafana supports: it has no prefer and no allow."""
    if asked in ("disable", "require", "verify-ca", "verify-full"):
        return asked
    return "disable" if host.startswith("/") or host in _LOCAL else "require"


def _named(address: str, user: str, name: str, sslmode: str) -> dict[str, str]:
    return {
        "VPT_GRAFANA_DB_ADDRESS": address,
        "VPT_GRAFANA_DB_USER": user,
        "VPT_GRAFANA_DB_NAME": name,
        "VPT_GRAFANA_DB_SSLMODE": sslmode,
    }
