"""The certificates that Dask's configuration names, tried before anything is connected."""

from __future__ import annotations

import ssl
from collections.abc import Iterable

from onnxmpq.errors import ClusterError

_WHERE = "of Dask's configuration (docs/cluster.md)"


def require_certificates(cluster: str, roles: Iterable[str]) -> None:
    """Raises ClusterError where those for these roles cannot be used, or where an address with TLS has none."""
    import distributed  # noqa: PLC0415

    try:
        security = distributed.Security()
    except ValueError as error:  # a version of TLS that is none
        raise ClusterError(f"--cluster {cluster}: {error}") from None
    for role in roles:
        try:
            context = security.get_connection_args(role)["ssl_context"]
        except (OSError, ValueError) as error:  # of the file system, of TLS
            wrong = _wrong_file(role, security.get_tls_config_for_role(role))
            raise ClusterError(f"--cluster {cluster}: {wrong or f'the certificates {_WHERE}: {error}'}") from None
        if context is None and cluster.startswith(("tls:", "wss:")):
            raise ClusterError(
                f"--cluster {cluster}: no certificate is configured; write tls.ca-file and tls.client (docs/cluster.md)"
            )


def _wrong_file(role: str, files: dict[str, str | None]) -> str:
    """The option and the file that cannot be used; empty where all can. Values with line ends are no files."""
    options = {"ca_file": "tls.ca-file", "cert": f"tls.{role}.cert", "key": f"tls.{role}.key"}
    named = {key: path for key in options if (path := files.get(key)) and "\n" not in path}
    for key, path in named.items():
        try:
            open(path, "rb").close()
        except (OSError, ValueError) as error:
            return f"{options[key]} {_WHERE} cannot be read: {path} ({getattr(error, 'strerror', error)})"
    try:
        if "ca_file" in named:
            ssl.create_default_context(cafile=named["ca_file"])
    except OSError as error:
        return f"{options['ca_file']} {_WHERE} is no certificate: {named['ca_file']} ({_short(error)})"
    try:
        if "cert" in named:
            ssl.create_default_context().load_cert_chain(named["cert"], named.get("key"))
    except OSError as error:
        pair = " and ".join(f"{options[key]} {named[key]}" for key in ("cert", "key") if key in named)
        return f"{pair} {_WHERE} cannot be used together ({_short(error)})"
    return ""


def _short(error: OSError) -> str:
    return str(getattr(error, "reason", None) or error.strerror or error)
