"""The example of settings is complete and correct."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from tests.system.kit import ROOT
from vpt.config import Config, ConfigError, from_env
from vpt.config.documentation import example, with_table

LINES = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
SETTING = re.compile(r"#([A-Z][A-Z0-9_]*)=(\S*)")
OF_COMPOSE = {"VPT_DB_PASSWORD", "VPT_PORT", "VPT_GRAFANA_PORT"}


def settings() -> dict[str, str]:
    """Return the settings of the file, as they are read without the # before each."""
    found = [match.groups() for line in LINES if (match := SETTING.fullmatch(line))]
    assert len(dict(found)) == len(found), "one stands there twice"
    return dict(found)


def test_every_setting_stands_there_with_its_default() -> None:
    names = {item.name.upper() for item in fields(Config)} - {"EMBEDDED"}
    assert set(settings()) - OF_COMPOSE == names
    assert from_env(settings()) == Config()


def test_readme_and_example_are_made_of_the_declaration() -> None:
    """Else: python -m vpt.config."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_table(readme) == readme
    assert (ROOT / ".env.example").read_text(encoding="utf-8") == example()


def test_nothing_is_set_and_each_has_a_line_that_explains_it() -> None:
    for number, line in enumerate(LINES):
        assert line == "" or line.startswith("#"), line
        if SETTING.fullmatch(line):
            above = LINES[number - 1]
            assert re.fullmatch(r"# [A-Z].*\.", above), f"{line} comes after {above!r}"


def test_what_is_for_compose_is_used_there() -> None:
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    used = set(re.findall(r"\$\{([A-Z_]+)", compose))
    assert used == OF_COMPOSE
    for name, default in re.findall(r"\$\{([A-Z_]+):-(\w+)\}", compose):
        assert settings()[name] == default


#: A value that is wrong, and what is expected in its place.
WRONG = {
    "SERVER_PORT": ("65536", "a whole number from 0 to 65535"),
    "SERVER_URL": ("ftp://vpt", "a URL that starts with http or https://"),
    "MAX_BODY": ("much", "a size, such as 1048576 or 16MiB"),
    "SHUTDOWN_GRACE": ("inf", "a number of seconds (0 or more)"),
    "LOG_FORMAT": ("xml", "console or json"),
    "LOG_LEVEL": ("loud", "debug, info, warning or error"),
    "DATABASE_URL": (
        "postgresql://u:hush/@db:x/n",
        "a URL (in a password, / is %2F and : is %3A)",
    ),
    "SECRET_KEY": ("hush" * 7, "at least 32 bytes"),
    "HOST_JOIN_TOKEN": ("hush", "at least 16 characters"),
    "METRICS_TOKEN": ("hush", "at least 16 characters"),
    "API_KEY": ("hush hush", "visible ASCII characters"),
    "HOST_PROBE_INTERVAL": ("nan", "a number of seconds above 0"),
    "INFRA_RETRIES": ("1.5", "a whole number from 0"),
    "KEEP_STEPS_DAYS": ("0", "a number of days, 1 to 36500"),
    "MIN_FREE_DISK": ("101", "a percentage, 0 to 100"),
    "HOST_OPEN_NETWORKS": (
        "10.0.0.1/8",
        "networks, such as 10.0.0.0/8,192.168.1.0/24 (10.0.0.1/8 has host bits set)",
    ),
}


def test_one_line_names_every_wrong_setting_and_no_secret() -> None:
    with pytest.raises(ConfigError) as caught:
        from_env({name: value for name, (value, _) in WRONG.items()})
    expected = {f"{name}: expected {what}" for name, (_, what) in WRONG.items()}
    assert set(str(caught.value).split("; ")) == expected
    assert "hush" not in str(caught.value)


def test_values_are_read_as_what_they_mean() -> None:
    config = from_env(
        {
            "SERVER_PORT": " 80 ",
            "CORS_ORIGINS": "http://a, http://b,",
            "MAX_BODY": "2 kB",
            "LOG_LEVEL": "WARNING",
            "FLASK_SECRET_KEY": "hush" * 8,
            "HOST_OPEN_NETWORKS": "10.0.0.0/8, ::1/128",
            "VPT_DATA_DIR": "here",
            "server_host": "lower case is no setting",
            "SERVER_URL": "",
        }
    )
    assert (config.server_port, config.max_body, config.log_level) == (80, 2000, "warning")
    assert config.cors_origins == ("http://a", "http://b")
    assert [str(network) for network in config.host_open_networks] == ["10.0.0.0/8", "::1/128"]
    assert config.vpt_data_dir.is_absolute()
    assert config.secret_key == "hush" * 8
    assert (config.server_host, config.server_url) == ("127.0.0.1", None)
    assert "hush" not in repr(config)
    assert from_env({"SECRET_KEY": "s" * 32, "FLASK_SECRET_KEY": "f" * 32}).secret_key == "s" * 32


ORIGINS = {
    "https://pages.example/": "https://pages.example",
    "HTTPS://Pages.Example:443": "https://pages.example",
    "http://pages.example:80/": "http://pages.example",
    "http://pages.example:8080": "http://pages.example:8080",
    "http://[2001:DB8::1]:80": "http://[2001:db8::1]",
    "https://b\u00fccher.example": "https://xn--bcher-kva.example",
    "*": "*",
    "https://pages.example/lab": None,
    "https://pages.example?x": None,
    "https://me@pages.example": None,
    "pages.example": None,
    "ftp://pages.example": None,
    "https://": None,
    "http://[": None,
    "http://a:port": None,
}


def test_origins_are_those_that_a_browser_sends() -> None:
    for text, origin in ORIGINS.items():
        if origin is None:
            with pytest.raises(ConfigError, match="CORS_ORIGINS: expected origins without a path"):
                from_env({"CORS_ORIGINS": text})
        else:
            assert from_env({"CORS_ORIGINS": text}).cors_origins == (origin,), text


#: SERVER_URL, the origin that it allows, and the prefix below which the server answers.
SERVER_URLS = {
    "https://lab.example": ("https://lab.example", ""),
    "https://Lab.example:443/vpt/": ("https://lab.example", "/vpt"),
    "http://lab.example:81/a/b.c": ("http://lab.example:81", "/a/b.c"),
    "https://lab.example/api": None,
    "https://lab.example/socket.io/x": None,
    "https://lab.example/a//b": None,
    "https://lab.example/a b": None,
    "https://lab.example/?a": None,
    "https://lab.example/#a": None,
    "https:///vpt": None,
}


def test_the_path_of_server_url_is_a_prefix() -> None:
    for text, expected in SERVER_URLS.items():
        if expected is None:
            with pytest.raises(ConfigError, match="SERVER_URL: expected a URL such as"):
                from_env({"SERVER_URL": text})
        else:
            config = from_env({"SERVER_URL": text, "CORS_ORIGINS": "https://a.example"})
            origin, prefix = expected
            assert config.origins == ("https://a.example", origin)
            assert config.prefix == prefix


def test_no_secret_is_public() -> None:
    secrets = {item.name.upper() for item in fields(Config) if not item.repr}
    assert len(secrets) > 10
    assert not secrets & Config().public().keys()
