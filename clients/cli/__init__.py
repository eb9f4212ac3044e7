"""The `fedssl-client` command of a hospital's data manager: one small file per subcommand.

Exit status, for scripts:
    0    done; `doctor` and `check`: nothing keeps the site from taking part
    1    something is wrong, and the message, or "error" in the answer to --json, says what to do
    2    wrong usage: an unknown command or option, or a value of the wrong kind
    130  interrupted; `join` ends with 0 on Ctrl-C or SIGTERM, which is how a site leaves

With --json, one JSON object is on standard output, whose "ok" says the same as the status.
"""

from __future__ import annotations

import typer

from clients.cli.check import check_command
from clients.cli.doctor import doctor_command
from clients.cli.init import init_command
from clients.cli.join import join_command
from clients.cli.predict import predict_command
from clients.cli.prepare import prepare_command
from clients.cli.preview import preview_command
from clients.cli.pseudo import pseudo_app

__all__ = ["app"]

app = typer.Typer(
    name="fedssl-client",
    help="Take part in a federation with one site's images; they stay on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("init")(init_command)
app.command("check")(check_command)
app.command("prepare")(prepare_command)
app.command("doctor")(doctor_command)
app.command("join")(join_command)
app.command("preview")(preview_command)
app.command("predict")(predict_command)
app.add_typer(pseudo_app, name="pseudo")
