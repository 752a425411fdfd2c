"""A login at a vCenter: calls of the vSphere API, with a limit on how long each may take and errors as plain lines."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Callable, TypeVar

from pyVmomi import SoapStubAdapter, vim, vmodl

from oneconvert.errors import VCenterError
from oneconvert.jobs.signals import interruptible
from oneconvert.jobs.threads import thread
from oneconvert.vcenter.faults import explained
from oneconvert.vcenter.http import HttpFiles
from oneconvert.vcenter.server import VCenterServer
from oneconvert.vcenter.tls import trusted_context

T = TypeVar("T")

# That of vSphere 6.5, as pyVmomi calls it: later ones understand it, and nothing newer is used.
API_VERSION = "vim.version.version11"

# Servers close connections that nobody uses.
IDLE_CONNECTION = 15.0

# Seconds; logins that are idle for half an hour expire.
SIGN_OF_LIFE = 300.0

# Seconds: to zero a large disk, or to copy one, takes hours.
TASK_LIMIT = 86400.0
LONGEST_PAUSE = 2.0
SETTLE = 30.0


class Connection:
    """A login; ``connected`` makes one. Managed objects are those of pyVmomi.

    Read their properties with ``properties`` only: on the objects themselves pyVmomi asks with no limit on time and
    raises its own errors. May be used from several threads.
    """

    def __init__(self, server: VCenterServer) -> None:
        self.server = server
        self._login_lock = threading.Lock()
        self.login = 0
        """How many there were."""
        self._lost = False
        try:
            context = trusted_context(server.host, server.port, server.ca_file, server.thumbprints, server.timeout)
        except OSError as error:
            raise explained(error, server) from None
        # Its connections are direct: only SmartConnect, which is not used, looks for proxies. With a context of ours
        # the certificate of localhost is verified like any other.
        self._stub = SoapStubAdapter(
            host=server.host,
            port=server.port,
            version=API_VERSION,
            sslContext=context,
            httpConnectionTimeout=server.timeout,
            connectionPoolTimeout=IDLE_CONNECTION,
        )
        self.files = HttpFiles(server, context, lambda: str(self._stub.cookie).split(";")[0])
        self.content: Any = self._attempt(lambda: vim.ServiceInstance("ServiceInstance", self._stub).RetrieveContent())

    def object(self, kind: Any, reference: str) -> Any:
        """The managed object of that type (``vim.Datastore``) and reference (``datastore-12``); nothing is asked."""
        return kind(reference, self._stub)

    def call(self, action: Callable[[], T]) -> T:
        """What ``action`` returns, which calls the API. When the login has expired, log in and call again, once.

        A call without a login does nothing, so this is safe for every method. Raises VCenterError.
        """
        login = self.login
        try:
            return self._attempt(action)
        except VCenterError as error:
            if error.fault != "NotAuthenticated":
                raise
        self.log_in(unless_after=login)
        return self._attempt(action)

    @contextmanager
    def kept_alive(self) -> Iterator[None]:
        """The login does not expire meanwhile, though the API is not called."""
        ended = threading.Event()

        def call_now_and_then() -> None:
            while not ended.wait(SIGN_OF_LIFE):
                with suppress(VCenterError):
                    self.call(lambda: vim.ServiceInstance("ServiceInstance", self._stub).CurrentTime())

        with thread("vcenter", call_now_and_then, ended.set):
            yield

    def log_in(self, unless_after: int | None = None) -> None:
        """Log in, again where the login may have expired; not if that was done since login ``unless_after``."""
        with self._login_lock:
            if unless_after is not None and self.login != unless_after:
                return
            # The server refuses to log in who shows it a login.
            self._stub.cookie = ""
            self._attempt(
                lambda: self.content.sessionManager.Login(self.server.user, self.server.password, None),
            )
            self.login += 1

    def log_out(self) -> None:
        """Log out, unless there is nobody to tell it to."""
        if self.login and not self._lost:
            with suppress(VCenterError):
                self._attempt(lambda: self.content.sessionManager.Logout())
        self._stub.DropConnections()

    def properties(self, managed: Any, *names: str) -> dict[str, Any]:
        """These properties of a managed object (``summary.freeSpace``), without those that are not set.

        Raises VCenterError, with the fault NoPermission where one may not be read.
        """
        collector = vmodl.query.PropertyCollector
        spec = collector.FilterSpec(
            objectSet=[collector.ObjectSpec(obj=managed)],
            propSet=[collector.PropertySpec(type=type(managed), pathSet=list(names))],
        )

        def read() -> dict[str, Any]:
            result = self.content.propertyCollector.RetrievePropertiesEx([spec], collector.RetrieveOptions())
            if not result or not result.objects:
                raise VCenterError(f"{self.server.name}: there is no object {managed._moId}", "ManagedObjectNotFound")
            for missing in result.objects[0].missingSet or ():
                raise missing.fault
            return {each.name: each.val for each in result.objects[0].propSet or ()}

        return self.call(read)

    def run(self, start: Callable[[], Any], *, long: bool = False) -> Any:
        """Have the vCenter begin a task, and return its result; a signal is heard meanwhile if that may take ``long``.

        Signals should be held otherwise: one that came while the task begins would leave it unknown.
        """
        return self.wait(self.call(start), long=long)

    def wait(self, task: Any, within: float = TASK_LIMIT, *, long: bool = False) -> Any:
        """The result of a task, when it has ended.

        Whatever ends the waiting before, a signal or ``within`` seconds, the task is cancelled, and has as a rule ended
        when this returns: what it was making may be deleted. Raises VCenterError, also for a task that failed.
        """
        until = time.monotonic() + within
        try:
            while True:
                info = self.properties(task, "info.state", "info.error")
                if info["info.state"] == vim.TaskInfo.State.success:
                    return self.properties(task, "info.result").get("info.result")
                if info["info.state"] == vim.TaskInfo.State.error:
                    break
                left = until - time.monotonic()
                if left <= 0:
                    raise VCenterError(f"{self.server.name}: a task takes longer than {within:g} seconds")
                with interruptible() if long else nullcontext():
                    time.sleep(min(left, self._pause(until - within)))
        except BaseException:
            self._cancel(task)
            raise
        raise explained(info["info.error"], self.server)

    def _pause(self, began: float) -> float:
        """Seconds between two questions: the longer it takes the less it matters."""
        return min(LONGEST_PAUSE, 0.05 + (time.monotonic() - began) / 10)

    def _cancel(self, task: Any) -> None:
        until = time.monotonic() + SETTLE
        with suppress(VCenterError):
            # It may have ended, or be of the kind that cannot be cancelled.
            with suppress(VCenterError):
                self.call(lambda: task.CancelTask())
            ended = (vim.TaskInfo.State.success, vim.TaskInfo.State.error)
            while not self._lost and time.monotonic() < until:
                if self.properties(task, "info.state")["info.state"] in ended:
                    return
                time.sleep(0.2)

    def _attempt(self, action: Callable[[], T]) -> T:
        try:
            result = action()
        except VCenterError:
            raise
        except vmodl.MethodFault as fault:
            raise explained(fault, self.server) from None
        except Exception as error:  # whatever pyVmomi and what is below it raise
            self._lost = True
            raise explained(error, self.server) from None
        self._lost = False
        return result


@contextmanager
def connected(server: VCenterServer) -> Iterator[Connection]:
    """Log in, and out at the end. Raises VCenterError."""
    connection = Connection(server)
    try:
        connection.log_in()
        yield connection
    finally:
        connection.log_out()
