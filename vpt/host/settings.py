"""The settings of a host: its server, its name, its devices, where it listens."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from platformdirs import user_data_path
from yarl import URL

from vpt.config.data_folder import has_home
from vpt.host.environment import check_passed

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
MODEL = re.compile(r"[^\s:=]{1,100}")
KINDS = ("desktop", "web")


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """One device of a host, written `KIND[:MODEL][=ID]`; model and id default to the kind."""

    kind: str
    model: str
    local_id: str

    @classmethod
    def parse(cls, text: str) -> "DeviceSpec":
        """Parse one; ValueError names what is wrong."""
        rest, _, local_id = text.partition("=")
        kind, _, model = rest.partition(":")
        spec = cls(kind, model or kind, local_id or kind)
        if kind not in KINDS:
            raise ValueError(f"device {text!r}: the kind must be one of {', '.join(KINDS)}")
        if not NAME.fullmatch(spec.local_id):
            raise ValueError(f"device {text!r}: an id is 1 to 64 letters, digits, '.', '_' or '-'")
        if not MODEL.fullmatch(spec.model):
            raise ValueError(f"device {text!r}: a model has no blanks, ':' or '='")
        return spec


@dataclass(frozen=True, slots=True)
class HostSettings:
    """The settings of one host; ValueError when a value is wrong. `heartbeat_s` is in seconds.

    `advertise` is the URL at which the server reaches this host; without it
    http://<listen>:<port>, or this machine's address towards the server when it listens on all.
    Without `join_token` the host uses the one that it was given at an earlier start. `pass_env` has
    the names of further variables that shell commands get.
    """

    server: str
    name: str
    devices: tuple[str, ...] = ("desktop",)
    listen: str = "127.0.0.1"
    port: int = 0
    advertise: str | None = None
    join_token: str | None = field(default=None, repr=False)
    data_dir: Path | None = None
    allow_shell: bool = False
    pass_env: tuple[str, ...] = ()
    heartbeat_s: float = 30

    def __post_init__(self) -> None:
        """Check the values; ValueError names the wrong one."""
        _check_url("server", self.server)
        if self.advertise is not None:
            _check_url("advertise", self.advertise)
        if not NAME.fullmatch(self.name):
            raise ValueError("name: 1 to 64 letters, digits, '.', '_' or '-'")
        if not 0 < self.heartbeat_s < float("inf"):
            raise ValueError("heartbeat: a number of seconds above 0")
        if self.data_dir is None and not has_home():
            raise ValueError("data-dir: this user has no home folder: use --data-dir FOLDER")
        check_passed(self.pass_env)
        ids = [spec.local_id for spec in self.specs]
        if not ids:
            raise ValueError("device: at least one")
        if len(set(ids)) < len(ids):
            raise ValueError("device: two have the same id; tell them apart with KIND=ID")

    @property
    def specs(self) -> tuple[DeviceSpec, ...]:
        """Return the devices, parsed."""
        return tuple(DeviceSpec.parse(text) for text in self.devices)

    @property
    def folder(self) -> Path:
        """Return the folder of the journal, the host's secret and its join token."""
        return self.data_dir or user_data_path("vpt-host", appauthor=False) / self.name


def _check_url(name: str, text: str) -> None:
    try:
        url = URL(text)
        sound = url.scheme in {"http", "https"} and url.host and not (url.user or url.password)
    except ValueError:
        sound = False
    if not sound:
        raise ValueError(f"{name}: an http or https URL with a host and without user info")
