"""Settings about servers, as oneconvert.conf may have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from oneconvert.errors import SettingsError
from oneconvert.settings import Settings, read_settings


def settings(remotes: Path, *lines: str) -> Settings:
    path = remotes / "etc" / "oneconvert" / "oneconvert.conf"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(("[oneconvert]", *lines)))
    return read_settings(remotes)


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", ()),
        ("*", ("*",)),
        ("Images.Example.org, *.example.com.  10.1.0.0/16", ("images.example.org", "*.example.com", "10.1.0.0/16")),
        ("127.0.0.1 ::1 fd00::/8 node_1", ("127.0.0.1", "::1", "fd00::/8", "node_1")),
        ("a.example.org # the old one", ("a.example.org",)),
    ],
)
def test_hosts_are_names_domains_addresses_and_networks(tmp_path: Path, text: str, hosts: tuple[str, ...]) -> None:
    assert settings(tmp_path, f"allowed_hosts = {text}").allowed_hosts == hosts


@pytest.mark.parametrize(
    "text",
    ["http://example.org", "example.org/x", "example.org:80", "10.0.0.1/8", "[::1]", "*example.org", "a.*.org", "-a",
     "user@host", "fd00::/129", "ünï.example.org"],
)  # fmt: skip
def test_what_is_no_host_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match="allowed_hosts must be names of hosts"):
        settings(tmp_path, f"allowed_hosts = {text}")


def test_the_time_of_a_transfer_may_be_without_limit(tmp_path: Path) -> None:
    assert settings(tmp_path / "none", "transfer_timeout = 0").transfer_timeout == 0
    assert settings(tmp_path / "hour", "transfer_timeout = 3600").transfer_timeout == 3600


def test_nothing_is_kept_unless_a_size_says_so(tmp_path: Path) -> None:
    assert Settings().cache_size == settings(tmp_path / "none").cache_size == 0
    kept = settings(tmp_path / "some", "cache_size = 20G", "cache_dir = /srv/cache")
    assert (kept.cache_size, kept.cache_dir) == (20 * 1024**3, Path("/srv/cache"))


@pytest.mark.parametrize(
    "line",
    ["transfer_timeout = -1", "transfer_timeout = nan", "idle_timeout = 0", "connect_timeout = inf",
     "min_rate = -1", "private_addresses = no", "tls_ca_file = /no/such/file", "cache_size = all",
     "cache_size = -1", "cache_dir = cache"],
)  # fmt: skip
def test_a_value_that_cannot_be_used(tmp_path: Path, line: str) -> None:
    with pytest.raises(SettingsError, match=f"{line.split()[0]} must be"):
        settings(tmp_path, line)
