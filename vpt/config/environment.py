"""Reads settings from the environment and from `.env`; nothing else of vpt does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar
from urllib.request import getproxies_environment, proxy_bypass

from dotenv import dotenv_values
from yarl import URL

from vpt.config.declaration import ClientConfig, Config, settings_of
from vpt.config.values import UnreadableError

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


def log_level_now(*, folder: Path | None = None) -> str:
    """Read LOG_LEVEL again: here `.env` wins, since a process's environment never changes.

    Raises ConfigError.
    """
    return from_env({k: v for k, v in os.environ.items() if v} | _dotenv(folder)).log_level


def client_from_env(given: Mapping[str, str | None], *, folder: Path | None = None) -> ClientConfig:
    """Read as `from_env` does; what is given, and not None, wins. Raises ConfigError."""
    named = {name: value for name, value in given.items() if value}
    return _read(ClientConfig, _environment(folder) | named)


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
    return _dotenv(folder) | {k: v for k, v in os.environ.items() if v}


def _dotenv(folder: Path | None) -> dict[str, str]:
    values = dotenv_values((folder or Path.cwd()) / ".env", interpolate=False)
    return {k: v for k, v in values.items() if v}
