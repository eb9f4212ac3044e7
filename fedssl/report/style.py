"""The page's style sheet: light and dark, from a phone to a wide screen, and on paper."""

from __future__ import annotations

from typing import Final

__all__ = ["STYLE"]

STYLE: Final = """
:root {
  color-scheme: light dark;
  --bg: #f5f6f8; --card: #ffffff; --ink: #16202b; --muted: #56636f; --line: #e0e5ea;
  --faint: #eef1f4; --accent: #0b62a0; --accent-soft: #e2eef8; --soft-bar: #9cc8e8;
  --warn: #8a5300; --warn-bg: #fff4dd;
  --s0: #0067a5; --s1: #c6520c; --s2: #007e5b; --s3: #a2407f; --s4: #a37100; --s5: #4b57c2;
  --s6: #59636d; --s7: #b3261e;
  --radius: 12px;
}
@media (prefers-color-scheme: dark) {
  :root {
    --bg: #0e1318; --card: #171e26; --ink: #e8edf2; --muted: #9fadba; --line: #2a343f;
    --faint: #1e2730; --accent: #6cb8ee; --accent-soft: #16324a; --soft-bar: #2c6491;
    --warn: #f3c877; --warn-bg: #33270f;
    --s0: #5fb4ee; --s1: #ff9257; --s2: #37cfa0; --s3: #e594c4; --s4: #edc044; --s5: #a3adff;
    --s6: #b3bec9; --s7: #ff8f86;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-padding-top: 4rem; }
body {
  margin: 0; background: var(--bg); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
.wrap { max-width: 1240px; margin: 0 auto; padding: 0 clamp(14px, 3vw, 32px); }
h1 { font-size: clamp(1.4rem, 4vw, 1.95rem); line-height: 1.2; margin: 0; letter-spacing: -.02em; }
h1 span { color: var(--muted); font-weight: 400; }
h2 { font-size: 1.15rem; margin: 2.1rem 0 .8rem; letter-spacing: -.01em; }
h3 { font-size: 1rem; margin: 1.6rem 0 .6rem; }
p { max-width: 76ch; margin: .5rem 0; }
a { color: var(--accent); }
code, .mono {
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .9em;
}
code { background: var(--faint); border-radius: 4px; padding: .05em .3em; }
.quiet { color: var(--muted); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 6px; }

header.top { padding-top: 30px; padding-bottom: 4px; }
.brand {
  font-size: .76rem; font-weight: 600; letter-spacing: .08em; text-transform: uppercase;
  color: var(--muted); margin: 0 0 .35rem;
}
.summary { color: var(--muted); margin: .45rem 0 0; }
dl.facts { display: flex; flex-wrap: wrap; gap: .5rem 1.7rem; margin: 1rem 0 .4rem; }
dl.facts div { min-width: 0; }
dl.facts dt { color: var(--muted); font-size: .76rem; }
dl.facts dd { margin: 0; font-weight: 550; overflow-wrap: anywhere; }
dl.facts .digest { display: flex; align-items: center; gap: .5rem; font-weight: 400; }

button, select, input { font: inherit; color: inherit; }
.plain {
  border: 1px solid var(--line); background: var(--card); border-radius: 8px;
  padding: .1rem .6rem; cursor: pointer; font-size: .82rem; white-space: nowrap; flex: none;
}
.plain:hover { border-color: var(--accent); }

.bar-top {
  position: sticky; top: 0; z-index: 5; background: var(--bg); margin-top: .6rem;
  border-bottom: 1px solid var(--line);
}
[role=tablist] {
  display: flex; gap: .15rem; overflow-x: auto; scrollbar-width: none;
}
[role=tab] {
  border: 0; background: none; padding: .75rem .95rem .65rem; cursor: pointer; white-space: nowrap;
  color: var(--muted); border-bottom: 3px solid transparent; font-weight: 550;
}
[role=tab]:hover { color: var(--ink); }
[role=tab][aria-selected=true] { color: var(--ink); border-color: var(--accent); }
[role=tab]:focus-visible { outline-offset: -3px; }
.inner[role=tablist] { flex-wrap: wrap; gap: .4rem; margin: .2rem 0 1rem; overflow: visible; }
.inner [role=tab], .legend button {
  display: inline-flex; align-items: center; gap: .45rem; border: 1px solid var(--line);
  background: var(--card); border-radius: 99px; padding: .22rem .85rem; font-size: .88rem;
  font-weight: 500; color: var(--ink); cursor: pointer;
}
.inner [role=tab][aria-selected=true] {
  background: var(--accent-soft); border-color: var(--accent); color: var(--ink);
}
[role=tabpanel] { padding-bottom: 3rem; }
[role=tabpanel]:focus-visible { outline-offset: 6px; }
.js [role=tabpanel][hidden] { display: none; }

.cards {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin: 1.4rem 0;
}
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: var(--radius);
  padding: .8rem 1rem .85rem;
}
.card b { display: block; font-size: 1.6rem; line-height: 1.25; letter-spacing: -.02em;
  font-weight: 650; font-variant-numeric: tabular-nums; }
.card span { color: var(--muted); font-size: .82rem; }

.scroll {
  overflow-x: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: var(--radius);
}
table { border-collapse: collapse; width: 100%; font-size: .91rem; }
th, td { padding: .5rem .8rem; text-align: left; border-bottom: 1px solid var(--line); }
thead th { font-weight: 600; color: var(--muted); font-size: .8rem; vertical-align: bottom; }
thead th.group { text-align: center; border-bottom-color: transparent; padding-bottom: 0;
  color: var(--ink); }
tbody tr:last-child > *, tfoot tr:last-child > * { border-bottom: 0; }
tbody th { font-weight: 600; white-space: nowrap; }
th:first-child { position: sticky; left: 0; background: var(--card); }
tfoot > tr:first-child > * { border-top: 2px solid var(--line); }
tfoot th { font-weight: 500; color: var(--muted); white-space: nowrap; }
.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.share data { display: inline-block; min-width: 3.4em; position: relative; }
td.share { background: linear-gradient(to right, var(--soft-bar) calc(var(--v) * 100%),
  transparent 0) no-repeat .35rem calc(100% - .32rem) / calc(100% - .7rem) 4px; }
td.best data { font-weight: 700; }
th button.sort { border: 0; background: none; padding: 0; font-weight: 600; cursor: pointer;
  color: inherit; }
th button.sort::after { content: "\\2195"; opacity: .35; padding-left: .3em; }
th[aria-sort=ascending] button.sort::after { content: "\\2191"; opacity: 1; }
th[aria-sort=descending] button.sort::after { content: "\\2193"; opacity: 1; }
.role { display: inline-block; border-radius: 99px; padding: 0 .6rem; font-size: .8rem;
  background: var(--faint); white-space: nowrap; }
.role.unlabeled { background: var(--accent-soft); }
.note {
  border-left: 3px solid var(--accent); padding: .1rem 0 .1rem .9rem; margin: 1rem 0;
}
.note.warn { border-color: var(--warn); background: var(--warn-bg); border-radius: 0 8px 8px 0;
  padding: .45rem .9rem; }

.spaced { padding-top: 1.1rem; }
.legend { display: flex; flex-wrap: wrap; gap: .4rem; align-items: center; margin: 1.2rem 0; }
.legend button[aria-pressed=false] { opacity: .5; text-decoration: line-through; }
.legend svg { width: 26px; height: 8px; overflow: visible; }
.charts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 365px), 1fr)); gap: 14px;
}
.chart {
  position: relative; margin: 0; background: var(--card); border: 1px solid var(--line);
  border-radius: var(--radius); padding: .8rem .8rem .5rem;
}
.chart figcaption { font-weight: 600; font-size: .93rem; padding: 0 .2rem .45rem; }
.chart figcaption small { display: block; font-weight: 400; color: var(--muted);
  font-size: .82rem; }
.chart svg { display: block; width: 100%; height: auto; touch-action: pan-y; }
svg text { fill: var(--muted); font-size: 11.5px; font-variant-numeric: tabular-nums; }
svg text.value { fill: var(--ink); }
svg .grid { stroke: var(--line); stroke-width: 1; }
.c0 { --c: var(--s0); } .c1 { --c: var(--s1); } .c2 { --c: var(--s2); } .c3 { --c: var(--s3); }
.c4 { --c: var(--s4); } .c5 { --c: var(--s5); } .c6 { --c: var(--s6); } .c7 { --c: var(--s7); }
.line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; }
.dashed .line { stroke-dasharray: 7 4; }
.dotted .line { stroke-dasharray: 2 3.5; }
.dots { fill: none; stroke: var(--c); stroke-width: 5.5; stroke-linecap: round; }
.series.off, .chart:not(.on) .cursor { display: none; }
.cursor { stroke: var(--muted); stroke-dasharray: 3 3; }
.bar { fill: var(--c); }
.strip circle { fill: var(--c); fill-opacity: .75; }
.strip .box { fill: var(--c); fill-opacity: .2; stroke: var(--c); stroke-opacity: .6; }
.strip .median { stroke: var(--c); stroke-width: 2.5; }
.tip {
  position: absolute; z-index: 4; pointer-events: none; background: var(--card); color: var(--ink);
  border: 1px solid var(--line); border-radius: 8px; padding: .35rem .6rem; font-size: .8rem;
  box-shadow: 0 6px 22px rgb(0 0 0 / .18); white-space: nowrap;
}
.tip b { display: block; }
.tip i { display: inline-block; width: .6em; height: .6em; border-radius: 50%; background: var(--c);
  margin-right: .4em; }
.tip span { display: flex; align-items: baseline; }
.tip em { margin-left: auto; padding-left: 1.1em; font-style: normal;
  font-variant-numeric: tabular-nums; }

.cases { display: grid; gap: 14px; }
.case { background: var(--card); border: 1px solid var(--line); border-radius: var(--radius);
  padding: .85rem 1rem 1rem; min-width: 0; }
.case header { display: grid; grid-template-columns: 1fr auto; gap: 0 .9rem; margin-bottom: .6rem; }
.case h4 { margin: 0; font-size: .98rem; overflow-wrap: anywhere; }
.case header .quiet { grid-column: 1; font-size: .88rem; }
.case header .plain { grid-area: 1 / 2 / 3 / 3; align-self: center; }
.panels { display: grid; grid-template-columns: repeat(4, 1fr); gap: 8px; }
.panels.three { grid-template-columns: repeat(3, 1fr); }
.panels.two { grid-template-columns: repeat(2, 1fr); }
.panels figure { margin: 0; min-width: 0; }
.panels figcaption { font-size: .82rem; font-weight: 550; padding-top: .3rem; line-height: 1.35; }
.picture {
  width: 100%; border-radius: 6px; background-color: #000; background-repeat: no-repeat;
  background-size: 100% calc(100% * var(--n));
  background-position: 0 calc(100% * var(--slice) / var(--d));
}
.keys { display: flex; flex-wrap: wrap; gap: .05rem .8rem; color: var(--muted); font-size: .78rem;
  font-weight: 400; }
.keys span { white-space: nowrap; }
.keys i { display: inline-block; width: .68em; height: .68em; border-radius: 2px;
  margin-right: .35em; border: 1px solid rgb(0 0 0 / .25); }
.slider { display: flex; align-items: center; gap: .8rem; margin-top: .7rem; font-size: .85rem;
  color: var(--muted); }
.slider input { flex: 1; min-width: 0; accent-color: var(--accent); height: 1.6rem; }
.slider output { min-width: 9ch; text-align: right; font-variant-numeric: tabular-nums; }
details > summary { cursor: pointer; font-weight: 600; padding: .6rem 0; }
.changed td:nth-child(2) { font-weight: 650; }
.config td { overflow-wrap: anywhere; }
.config .section th { background: var(--faint); color: var(--muted); font-size: .82rem; }
.only tr.same { display: none; }
.check { display: inline-flex; gap: .5rem; align-items: center; margin: .8rem 0; cursor: pointer; }
.check input { accent-color: var(--accent); width: 1.05rem; height: 1.05rem; }
.prose { background: var(--card); border: 1px solid var(--line); border-radius: var(--radius);
  padding: .6rem 1.2rem .9rem; }
footer { color: var(--muted); font-size: .82rem; padding: 1.2rem 0 2.4rem;
  border-top: 1px solid var(--line); }

@media (max-width: 620px) {
  body { font-size: 14.5px; }
  header.top { padding-top: 20px; }
  .cards { grid-template-columns: repeat(2, 1fr); gap: 9px; }
  .card { padding: .6rem .8rem; }
  .card b { font-size: 1.3rem; }
  .panels, .panels.three { grid-template-columns: repeat(2, 1fr); }
  .case { padding: .7rem .75rem .85rem; }
  th, td { padding: .42rem .55rem; }
  .config td:nth-child(4), .config th:nth-child(4) { display: none; }
  .chart { padding: .7rem .5rem .4rem; }
}
.large .panels, .large .panels.three { grid-template-columns: repeat(2, 1fr); }
@media (max-width: 620px) { .large .panels, .large .panels.three { grid-template-columns: 1fr; } }
@media print {
  .js [role=tabpanel][hidden] { display: block; }
  .bar-top, .plain, .slider { display: none; }
  .chart, .case, .card { break-inside: avoid; }
  body { background: #fff; }
}
"""
