"""Whom sessions may make the relay connect to."""

from __future__ import annotations

import ipaddress

import pytest

from relay.config.settings import Settings, host_rules
from relay.host_rules import HostNotAllowedError, HostRule, HostRules


def allows(rules: HostRules, url: str) -> bool:
    try:
        rules.check_url(url)
    except HostNotAllowedError:
        return False
    return True


def resolves(rules: HostRules, host: str, address: str, port: int = 80) -> bool:
    return rules.allows_address(host, ipaddress.ip_address(address), port)


@pytest.mark.parametrize(
    "host",
    [
        "localhost:8889",
        "127.0.0.1",
        "[::1]:3389",
        "10.1.2.3",
        "trickle.example.com",
        "203.0.113.9:8443",
    ],
)
def test_without_rules_everything_ordinary_is_allowed(host: str) -> None:
    """The relay of a private network works without a list."""
    assert allows(HostRules(), f"http://{host}/channel")


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.169.254.",
        "169.254.0.1:8080",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[fd20:ce::254]",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::1]",
        # The same address, as some parsers read numbers.
        "2852039166",
        "0xa9fea9fe",
        "169.16689662",
        "0xa9.254.169.254",
        "169.254.43518",
    ],
)
def test_metadata_addresses_need_to_be_named(host: str) -> None:
    """In none of the ways in which they can be written, and not by a rule that holds them among
    others."""
    for rules in (HostRules(), HostRules(["*"]), HostRules(["0.0.0.0/0", "::/0"])):
        assert not allows(rules, f"http://{host}/latest/meta-data")


@pytest.mark.parametrize(
    ("rule", "host"),
    [
        ("169.254.169.254", "169.254.169.254"),
        ("169.254.0.0/16:80", "169.254.7.7"),
        ("fe80::/10", "[fe80::1]"),
        ("[fd00:ec2::254]:80", "[fd00:ec2::254]"),
        ("169.254.169.254", "[::ffff:169.254.169.254]"),
    ],
)
def test_a_protected_address_that_is_named_is_allowed(rule: str, host: str) -> None:
    """The operator who means it can have it."""
    assert allows(HostRules([rule]), f"http://{host}/x")


@pytest.mark.parametrize(
    ("rule", "allowed", "refused"),
    [
        ("example.com", "http://example.com/a", "http://sub.example.com/a"),
        ("example.com", "https://EXAMPLE.com.:8443/a", "http://example.com.evil.net/a"),
        ("*.example.com", "http://a.b.example.com/a", "http://example.com/a"),
        ("*.example.com", "http://a.example.com/a", "http://aexample.com/a"),
        ("example.com:8443", "https://example.com:8443/a", "https://example.com/a"),
        ("example.com:443", "https://example.com/a", "http://example.com/a"),
        ("10.0.0.0/8", "http://10.255.1.1/a", "http://11.0.0.1/a"),
        ("10.0.0.0/8:3389", "http://10.1.1.1:3389/a", "http://10.1.1.1:3390/a"),
        ("10.0.0.0/8", "http://[::ffff:10.0.0.1]/a", "http://[::ffff:11.0.0.1]/a"),
        ("192.168.1.7", "http://192.168.1.7:99/a", "http://192.168.1.8/a"),
        ("fd00:1::/32", "http://[fd00:1::5]/a", "http://[fd00:2::5]/a"),
        ("[::1]:8889", "http://[::1]:8889/a", "http://[::1]:8890/a"),
        ("*:3389", "http://anything:3389/a", "http://anything/a"),
        ("bücher.example", "http://xn--bcher-kva.example/a", "http://bucher.example/a"),
        ("10.0.0.0/8", "http://10.0.0.1/a", "http://167772161/a"),
    ],
)
def test_each_form_of_a_rule(rule: str, allowed: str, refused: str) -> None:
    """What it covers, and what looks like it."""
    rules = HostRules([rule])
    assert allows(rules, allowed)
    assert not allows(rules, refused)


def test_a_name_may_stand_for_a_network_that_is_allowed() -> None:
    """Under rules for networks alone a name passes the door; what it resolves to decides."""
    rules = HostRules(["10.0.0.0/8:3389"])
    assert allows(rules, "http://camera.internal:3389/a")
    assert not allows(rules, "http://camera.internal/a")
    assert resolves(rules, "camera.internal", "10.1.1.1", 3389)
    assert not resolves(rules, "camera.internal", "192.168.1.1", 3389)
    assert not resolves(rules, "camera.internal", "10.1.1.1", 80)


def test_a_name_that_is_allowed_may_resolve_to_anything_but_protected_addresses() -> None:
    """Whoever runs the DNS below a wildcard does not choose where the relay goes for secrets."""
    rules = HostRules(["*.example.com"])
    assert resolves(rules, "a.example.com", "10.1.1.1")
    assert resolves(rules, "a.example.com", "2001:db8::1")
    assert not resolves(rules, "a.example.com", "169.254.169.254")
    assert not resolves(rules, "a.example.com", "::ffff:169.254.169.254")
    assert not resolves(rules, "other.com", "10.1.1.1")


def test_the_operators_own_servers_need_no_rule() -> None:
    """The ComfyStream of the settings is allowed under any list, on its port."""
    rules = host_rules(
        Settings(comfystream_url="http://gpu:8889", allowed_hosts=("trickle.example",))
    )
    assert allows(rules, "http://gpu:8889")
    assert not allows(rules, "http://gpu:8890")
    assert not allows(rules, "http://localhost:8889")


@pytest.mark.parametrize(
    "text", ["", "a b", "http://host", "host:0", "host:x", "10.0.0.0/33", "user@host", "a.*", "1.2"]
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    """A rule that would cover nothing, or not what it seems to, is a fault of the settings."""
    with pytest.raises(ValueError, match=r"must be host names|has a port"):
        HostRule.parse(text)


def test_servers_that_the_operator_named_need_no_list() -> None:
    """Those of the pool; with one, the address that stands for a lonely server is nobody's."""
    pool = ("http://gpu-1:8889", "http://gpu-2:8889")
    rules = host_rules(Settings(allowed_hosts=["trickle.example.com"], comfystream_urls=pool))
    assert allows(rules, "http://gpu-2:8889")
    assert not allows(rules, "http://localhost:8889")
    rules = host_rules(Settings(allowed_hosts=["trickle.example.com"]))
    assert allows(rules, "http://localhost:8889")
