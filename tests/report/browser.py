"""A headless Chromium that opens a copy of a page with two scripts of ours: one in front that
collects errors, one behind that presses keys and writes down what it sees.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

BROWSER = next(
    (
        p
        for n in ("chromium", "chromium-browser", "google-chrome", "chrome")
        if (p := shutil.which(n))
    ),
    None,
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--enable-logging=stderr",
    "--window-size=1200,900",
    "--virtual-time-budget=8000",
    "--dump-dom",
)
LISTEN = """<script>
window.seen = {problems: []};
const note = text => window.seen.problems.push(String(text));
addEventListener("error", event => note(event.message));
addEventListener("unhandledrejection", event => note(event.reason));
addEventListener("securitypolicyviolation", event => note("blocked " + event.blockedURI));
for (const level of ["error", "warn"]) {
  const real = console[level];
  console[level] = (...words) => { note(words.join(" ")); real(...words); };
}
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const press = (element, key) => {
  element.focus();
  element.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
};
const visible = () => all("main > section[role=tabpanel]").filter(p => !p.hidden)
  .map(p => document.getElementById(p.getAttribute("aria-labelledby")).textContent);
</script>"""
TELL = """
const told = document.createElement("pre");
told.id = "told";
told.textContent = JSON.stringify(window.seen);
document.body.append(told);
"""


def browse(page: Path, tmp_path: Path, actions: str, fragment: str = "") -> dict[str, Any]:
    """Open a copy of a page, run actions in it, and return what they noted in `seen`."""
    text = page.read_text(encoding="utf-8")
    text = text.replace("<head>", f"<head>{LISTEN}", 1)
    text = text.replace("</body>", f"<script>{{{actions}}}\n{TELL}</script></body>", 1)
    copy = tmp_path / "copy.html"
    copy.write_text(text, encoding="utf-8")
    assert BROWSER is not None
    done = subprocess.run(
        [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", copy.as_uri() + fragment],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    printed = tmp_path / "printed.html"
    printed.write_text(done.stdout.replace("<!DOCTYPE html>", ""), encoding="utf-8")
    told = done.stdout.rpartition('<pre id="told">')[2].partition("</pre>")[0]
    seen: dict[str, Any] = json.loads(told.replace("&lt;", "<").replace("&amp;", "&"))
    assert seen["problems"] == []
    return seen
