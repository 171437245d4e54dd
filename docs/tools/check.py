"""Check the built site, and take pictures of it.

    python docs/tools/check.py              formulas, links, pictures, and widths in a browser
    python docs/tools/check.py screenshots  every page at both widths, into build/screenshots

The browser is Chromium, if there is one: `chromium` on the PATH, or what the variable CHROMIUM names.
"""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[2]
WIDTHS = (1366, 390)
LONGEST = 12_000  # pixels of a picture
SILENT = {"pre", "code", "script", "style", "math", "svg"}
TEX = re.compile(r"\\[a-zA-Z]{2,}|\$\$|\\[()\[\]]")


class Page(HTMLParser):
    """What of a page can be checked without a browser."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.without_alt: list[str] = []
        self.words: list[str] = []
        self.num_formulas = 0
        self._silent: list[str] = []
        self._has_url = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect ids, links, and what a browser fetches."""
        given = {name: value or "" for name, value in attrs}
        if tag in SILENT or "clipboard-copy-txt" in given.get("class", ""):  # of a notebook's cell
            self._silent.append(tag)
        self.num_formulas += tag == "math"
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if given.get("src"):
            self.fetched.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon"):
            self.fetched.append(given["href"])
        alt = given.get("alt", "").strip()
        if tag == "img" and (not alt or alt.startswith("No description")):
            self.without_alt.append(given.get("src", "")[:80])

    def handle_endtag(self, tag: str) -> None:
        """Leave what is not prose."""
        if self._silent and tag == self._silent[-1]:
            self._silent.pop()

    def handle_data(self, data: str) -> None:
        """Keep the prose."""
        if not self._silent:
            self.words.append(data)


def faults(site: Path) -> list[str]:
    """Raw TeX, broken links, pictures without a description, and what is fetched from elsewhere."""
    pages = {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = str(path.relative_to(site))
        found += [f"{name}: raw TeX {tex!r}" for tex in TEX.findall(" ".join(page.words))]
        found += [f"{name}: no description of {src}" for src in page.without_alt]
        found += [
            f"{name}: fetched from elsewhere: {x}" for x in page.fetched if urlsplit(x).netloc
        ]
        if name == "404.html":  # its links are those of a site at the root of a host
            continue
        for link in [*page.links, *page.fetched]:
            if (problem := _leads_nowhere(link, path, pages)) is not None:
                found.append(f"{name}: {problem} {link}")
    return found


def _leads_nowhere(link: str, path: Path, pages: dict[Path, Page]) -> str | None:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
    target = target / "index.html" if target.is_dir() else target
    if not target.is_file():
        return "no file"
    known = {page.resolve(): page for page in pages}
    anchor = unquote(parts.fragment)
    if anchor and target.suffix == ".html" and anchor not in pages[known[target]].ids | {"__top"}:
        return "no anchor"
    return None


# Loads each page into a frame of each width and sends home what does not fit.
HARNESS = """<!doctype html><body style="margin:0"><script>
const WIDTHS = %s, PAGES = %s;
const wait = ms => new Promise(done => setTimeout(done, ms));
async function measured(page, width) {
  const frame = document.createElement("iframe");
  frame.style = `width:${width}px;height:900px;border:0`;
  const loaded = new Promise(done => frame.onload = done);
  frame.src = "/" + page;
  document.body.append(frame);
  await loaded;
  await wait(150);
  const doc = frame.contentDocument, column = doc.querySelector(".md-content__inner"), wide = [];
  if (doc.documentElement.scrollWidth > width + 1) wide.push(`page ${doc.documentElement.scrollWidth}`);
  const edge = column.getBoundingClientRect().right + 1;
  for (const item of column.querySelectorAll("table, .formula, math, .doc-contents pre, img")) {
    const box = item.closest(".highlighttable") ? null : item.getBoundingClientRect();
    if (!box || !box.width) continue;
    const inside = item.scrollWidth - item.clientWidth, text = item.textContent.trim();
    if (box.right > edge || (!["IMG", "math"].includes(item.tagName) && item.clientWidth && inside > 1))
      wide.push(`${item.tagName} ${Math.round(box.width)} + ${inside}: ${text.slice(0, 60)}`);
  }
  const height = doc.documentElement.scrollHeight;
  frame.remove();
  return {page, width, height, wide};
}
(async () => {
  const found = [];
  for (const page of PAGES) for (const width of WIDTHS) found.push(await measured(page, width));
  await fetch("/found", {method: "POST", body: JSON.stringify(found)});
})();
</script>"""


def browser() -> str | None:
    """Chromium, if there is one."""
    return (
        os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    )


def _headless(*words: str) -> list[str]:
    quiet = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
    ]
    return [browser() or "chromium", *quiet, "--no-first-run", *words]


