"""Descriptions of public click logs."""

from __future__ import annotations

from bagpipe_hpc.data.importing.description import Category, DenseFeature, Label, TableDescription

_CRITEO_INTEGERS = tuple(f"I{i}" for i in range(1, 14))
_CRITEO_CATEGORIES = tuple(f"C{i}" for i in range(1, 27))

# Kaggle Display Advertising Challenge and Terabyte Click Logs have the same lines, and differ in the number of files.
CRITEO = TableDescription(
    columns=("label", *_CRITEO_INTEGERS, *_CRITEO_CATEGORIES),
    delimiter="\t",
    quoting=False,
    label=Label(column="label"),
    dense=tuple(DenseFeature(column=name, type="integer", transform="log") for name in _CRITEO_INTEGERS),
    categorical=tuple(Category(column=name, type="hexadecimal") for name in _CRITEO_CATEGORIES),
)

_AVAZU_CATEGORIES = (
    "hour", "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category",
    "device_id", "device_ip", "device_model", "device_type", "device_conn_type",
    "C14", "C15", "C16", "C17", "C18", "C19", "C20", "C21",
)  # fmt: skip

AVAZU = TableDescription(
    label=Label(column="click"), categorical=tuple(Category(column=name) for name in _AVAZU_CATEGORIES)
)

_LOGS = {"Criteo": CRITEO, "Avazu": AVAZU}


def log_of(description: TableDescription) -> str:
    """Return the name of the click log that is described, with or without labels; empty for any other table."""
    return next((name for name, log in _LOGS.items() if log.categorical == description.categorical), "")
