"""The container's files, as far as they can be held to without an engine."""

from __future__ import annotations

import asyncio
import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp.test_utils import TestServer

from tests.system.kit import ROOT, environment, free_port
from vpt.commands.grafana_env import grafana_env
from vpt.config import Config, from_env

DATA = "/var/lib/vpt"


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile, its lines joined."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """Its words without its --options."""
        return [word for word in shlex.split(self.text) if not word.startswith("--")]


def stages() -> list[list[Instruction]]:
    """Return the instructions of each stage, FROM first."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found: list[list[Instruction]] = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, _, rest = line.partition(" ")
        if name == "FROM":
            found.append([])
        found[-1].append(Instruction(name, rest))
    return found


BUILD, FINAL = stages()
CONF = configparser.RawConfigParser()
CONF.read(ROOT / "supervisord.conf", encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


def of(stage: list[Instruction], name: str) -> list[Instruction]:
    return [one for one in stage if one.name == name]


def shell(stage: list[Instruction]) -> str:
    return "\n".join(one.text for one in of(stage, "RUN"))


def env() -> dict[str, str]:
    """Return the image's environment without PATH."""
    words = [word for one in of(FINAL, "ENV") for word in one.words]
    return {k: v for k, _, v in (w.partition("=") for w in words) if k != "PATH"}


def test_both_stages_are_of_the_same_python_and_only_the_first_builds() -> None:
    assert [stage[0].text for stage in (BUILD, FINAL)] == [
        "python:3.11-slim AS build",
        "python:3.11-slim",
    ]
    assert "pip" in shell(BUILD)
    tools = r"\b(pip|gcc|g\+\+|make|build-essential|\S+-dev|git|curl|wget|gnupg2?)\b"
    assert re.findall(tools, shell(FINAL)) == []
    assert [one.words for one in of(FINAL, "COPY") if "--from=build" in one.text] == [
        ["/opt/grafana.asc", "/etc/apt/keyrings/grafana.asc"],
        ["/opt/vpt", "/opt/vpt"],
    ]


def test_the_image_installs_nothing_whose_hash_is_not_pinned() -> None:
    installs = re.findall(r"pip --python \S+ install ([^&\n]*)", shell(BUILD))
    assert [shlex.split(one) for one in installs] == [
        ["--no-cache-dir", "--require-hashes", "-r", "constraints.txt"],
        ["--no-cache-dir", "--no-deps", "--no-build-isolation", ".", "supervisor>=4.3"],
    ]


def test_whatever_is_copied_is_there_and_reaches_the_engine() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored, "only what is named goes to the engine, so never .env"
    allowed = [line[1:] for line in ignored if line.startswith("!")]
    copied = [
        source
        for one in of(BUILD, "COPY") + of(FINAL, "COPY")
        if "--from" not in one.text
        for source in one.words[:-1]
    ]
    assert sorted(copied) == sorted(allowed)
    assert [source for source in copied if not (ROOT / source).exists()] == []
    setup = configparser.RawConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    folders = {"vpt", *re.findall(r"= (\w+)", setup["options"]["package_dir"])}
    needed = {"setup.cfg", "pyproject.toml", "README.md", setup["metadata"]["license_files"]}
    assert folders | needed <= {source for one in of(BUILD, "COPY") for source in one.words}


def test_grafana_comes_signed_by_the_one_key_that_is_there() -> None:
    [[key, there]] = [one.words for one in of(BUILD, "ADD")]
    assert key.startswith("https://apt.grafana.com/")
    assert of(FINAL, "ADD") == []
    [[one, made, fingerprint]] = re.findall(
        r"gpg --batch --import (\S+) .*gpg --batch --armor --output (\S+) --export (\w+)",
        shell(BUILD).replace("\n", " "),
    )
    assert (one, len(fingerprint)) == (there, 40)
    [place] = [to for where, to in (x.words for x in of(FINAL, "COPY")) if where == made]
    lists = re.findall(r"deb (\[.*?\]) (\S+)", shell(FINAL))
    assert lists == [(f"[signed-by={place}]", "https://apt.grafana.com")]
    assert f"chmod 644 {made}" in shell(BUILD), "apt reads it as another user"
    installs = re.findall(r"apt-get install ([^&]*)", shell(FINAL))
    assert [shlex.split(i) for i in installs] == [
        ["-y", "--no-install-recommends", "grafana=13.*", "tini=0.*"]
    ]
    assert "rm -rf /var/lib/apt/lists/*" in shell(FINAL)
    assert not re.search(r"apt-key|trusted=yes|allow-unauth|packages\.grafana", shell(FINAL))


def test_all_that_supervisord_needs_is_made() -> None:
    [command] = [json.loads(one.text) for one in of(FINAL, "CMD")]
    assert json.loads(of(FINAL, "ENTRYPOINT")[0].text) == ["tini", "--"]
    copied = {one.words[-1]: one.words[0] for one in of(FINAL, "COPY")}
    assert command[:2] == ["supervisord", "-c"]
    assert copied[command[2]] == "supervisord.conf"
    assert "supervisor>=4.3" in shell(BUILD)
    conf = (ROOT / "supervisord.conf").read_text(encoding="utf-8")
    launcher = (ROOT / "deploy" / "vpt-grafana").read_text(encoding="utf-8")
    assert set(re.findall(r"%\(ENV_(\w+)\)s", conf)) <= set(env())
    assert {"VPT_USER", "GRAFANA_USER"} == set(re.findall(r"\$([A-Z]+_USER)\b", launcher))
    assert copied["/usr/local/bin/vpt-grafana"] == "deploy/vpt-grafana"
    assert (ROOT / "deploy" / "vpt-grafana").stat().st_mode & 0o111
    commands = [CONF[name]["command"].split()[0] for name in CONF if name.startswith("program:")]
    assert commands == ["vpt", "vpt-grafana"]
    assert CONF["program:vpt"]["numprocs"] == "1"
    paths = [word for one in of(FINAL, "ENV") for word in one.words if word.startswith("PATH=")]
    assert paths == ["PATH=/opt/vpt/bin:$PATH"]


def test_both_services_have_accounts_that_own_their_folders() -> None:
    image = env()
    assert (image["VPT_USER"], image["GRAFANA_USER"]) == ("vpt", "grafana")
    assert CONF["program:vpt"]["user"] == "%(ENV_VPT_USER)s"
    assert re.search(r"useradd --system .*\bvpt\b", shell(FINAL))
    made = re.findall(r"install -d -m (\d+) -o (\w+) -g \w+ (\S+)", shell(FINAL))
    assert ("0711", "vpt", image["VPT_DATA_DIR"]) in made
    told = grafana_env(from_env(image))
    assert ("0700", "grafana", told["VPT_GRAFANA_DATA"]) in made
    assert [one.text for one in of(FINAL, "VOLUME")] == [image["VPT_DATA_DIR"]] == [DATA]
    assert of(FINAL, "USER") == [], "supervisord becomes them itself"


def test_ports_and_addresses_fit_together() -> None:
    image = env()
    ini = configparser.RawConfigParser()
    ini.read(ROOT / "grafana" / "grafana.ini", encoding="utf-8")
    grafana = ini["server"]["http_port"]
    assert of(FINAL, "EXPOSE")[0].words == [str(Config().server_port), grafana]
    assert image["GRAFANA_URL"] == f"http://127.0.0.1:{grafana}"
    assert image["SERVER_HOST"] == image["GF_SERVER_HTTP_ADDR"] == "0.0.0.0"
    told = grafana_env(from_env(image))
    assert told["VPT_GRAFANA_DB_ADDRESS"] == f"127.0.0.1:{image['VPT_PG_PORT']}"
    assert not [name for name in image if re.search(r"PASSWORD|KEY|TOKEN|SECRET", name)]


async def test_the_health_check_says_whether_the_server_is_ready(server: TestServer) -> None:
    [check] = of(FINAL, "HEALTHCHECK")
    options, _, command = check.text.partition(" CMD ")
    assert re.findall(r"--([\w-]+)=", options) == ["interval", "timeout", "start-period"]
    python, *arguments = json.loads(command)
    assert python == "python"
    for port, healthy in ((server.port, True), (free_port(), False)):
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, *arguments),
            env=environment(SERVER_PORT=port),
            stderr=subprocess.DEVNULL,
        )
        assert (await child.wait() == 0) is healthy
    assert "/api/health/ready" in command


