"""The `fedssl` command: one small file per subcommand. Heavy imports wait for the command."""

from __future__ import annotations

import typer

from fedssl.cli.deploy import deploy_command
from fedssl.cli.export import export_command
from fedssl.cli.keys import keys_command
from fedssl.cli.methods import methods_command
from fedssl.cli.plan import plan_command
from fedssl.cli.report import compare_command, report_command
from fedssl.cli.run import run_command
from fedssl.cli.simulate import simulate_command
from fedssl.cli.submit import submit_command

__all__ = ["app"]

app = typer.Typer(
    name="fedssl",
    help="Federated semi-supervised segmentation of medical images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("plan")(plan_command)
app.command("simulate")(simulate_command)
app.command("run")(run_command)
app.command("submit")(submit_command)
app.command("report")(report_command)
app.command("compare")(compare_command)
app.command("export")(export_command)
app.command("methods")(methods_command)
app.command("keys")(keys_command)
app.command("deploy")(deploy_command)
