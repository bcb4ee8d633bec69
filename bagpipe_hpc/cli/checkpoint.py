"""Commands on checkpoints: `checkpoint verify|list|digest|prune`, and `export`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bagpipe_hpc.cli.printed_json import AsJson, print_json
from bagpipe_hpc.exit_codes import EXIT_FAILURE

app = typer.Typer(help="List, check and delete checkpoints.", no_args_is_help=True)


Root = Annotated[Path, typer.Argument(metavar="DIR", help="A directory of checkpoints, or a run directory.")]
AnyCheckpoint = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        help="A checkpoint, such as DIR/best. For a directory of checkpoints or a run directory: its latest one.",
    ),
]


class FormatChoice(StrEnum):
    """Values of --format."""

    SAFETENSORS = "safetensors"
    TORCH = "torch"


@app.command()
def verify(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="A checkpoint. For a directory of checkpoints or a run directory: all its checkpoints."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Read every byte and compare it with the checksums. The exit status is 1 if anything is damaged."""
    from bagpipe_hpc.activity import showing_activity
    from bagpipe_hpc.checkpoint.checkpoint import directory_of_checkpoints
    from bagpipe_hpc.checkpoint.file_names import MANIFEST, iteration_of
    from bagpipe_hpc.checkpoint.pointer import named_by, pointers_in
    from bagpipe_hpc.checkpoint.verify import Verifier
    from bagpipe_hpc.errors import CheckpointError

    is_one = iteration_of(directory.resolve().name) is not None or (directory / MANIFEST).exists()
    directory = directory_of_checkpoints(directory)
    found: list[dict[str, str | None]] = []
    for pointer in pointers_in(directory) if not is_one else []:
        try:
            named_by(pointer)
        except CheckpointError as error:
            found.append({"path": str(pointer), "fault": str(error)})
            if not as_json:
                print(f"damaged  {error}")
    with showing_activity(f"reading {directory}") as activity:
        verifier = Verifier(activity)
        for path in [directory] if is_one else _found_in(directory):
            fault = ""
            try:
                verifier.verify(path)
            except CheckpointError as error:
                fault = str(error)
            found.append({"path": str(path), "fault": fault or None})
            if not as_json:
                with activity.paused():
                    print(f"damaged  {path}: {fault}" if fault else f"good     {path}", flush=True)
    if as_json:
        print_json(found)
    if any(each["fault"] for each in found):
        raise typer.Exit(EXIT_FAILURE)


@app.command("list")
def list_command(root: Root, as_json: AsJson = False) -> None:
    """List the checkpoints of a directory. The command reads only their manifests."""
    from rich.filesize import decimal
    from rich.table import Table

    from bagpipe_hpc.checkpoint.checkpoint import Saved, directory_of_checkpoints
    from bagpipe_hpc.checkpoint.file_names import iteration_of
    from bagpipe_hpc.checkpoint.pointer import named_by, pointers_in
    from bagpipe_hpc.errors import CheckpointError
    from bagpipe_hpc.runtime.console import open_console

    root = directory_of_checkpoints(root)
    table = Table("iteration", "generation", "kind", "servers", "trainers", "size", "created", "", box=None)
    faults, rows = [], []
    pointers = {}
    for pointer in pointers_in(root):
        try:
            pointers[pointer.name] = named_by(pointer)
        except CheckpointError as error:
            faults.append(str(error))
    for path in _found_in(root):
        try:
            manifest = Saved.load(path).manifest
        except CheckpointError as error:
            faults.append(str(error))
            continue
        names = [name for name, named in pointers.items() if named == path]
        rows.append(
            {
                "path": str(path),
                "iteration": manifest.iteration,
                "generation": manifest.generation,
                "parent": manifest.parent.name if manifest.parent else None,
                "servers": manifest.topology.servers,
                "trainers": manifest.topology.trainers,
                "num_bytes": manifest.num_bytes,
                "created": manifest.created.isoformat(),
                "named": names,
            }
        )
        table.add_row(
            f"{manifest.iteration}",
            f"{manifest.generation}",
            f"on {iteration_of(manifest.parent.name)}" if manifest.parent else "full",
            f"{manifest.topology.servers}",
            f"{manifest.topology.trainers}",
            decimal(manifest.num_bytes),
            f"{manifest.created:%Y-%m-%d %H:%M}",
            " ".join(names),
        )
    if as_json:
        print_json({"checkpoints": rows, "faults": faults})
        return
    open_console().print(table)
    for fault in faults:
        print(f"damaged  {fault}")


