"""PG-19: books before 1919. Rae et al. 2019, arXiv:1911.05507.

The authors' copy on the hub is a script, which the library no longer runs: this is a mirror in Parquet.
"""

from __future__ import annotations

from ..dataset_loading import column, hub

DATASET = hub(
    "pg19",
    "beginnings of old books (PG-19, test; a Parquet mirror or a folder)",
    "emozilla/pg19-test",
    column("text"),
    split="test",
)
