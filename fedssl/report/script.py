"""The page's script: tabs, curves that tell their values, sliders, sorting. No dependencies."""

from __future__ import annotations

from typing import Final

__all__ = ["SCRIPT"]

SCRIPT: Final = """
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  document.documentElement.classList.add("js");

  // Tabs, as in the ARIA practices: arrows, Home and End move, one tab is in the tab order.
  const show = (list, chosen) => {
    for (const tab of all("[role=tab]", list)) {
      const on = tab === chosen;
      tab.setAttribute("aria-selected", String(on));
      tab.tabIndex = on ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = !on;
    }
    chosen.scrollIntoView({block: "nearest", inline: "nearest"});
  };
  for (const list of all("[role=tablist]")) {
    const tabs = all("[role=tab]", list);
    const named = tabs.find(tab => "#" + tab.dataset.name === decodeURIComponent(location.hash));
    show(list, named || tabs[0]);
    const go = tab => {
      show(list, tab);
      if (list.classList.contains("main")) {
        history.replaceState(null, "", "#" + encodeURIComponent(tab.dataset.name));
      }
    };
    for (const tab of tabs) tab.addEventListener("click", () => go(tab));
    list.addEventListener("keydown", event => {
      const at = tabs.indexOf(document.activeElement), last = tabs.length - 1;
      const to = {
        ArrowRight: at === last ? 0 : at + 1, ArrowLeft: at === 0 ? last : at - 1,
        Home: 0, End: last,
      }[event.key];
      if (at < 0 || to === undefined) return;
      event.preventDefault();
      tabs[to].focus();
      go(tabs[to]);
    });
  }

  // A legend's button switches the curves of its key in all charts of the same part of the page.
  for (const button of all(".legend button")) {
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      for (const series of all(".series", button.closest("section"))) {
        if (series.dataset.key === button.dataset.key) series.classList.toggle("off", !on);
      }
    });
  }

  // Curves: the pointer, or the arrow keys, choose a round; a box shows the values there.
  const shown = value => Number(value.toPrecision(4)).toString();
  for (const figure of all(".chart.line")) {
    const svg = figure.querySelector("svg"), cursor = figure.querySelector(".cursor");
    const [low, high, start, end] = JSON.parse(svg.dataset.x);
    const curves = all(".series", svg).map(element => (
      {element, points: new Map(JSON.parse(element.dataset.points))}));
    const places = [...new Set(curves.flatMap(c => [...c.points.keys()]))].sort((a, b) => a - b);
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.setAttribute("aria-live", "polite");
    let chosen = -1;
    const hide = () => { figure.classList.remove("on"); tip.remove(); chosen = -1; };
    const tell = index => {
      chosen = index;
      const x = places[index];
      const across = start + (x - low) / (high - low) * (end - start);
      cursor.setAttribute("x1", across);
      cursor.setAttribute("x2", across);
      const rows = curves
        .filter(c => !c.element.classList.contains("off") && c.points.has(x))
        .sort((a, b) => b.points.get(x) - a.points.get(x));
      if (!rows.length) return hide();
      const title = document.createElement("b");
      title.textContent = "round " + x;
      tip.replaceChildren(title, ...rows.map(({element, points}) => {
        const row = document.createElement("span"), dot = document.createElement("i");
        const value = document.createElement("em");
        row.className = [...element.classList].find(name => /^c\\d$/.test(name));
        value.textContent = shown(points.get(x)) + svg.dataset.unit;
        row.append(dot, element.dataset.name, value);
        return row;
      }));
      figure.append(tip);
      figure.classList.add("on");
      const scale = svg.clientWidth / svg.viewBox.baseVal.width;
      const left = svg.offsetLeft || 12;
      const right = left + across * scale + 12;
      const fits = right + tip.offsetWidth < figure.clientWidth;
      tip.style.left = Math.max(4, fits ? right : right - tip.offsetWidth - 24) + "px";
      tip.style.top = "3.4rem";
    };
    const nearest = event => {
      const box = svg.getBoundingClientRect();
      const across = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
      const x = low + (across - start) / (end - start) * (high - low);
      const away = places.map(place => Math.abs(place - x));
      tell(away.indexOf(Math.min(...away)));
    };
    svg.addEventListener("pointermove", nearest);
    svg.addEventListener("pointerdown", nearest);
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", event => {
      if (event.key === "Escape") return hide();
      const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
      if (!step) return;
      event.preventDefault();
      tell(Math.min(places.length - 1, Math.max(0, chosen < 0 && step < 0 ? places.length - 1
        : chosen + step)));
    });
  }

  // Volumes: the slider moves all panels of a case to another slice.
  for (const input of all(".slider input")) {
    const place = input.closest(".case"), output = input.parentElement.querySelector("output");
    const slices = JSON.parse(input.dataset.slices);
    input.addEventListener("input", () => {
      place.style.setProperty("--slice", input.value);
      output.value = (slices[input.value] + 1) + " of " + input.dataset.depth;
      input.setAttribute("aria-valuetext", "slice " + output.value);
    });
  }
  for (const button of all("button.enlarge")) {
    button.addEventListener("click", () => {
      const on = button.closest(".case").classList.toggle("large");
      button.setAttribute("aria-pressed", String(on));
    });
  }

  // Tables: sort by a column; numbers as numbers, empty cells last.
  for (const button of all("button.sort")) {
    button.addEventListener("click", () => {
      const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
      const column = [...head.parentElement.children].indexOf(head);
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of all("th[aria-sort]", table)) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = row => {
        const data = row.children[column].querySelector("data");
        const text = row.children[column].textContent.trim();
        return data ? Number(data.value) : text === "\\u2013" ? "" : text;
      };
      const order = (a, b) => {
        const x = key(a), y = key(b);
        if (x === "" || y === "") return x === y ? 0 : x === "" ? 1 : -1;
        const way = typeof x === "number" && typeof y === "number" ? x - y
          : String(x).localeCompare(String(y), undefined, {numeric: true});
        return down ? -way : way;
      };
      body.append(...[...body.rows].sort(order));
    });
  }

  for (const box of all("input.only-changed")) {
    const apply = () => box.closest("section").querySelector("table.config")
      .classList.toggle("only", box.checked);
    box.addEventListener("change", apply);
    apply();
  }
  for (const button of all("button.copy")) {
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(button.dataset.text);
        button.textContent = "copied";
      } catch { button.textContent = "select and copy"; }
    });
  }
})();
"""
