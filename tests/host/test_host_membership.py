"""Membership: registered, again when forgotten, patient when the server is away."""

import asyncio
import os
import signal
import stat
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from structlog.testing import capture_logs

from vpt.host.launch import host_command, read_address, read_settings
from vpt.host.server import run_host
from vpt.host.settings import HostSettings

from .kit import TOKEN, Caller, FakeServer, process, running, until


async def test_a_registration_tells_all_that_the_server_needs(
    host: Caller, server: FakeServer
) -> None:
    card = await server.heard("register")
    assert card["host_name"] == "lab"
    assert card["host_url"].startswith("http://127.0.0.1:")
    assert card["protocol"] == {"idempotency": True, "cancel": True}
    assert card["status"] == "available"
    assert card["hardware"]["memory_total"] > 0
    assert {"desktop", "desktop_linux", "shell"} <= set(card["capabilities"])
    assert [(item["device_id"], item["model"]) for item in card["devices"]] == [
        ("desktop", "desktop")
    ]
    assert len(card["host_secret"]) >= 32
    assert server.calls[0][2]["Authorization"] == f"Bearer {TOKEN}"


async def test_heartbeats_carry_how_the_machine_does(host: Caller, server: FakeServer) -> None:
    stats = (await server.heard("heartbeat", 2))["system_stats"]
    assert {"cpu_percent", "memory_percent", "disk_percent", "load"} <= set(stats)


async def test_a_forgotten_host_registers_again(host: Caller, server: FakeServer) -> None:
    await server.heard("heartbeat")
    server.say["heartbeat"] = 404
    await server.heard("register", 2)
    server.say.clear()
    beats = server.count("heartbeat")
    await server.heard("heartbeat", beats + 2)


async def test_a_trouble_is_logged_when_it_begins_and_ends(
    host: Caller, server: FakeServer
) -> None:
    await server.heard("heartbeat")
    with capture_logs() as events:
        server.say["heartbeat"] = 500
        await server.heard("heartbeat", server.count("heartbeat") + 4)
        server.say.clear()
        await until(lambda: any(item["event"] == "host_heartbeat_back" for item in events))
    assert [item["event"] for item in events] == ["host_heartbeat_lost", "host_heartbeat_back"]


async def test_a_host_outlives_the_absence_of_its_server(tmp_path: Path) -> None:
    server = FakeServer()
    await server.start()
    port = int(server.url.rpartition(":")[2])
    async with running(server, tmp_path / "data") as host:
        await server.heard("heartbeat")
        await server.stop()
        assert (await host.bash("echo here"))[1]["output"] == "here\n"
        beats = server.count("heartbeat")
        await server.start(port)
        await server.heard("heartbeat", beats + 1)
    await server.heard("unregister")
    await server.stop()


async def test_a_host_waits_for_a_server_that_is_not_there_yet(tmp_path: Path) -> None:
    server = FakeServer()
    await server.start()
    port = int(server.url.rpartition(":")[2])
    await server.stop()

    async def come_later() -> None:
        await asyncio.sleep(0.6)
        await server.start(port)

    coming = asyncio.create_task(come_later())
    async with running(server, tmp_path / "data") as host:
        assert (await host.bash("true"))[1]["success"] is True
    await coming
    await server.stop()


async def test_a_refused_registration_is_tried_again(server: FakeServer, tmp_path: Path) -> None:
    server.say["register"] = 401
    async with running(server, tmp_path / "data"):
        assert server.count("heartbeat") == 0
        server.say.clear()
        await server.heard("heartbeat")
    assert server.count("register") >= 2


async def test_no_redirect_is_followed_with_the_token(server: FakeServer, tmp_path: Path) -> None:
    server.say["register"] = 307
    async with running(server, tmp_path / "data"):
        await server.heard("register", 2)
    assert server.count("redirected") == 0
    assert server.count("unregister") == 0


async def test_a_clean_stop_says_farewell_and_exits_0(server: FakeServer, tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        before = server.count("unregister")
        async with process(server, tmp_path / "data") as (child, _):
            os.kill(child.pid, number)
            assert await child.wait() == 0
        assert server.count("unregister") == before + 1


async def test_the_log_has_events_and_no_secret(server: FakeServer, tmp_path: Path) -> None:
    async with process(server, tmp_path / "data") as (child, host):
        await host.bash("true", execution_id="e", attempt=1)
        os.kill(child.pid, signal.SIGTERM)
        await child.wait()
    log = (tmp_path / "host.log").read_text()
    for event in ("host_listening", "host_registered", "action_started", "action_finished"):
        assert f'"event":"{event}"' in log
    assert host.secret not in log
    assert TOKEN not in log


async def test_the_join_token_is_kept_for_later_starts(server: FakeServer, tmp_path: Path) -> None:
    for number, given in enumerate((TOKEN, None, "another-" + TOKEN, None), start=1):
        async with running(server, tmp_path / "data", join_token=given):
            await server.heard("register", number)
            await server.heard("heartbeat", server.count("heartbeat") + 1)
    sent = [headers["Authorization"] for call, _, headers in server.calls if call == "register"]
    assert sent == [f"Bearer {token}" for token in (TOKEN, TOKEN, *("another-" + TOKEN,) * 2)]
    file = tmp_path / "data" / "join_token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_refused_token_is_named_and_does_not_replace_the_kept_one(
    server: FakeServer, tmp_path: Path
) -> None:
    async with running(server, tmp_path / "data"):
        await server.heard("heartbeat")
    server.say["register"] = 401
    with capture_logs() as events:
        async with running(server, tmp_path / "data", join_token="mistyped"):
            await server.heard("register", 3)
    [refused] = [one for one in events if one["event"] == "host_not_registered"]
    assert "vpt host-token lab" in refused["hint"]
    server.say.clear()
    async with running(server, tmp_path / "data", join_token=None):
        await server.heard("register", 4)
    sent = [headers["Authorization"] for call, _, headers in server.calls if call == "register"]
    assert sent[-1] == f"Bearer {TOKEN}"


