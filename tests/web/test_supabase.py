"""People of a Supabase project sign in with its tokens, and are no more than it says."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.utils import base64url_encode

from tests.actors.fake_host import until
from tests.conftest import token
from vpt.actors.lab import Lab
from vpt.config import Config
from vpt.errors import InvalidTokenError, UnavailableError
from vpt.events import Events
from vpt.model import Role
from vpt.store.db import Database
from vpt.web.app import make_app
from vpt.web.http import supabase as under_test
from vpt.web.http.supabase import Supabase

SECRET = "the shared secret of the whole project"


def claims(**changes: Any) -> dict[str, Any]:
    """Return what a token of a signed-in user says."""
    usual = {
        "sub": "0a1b",
        "aud": "authenticated",
        "role": "authenticated",
        "exp": time.time() + 60,
        "app_metadata": {"role": "operator"},
        "user_metadata": {"role": "admin"},
    }
    merged = usual | changes
    return {name: value for name, value in merged.items() if value is not None}


def shared(**changes: Any) -> str:
    return jwt.encode(claims(**changes), SECRET, algorithm="HS256")


@dataclass
class Project:
    """A small project: serves its public keys, or does not."""

    keys: dict[str, Any] = field(default_factory=dict)
    asked: int = 0
    well: bool = True
    moved: bool = False  # until it is asked again
    body: str | None = None  # said instead
    gate: asyncio.Event | None = None  # waited for in the middle of the answer
    url: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        if not self.well:
            return web.Response(status=503)
        text = self.body or self._listed()
        response = web.StreamResponse()
        if self.moved:
            self.moved = False
            response.set_status(302)
            response.headers["Location"] = request.path
        await response.prepare(request)
        await response.write(text[:10].encode())
        await (self.gate.wait() if self.gate else asyncio.sleep(0.01))
        await response.write(text[10:].encode())
        return response

    def _listed(self) -> str:
        listed = []
        for kid, key in self.keys.items():
            kind = jwt.algorithms.ECAlgorithm if _is_ec(key) else jwt.algorithms.RSAAlgorithm
            listed.append(json.loads(kind.to_jwk(key.public_key())) | {"kid": kid, "use": "sig"})
        return json.dumps({"keys": listed})

    def sign(self, kid: str, **changes: Any) -> str:
        algorithm = "ES256" if _is_ec(self.keys[kid]) else "RS256"
        return jwt.encode(
            claims(**changes), self.keys[kid], algorithm=algorithm, headers={"kid": kid}
        )


def _is_ec(key: Any) -> bool:
    return isinstance(key, ec.EllipticCurvePrivateKey)


@pytest.fixture
async def project() -> AsyncIterator[Project]:
    project = Project({"k1": ec.generate_private_key(ec.SECP256R1())})
    app = web.Application()
    app.router.add_get("/auth/v1/.well-known/jwks.json", project.answer)
    async with TestServer(app) as server:
        project.url = str(server.make_url("/"))
        yield project


async def test_the_role_is_what_users_cannot_edit() -> None:
    supabase = Supabase(None, SECRET)
    user = await supabase.user_of(shared())
    assert (user.user_id, user.role, user.token_id) == ("0a1b", Role.OPERATOR, None)
    for said in ({}, None, {"role": "host"}, {"role": "root"}, {"role": ["admin"]}, "admin"):
        assert (await supabase.user_of(shared(app_metadata=said))).role is Role.VIEWER, said
    assert (await supabase.user_of(shared(app_metadata={"role": "admin"}))).role is Role.ADMIN


BAD: dict[str, Callable[[], str]] = {
    "another secret": lambda: jwt.encode(claims(), SECRET + "x", algorithm="HS256"),
    "the key of the page": lambda: shared(aud=None, role="anon", sub=None),
    "another audience": lambda: shared(aud="everybody"),
    "expired": lambda: shared(exp=time.time() - 1),
    "no end": lambda: shared(exp=None),
    "not yet": lambda: shared(nbf=time.time() + 60),
    "an end beyond all numbers": lambda: shared(exp=1e400),
    "nobody": lambda: shared(sub=None),
    "no name": lambda: shared(sub="a\0b"),
    "anonymous": lambda: shared(is_anonymous=True),
    "another algorithm": lambda: jwt.encode(claims(), SECRET * 2, algorithm="HS512"),
    "no algorithm": lambda: jwt.encode(claims(), None, algorithm="none"),
    "no token": lambda: "x.y.z",
    "too long": lambda: shared(more="x" * 5000),
}


@pytest.mark.parametrize("kind", BAD)
async def test_all_others_are_nobody(kind: str) -> None:
    supabase = Supabase(None, SECRET)
    for _ in range(2):
        with pytest.raises(InvalidTokenError):
            await supabase.user_of(BAD[kind]())


async def test_public_keys_are_asked_for_once(project: Project) -> None:
    project.keys["k2"] = rsa.generate_private_key(65537, 2048)
    supabase = Supabase(project.url, None)
    tokens = [project.sign(kid, sub=f"{n}") for kid in project.keys for n in range(3)]
    users = await asyncio.gather(*(supabase.user_of(one) for one in tokens))
    assert [user.user_id for user in users] == ["0", "1", "2"] * 2
    assert project.asked == 1


async def test_a_public_key_is_no_secret_and_signs_as_it_says(project: Project) -> None:
    """Signed by HS256 with the public key as secret; by a key that is not the project's; mixed."""
    project.keys["k2"] = rsa.generate_private_key(65537, 2048)
    header = {"kid": "k1"}
    other = jwt.encode(
        claims(), ec.generate_private_key(ec.SECP256R1()), algorithm="ES256", headers=header
    )
    mixed = jwt.encode(claims(), project.keys["k2"], algorithm="RS256", headers=header)
    unnamed = jwt.encode(claims(), project.keys["k1"], algorithm="ES256")
    forms = (PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1)
    public = project.keys["k2"].public_key()
    pems = [public.public_bytes(Encoding.PEM, form) for form in forms]
    bad = [other, mixed, unnamed, project.sign("k1", aud="x")]
    bad += [by_hand(pem, kid) for pem in pems for kid in ("k1", "k2")]
    for supabase in (Supabase(project.url, None), Supabase(project.url, SECRET)):
        for one in bad:
            with pytest.raises(InvalidTokenError):
                await supabase.user_of(one)
        assert await supabase.user_of(project.sign("k2", aud=["x", "authenticated"]))


