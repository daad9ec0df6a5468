"""The settings: declared in `settings.py`, read in `environment.py`, keys made in `keys.py`."""

from vpt.config.environment import ConfigError, client_from_env, from_env, log_level_now
from vpt.config.keys import with_grafana_keys, with_keys
from vpt.config.kinds import Network
from vpt.config.settings import ClientConfig, Config, default_data_dir

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