@app.command()
def digest(checkpoint: AnyCheckpoint, as_json: AsJson = False) -> None:
    """Print the model digest of a checkpoint: the digest of a job that ends at its iteration."""
    from bagpipe_hpc.activity import showing_activity
    from bagpipe_hpc.checkpoint.checkpoint import Checkpoint

    with showing_activity(f"reading {checkpoint}"):
        opened = Checkpoint.open(checkpoint)
        found = opened.digest()
    if as_json:
        print_json({"path": str(opened.path), "digest": found})
    else:
        print(found)


@app.command()
def ids(
    checkpoint: AnyCheckpoint,
    table: Annotated[str | None, typer.Option(help="Name of a dynamic table; without it: all of them.")] = None,
    csv: Annotated[
        bool, typer.Option("--csv", help="Print each id: id, row, uses, iteration of its last use. Needs --table.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what the dynamic tables of a checkpoint hold, or list the ids of one of them."""
    from bagpipe_hpc.activity import showing_activity
    from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
    from bagpipe_hpc.cli.listed_ids import show_tables, tables_as_json, write_ids
    from bagpipe_hpc.errors import CheckpointError, ConfigError
    from bagpipe_hpc.oracle.saved_state import dynamic_in

    with showing_activity(f"reading {checkpoint}"):
        found = Checkpoint.open(checkpoint)
        state = dynamic_in(found)
    if state is None:
        raise CheckpointError(f"{found.path} has no dynamic tables; their ids are what this command shows")
    if table is not None and table not in state.ids:
        raise ConfigError(f"--table {table}: the dynamic tables of {found.path} are {', '.join(state.ids)}")
    if csv and table is None:
        raise ConfigError(f"--csv lists the ids of one table: give --table, one of {', '.join(state.ids)}")
    if csv and as_json:
        raise ConfigError("--csv and --json are two forms of the same; give one of them")
    rules = {each.name: each.dynamic for each in found.manifest.model.tables if each.dynamic is not None}
    names = list(state.ids) if table is None else [table]
    if csv:
        write_ids(state.ids[names[0]].live, rules[names[0]].default_rows, sys.stdout)
        return
    tables = {name: (state.ids[name], rules[name]) for name in names}
    if as_json:
        print_json(tables_as_json(tables))
    else:
        show_tables(tables)


@app.command("prune")
def prune_command(
    root: Root,
    keep_last: Annotated[int, typer.Option(help="Keep this many of the newest checkpoints.")],
    keep_every: Annotated[
        int | None, typer.Option(help="Also keep checkpoints whose iteration is a multiple of this.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Delete old checkpoints. The best checkpoint stays, and so do those that a kept checkpoint builds on."""
    from bagpipe_hpc.checkpoint.checkpoint import directory_of_checkpoints
    from bagpipe_hpc.checkpoint.prune import prune

    deleted = [str(path) for path in prune(directory_of_checkpoints(root), keep_last, keep_every)]
    if as_json:
        print_json({"deleted": deleted})
    for path in deleted if not as_json else []:
        print(f"deleted  {path}")


def export_command(
    checkpoint: AnyCheckpoint,
    output: Annotated[Path, typer.Option(help="File to write; it must not exist yet.")],
    form: Annotated[FormatChoice, typer.Option("--format", help="Format of the file.")] = FormatChoice.SAFETENSORS,
) -> None:
    """Write the tables and dense parameters of a checkpoint as plain tensors."""
    from bagpipe_hpc.activity import showing_activity
    from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
    from bagpipe_hpc.checkpoint.export import export
    from bagpipe_hpc.oracle.saved_state import dynamic_in

    with showing_activity(f"reading {checkpoint}") as activity:
        found = Checkpoint.open(checkpoint)
        state = dynamic_in(found)
        ids = {name: each.live for name, each in state.ids.items()} if state else {}
        export(found, output, form.value, activity, ids)
    print(f"written  {output}")


def _found_in(root: Path) -> list[Path]:
    from bagpipe_hpc.checkpoint.checkpoint import saved_checkpoints
    from bagpipe_hpc.errors import CheckpointError

    found = saved_checkpoints(root)
    if not found:
        raise CheckpointError(f"{root} has no checkpoints; name a directory with directories `iteration-...`")
    return found
