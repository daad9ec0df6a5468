"""Reads settings from the environment and from `.env`; nothing else of vpt does.

What runs a server or a host, and `vpt migrate`, reads `.env`, since it is where these are started.
No other command does, unless it is told which file: commands are run in checkouts, too, whose
`.env` is written by whoever wrote the checkout.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import TypeVar
from urllib.request import getproxies_environment, proxy_bypass

from dotenv import dotenv_values
from yarl import URL

from vpt.config.declaration import ClientConfig, Config, settings_of
from vpt.config.values import UnreadableError

#: Names the programs that vpt runs: who may write `.env` need not be who may choose these.
_ENVIRONMENT_ONLY = ("VPT_PG_BIN",)
#: May stand in a `.env` that a command does not read: they change nothing that it does.
_HARMLESS = ("LOG_LEVEL", "LOG_FORMAT")

Settings = TypeVar("Settings", Config, ClientConfig)


class ConfigError(Exception):
    """Settings that are missing or wrong, in one line that names each of them."""


def from_env(env: Mapping[str, str] | None = None, *, folder: Path | None = None) -> Config:
    """Read `.env` in the working folder and then the environment, which wins.

    Raises ConfigError that names every setting at fault and what was expected.
    """
    config = _read(Config, _environment(folder) if env is None else env)
    if config.host_lost_after < config.host_suspect_after:
        raise ConfigError("HOST_LOST_AFTER: expected at least HOST_SUSPECT_AFTER")
    return config


def from_file(file: Path | None) -> Config:
    """Read the named file and then the environment, which wins; without a file the environment.

    Raises ConfigError, also when a `.env` in the working folder sets what the environment does not.
    """
    if file is None:
        _check_no_file_is_missed()
        return from_env(_own())
    if not file.exists() or file.is_dir():
        raise ConfigError(f"--env-file: there is no file {file}")
    return from_env(_settings_in(file) | _own())


def log_level_now(*, folder: Path | None = None) -> str:
    """Read LOG_LEVEL again: here `.env` wins, since a process's environment never changes.

    Raises ConfigError.
    """
    return from_env(_own() | dotenv(folder)).log_level


def client_from_env(given: Mapping[str, str | None]) -> ClientConfig:
    """Read the environment alone; what is given, and not None, wins. Raises ConfigError."""
    named = {name: value for name, value in given.items() if value}
    return _read(ClientConfig, _own() | named)


def proxy_of(url: str) -> str | None:
    """Return the URL of the HTTP proxy for requests to `url`, as the environment names it.

    Read as curl does: http_proxy, https_proxy or all_proxy, unless no_proxy has the host; upper
    case counts, too. Not aiohttp's `trust_env`, which would also send passwords of a ~/.netrc.
    Raises ConfigError for a proxy that does not speak HTTP.
    """
    target = URL(url)
    if not target.host or proxy_bypass(target.host_port_subcomponent or ""):
        return None
    proxies = getproxies_environment()
    proxy = proxies.get(target.scheme) or proxies.get("all")
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not proxy.startswith(("http://", "https://")):
        scheme = proxy.partition("://")[0]
        raise ConfigError(
            f"{target.scheme}_proxy: expected an http:// proxy, and {scheme}:// is none; for a"
            f" direct connection add {target.host} to no_proxy"
        )
    return proxy


def _read(declaration: type[Settings], env: Mapping[str, str]) -> Settings:
    values, wrong = {}, []
    for item, setting in settings_of(declaration):
        name = item.name.upper()
        if text := env.get(name) or env.get(setting.alias):
            try:
                values[item.name] = setting.value_type.read(text)
            except UnreadableError as error:
                wrong.append(f"{name}: {error}")
    if wrong:
        raise ConfigError("; ".join(wrong))
    return declaration(**values)


def _environment(folder: Path | None) -> dict[str, str]:
    return dotenv(folder) | _own()


def _own() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if v}


def dotenv(folder: Path | None = None) -> dict[str, str]:
    """Return what `.env` in the folder sets, nothing when there is none; else raise ConfigError."""
    return _settings_in((folder or Path()) / ".env")


def _check_no_file_is_missed() -> None:
    """Raise ConfigError when a server that is started here has settings which we do not have.

    Without them a command would sign with another key, or delete what the server is to keep.
    """
    path = Path(".env")
    try:
        kept = _settings_in(path) if path.is_file() else {}
    except (ConfigError, OSError):  # no server starts with this file, or in this folder
        return
    missed = (kept.keys() & _names()) - _own().keys() - set(_HARMLESS)
    if missed:
        raise ConfigError(
            f"{', '.join(sorted(missed))}: set in the .env here, which this command does not read"
            f" by itself: use --env-file .env, or --env-file {os.devnull} to do without"
        )


def _names() -> set[str]:
    settings = [(item.name.upper(), setting.alias) for item, setting in settings_of(Config)]
    return {name for names in settings for name in names if name}


def _settings_in(path: Path) -> dict[str, str]:
    values = dotenv_values(stream=StringIO(_text(path)), interpolate=False)
    for name in _ENVIRONMENT_ONLY:
        if values.get(name):
            raise ConfigError(
                f"{path}: {name} is read from the environment only, since vpt runs the programs"
                " there: remove it from the file and set it where vpt is started"
            )
    return {k: v for k, v in values.items() if v}


def _text(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return ""
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8: save the file in that encoding") from error
    except OSError as error:
        raise ConfigError(f"{path}: it cannot be read ({error.strerror})") from error
    if "\0" in text:  # UTF-16 without its mark is valid UTF-8
        raise ConfigError(f"{path}: expected UTF-8: save the file in that encoding")
    return text
