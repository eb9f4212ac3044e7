"""What report.html says equals what the run folder holds, and it needs nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pages import Element, read_page, results

from fedssl.config import flatten
from fedssl.methods import METHODS, load_config
from fedssl.report.load import load_run
from fedssl.report.page import write_report


@pytest.fixture(scope="module")
def page(pictures: Path) -> Element:
    return read_page(pictures / "report.html")


def near(points: list[list[float]]) -> list[object]:
    """Curves carry six digits."""
    return [[x, pytest.approx(y, rel=1e-5)] for x, y in points]


def test_the_run_ends_with_its_report(pictures: Path) -> None:
    assert (pictures / "report.html").is_file()


def test_the_numbers_per_site_are_those_of_results_json(pictures: Path, page: Element) -> None:
    sites = results(pictures)["sites"]
    assert len(sites) == 2
    for name, site in sites.items():
        row = page.one("tr", data_site=name)
        expected = [site[m][c] for m in ("dice", "hd95", "assd") for c in ("disc", "cup")]
        expected += [site["pseudo_dice"]] if site["pseudo_dice"] is not None else []
        assert row.numbers() == expected
        assert f"{site['dice']['disc']:.3f}" in row.text
        assert site["role"] in row.text


def test_cards_show_the_mean_dice_over_all_sites_and_per_role(
    pictures: Path, page: Element
) -> None:
    cards = [card.numbers() for card in page.all("div", class_="card")]
    found = results(pictures)
    south = found["sites"]["south"]["dice"]
    assert cards[0] == [found["mean_dice"]]
    assert cards[2] == [pytest.approx((south["disc"] + south["cup"]) / 2, abs=1e-12)]


def test_the_table_of_cases_holds_every_case_of_every_site(pictures: Path, page: Element) -> None:
    expected = []
    for site in ("north", "south"):
        for line in (pictures / "sites" / site / "cases.jsonl").read_text().splitlines():
            case = json.loads(line)
            dice = case["dice"]
            mean = (dice["disc"] + dice["cup"]) / 2
            scores = [case[m][c] for m in ("dice", "hd95", "assd") for c in ("disc", "cup")]
            expected.append((site, case["name"], [mean, *scores]))
    rows = [
        (*(cell.text for cell in list(row.all("td"))[:2]), row.numbers())
        for row in page.one("table", class_="all-cases").one("tbody").all("tr")
    ]
    assert sorted(rows) == sorted(expected)
    assert [row[2][0] for row in rows] == sorted(row[2][0] for row in rows)


def test_the_header_names_method_federation_seed_and_digest(pictures: Path, page: Element) -> None:
    head = page.one("header", class_="top").text
    for fact in ("denoise", "eyes", "federation.toml", results(pictures)["weights_sha256"]):
        assert str(fact) in head


def test_every_key_of_the_configuration_stands_there_with_its_value(
    pictures: Path, page: Element
) -> None:
    table = page.one("table", class_="config")
    shown = {
        row.attributes["data-key"]: list(row.all("td"))[1].text
        for row in table.all("tr")
        if "data-key" in row.attributes
    }
    config = load_run(pictures).config
    assert shown.keys() == config.keys() == flatten(load_config(config)).keys()
    assert shown["rounds"] == "3"
    assert shown["denoise.passes"] == "2"
    changed = {row.attributes["data-key"] for row in table.all("tr", class_="changed")}
    assert {"rounds", "lr", "denoise.passes", "model.width"} <= changed
    assert not changed & {"momentum", "seed", "denoise.mu"}


def test_versions_and_the_method_s_own_account_stand_there(pictures: Path, page: Element) -> None:
    versions = results(pictures)["versions"]
    assert all(str(v) in page.text for v in versions.values())
    assert METHODS["denoise"].summary in page.text
    assert "not verified against the authors' code" in " ".join(page.text.split())


def test_the_use_of_hidden_masks_is_told(page: Element) -> None:
    notes = [note.text for note in page.all("p", class_="note")]
    assert "Masks of unlabeled sites (south) exist on disk" in notes[0]
    assert "quality of pseudo-labels (south)" in notes[0]


def test_hidden_masks_of_mixed_sites_are_told_too(copy: Path) -> None:
    changed = json.loads((copy / "results.json").read_text())
    for site in changed["sites"].values():
        site["role"] = "mixed" if site["role"] == "unlabeled" else site["role"]
    (copy / "results.json").write_text(json.dumps(changed))
    notes = [note.text for note in read_page(write_report(copy)).all("p", class_="note")]
    assert "At south images that train without a mask have one" in notes[0]


def test_a_guided_run_says_so(copy: Path) -> None:
    plain, _, quality = (copy / "config.toml").read_text().partition("[quality]")
    assert "guide = false" in quality
    assert "gamma = 2.0" in quality
    quality = quality.replace("guide = false", "guide = true", 1).replace("2.0", "3.0", 1)
    (copy / "config.toml").write_text(f"{plain}[quality]{quality}")
    page = read_page(write_report(copy))
    words = " ".join(page.text.split())
    assert "a quality predictor weighs the samples of denoise" in words
    (changed,) = [row.text for row in page.all("tr") if "quality.gamma" in row.text]
    assert "3.0" in changed
    assert "2.0" in changed, "the default stands beside it"


def test_curves_hold_the_values_of_every_round(pictures: Path, page: Element) -> None:
    lines = [json.loads(line) for line in (pictures / "rounds.jsonl").read_text().splitlines()]
    charts = {c.one("figcaption").text: c for c in page.all("figure", class_="line")}

    def points(title: str, name: str) -> list[list[float]]:
        series = charts[title].one("g", data_name=name)
        return json.loads(series.attributes["data-points"])

    losses = [[r["round"] + 1, r["sites"]["north"]["loss/supervised"]] for r in lines]
    assert points("Loss on masks", "north") == near(losses)
    dice = [[1 + r["round"], r["evaluation"]["south"]["metrics"]["dice/disc"]] for r in lines[:-1]]
    assert points("Validation Dice, disc", "south") == near(dice)
    mu = [[1 + r["round"], r["rule"]["mu"]] for r in lines if "mu" in r["rule"]]
    assert points("mu: weight of the labeled group", "mu") == near(mu)


def test_the_page_loads_nothing(pictures: Path, volumes: Path) -> None:
    for folder in (pictures, volumes):
        text = (folder / "report.html").read_text(encoding="utf-8")
        page = read_page(folder / "report.html")
        loaded = [
            value
            for element in page.all()
            for key, value in element.attributes.items()
            if key in {"src", "href", "srcset", "action", "data", "poster", "xlink:href"}
        ]
        assert loaded == []
        urls = re.findall(r"url\(([^)]{0,30})", text)
        assert urls
        assert all(url.startswith("data:image/png;base64,") for url in urls)
        assert not re.search(r"@import|fetch\(|XMLHttpRequest|WebSocket|import\(", text)
        policy = page.one("meta", http_equiv="Content-Security-Policy").attributes["content"]
        assert policy.startswith("default-src 'none'; img-src data:;")


def test_tabs_and_ids_fit_together(page: Element) -> None:
    ids = [e.attributes["id"] for e in page.all() if "id" in e.attributes]
    assert len(set(ids)) == len(ids)
    buttons = list(page.all("button", role="tab"))
    assert [b.text for b in buttons][:5] == [
        "Overview",
        "Curves",
        "Cases",
        "Configuration",
        "Method",
    ]
    for button in buttons:
        panel = page.one("section", id=button.attributes["aria-controls"])
        assert panel.attributes["aria-labelledby"] == button.attributes["id"]
    assert not any("hidden" in e.attributes for e in page.all("section"))


def test_overlays_are_shown_per_site_with_their_panels(pictures: Path, page: Element) -> None:
    for site in ("north", "south"):
        lines = (pictures / "sites" / site / "overlays" / "overlays.jsonl").read_text()
        for entry in map(json.loads, lines.splitlines()):
            pictures_of = [
                e
                for e in page.all("div", class_="picture")
                if e.attributes["aria-label"].endswith(f" of {entry['case']}, site {site}")
            ]
            assert len(pictures_of) >= len(entry["layers"])


def test_a_volume_has_a_slider_over_its_slices(volumes: Path) -> None:
    page = read_page(volumes / "report.html")
    entries = [
        json.loads(line)
        for line in (volumes / "sites/east/overlays/overlays.jsonl").read_text().splitlines()
    ]
    sliders = list(page.all("input", type="range"))
    assert len(sliders) == len(entries) == 2
    for slider, entry in zip(sliders, entries, strict=True):
        assert json.loads(slider.attributes["data-slices"]) == entry["slices"]
        assert int(slider.attributes["max"]) == len(entry["slices"]) - 1 > 0
        assert int(slider.attributes["value"]) == entry["start"]


def test_names_from_files_cannot_become_markup(copy: Path) -> None:
    evil = "<script>alert(1)</script>\"'&"
    for name in ("results.json", "rounds.jsonl"):
        text = (copy / name).read_text()
        quoted = json.dumps(evil)[1:-1]
        (copy / name).write_text(text.replace('disc"', f'{quoted}"').replace("north", quoted))
    page = read_page(write_report(copy))
    assert len(list(page.all("script"))) == 1
    assert page.one("tr", data_site=evil).one("th").text == evil


def test_a_page_to_share_holds_no_case_no_picture_and_no_path(pictures: Path) -> None:
    path = write_report(pictures, share=True)
    text = path.read_text(encoding="utf-8")
    assert path.name == "report-share.html"
    assert "data:image" not in text
    assert "image_0" in (pictures / "report.html").read_text()
    assert "image_0" not in text
    assert str(pictures.parent) in (pictures / "report.html").read_text()
    assert str(pictures.parent) not in text


def test_without_site_folders_the_page_says_where_cases_are(copy: Path) -> None:
    page = read_page(write_report(copy))
    assert "Cases" not in [b.text for b in page.all("button", role="tab")]
    assert "in its own state folder" in page.text


def test_results_without_masks_and_without_distances_are_shown_as_missing(copy: Path) -> None:
    found = results(copy)
    site = found["sites"]["south"]
    site |= {"cases": 0, "pseudo_dice": None}
    for metric in ("dice", "hd95", "assd"):
        site[metric] = dict.fromkeys(site[metric])
    found["sites"]["north"]["hd95"] = {"disc": None, "cup": None}
    (copy / "results.json").write_text(json.dumps(found))
    (copy / "rounds.jsonl").write_text("")
    page = read_page(write_report(copy))
    assert page.one("tr", data_site="south").numbers() == []
    north = found["sites"]["north"]
    assert page.one("tr", data_site="north").numbers() == [
        *north["dice"].values(),
        *north["assd"].values(),
    ]
    assert "HD95" not in [g.text for g in page.all("th", class_="group")]
