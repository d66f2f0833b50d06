"""Libraries that say something of the process that has loaded them, by parts of their names and their directories' names."""

from __future__ import annotations

__all__ = ["CLIENTS", "NOTED", "PYTHON"]

CLIENTS = {
    "libarrow": "libarrow",
    "polars": "polars",
    "tensorstore": "tensorstore",
    "awscrt": "AWS CRT",
    "libaws": "AWS CRT",
    "s3torch": "s3torchconnector's CRT",
    "/lance.": "lance",
    "lancedb": "lance",
    "duckdb": "DuckDB",
    "obstore": "obstore",
    "deltalake": "delta-rs",
    "libazure": "Azure SDK",
    "google_cloud_cpp": "Google Cloud SDK",
    "kvikio": "KvikIO",
    "libhdfs": "libhdfs",
    "hf_xet": "hf_xet",
    "opendal": "OpenDAL",
    "icechunk": "Icechunk",
    "datafusion": "DataFusion",
    "pyiceberg_core": "iceberg-rust",
    "daft/": "Daft",
    "librados": "librados",
    "libcephfs": "libcephfs",
    "libgfapi": "libgfapi",
    "libnfs.so": "libnfs",
    "libsmbclient": "libsmbclient",
    "libdaos": "DAOS",
}
"""Object clients, and clients of file systems that the kernel does not mount: what messages call them."""
PYTHON = "libpython"
NOTED = (*CLIENTS, PYTHON)
"""What the engine notes in a log."""
