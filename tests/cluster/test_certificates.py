"""Certificates that cannot be used are named before anything is connected."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from onnxmpq.cluster import connected
from onnxmpq.errors import ClusterError
from onnxmpq.progress import Silent

TLS = "distributed.comm.tls."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate `cert` with its `key`, and the key `other` of another one."""
    if not (openssl := shutil.which("openssl")):
        pytest.skip("openssl, which makes certificates, is not installed")
    made = tmp_path_factory.mktemp("certificates")
    new = [
        openssl,
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=test",
    ]
    for cert, key in (("cert", "key"), ("unused", "other")):
        subprocess.run([*new, "-out", cert, "-keyout", key], cwd=made, check=True, capture_output=True)
    return made


@pytest.mark.parametrize("cluster", ["tls://127.0.0.1:9", "tcp://127.0.0.1:9", "wss://127.0.0.1:9", "local:1"])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ca-file": "missing"}, r"tls.ca-file .* cannot be read: \S*missing \(No such file or directory\)"),
        ({"client.cert": "missing"}, r"tls.client.cert .* cannot be read: \S*missing"),
        ({"client.key": "missing"}, r"tls.client.key .* cannot be read: \S*missing"),
        ({"ca-file": "key"}, r"tls.ca-file .* is no certificate: \S*key"),
        ({"client.key": "other"}, r"tls.client.cert \S*cert and tls.client.key \S*other .* cannot be used together"),
        ({"ciphers": "none such"}, r"the certificates of Dask's configuration .*cipher"),
        ({"min-version": 1.1}, r"tls.min-version=1.1 is not supported"),
    ],
    ids=lambda given: next(iter(given.items())) if isinstance(given, dict) else "",
)
def test_certificates_that_cannot_be_used(cluster: str, changes: dict[str, str], said: str, folder: Path) -> None:
    pytest.importorskip("distributed", reason="the extra onnxmpq[cluster] is not installed")
    import dask  # noqa: PLC0415

    files = {"ca-file": "cert", "client.cert": "cert", "client.key": "key", **changes}
    settings = {
        TLS + name: str(folder / value) if name.endswith(("file", "cert", "key")) else value
        for name, value in files.items()
    }
    with dask.config.set(settings), pytest.raises(ClusterError, match=said), connected(cluster, Silent()):
        pass


def test_an_address_with_tls_but_no_certificate() -> None:
    pytest.importorskip("distributed", reason="the extra onnxmpq[cluster] is not installed")
    with pytest.raises(ClusterError, match="no certificate is configured"), connected("tls://127.0.0.1:9", Silent()):
        pass
