"""Federation and site files: what they may hold, and how a mistake in one is explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedssl.config import RunConfig
from fedssl.errors import ConfigError, FederationError
from fedssl.federation import data_root, load_federation, load_site_file
from fedssl.types import Output, Role

TASK = '[task]\nname = "t"\nclasses = ["background", "tumor"]\n'
SITE = '[[site]]\nname = "a"\nrole = "labeled"\npath = "a"\n'
OTHER = '[[site]]\nname = "b"\nrole = "unlabeled"\npath = "b"\n'


@pytest.fixture
def write(tmp_path: Path):
    def build(text: str) -> str:
        path = tmp_path / "federation.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return build


def refused(file: str) -> str:
    with pytest.raises(FederationError) as raised:
        load_federation(RunConfig(federation=file))
    assert file in str(raised.value)
    return str(raised.value).replace(file, "FILE")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "FILE has no [task] and no [[site]] table; it needs both."),
        (SITE, "FILE has no [task] table"),
        (TASK, "FILE has no [[site]] table"),
        ("site = []\n" + TASK, "FILE has no [[site]] table"),
        ("[task\n", "FILE is not valid TOML"),
        (TASK + SITE.replace("[[site]]", "[site]"), "write [[site]] with two brackets"),
        (
            TASK.replace('["background", "tumor"]', '"tumor"') + SITE,
            'e.g. ["background", "lesion"]',
        ),
        (TASK.replace('"background", ', "") + SITE, 'e.g. ["background", "lesion"]'),
        (
            TASK + SITE + "options = { label-values = [0, 1] }\n",
            "key 'options.label-values': Input should be a valid string",
        ),
        (TASK + SITE + SITE, "FILE: site name 'a' is used twice; names must differ."),
        (TASK + SITE + "[sites]\n", "FILE: unknown table 'sites'. Did you mean 'site'?"),
        (
            TASK + SITE + OTHER.replace("unlabeled", "unlabelled"),
            "FILE, [[site]] number 2 (b): key 'role': Input should be 'labeled', 'unlabeled' or "
            "'mixed'; got 'unlabelled'. Did you mean 'unlabeled'",
        ),
        (TASK + '[[site]]\nname = "a"\n', "number 1 (a): key 'role' is missing."),
        (TASK + SITE + 'pth = "x"\n', "number 1 (a): unknown key 'pth'. Did you mean 'path'?"),
        (TASK + SITE.replace('"a"', '"a b"', 1), "key 'name': String should match pattern"),
        (TASK + SITE + "shard = [4, 4]\n", "key 'shard': the i-th of n shards, [i, n], needs"),
        (TASK + SITE + "labeled = 0\n", "key 'labeled': a mixed site needs at least one"),
        (TASK + SITE + "labeled = -1\n", "key 'labeled': a mixed site needs at least one"),
        (TASK + SITE + "labeled = true\n", "key 'labeled': how many subjects have masks, or a"),
        (TASK + SITE + "labeled = 2\n", "labeled = 2 chooses among the masks of a mixed site"),
        (TASK + SITE + 'labeled = "a.txt"\n', 'this one is labeled. Set role = "mixed", or remove'),
        (TASK + SITE + 'spacing = "mm"\n', "key 'spacing': Input should be 'header' or 'unknown'"),
        (TASK + 'mode = "4d"\n' + SITE, "FILE, [task]: key 'mode': Input should be '2d'"),
        ('[task]\nclasses = ["b"]\n' + SITE, "FILE, [task]: key 'classes'"),
        ('[task]\nclasses = ["b", "b"]\n' + SITE, "key 'classes': class names must differ"),
        ("task = 3\n" + SITE, "FILE, [task]: Input should be a valid dictionary"),
    ],
)
def test_a_mistake_in_the_file_is_explained_where_it_stands(write, text: str, message: str):
    assert message in refused(write(text))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path):
    path = tmp_path / "federation.toml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "is not valid TOML" in refused(str(path))


def test_a_missing_file_names_the_federations_that_need_none():
    with pytest.raises(FederationError, match=r"'syntetic' does not exist\. Did you mean 'synth"):
        load_federation(RunConfig(federation="syntetic"))


def test_a_file_becomes_a_task_and_sites_in_its_order(write):
    text = TASK + 'mode = "2.5d"\noutput = "nested"\n' + OTHER + SITE
    federation = load_federation(RunConfig(federation=write(text)))
    assert [s.name for s in federation.sites] == ["b", "a"]
    assert federation.task.channels == 3  # three slices as channels
    assert federation.task.output is Output.NESTED
    assert (federation.task.num_classes, federation.task.out_channels) == (2, 1)
    assert federation.site("a").role is Role.LABELED
    with pytest.raises(FederationError, match=r"No site 'c'.*Sites: \['b', 'a'\]"):
        federation.site("c")


def test_relative_paths_start_at_data_root_else_the_environment_else_the_file(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = write(TASK + SITE)
    monkeypatch.delenv("FEDSSL_DATA", raising=False)
    assert load_federation(RunConfig(federation=file)).sites[0].path == str(tmp_path / "a")
    monkeypatch.setenv("FEDSSL_DATA", "/from/environment")
    found = load_federation(RunConfig(federation=file)).sites[0].path
    assert found == str(Path("/from/environment/a").resolve())
    run = RunConfig(federation=file, data_root="/given")
    assert load_federation(run).sites[0].path == str(Path("/given/a").resolve())
    assert data_root(run, tmp_path) == Path("/given")


def test_an_absolute_path_stays(write):
    file = write(TASK + SITE.replace('path = "a"', 'path = "/elsewhere"'))
    run = RunConfig(federation=file, data_root="/given")
    assert load_federation(run).sites[0].path == "/elsewhere"


def test_sites_and_labeled_sites_choose_among_the_sites():
    run = RunConfig(sites="clinic_e, clinic_a", labeled_sites="clinic_e")
    sites = load_federation(run).sites
    assert [(s.name, s.role.value) for s in sites] == [
        ("clinic_a", "unlabeled"),
        ("clinic_e", "labeled"),
    ]
    every = load_federation(RunConfig(labeled_sites="all")).sites
    assert {s.role for s in every} == {Role.LABELED}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"sites": "clinik_a"}, "Key 'sites' names 'clinik_a'.*Did you mean 'clinic_a'"),
        ({"labeled_sites": "nobody"}, "Key 'labeled-sites' names 'nobody'.*Sites: clinic_a, "),
        ({"sites": "clinic_a", "labeled_sites": "clinic_b"}, "Key 'labeled-sites' .*clinic_b"),
    ],
)
def test_a_choice_of_no_site_is_refused(keys: dict[str, str], message: str):
    with pytest.raises(ConfigError, match=message):
        load_federation(RunConfig(**keys))


def test_a_site_file_holds_one_site(write, tmp_path: Path):
    task, site = load_site_file(Path(write(TASK + SITE)))
    assert (task.name, site.name, site.path) == ("t", "a", str(tmp_path / "a"))
    with pytest.raises(FederationError, match="describes 2 sites; a site file holds exactly one"):
        load_site_file(Path(write(TASK + SITE + OTHER)))


def test_a_table_under_another_name_is_told(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text('[task]\nclasses = ["a", "b"]\n[[sites]]\nname = "x"\n')
    with pytest.raises(FederationError, match=r"no \[\[site\]\] table.*It has sites"):
        load_federation(RunConfig(federation=str(tmp_path / "f.toml")))


def test_a_folder_is_told_apart_from_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FederationError, match="is a folder; give the federation"):
        load_federation(RunConfig(federation=str(tmp_path)))
