"""The schema of the samples as a job uses it: settings of the job replace the rules of dynamic tables. Pure."""

from __future__ import annotations

from bagpipe_hpc.config import Config, TableConfig
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.dynamic_rules import DynamicSchema

SETTINGS = ("capacity", "admit_after", "expire_after", "at_capacity")


def job_schema(config: Config, schema: Schema) -> Schema:
    """Return the schema of a data set with the rules that the settings `tables.NAME` give."""
    rules = {name: _with_settings(each, config.tables.get(name)) for name, each in schema.dynamic_tables.items()}
    return schema.model_copy(update={"tables": tuple(_with_rules(table, rules) for table in schema.tables)})


def _with_settings(rules: DynamicSchema, settings: TableConfig | None) -> DynamicSchema:
    given = {name: getattr(settings, name) for name in SETTINGS if getattr(settings, name, None) is not None}
    if given.get("expire_after") == "never":
        given["expire_after"] = None
    return rules.model_copy(update=given)


def _with_rules(table: TableSchema, rules: dict[str, DynamicSchema]) -> TableSchema:
    if (found := rules.get(table.table_name)) is None:
        return table
    dynamic = found if table.shares is None else None
    return table.model_copy(update={"num_embeddings": found.num_rows, "dynamic": dynamic})
