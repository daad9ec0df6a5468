"""Where a host may be."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver
from hypothesis import given
from hypothesis import strategies as st

from vpt.dialects.base import HostTroubleError
from vpt.dialects.document import DocumentDialect
from vpt.dialects.virtualpytest import VirtualPyTestDialect
from vpt.errors import InvalidError
from vpt.model import Credential, Host
from vpt.urls import (
    CheckedResolver,
    check_host_url,
    checked_socket,
    forbidden,
    is_loopback,
    parse_address,
)

LOCAL, FAR = "127.0.0.1", "10.0.0.9"


@pytest.mark.parametrize(
    ("given_url", "kept"),
    [
        ("http://10.0.0.5:6109", "http://10.0.0.5:6109"),
        ("http://10.0.0.5:6109/", "http://10.0.0.5:6109"),
        ("HTTPS://Pi-1.Lab./base/", "https://pi-1.lab/base"),
        ("http://my_host", "http://my_host"),
        ("http://[2001:DB8::1]:80", "http://[2001:db8::1]:80"),
        ("http://[::ffff:10.0.0.5]:1", "http://10.0.0.5:1"),
    ],
)
def test_a_good_url_is_normalised(given_url: str, kept: str) -> None:
    assert check_host_url(given_url, peer=FAR, credential=Credential.JOIN) == kept
    assert check_host_url(kept, peer=FAR, credential=Credential.JOIN) == kept


@pytest.mark.parametrize(
    "url",
    [
        "",
        "10.0.0.5:6109",
        "ftp://10.0.0.5",
        "http://",
        "http:///path",
        "http://user@10.0.0.5",
        "http://user:password@10.0.0.5",
        "http://10.0.0.5?",
        "http://10.0.0.5/?a=b",
        "http://10.0.0.5/#x",
        "http://10.0.0.5\\@evil",
        "http://10.0.0.5 ",
        "http://10.0.0.5\n",
        "http://10.0.0.5:0",
        "http://10.0.0.5:",
        "http://10.0.0.5:99999",
        "http://10.0.0.5:x",
        "http://[::1",
        "http://[v1.x]",
        "http://a..b",
        "http://.",
        "http://h\u00f6st",
        "http://" + "a" * 64,
        "http://a/" + "a" * 2048,
        "http://10.0.0.5%2f",
        # metadata and link-local, however they are spelt
        "http://169.254.169.254",
        "http://169.254.0.1:6109",
        "http://[fe80::1]",
        "http://[fe80::1%25eth0]",
        "http://[fe80::1%eth0]",
        "http://[fd00:ec2::254]",
        "http://100.100.100.200",
        "http://168.63.129.16",
        "http://metadata.google.internal",
        "http://METADATA.google.internal.",
        "http://metadata",
        "http://[::ffff:169.254.169.254]",
        "http://[::ffff:a9fe:a9fe]",
        "http://[64:ff9b::a9fe:a9fe]",
        "http://[2002:a9fe:a9fe::]",
        "http://[::169.254.169.254]",
        "http://[fd00:ec2::23]",
        "http://[fd00:ec2::123]",
        "http://[::ffff:0:a9fe:a9fe]",
        "http://[2001:0:a9fe:a9fe::]",
        "http://[2001:0:a00:5:0:0:5601:5601]",  # Teredo: the client's address is inverted
        "http://[2001:db8::5efe:a9fe:a9fe]",
        "http://[fec0::1]",
        # addresses in other spellings
        "http://2852039166",
        "http://0xa9fea9fe",
        "http://0xA9.0xFE.0xA9.0xFE",
        "http://0251.0376.0251.0376",
        "http://169.254.43518",
        "http://0x7f.1",
        "http://10.0.0.5.6",
        "http://010.0.0.5",
        "http://10.1",
        # nobody's address
        "http://0.0.0.0",
        "http://0.1.2.3",
        "http://[::]",
        "http://224.0.0.1",
        "http://[ff02::1]",
        "http://255.255.255.255",
        "http://250.0.0.1",
    ],
)
@pytest.mark.parametrize("peer", [LOCAL, FAR])
def test_a_bad_url_is_refused_with_the_field_named(url: str, peer: str) -> None:
    with pytest.raises(InvalidError) as caught:
        check_host_url(url, peer=peer, credential=Credential.OWN)
    assert list(caught.value.errors) == ["host_url"]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "http://127.9.9.9", "http://[::1]", "http://localhost:6109"]
)
def test_loopback_is_for_loopback_peers(url: str) -> None:
    for peer in (LOCAL, "::1", "::ffff:127.0.0.1"):
        assert check_host_url(url, peer=peer, credential=Credential.OPEN) == url
    for peer in (FAR, "", "2001:db8::1"):
        with pytest.raises(InvalidError):
            check_host_url(url, peer=peer, credential=Credential.OWN)


def test_a_host_without_credential_names_its_own_address_only() -> None:
    open_ = Credential.OPEN
    assert check_host_url("http://10.0.0.9:1", peer=FAR, credential=open_) == "http://10.0.0.9:1"
    assert check_host_url("http://10.0.0.9:1", peer="::ffff:10.0.0.9", credential=open_)
    for url in ("http://10.0.0.8:1", "http://some.name", "http://[2001:db8::1]"):
        for peer in (FAR, LOCAL, ""):
            with pytest.raises(InvalidError):
                check_host_url(url, peer=peer, credential=open_)


@given(st.text())
def test_any_text_is_a_good_url_or_an_invalid_one(text: str) -> None:
    for url in (text, f"http://{text}"):
        try:
            kept = check_host_url(url, peer=LOCAL, credential=Credential.JOIN)
        except InvalidError:
            continue
        assert check_host_url(kept, peer=LOCAL, credential=Credential.JOIN) == kept


@given(st.ip_addresses(v=4), st.sampled_from(["{}", "[::ffff:{}]", "[64:ff9b::{}]", "[::{}]"]))
def test_no_wrapping_changes_what_an_address_is(
    address: ipaddress.IPv4Address, wrapping: str
) -> None:
    allowed = not (forbidden(address) or address.is_loopback)
    try:
        check_host_url(f"http://{wrapping.format(address)}", peer=FAR, credential=Credential.OWN)
    except InvalidError:
        assert not allowed
    else:
        assert allowed


@given(st.ip_addresses(network="169.254.0.0/16") | st.ip_addresses(network="127.0.0.0/8"))
def test_no_number_spells_a_forbidden_address(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    for spelling in (str(number), hex(number), f"0{number:o}", f"{number >> 24}.{number % 2**24}"):
        with pytest.raises(InvalidError):
            check_host_url(f"http://{spelling}", peer=FAR, credential=Credential.OWN)


def test_ipv4_in_ipv6_is_read_as_ipv4() -> None:
    assert parse_address("::ffff:10.0.0.1") == ipaddress.ip_address("10.0.0.1")
    assert parse_address("no address") is None
    assert is_loopback(ipaddress.ip_address("::ffff:127.0.0.1"))


class Answers(AbstractResolver):
    """Resolves every name to the given addresses."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.closed = False

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> Any:
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": family,
                "proto": 0,
                "flags": 0,
            }
            for address in self.addresses
        ]

    async def close(self) -> None:
        self.closed = True


