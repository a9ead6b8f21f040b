"""From what a user names, an address or a client, to a block in which tasks and measurements are done there."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from onnxmpq.cluster.certificates import require_certificates
from onnxmpq.cluster.local import dask_loggers, local_cluster, restorer
from onnxmpq.errors import ClusterError, UsageError
from onnxmpq.files import shown
from onnxmpq.measuring import measured_on
from onnxmpq.progress import LOGGER, Progress
from onnxmpq.tasks import done_by

CONNECT_S = 15
"""Seconds that a scheduler has to answer, and to be found again when the connection was lost."""
_LOCAL = re.compile(r"local:([0-9]+)")
_URL = re.compile(r"(?:(?:tcp|tls|ucx)://[^\s/]+:([0-9]{1,5}))|(?:wss?://[^\s/]+:([0-9]{1,5})(?:/\S*)?)")
LAST_PORT = 65535
MOST_LOCAL = 512
"""Workers on this machine, of some 40 MB each at least."""
Model = TypeVar("Model")
Result = TypeVar("Result")
Opened = TypeVar("Opened")


class Asks(Protocol):
    """The options of a request that are about clusters."""

    @property
    def cluster(self) -> Any: ...

    @property
    def cluster_folder(self) -> str | Path | None: ...

    @property
    def device(self) -> str | None: ...

    @property
    def progress(self) -> Progress | None: ...


Asked = TypeVar("Asked", bound=Asks)


def on_cluster(function: Callable[[Model, Asked], Result]) -> Callable[[Model, Asked], Result]:
    """The function, with its tasks and measurements done where its request says."""

    @functools.wraps(function)
    def called(model: Model, request: Asked) -> Result:
        heard = request.progress or Progress()
        with connected(request.cluster, heard, folder=request.cluster_folder, device=request.device):
            return function(model, request)

    return called


@contextmanager
def connected(
    cluster: Any,
    progress: Progress,
    *,
    folder: str | Path | None = None,
    device: str | None = None,
    tasks: bool = True,
) -> Iterator[None]:
    """A block whose tasks are done on a cluster; without one, a plain block. tasks: False for one that only measures.

    cluster: `tcp://HOST:PORT` (or another protocol of Dask), `local:N`, a `distributed.Client`, or None. folder: that
    all workers see, through which models travel. device: name of the tag `onnxmpq-NAME` of the workers on which time is
    taken; None for this machine. Raises UsageError, and ClusterError where nobody can do the work.
    """
    if cluster is None:
        for option, given in (("--device", device), ("--cluster-folder", folder)):
            if given is not None:
                raise UsageError(f"{option} {given}: is about workers of a cluster; give --cluster too")
        yield
        return
    require_choice(cluster)
    from onnxmpq.cluster import device as devices  # noqa: PLC0415 (the runtime takes a second)
    from onnxmpq.cluster import pool as pools  # noqa: PLC0415

    try:
        import distributed  # noqa: F401, PLC0415 (only here is it needed)
    except ImportError as error:
        raise ClusterError(
            f"--cluster needs Dask's distributed ({error}); install it with: pip install 'onnxmpq[cluster]'"
        ) from None
    with ExitStack() as stack:
        client, restore = stack.enter_context(_client(cluster, progress))
        pool = pools.Pool(client, progress, Path(folder) if folder is not None else None, restore=restore)
        stack.callback(pool.close)
        if device is not None:
            measuring = devices.RemoteDevice(client, pool.device(device), device)
            progress.say(f"latency is measured on {measuring.described['cpu']} ({measuring.machine})")
            stack.enter_context(measured_on(measuring))
        if tasks:
            if not pool.local:
                pool.require_workers()
            stack.enter_context(done_by(pool))
        yield


def require_choice(cluster: object) -> None:
    """Raises UsageError for what is neither an address nor a client that can be used here, ClusterError for a client
    that has no scheduler."""
    if isinstance(cluster, str):
        local, address = _LOCAL.fullmatch(cluster), _URL.fullmatch(cluster)
        if (local and 0 < int(local[1]) <= MOST_LOCAL) or (address and int(address[1] or address[2]) <= LAST_PORT):
            return
        most = f", {MOST_LOCAL} at most" if local and int(local[1]) else ""
        last = f"; ports end at {LAST_PORT}" if address else ""
        raise UsageError(
            f"--cluster {cluster}: write the scheduler's address, as tcp://HOST:8786, or local:N for N workers here"
            f"{most}{last}"
        )
    if not (hasattr(cluster, "submit") and hasattr(cluster, "scheduler_info")):
        raise UsageError(f"cluster={shown(cluster)}: must be an address in a text, or a distributed.Client")
    if getattr(cluster, "asynchronous", False):
        raise UsageError(
            "cluster: this Client is asynchronous here; give one that was made without asynchronous=True, "
            "or the scheduler's address"
        )
    if (status := getattr(cluster, "status", "running")) != "running":
        raise ClusterError(f"cluster: this Client is {status}, not running; open one, or give the scheduler's address")


@contextmanager
def _client(cluster: Any, progress: Progress) -> Iterator[tuple[Any, Callable[[], None] | None]]:
    """A client and, where its workers were started here, the function that starts lost ones again. A client that the
    caller made stays open."""
    if not isinstance(cluster, str):
        yield cluster, None
        return
    local = _LOCAL.fullmatch(cluster)
    require_certificates(cluster, roles=("scheduler", "worker", "client") if local else ("client",))
    with ExitStack() as stack:
        stack.enter_context(_quiet())  # what it logs of lost connections is said here in a line
        restore = None
        try:
            if local:
                address = stack.enter_context(_closing(local_cluster(int(local[1]))))
                restore = restorer(address)
            client = stack.enter_context(_closing(_connection(address if local else cluster)))
            # Stays: it has one name for all clients of a scheduler. Each hears what it has subscribed to until it ends.
            client.forward_logging(LOGGER.name, logging.WARNING)
        except ClusterError:
            raise
        except Exception as error:  # of a connection, of TLS, of a protocol that is unknown: whatever Dask raises
            raise ClusterError(_unreachable(cluster, error)) from None
        link = ""
        with suppress(Exception):  # of a scheduler that says no port for it
            link = f", dashboard (if it has one) {client.dashboard_link}"
        progress.say(f"cluster {client.scheduler_info()['address']}{link}")
        yield client, restore


def _connection(address: Any) -> Any:
    """A client. One that fails while it connects is closed here and now: where it is forgotten, Dask would do so in the
    thread that closing waits for, in vain for 30 s."""
    import distributed  # noqa: PLC0415

    class Connection(distributed.Client):  # type: ignore[misc]  # mypy does not read Dask
        def start(self, **how: Any) -> None:
            try:
                super().start(**how)
            except BaseException:
                with suppress(Exception):
                    self.close()
                raise

    return Connection(address, timeout=CONNECT_S, set_as_default=False)


@contextmanager
def _closing(opened: AbstractContextManager[Opened]) -> Iterator[Opened]:
    """Its block. What goes wrong when it is closed, as where the scheduler is gone, is no error of the run, which has
    its result or an error of its own."""
    value = opened.__enter__()
    try:
        yield value
    finally:
        try:
            opened.__exit__(None, None, None)
        except Exception as error:
            LOGGER.debug("%s was not closed: %s: %s", type(value).__name__, type(error).__name__, error)


def _unreachable(cluster: str, error: Exception) -> str:
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    if _LOCAL.fullmatch(cluster):
        return f"--cluster {cluster}: no workers can be started here ({type(error).__name__}: {why})"
    if not isinstance(error, OSError):  # it was never asked
        needs = "; ucx:// needs Dask's package distributed-ucxx" if cluster.startswith("ucx:") else ""
        return f"--cluster {cluster}: cannot be connected to ({why}){needs}"
    advice = (
        "its certificates are in Dask's configuration (docs/cluster.md)"
        if cluster.startswith(("tls:", "wss:"))
        else "start one with `dask scheduler`, or give --cluster local:N"
    )
    return f"--cluster {cluster}: no scheduler answers ({why}); {advice}"


@contextmanager
def _quiet() -> Iterator[None]:
    before = {logger: logger.level for logger in dask_loggers()}
    for logger in before:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)
