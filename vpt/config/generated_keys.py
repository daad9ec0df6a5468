"""Keys that are not set: generated once, and kept in the data folder."""

from __future__ import annotations

import os
import secrets
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from vpt.config.data_folder import is_homeless_folder, make_private
from vpt.config.declaration import Config
from vpt.config.environment import ConfigError
from vpt.config.values import MIN_SECRET

_LONGEST = 4096


def with_keys(config: Config) -> Config:
    """Return `config` with the keys that are not set, read from the data folder or generated.

    Raises ConfigError when the data folder cannot be written, or when root would write into the
    folder of another account.
    """
    _leave_to_its_owner(config.vpt_data_dir)
    config = _filled(config, ("secret_key", "host_join_token", "vpt_grafana_db_password"))
    make_private(config.vpt_data_dir)
    return config


def with_grafana_keys(config: Config) -> Config:
    """Return `config` with the keys that only Grafana needs, in the same way."""
    return _filled(config, ("grafana_admin_password", "grafana_secret_key"))


def _leave_to_its_owner(folder: Path) -> None:
    """Refuse root in the folder of another account, which could not read root's files there.

    And refuse a folder below /var/tmp that another user made, who could read our keys there.
    """
    if sys.platform == "win32" or not folder.exists():
        return
    owner, me = folder.lstat().st_uid, os.geteuid()
    if is_homeless_folder(folder) and (owner != me or folder.lstat().st_mode & 0o022):
        raise ConfigError(f"VPT_DATA_DIR: {folder} is not only ours: set it to another folder")
    if me == 0:
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
        with path.open("rb") as file:
            kept = file.read(_LONGEST).strip()
    except OSError as error:
        reason = f"{error.strerror}: {error.filename or path}"
        raise ConfigError(
            f"VPT_DATA_DIR: expected a folder that can be written ({reason})"
        ) from error
    if len(kept) < MIN_SECRET or not all(ord("!") <= byte <= ord("~") for byte in kept):
        raise ConfigError(
            f"{path}: expected a key of at least {MIN_SECRET} visible ASCII characters: restore the"
            f" file, set {name.upper()}, or delete the file, and vpt makes a new key (what was made"
            " with the old one is then refused)"
        )
    return kept.decode()


def _make_once(path: Path) -> None:
    """Write a new secret to a draft and link it to `path`: when two do so, the first one wins."""
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