async def test_forbidden_addresses_of_a_name_are_left_out() -> None:
    resolver = CheckedResolver(Answers("169.254.169.254", "10.0.0.5", "127.0.0.1", "fe80::1%2"))
    found = await resolver.resolve("pi.lab", 80)
    assert [entry["host"] for entry in found] == ["10.0.0.5"]


@pytest.mark.parametrize("address", ["169.254.169.254", "127.0.0.1", "::1", "::ffff:127.0.0.1"])
async def test_a_name_with_forbidden_addresses_only_is_not_resolved(address: str) -> None:
    with pytest.raises(OSError, match=r"pi\.lab"):
        await CheckedResolver(Answers(address)).resolve("pi.lab", 80)


async def test_localhost_may_be_loopback_and_nothing_forbidden() -> None:
    assert await CheckedResolver(Answers("127.0.0.1", "::1")).resolve("localhost")
    with pytest.raises(OSError, match="localhost"):
        await CheckedResolver(Answers("169.254.169.254")).resolve("localhost")


async def test_the_real_resolver_finds_localhost() -> None:
    resolver = CheckedResolver()
    assert [entry["host"] for entry in await resolver.resolve("localhost", 80)] == ["127.0.0.1"]
    await resolver.close()


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1%2", "fec0::1", "0.0.0.0"])
def test_a_literal_address_is_judged_at_the_connect_too(address: str) -> None:
    """It may have come with a dump, and no resolver sees it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with pytest.raises(OSError, match="no host may be"):
        checked_socket((family, socket.SOCK_STREAM, 6, "", (address, 80)))


@pytest.mark.parametrize("name", ["document", "virtualpytest"])
async def test_a_host_of_a_dump_is_not_called_where_no_host_may_be(name: str) -> None:
    dialect = DocumentDialect() if name == "document" else VirtualPyTestDialect("team")
    with pytest.raises(HostTroubleError, match=r"no host may be|no answer"):
        await dialect.probe(Host("h", "http://0.0.0.0:9", dialect=name), 5)
    await dialect.close()
