"""What a host knows and nobody may read: it is `***` in whatever the host says."""

from __future__ import annotations

import base64
import timeit
from time import process_time

import pytest

from vpt.actors.host_secrets import HostSecrets, PresentedTokens
from vpt.masking import HostMasker
from vpt.model import Host, Role
from vpt.store.tokens import issue_token

TOKEN = "kW3x-a_token-of-43-characters-0123456789abc"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("SERVER_URL=http://lab-1:geheim@h:5109/x", "SERVER_URL=http://lab-1:***@h:5109/x"),
        ("redis://:geheim@h", "redis://:***@h"),
        ("postgresql+psycopg://u:a@b:c@h/db", "postgresql+psycopg://u:***@h/db"),
        (r'{"u":"http:\/\/u:geheim@h"}', r'{"u":"http:\/\/u:***@h"}'),
        ("http://h:80/p@x http://h:80?a=b@c", "http://h:80/p@x http://h:80?a=b@c"),
        ("see http://h:80 and mail a@b", "see http://h:80 and mail a@b"),
        ("DEVICE1_POWER_PWD=geheim\nPWD=/home", "DEVICE1_POWER_PWD=***\nPWD=/home"),
        ("PASSWORD=geheim API_KEY='geheim'", "PASSWORD=*** API_KEY='***'"),
        ("{'X_TOKEN': 'geheim', 'X': 'Y'}", "{'X_TOKEN': '***', 'X': 'Y'}"),
        ("X_TOKEN: missing\nSECRET=", "X_TOKEN: missing\nSECRET="),
        ("PRESS_KEY=HOME", "PRESS_KEY=HOME"),
        (f"as {issue_token('s' * 40, 'ann', Role.ADMIN, 1)}!", "as ***!"),
        ("eyJhbGciOiJ9 eyJ.eyJ.x", "eyJhbGciOiJ9 eyJ.eyJ.x"),
    ],
)
def test_what_is_a_secret_by_its_form(said: str, shown: str) -> None:
    assert HostMasker().text(said) == shown
    assert HostMasker().json({"a": [said, 1, None]}) == {"a": [shown, 1, None]}


def test_a_password_that_was_cut_is_no_less_a_secret() -> None:
    assert HostMasker().cut_end("get http://u:geh") == "get http://u:***"
    assert HostMasker().cut_end("get http://h/x") == "get http://h/x"


def test_the_values_that_a_host_has_are_masked_in_all_forms() -> None:
    presented = PresentedTokens()
    secrets = HostSecrets(["the join token", None], presented)
    presented.note("pi", TOKEN)
    host = Host("pi", "http://h", secret="the key of pi")
    basic = base64.b64encode(f"pi:{TOKEN}".encode()).decode()
    said = f"{TOKEN} the key of pi the join token Basic {basic}"
    shown = secrets.masker_of(host).text(said)
    assert shown.startswith("*** *** *** Basic ") and basic[8:40] not in shown
    assert TOKEN in secrets.masker_of(Host("po", "http://h")).text(said)


def test_a_run_has_its_own_secrets_beside_those_of_its_host() -> None:
    presented = PresentedTokens()
    secrets = HostSecrets([], presented)
    presented.note("pi", TOKEN)
    masker = secrets.masker("pi", None, ["geheim-geheim"])
    assert masker.text(f"{TOKEN} geheim-geheim") == "*** ***"


def test_what_is_remembered_is_bounded() -> None:
    presented = PresentedTokens()
    for number in range(5000):
        presented.note(f"h{number}", TOKEN)
    for number in (*range(9), 8):
        presented.note("pi", f"{TOKEN}{number}")
    assert len(presented._known) == 4096
    assert list(presented.of("pi")) == [f"{TOKEN}{n}" for n in (6, 7, 8)]


def test_a_short_key_masks_nothing() -> None:
    assert HostSecrets([]).masker("pi", "key").text("press key") == "press key"


@pytest.mark.parametrize("unit", ["-eyJ", "eyJaaaaaaaa.", ",_PWD", "A_", "://a:", "…", "a…", '"'])
def test_masking_takes_time_by_the_length_of_a_text_whatever_is_in_it(unit: str) -> None:
    masker = HostMasker(["a-secret-value"])

    def seconds(length: int) -> float:
        text = unit * (length // len(unit))
        return min(timeit.repeat(lambda: masker.text(text), number=1, repeat=3, timer=process_time))

    # Twenty times the text: the square of it would be 400 times the time.
    assert seconds(400_000) < 60 * max(seconds(20_000), 0.0005)
