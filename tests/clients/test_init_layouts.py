from __future__ import annotations

import json

from typer.testing import CliRunner

from clients.cli import app
from fedssl.data.layouts import LAYOUTS
from fedssl.federation import load_site_file

RUN = CliRunner().invoke


def test_a_layout_and_its_options_go_into_the_site_file(tmp_path):
    file = tmp_path / "site.toml"
    options = ["--option", "domain=Domain2", "--option", "raw=true"]
    answer = RUN(app, ["init", str(file), "--layout", "fundus-dofe", *options])
    assert answer.exit_code == 0, answer.output
    _, site = load_site_file(file)
    assert site.layout == "fundus-dofe"
    assert site.options == {"domain": "Domain2", "raw": True}
    assert "holds images/" not in file.read_text()


def test_the_default_layout_says_what_the_folder_holds(tmp_path):
    file = tmp_path / "site.toml"
    assert RUN(app, ["init", str(file)]).exit_code == 0
    assert "holds images/ and" in file.read_text()


def test_layouts_are_listed_with_their_options_and_nothing_is_written(tmp_path):
    file = tmp_path / "site.toml"
    answer = RUN(app, ["init", str(file), "--layout", "list"])
    assert answer.exit_code == 0
    assert "fundus-dofe\n  --option domain=...  one of Domain1" in answer.output
    table = json.loads(RUN(app, ["init", str(file), "--layout", "list", "--json"]).output)
    assert list(table["layouts"]) == list(LAYOUTS)
    assert not file.exists()


def test_an_unknown_layout_or_option_is_refused(tmp_path):
    file = tmp_path / "site.toml"
    for arguments, told in (
        (["--layout", "fundus-dof"], "Did you mean 'fundus-dofe'"),
        (["--layout", "msd", "--option", "case=all"], "no option 'case'. Did you mean 'cases'"),
        (["--layout", "msd", "--option", "cases"], "has no value; write key=value"),
    ):
        answer = RUN(app, ["init", str(file), *arguments])
        assert answer.exit_code == 1
        assert told in answer.output
        assert not file.exists()


def test_a_site_file_that_is_not_there_is_named_with_the_command_that_writes_one(tmp_path):
    for command in ("join", "doctor"):
        answer = RUN(app, [command, str(tmp_path / "site.toml"), "--json"])
        assert answer.exit_code == 1
        told = json.loads(answer.output)["error"]
        assert told.startswith("The site file")
        assert "fedssl-client init" in told
