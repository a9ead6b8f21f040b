"""Work on other machines, through Dask's `distributed`: the one room that knows it (extra `onnxmpq[cluster]`).

Nothing of Dask is imported before a cluster is asked for.
"""

from onnxmpq.cluster.connect import connected, on_cluster

__all__ = ["connected", "on_cluster"]
