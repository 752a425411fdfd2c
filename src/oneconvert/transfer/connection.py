"""Connections to web servers: to the addresses that the rules allow, and not for longer than they may take."""

from __future__ import annotations

import math
import socket
import threading
import time
from contextlib import suppress
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3.connection import HTTPConnection

from oneconvert.errors import NotAllowedError, TransferError
from oneconvert.jobs.threads import start_quietly
from oneconvert.transfer.addresses import AddressRules


class Watchdog:
    """Ends the connection that it watches when its time is over, whoever waits for it and whatever for.

    The timeouts of sockets are for the next byte only: within its headers, or its 'go on' answers, or behind its last
    chunk, a server can talk for ever.
    """

    def __init__(self) -> None:
        self.expired = False
        self._deadline = math.inf
        self._wakes = math.inf
        """When the thread looks again. A later deadline does not wake it: there is one for every read."""
        self._ended = False
        self._changed = threading.Condition()
        self._watched: object = None

    def watch(self, connection: socket.socket, seconds: float) -> None:
        """Watch this connection from now on, and no other."""
        # A duplicate: TLS takes the original over.
        duplicate = connection.dup()
        with self._changed:
            self._watched = duplicate
            self.expired = False
            self._set(seconds)
            self._changed.notify_all()  # the thread of the connection before
        start_quietly(threading.Thread(target=self._run, args=(duplicate,), name="watchdog", daemon=True))

    def allow(self, seconds: float) -> None:
        """The time that is left to the connection is this, from now on."""
        with self._changed:
            self._set(seconds)

    def end(self) -> None:
        """End the connection at once, from any thread; those that are made later, too."""
        with self._changed:
            self._ended = True
            self._set(0)

    def stop(self) -> None:
        """Watch no longer."""
        with self._changed:
            self._watched = None
            self._changed.notify_all()

    def _set(self, seconds: float) -> None:
        self._deadline = 0 if self._ended else time.monotonic() + seconds
        if self._deadline < self._wakes:
            self._changed.notify_all()

    def _run(self, connection: socket.socket) -> None:
        with connection, self._changed:
            while self._watched is connection:
                left = self._deadline - time.monotonic()
                if left <= 0:
                    self.expired = True
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)
                    return
                self._wakes = self._deadline
                self._changed.wait(min(left, threading.TIMEOUT_MAX))


class Connection(HTTPConnection):
    """A connection of urllib3 under a watchdog; with ``rules``, to the addresses that these allow."""

    rules: AddressRules | None
    watchdog: Watchdog
    patience: float

    def _new_conn(self) -> socket.socket:
        started = time.monotonic()
        connection = self._connect_by_rules(self.rules) if self.rules else super()._new_conn()
        self.watchdog.watch(connection, self.patience - (time.monotonic() - started))
        return connection

    def _connect_by_rules(self, rules: AddressRules) -> socket.socket:
        name, latest = self._dns_host, time.monotonic() + self.patience
        try:
            addresses = rules.resolve(name, self.port)
        except (OSError, UnicodeError) as error:
            if isinstance(error, UnicodeError) or error.errno == socket.EAI_NONAME:
                raise TransferError("there is no host of that name") from error
            raise urllib3.exceptions.NewConnectionError(self, "the name cannot be resolved") from error
        try:
            for address in addresses:
                self.host = address
                try:
                    return super()._new_conn()
                except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError):
                    if address == addresses[-1] or time.monotonic() > latest:
                        raise
        finally:
            self.host = name
        raise AssertionError("there is always an address")

    def getresponse(self) -> Any:
        """Read the headers of the answer."""
        response = super().getresponse()
        # Headers that end with the connection count as whole.
        if self.watchdog.expired:
            raise socket.timeout
        return response


class Adapter(HTTPAdapter):
    """requests' way to urllib3, for one download.

    ``patience`` is the time in seconds from the attempt to connect to the end of the headers, for each server on the
    way. ``downgrade`` allows a redirect from https to http; ``fingerprint`` and ``direct`` are those of HttpOptions.
    """

    def __init__(
        self,
        rules: AddressRules,
        watchdog: Watchdog,
        patience: float,
        downgrade: bool,
        *,
        fingerprint: str = "",
        direct: bool = False,
    ) -> None:
        self._rules = rules
        self._fingerprint = fingerprint
        self._direct = direct
        self._watchdog = watchdog
        self._patience = patience
        self._downgrade = downgrade
        self._was_secure = False
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the manager of direct connections."""
        super().init_poolmanager(*args, **kwargs, assert_fingerprint=self._fingerprint or None)
        self._adopt(self.poolmanager, self._rules)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Make, or find, the manager of the connections through ``proxy``."""
        known = proxy in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not known:
            # Where the proxy is, the admin decides.
            self._adopt(manager, None)
        return manager

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """One question and its answer; redirects come here again. Raises NotAllowedError beside what requests does."""
        url = str(request.url)
        if self._was_secure and not url.startswith("https:") and not self._downgrade:
            raise NotAllowedError("the server redirects from https to http, and the image has no checksum")
        self._was_secure = url.startswith("https:")
        # Here and not where the first question is asked: no_proxy may name the host of a redirect.
        kwargs["proxies"] = {} if self._direct else requests.utils.get_environ_proxies(url, no_proxy=None)
        if select_proxy(url, kwargs["proxies"]):
            self._rules.check_unresolved(requests.compat.urlsplit(url).hostname or "")
        response = super().send(request, *args, **kwargs)
        if response.is_redirect:
            # Or else requests would read its body, however long that is.
            response.close()
        return response

    def _adopt(self, manager: Any, rules: AddressRules | None) -> None:
        """Have the manager's connections be ours: plain ones, TLS and SOCKS."""
        own = {"rules": rules, "watchdog": self._watchdog, "patience": self._patience}
        manager.pool_classes_by_scheme = {
            scheme: type(pool.__name__, (pool,), {"ConnectionCls": type("Ours", (Connection, pool.ConnectionCls), own)})
            for scheme, pool in manager.pool_classes_by_scheme.items()
        }
