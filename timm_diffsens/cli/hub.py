"""`diffsens push`, `pull` and `card`: records on the Hugging Face Hub, and in a model card."""

from pathlib import Path
from typing import Annotated

import typer

from timm_diffsens.cli.output import OUT, Json, Out, Quiet, print_error, print_json, result_console
from timm_diffsens.cli.show import find
from timm_diffsens.files import write_atomic

Repository = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="A dataset repository on the hub.")]


def push(
    repository: Repository,
    records: Annotated[
        list[str], typer.Argument(metavar="RECORD...", help="Files, models' names or starts of keys.")
    ],
    private: Annotated[bool, typer.Option("--private", help="Hide a new repository from others.")] = False,
    out: Out = OUT,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Send records to a dataset repository of the Hugging Face Hub, in one commit, as who is logged in."""
    from timm_diffsens.integrations.hub import push_records

    files = [find(text, out / "records") for text in records]
    url = push_records(files, repository, private=private)
    if as_json:
        print_json({"repository": repository, "records": files, "commit": url})
    else:
        result_console().print(url, soft_wrap=True)


def pull(
    repository: Repository,
    revision: Annotated[str | None, typer.Option("--revision", help="A commit, branch or tag.")] = None,
    out: Out = OUT,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fetch the records of a dataset repository into DIR/records; those that are there already stay.

    Exit 1 if a file is no sound record; it is named and left out.
    """
    from timm_diffsens.integrations.hub import pull_records

    new, faults = pull_records(repository, out, revision=revision)
    if as_json:
        print_json({"repository": repository, "new": new, "left_out": faults})
    else:
        result_console().print(f"{len(new)} new records below {out / 'records'}", soft_wrap=True)
    for fault in faults:
        print_error(f"left out: {fault}")
    if faults:
        raise typer.Exit(1)


def card(
    record: Annotated[
        str, typer.Argument(metavar="RECORD", help="A record's file, a model's name, or the start of a key.")
    ],
    update: Annotated[
        Path | None,
        typer.Option(
            "--update", metavar="README.md", help="Put it into this card, in place of an older one."
        ),
    ] = None,
    out: Out = OUT,
    quiet: Quiet = False,
) -> None:
    """Print a model card with what a record says, or put it into one: a section, and its metadata."""
    from timm_diffsens.integrations.hub import card as made
    from timm_diffsens.results.records.reading import load_record

    text = made(load_record(find(record, out / "records")), update)
    if update is None:
        typer.echo(text)
    else:
        write_atomic(update, text.encode())
