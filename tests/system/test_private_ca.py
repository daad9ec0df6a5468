"""A host with a certificate of a private authority."""

from __future__ import annotations

from pathlib import Path

from tests.actors.fake_host import FakeHost
from tests.client.test_network import certified
from tests.conftest import Postgres, other_database
from tests.system.kit import client, execute, final, joined, make, open_folder, server

_NAME = "vpt_private_ca"


async def test_ssl_cert_file_makes_the_server_trust_a_host(
    postgres: Postgres, tmp_path: Path
) -> None:
    context = certified(tmp_path)
    await postgres.statement(f"CREATE DATABASE {_NAME}")
    settings = {
        "DATABASE_URL": other_database(postgres.dsn, _NAME),
        "SSL_CERT_FILE": tmp_path / "ca.pem",
    }
    with open_folder() as folder:
        async with (
            server(folder, **settings) as vpt,
            client(vpt) as session,
            joined(session, FakeHost("safe", ("tv1",), tls=context)),
        ):
            test_case = await make(session, "wait", model="tv")
            run = await final(session, await execute(session, test_case))
            assert run["status"] == "completed", run
    await postgres.statement(f"DROP DATABASE {_NAME} WITH (FORCE)")