def by_hand(secret: bytes, kid: str) -> str:
    """Sign by HS256 with what PyJWT refuses to sign with."""
    parts = ({"alg": "HS256", "kid": kid}, claims())
    said = b".".join(base64url_encode(json.dumps(part).encode()) for part in parts)
    return (said + b"." + base64url_encode(hmac.digest(secret, said, "sha256"))).decode()


async def test_a_secret_among_the_public_keys_is_none(project: Project) -> None:
    key = {"kty": "oct", "kid": "k3", "k": base64url_encode(SECRET.encode()).decode()}
    keys = json.loads(project._listed())["keys"]
    project.body = json.dumps({"keys": [key, key | {"kid": ["odd"]}, *keys]})
    supabase = Supabase(project.url, None)
    with pytest.raises(InvalidTokenError):
        await supabase.user_of(by_hand(SECRET.encode(), "k3"))
    assert await supabase.user_of(project.sign("k1"))


async def test_keys_are_not_looked_for_elsewhere(project: Project) -> None:
    project.moved = True
    with pytest.raises(UnavailableError):
        await Supabase(project.url, None).user_of(project.sign("k1"))


async def test_a_key_that_was_taken_back_ends_its_tokens(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "_PAUSE", 0.0)
    supabase, token = Supabase(project.url, None), project.sign("k1")
    await supabase.user_of(token)
    project.keys = {"k2": ec.generate_private_key(ec.SECP256R1())}
    await supabase.user_of(token)
    assert project.asked == 1
    monkeypatch.setattr(under_test, "_FRESH", 0.0)
    with pytest.raises(InvalidTokenError):
        await supabase.user_of(token)


async def test_new_keys_are_learnt_and_unknown_ones_ask_seldom(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    supabase = Supabase(project.url, None)
    await supabase.user_of(project.sign("k1"))
    project.keys = {"k2": ec.generate_private_key(ec.SECP256R1())}
    new = project.sign("k2")
    for _ in range(3):
        with pytest.raises(InvalidTokenError):
            await supabase.user_of(new)
    assert project.asked == 1
    monkeypatch.setattr(under_test, "_PAUSE", 0.0)
    assert (await supabase.user_of(new)).role is Role.OPERATOR


async def test_without_the_project_nobody_is_called_a_liar(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "_PAUSE", 0.0)
    project.well = False
    supabase = Supabase(project.url, None)
    with pytest.raises(UnavailableError):
        await supabase.user_of(project.sign("k1"))
    project.well = True
    known = project.sign("k1", sub="b")
    assert (await supabase.user_of(known)).user_id == "b"
    project.well = False
    assert (await supabase.user_of(project.sign("k1", sub="c"))).user_id == "c", "keys stay"


@pytest.mark.parametrize(
    "body", ["[1]", '{"keys": [1]}', '{"keys": 1}', "{", "[" * 100_000, " " * 300_000 + "{}"]
)
async def test_what_is_no_set_of_keys_is_none(project: Project, body: str) -> None:
    project.body = body
    with pytest.raises(UnavailableError):
        await Supabase(project.url, None).user_of(project.sign("k1"))


async def test_nobody_with_a_known_key_waits_for_a_strangers(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "_PAUSE", 0.0)
    supabase = Supabase(project.url, None)
    await supabase.user_of(project.sign("k1"))
    project.gate = asyncio.Event()
    made_up = jwt.encode(
        claims(), project.keys["k1"], algorithm="ES256", headers={"kid": "made up"}
    )
    stranger = asyncio.create_task(supabase.user_of(made_up))
    await until(lambda: project.asked == 2)
    assert (await supabase.user_of(project.sign("k1", sub="b"))).user_id == "b"
    assert not stranger.done()
    project.gate.set()
    with pytest.raises(InvalidTokenError):
        await stranger


async def test_the_server_takes_both_kinds_of_tokens(
    project: Project, config: Config, db: Database, lab: Lab, events: Events
) -> None:
    configured = replace(config, supabase_url=project.url, supabase_jwt_secret=SECRET)
    app = make_app(configured, db, lab, events)
    async with TestClient(TestServer(app)) as client:
        for theirs, status in (
            (project.sign("k1"), 200),
            (shared(), 200),
            (shared(exp=time.time() - 1), 401),
            (token(), 200),
        ):
            headers = {"Authorization": f"Bearer {theirs}"}
            answer = await client.get("/api/testcases", headers=headers)
            assert answer.status == status
        headers = {"Authorization": f"Bearer {shared(app_metadata=None)}"}
        assert (await client.post("/api/testcases", json={}, headers=headers)).status == 403