class _Server(http.server.ThreadingHTTPServer):
    """The site, on this machine alone, for as long as it is looked at."""

    def __init__(self, site: Path, harness: str) -> None:
        self.harness, self.found, self.is_done = harness, [], threading.Event()
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler, directory=str(site)))
        self.address = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(http.server.SimpleHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        """The harness, or a file of the site."""
        if self.path != "/harness":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(self.server.harness.encode())
        return None

    def do_POST(self) -> None:
        """What the harness has found."""
        self.server.found = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
        self.server.is_done.set()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def measured(site: Path, seconds: float = 300) -> list[dict[str, Any]]:
    """Every page at each width: its height, and what is wider than the column it stands in.

    Raises:
        TimeoutError: The browser did not come to an end.
    """
    pages = [str(p.relative_to(site)) for p in sorted(site.rglob("*.html")) if p.name != "404.html"]
    with (
        _Server(site, HARNESS % (json.dumps(WIDTHS), json.dumps(pages))) as server,
        tempfile.TemporaryDirectory() as profile,
    ):
        words = _headless(
            f"--user-data-dir={profile}", "--window-size=1400,900", "--remote-debugging-port=0"
        )
        process = subprocess.Popen(
            [*words, f"{server.address}/harness"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        is_done = server.is_done.wait(seconds)
        process.terminate()
        process.wait()
        server.shutdown()
        if not is_done:
            raise TimeoutError(f"Chromium has not measured {len(pages)} pages in {seconds:g} s.")
        return server.found


def too_wide(site: Path) -> list[str]:
    """What is wider than its column, as sentences."""
    return [
        f"{look['page']} at {look['width']} pixels: {item}"
        for look in measured(site)
        for item in look["wide"]
    ]


def screenshots(site: Path, to: Path) -> None:
    """A picture of every page at each width, of its first 12,000 pixels."""
    to.mkdir(parents=True, exist_ok=True)
    looks = measured(site)
    with _Server(site, "") as server, tempfile.TemporaryDirectory() as profile:
        for look in looks:
            name = look["page"].removesuffix("index.html").strip("/").replace("/", "-") or "home"
            path = to / f"{name}-{look['width']}.png"
            size = f"--window-size={look['width']},{min(look['height'], LONGEST)}"
            words = [f"--user-data-dir={profile}", size, f"--screenshot={path}"]
            url = f"{server.address}/{look['page']}"
            subprocess.run(_headless(*words, url), check=True, capture_output=True)
            print(path)
        server.shutdown()


def main() -> int:
    """The command."""
    site = ROOT / "site"
    if sys.argv[1:] == ["screenshots"]:
        screenshots(site, ROOT / "build" / "screenshots")
        return 0
    found = faults(site)
    if browser():
        found += too_wide(site)
    else:
        print("No Chromium: widths are not checked. apt-get install chromium, or set CHROMIUM.")
    print(*found, sep="\n")
    pages = len(list(site.rglob("*.html")))
    print(f"{pages} pages, {len(found)} faults.")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