async def test_no_other_server_is_sent_the_kept_token(server: FakeServer, tmp_path: Path) -> None:
    async with running(server, tmp_path / "data"):
        await server.heard("heartbeat")
    other = FakeServer()
    await other.start()
    async with running(other, tmp_path / "data", join_token=None):
        await other.heard("register")
    await other.stop()
    assert "Authorization" not in other.calls[0][2]


async def test_the_secret_is_kept_for_its_owner_only(server: FakeServer, tmp_path: Path) -> None:
    async with running(server, tmp_path / "data") as host:
        pass
    file = tmp_path / "data" / "host_secret"
    assert file.read_text() == host.secret
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    async with running(server, tmp_path / "data"):
        assert (await server.heard("register", 2))["host_secret"] == host.secret


def test_settings_do_not_show_the_token() -> None:
    settings = HostSettings(server="http://s", name="n", join_token="hidden")
    assert "hidden" not in repr(settings)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"server": "ftp://s"}, "server"),
        ({"server": "http://u:p@s"}, "server"),
        ({"name": "a b"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"devices": ("tv",)}, "device"),
        ({"devices": ()}, "device"),
        ({"devices": ("desktop", "desktop")}, "device"),
        ({"devices": ("desktop=a b",)}, "device"),
        ({"heartbeat_s": 0}, "heartbeat"),
        ({"advertise": "host:80"}, "advertise"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        HostSettings(**{"server": "http://s", "name": "n", **wrong})  # type: ignore[arg-type]


def test_devices_have_a_kind_a_model_and_an_id() -> None:
    settings = HostSettings("http://s", "n", ("desktop", "web:kiosk=left", "web=right"))
    found = [(spec.kind, spec.model, spec.local_id) for spec in settings.specs]
    assert found == [("desktop",) * 3, ("web", "kiosk", "left"), ("web", "web", "right")]


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("127.0.0.1", "127.0.0.1", 0),
        ("0.0.0.0:6109", "0.0.0.0", 6109),
        ("lab:80", "lab", 80),
        (":80", "127.0.0.1", 80),
        ("::1", "::1", 0),
        ("[::1]", "::1", 0),
        ("[::1]:80", "::1", 80),
    ],
)
def test_an_address_may_have_a_port(text: str, address: str, port: int) -> None:
    assert read_address(text) == (address, port)


@pytest.mark.parametrize("text", ["lab:70000", "[::1]x", "lab:http"])
def test_a_wrong_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="listen"):
        read_address(text)


def test_a_password_in_the_url_is_the_join_token() -> None:
    options = {"name": "n", "devices": ("desktop",), "listen": "127.0.0.1", "advertise": None}
    more = {"data_dir": None, "allow_shell": False, "heartbeat": 30.0, "join_token": None}
    settings = read_settings(server="http://me:tok@s:5109", **options, **more)
    assert settings.server == "http://s:5109"
    assert settings.join_token == "tok"


def test_wrong_usage_is_one_line_and_exit_code_4() -> None:
    result = CliRunner().invoke(host_command, ["--server", "http://s", "--device", "tv"])
    assert result.exit_code == 4
    assert "desktop, web" in result.output


def test_an_address_that_cannot_be_had_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    options = ["--server", "http://s", "--listen", "192.0.2.1:80", "--data-dir", str(tmp_path)]
    result = CliRunner().invoke(host_command, options)
    assert result.exit_code == 2
    assert "cannot run" in result.output


async def test_a_host_speaks_by_way_of_the_proxy_that_the_environment_names(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    elsewhere = FakeServer(url="http://vpt.invalid:5109")
    ready = asyncio.Event()
    chosen = HostSettings(server=elsewhere.url, name="lab", data_dir=tmp_path / "data")
    task = asyncio.create_task(run_host(chosen, ready=ready))
    await server.heard("register")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert server.calls[0][2]["Host"] == "vpt.invalid:5109"


@pytest.mark.parametrize("module", ["vpt.host", "vpt"])
@pytest.mark.parametrize(
    "wrong",
    [("--\x1b]0;x\x07\x9b2J\u202e##[error]",), ("\x1b]0;x\x07\x9b2J\u202e##[error]",)],
    ids=["option", "argument"],
)
async def test_an_error_that_quotes_arguments_steers_no_terminal(
    module: str, wrong: tuple[str, ...]
) -> None:
    command = [*(["host"] if module == "vpt" else []), "--server", "http://127.0.0.1:9", *wrong]
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *command),
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    said = (await child.communicate())[1].decode()
    assert child.returncode == 4
    assert "Error: " in said
    assert not set("\x1b\x07\x9b\u202e") & set(said)
    assert "##[" not in said
