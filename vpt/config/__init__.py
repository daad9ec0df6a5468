"""The settings: what there is (`settings.py`), and where it is read."""

from vpt.config.settings import (
    ClientConfig,
    Config,
    ConfigError,
    Network,
    client_from_env,
    default_data_dir,
    from_env,
    log_level_now,
    with_grafana_keys,
    with_keys,
)

__all__ = [
    "ClientConfig",
    "Config",
    "ConfigError",
    "Network",
    "client_from_env",
    "default_data_dir",
    "from_env",
    "log_level_now",
    "with_grafana_keys",
    "with_keys",
]
