"""The report in a browser: no error, and tabs, curves, sliders and tables obey the keyboard."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browser import BROWSER, browse
from pages import read_page

from fedssl.report.compare import write_comparison

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium in PATH"),
]


def test_arrow_keys_move_through_the_tabs(pictures: Path, tmp_path: Path) -> None:
    seen = browse(
        pictures / "report.html",
        tmp_path,
        """
        const tabs = all(".main [role=tab]");
        seen.start = visible();
        seen.stops = tabs.map(t => t.tabIndex);
        seen.visited = [];
        for (const key of ["ArrowRight", "ArrowRight", "ArrowLeft", "End", "ArrowRight", "Home"]) {
          const focused = document.activeElement;
          press(tabs.includes(focused) ? focused : tabs[0], key);
          seen.visited.push([visible().join(), document.activeElement.textContent]);
        }
        tabs[3].click();
        seen.clicked = [visible().join(), location.hash, tabs[3].getAttribute("aria-selected")];
        """,
    )
    assert seen["start"] == ["Overview"]
    assert seen["stops"] == [0, -1, -1, -1, -1]
    names = ["Curves", "Cases", "Curves", "Method", "Overview", "Overview"]
    assert seen["visited"] == [[name, name] for name in names]
    assert seen["clicked"] == ["Configuration", "#Configuration", "true"]


def test_a_link_opens_its_tab_and_sites_have_tabs_of_their_own(
    pictures: Path, tmp_path: Path
) -> None:
    seen = browse(
        pictures / "report.html",
        tmp_path,
        """
        seen.start = visible();
        const inner = all(".inner [role=tab]");
        press(inner[0], "ArrowRight");
        seen.shown = all("section section").filter(p => p.offsetParent !== null).length;
        const chosen = inner.filter(tab => tab.getAttribute("aria-selected") === "true");
        seen.site = chosen.map(tab => tab.textContent);
        seen.outer = visible();
        const picture = all(".picture").find(p => p.offsetParent !== null);
        const box = picture.getBoundingClientRect();
        seen.loaded = getComputedStyle(picture).backgroundImage.startsWith('url("data:image/png');
        seen.square = [Math.round(box.width) > 100, Math.round(box.width - box.height)];
        """,
        "#Cases",
    )
    assert seen["start"] == seen["outer"] == ["Cases"]
    assert seen["site"] == ["south"]
    assert seen["shown"] == 1
    assert seen["loaded"]
    assert seen["square"] == [True, 0]


def test_the_slider_moves_all_panels_of_its_case(volumes: Path, tmp_path: Path) -> None:
    seen = browse(
        volumes / "report.html",
        tmp_path,
        """
        const cases = all(".case"), input = cases[0].querySelector("input[type=range]");
        const look = () => ({
          places: all(".picture", cases[0]).map(p => getComputedStyle(p).backgroundPosition),
          text: input.parentElement.querySelector("output").textContent,
          spoken: input.getAttribute("aria-valuetext"),
        });
        const move = to => {
          input.value = to;
          input.dispatchEvent(new Event("input", {bubbles: true}));
        };
        seen.slices = JSON.parse(input.dataset.slices);
        move(0); seen.first = look();
        move(input.max); seen.last = look();
        seen.other = cases[1].style.getPropertyValue("--slice");
        seen.start = cases[1].querySelector("input").defaultValue;
        const before = all(".picture", cases[0])[0].getBoundingClientRect().width;
        cases[0].querySelector(".enlarge").click();
        seen.larger = all(".picture", cases[0])[0].getBoundingClientRect().width / before;
        """,
        "#Cases",
    )
    slices = seen["slices"]
    layers = 4
    assert len(seen["first"]["places"]) == layers
    assert all(set(p.split(", ")) == {"0px 0%"} for p in seen["first"]["places"])
    assert all(set(p.split(", ")) == {"0px 100%"} for p in seen["last"]["places"])
    depth = seen["first"]["text"].partition(" of ")[2]
    assert seen["first"]["text"] == f"{slices[0] + 1} of {depth}"
    assert seen["last"]["text"] == f"{slices[-1] + 1} of {depth}"
    assert seen["last"]["spoken"] == f"slice {slices[-1] + 1} of {depth}"
    assert seen["other"] == seen["start"]
    assert seen["larger"] > 1.5


def test_curves_tell_their_values_and_the_legend_switches_them(
    pictures: Path, tmp_path: Path
) -> None:
    seen = browse(
        pictures / "report.html",
        tmp_path,
        """
        const chart = all(".chart.line").find(c => c.textContent.includes("Validation Dice, disc"));
        const svg = chart.querySelector("svg");
        const tip = () => all(".tip span", chart).map(row => row.textContent);
        press(svg, "ArrowRight"); seen.first = [chart.querySelector(".tip b").textContent, tip()];
        press(svg, "ArrowRight"); seen.second = chart.querySelector(".tip b").textContent;
        press(svg, "Escape"); seen.closed = all(".tip").length;
        const button = all(".legend button").find(b => b.dataset.key === "north");
        button.click();
        seen.pressed = button.getAttribute("aria-pressed");
        press(svg, "ArrowRight"); seen.without = tip();
        seen.hidden = all(".series", chart).map(s => [s.dataset.key, getComputedStyle(s).display]);
        """,
        "#Curves",
    )
    line = json.loads((pictures / "rounds.jsonl").read_text().splitlines()[0])
    dice = {s: r["metrics"]["dice/disc"] for s, r in line["evaluation"].items()}
    expected = [f"{site}{float(f'{number:.4g}'):g}" for site, number in sorted(dice.items())]
    assert seen["first"][0] == "round 1"
    assert sorted(seen["first"][1]) == expected
    assert seen["second"] == "round 2"
    assert seen["closed"] == 0
    assert seen["pressed"] == "false"
    assert seen["without"] == [e for e in expected if e.startswith("south")]
    assert seen["hidden"] == [["north", "none"], ["south", "inline"]]


def test_tables_sort_and_the_configuration_can_be_narrowed(pictures: Path, tmp_path: Path) -> None:
    seen = browse(
        pictures / "report.html",
        tmp_path,
        """
        const table = document.querySelector(".all-cases"), head = all("th", table)[3];
        const value = row => Number(row.children[3].firstChild.value);
        const column = () => all("tbody tr", table).map(value);
        const button = head.querySelector("button");
        button.click(); seen.up = column(); seen.word = head.getAttribute("aria-sort");
        button.click(); seen.down = column();
        const keys = () => all(".config tr[data-key]").filter(r => r.offsetParent !== null).length;
        document.getElementById("part-tab-3").click();
        seen.keys = [keys()];
        document.querySelector(".only-changed").click();
        seen.keys.push(keys());
        seen.changed = all(".config tr.changed").length;
        """,
    )
    assert len(seen["up"]) > 3
    assert seen["up"] == sorted(seen["up"])
    assert seen["down"] == sorted(seen["up"], reverse=True)
    assert seen["word"] == "ascending"
    assert seen["keys"][0] > seen["keys"][1] == seen["changed"] > 3


def test_the_numbers_on_the_screen_are_those_of_results_json(
    pictures: Path, tmp_path: Path
) -> None:
    seen = browse(
        pictures / "report.html",
        tmp_path,
        """
        seen.rows = all("tr[data-site]").map(row => [row.dataset.site,
          all("data", row).filter(d => d.offsetParent !== null).map(d => Number(d.value))]);
        """,
    )
    sites = json.loads((pictures / "results.json").read_text())["sites"]
    for name, numbers in seen["rows"]:
        site = sites[name]
        expected = [site[m][c] for m in ("dice", "hd95", "assd") for c in ("disc", "cup")]
        assert numbers == expected + [p for p in [site["pseudo_dice"]] if p is not None]


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_wider_than_the_screen(pictures: Path, tmp_path: Path, width: int) -> None:
    page = pictures / "report.html"
    seen = browse(
        page,
        tmp_path,
        f"""
        document.documentElement.style.width = document.body.style.width = "{width}px";
        seen.wide = all(".main [role=tab]").map(tab => {{
          tab.click();
          return all("main > section:not([hidden]) *, header *")
            .filter(e => e.offsetParent && !e.closest(".scroll, svg"))
            .filter(e => e.getBoundingClientRect().right > {width} + 1).map(e => e.className);
        }});
        """,
    )
    assert seen["wide"] == [[], [], [], [], []]


def test_the_comparison_opens_without_an_error(
    pictures: Path, volumes: Path, tmp_path: Path
) -> None:
    page = write_comparison([pictures, volumes], tmp_path / "c.html")
    assert read_page(page)
    seen = browse(
        page,
        tmp_path,
        """
        seen.tabs = all(".main [role=tab]").map(tab => { tab.click(); return visible().join(); });
        """,
    )
    assert seen["tabs"] == ["Results", "Bars", "Curves", "Configuration"]


@pytest.mark.parametrize(
    ("action", "problem"),
    [
        ("console.error('nobody defined this');", "nobody defined this"),
        ("undefinedFunction();", "undefinedFunction is not defined"),
        (
            'const image = new Image(); image.src = "https://example.org/a.png";',
            "Content Security Policy",
        ),
    ],
)
def test_an_error_in_the_page_would_be_noticed(
    pictures: Path, tmp_path: Path, action: str, problem: str
) -> None:
    with pytest.raises(AssertionError, match=problem):
        browse(pictures / "report.html", tmp_path, f"setTimeout(() => {{{action}}}, 0);")