# ---------------------------------------------------------------- compose


def test_compose_gives_the_image_what_it_needs() -> None:
    vpt, db = COMPOSE["services"]["vpt"], COMPOSE["services"]["db"]
    assert db["image"] == "postgres:16"
    assert vpt["depends_on"]["db"]["condition"] == "service_healthy"
    assert db["healthcheck"]["test"][1] == "pg_isready"
    ports = [entry.rpartition(":")[2] for entry in vpt["ports"]]
    assert ports == of(FINAL, "EXPOSE")[0].words
    mounted = {
        entry.split(":")[1]: entry.split(":")[0] for one in (vpt, db) for entry in one["volumes"]
    }
    assert set(mounted) == {DATA, "/var/lib/postgresql/data"}
    assert set(mounted.values()) == set(COMPOSE["volumes"])
    assert {one["restart"] for one in (vpt, db)} == {"unless-stopped"}
    settings = from_env(env() | {k: str(v) for k, v in vpt["environment"].items()} | PASSWORD)
    assert (str(settings.vpt_data_dir), settings.server_port) == (DATA, 5109)


PASSWORD = {"DATABASE_URL": "postgresql://vpt:hush@db:5432/vpt?sslmode=disable"}


def test_compose_has_no_secret_and_does_not_start_without() -> None:
    asked = "${VPT_DB_PASSWORD:?set it in .env}"
    url = COMPOSE["services"]["vpt"]["environment"]["DATABASE_URL"]
    assert url == PASSWORD["DATABASE_URL"].replace("hush", asked)
    assert COMPOSE["services"]["db"]["environment"]["POSTGRES_PASSWORD"] == asked
    told = grafana_env(from_env(env() | PASSWORD))
    assert (told["VPT_GRAFANA_DB_ADDRESS"], told["VPT_GRAFANA_DB_SSLMODE"]) == (
        "db:5432",
        "disable",
    )


def compose_command() -> list[str] | None:
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    if docker := shutil.which("docker"):
        asked = [docker, "compose", "version"]
        if subprocess.run(asked, capture_output=True, check=False).returncode == 0:
            return asked[:2]
    return None


@pytest.mark.skipif(compose_command() is None, reason="no docker compose here")
def test_compose_itself_takes_the_file(tmp_path: Path) -> None:
    command = [*(compose_command() or []), "--env-file", "/dev/null", "config", "--format", "json"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(VPT_DB_PASSWORD="hush"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout)["services"]["vpt"]
    assert read["environment"]["DATABASE_URL"] == PASSWORD["DATABASE_URL"]
