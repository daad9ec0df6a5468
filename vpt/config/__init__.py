"""The settings: `declaration.py` has them all, `environment.py` reads them."""

from vpt.config.data_folder import default_data_dir
from vpt.config.declaration import ClientConfig, Config
from vpt.config.environment import (
    ConfigError,
    client_from_env,
    dotenv,
    from_env,
    from_file,
    log_level_now,
    proxy_of,
)
from vpt.config.generated_keys import with_grafana_keys, with_keys
from vpt.config.origins import origin_of
from vpt.config.values import Network, is_prefix

__all__ = [
    "ClientConfig",
    "Config",
    "ConfigError",
    "Network",
    "client_from_env",
    "default_data_dir",
    "dotenv",
    "from_env",
    "from_file",
    "is_prefix",
    "log_level_now",
    "origin_of",
    "proxy_of",
    "with_grafana_keys",
    "with_keys",
]
