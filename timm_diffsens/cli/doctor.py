"""`diffsens doctor`: what this machine can measure with, and what mends what is missing."""

from dataclasses import asdict

import typer
from rich.text import Text

from timm_diffsens.cli.output import Json, plain_table, print_json, result_console

_STYLES = {"ok": "green", "optional": "yellow", "fault": "red"}
_WORDS = {"ok": "ok", "optional": "not there", "fault": "FAULT"}


def doctor(as_json: Json = False) -> None:
    """Look at versions, devices, optional parts and the numbers themselves; exit 1 if something is wrong.

    What is optional and not there is said with the command that installs it. Nothing is sent or fetched.
    """
    from timm_diffsens.benchmark.doctor import examine

    checks = examine()
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        table = plain_table(["part", "name", "state", "found"], left=["part", "name", "state", "found"])
        for check in checks:
            table.add_row(check.part, check.name, Text(_WORDS[check.state], _STYLES[check.state]), check.said)
        console = result_console()
        console.print(table)
        for state, word in (("optional", "optional"), ("fault", "to mend it")):
            for mend in dict.fromkeys(check.mend for check in checks if check.mend and check.state == state):
                console.print(f"{word}: {mend}", soft_wrap=True)
        if not any(check.state == "fault" for check in checks):
            console.print("Everything that is needed is there.")
    if any(check.state == "fault" for check in checks):
        raise typer.Exit(1)
