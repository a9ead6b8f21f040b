"""From what a user names, an address or a client, to a block in which tasks and measurements are done there."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from onnxmpq.cluster.local import local_cluster, restorer
from onnxmpq.errors import ClusterError, UsageError
from onnxmpq.files import shown
from onnxmpq.measuring import measured_on
from onnxmpq.progress import LOGGER, Progress
from onnxmpq.tasks import done_by

CONNECT_S = 15
"""Seconds that a scheduler has to answer, and to be found again when the connection was lost."""
_LOCAL = re.compile(r"local:(\d+)")
_URL = re.compile(r"((tcp|tls|ucx)://[^\s/]+:\d{1,5})|(wss?://[^\s/]+:\d{1,5}(/\S*)?)")
MOST_LOCAL = 512
"""Workers on this machine, of some 40 MB each at least."""
Model = TypeVar("Model")
Result = TypeVar("Result")


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
    cluster: Any, progress: Progress, *, folder: str | Path | None = None, device: str | None = None
) -> Iterator[None]:
    """A block whose tasks are done on a cluster; without one, a plain block.

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
        if not pool.local:
            pool.require_workers()
        stack.enter_context(done_by(pool))
        yield


def require_choice(cluster: object) -> None:
    """Raises UsageError for what is neither an address nor a client."""
    if isinstance(cluster, str):
        local = _LOCAL.fullmatch(cluster)
        if (local and 0 < int(local[1]) <= MOST_LOCAL) or (not local and _URL.fullmatch(cluster)):
            return
        raise UsageError(
            f"--cluster {cluster}: write the scheduler's address, as tcp://HOST:8786, or local:N for N workers here"
            + (f", {MOST_LOCAL} at most" if local and int(local[1]) else "")
        )
    if not (hasattr(cluster, "submit") and hasattr(cluster, "scheduler_info")):
        raise UsageError(f"cluster={shown(cluster)}: must be an address in a text, or a distributed.Client")


@contextmanager
def _client(cluster: Any, progress: Progress) -> Iterator[tuple[Any, Callable[[], None] | None]]:
    """A client and, where its workers were started here, the function that starts lost ones again. A client that the
    caller made stays open."""
    import distributed  # noqa: PLC0415
    from distributed.comm.registry import get_backend  # noqa: PLC0415

    if not isinstance(cluster, str):
        yield cluster, None
        return
    local = _LOCAL.fullmatch(cluster)
    if cluster.startswith("tls:") and not distributed.Security().get_connection_args("client").get("ssl_context"):
        raise ClusterError(
            f"--cluster {cluster}: no certificate is configured; write tls.ca-file and tls.client (docs/cluster.md)"
        )
    with ExitStack() as stack:
        stack.enter_context(_quiet())  # what it logs of lost connections is said here in a line
        restore = None
        try:
            if local:
                address = stack.enter_context(local_cluster(int(local[1])))
                restore = restorer(address)
            else:
                address = cluster
                get_backend(address.partition(":")[0]).get_connector()  # or a client that fails waits 30 s in the end
            client = distributed.Client(address, timeout=CONNECT_S, set_as_default=False)
        except Exception as error:  # of a connection, of TLS, of a protocol that is unknown: whatever Dask raises
            raise ClusterError(_unreachable(cluster, error)) from None
        stack.enter_context(client)
        with _forwarded(client):
            progress.say(f"cluster {client.scheduler_info()['address']}, dashboard {client.dashboard_link}")
            yield client, restore


def _unreachable(cluster: str, error: Exception) -> str:
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    advice = (
        "its certificates are in Dask's configuration (docs/cluster.md)"
        if cluster.startswith("tls:")
        else "start one with `dask scheduler`, or give --cluster local:N"
    )
    return f"--cluster {cluster}: no scheduler answers ({why}); {advice}"


@contextmanager
def _forwarded(client: Any) -> Iterator[None]:
    """Warnings that workers log as `onnxmpq` are logged here as well."""
    client.forward_logging(LOGGER.name, logging.WARNING)
    try:
        yield
    finally:
        if client.status == "running":
            client.unforward_logging(LOGGER.name)


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
