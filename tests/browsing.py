"""A real browser: Chromium under Playwright, with JupyterLab or a page that `kt workbook` wrote
in it.

python tests/browsing.py      names what the browser tests lack; prints nothing where they run
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest

from kt_course.grading.release import release

ROOT = Path(__file__).resolve().parent.parent
SCREENSHOTS = ROOT / "runs" / "browser"  # kept after a run; git ignores it
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = [
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # this machine is the whole network
]
SOON, LONG = (
    180_000,
    900_000,
)  # milliseconds, for one thing and for a whole notebook; a wait ends when it is there

# JupyterLab's settings here: all cells in the page, no news, no boxes that pop up over what is
# typed.
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "completer-extension/inline-completer": {"providers": {}},
    "docmanager-extension/plugin": {"autosave": False},
    "extensionmanager-extension/plugin": {"enabled": False},
    "lsp-extension/plugin": {"activate": "off"},
}

# ---------------------------------------------------------------- the browser


def browser_path() -> str | None:
    """The browser to drive: $KT_CHROMIUM, else a Chromium or Chrome on the PATH."""
    return os.environ.get("KT_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def missing() -> str:
    """What the browser tests lack and how to get it; "" where they can run."""
    missing = []
    if find_spec("playwright") is None:
        missing.append("the Python package playwright (pip install playwright)")
    if browser_path() is None:
        missing.append("Chromium on the PATH (apt install chromium, or its path in KT_CHROMIUM)")
    return f"the browser tests did not run: install {' and '.join(missing)}" if missing else ""


@contextmanager
def chromium() -> Iterator:
    """A running headless browser."""
    from playwright.sync_api import sync_playwright

    root = (
        hasattr(os, "geteuid") and os.geteuid() == 0
    )  # Chromium's own sandbox refuses to run as root.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path(), headless=True, args=[*FLAGS, *["--no-sandbox"] * root]
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def tab(browser, width: int, height: int, home: str, **more) -> Iterator:
    """A page in a context of its own. Listed in `page.strays`: what it asks of any address but
    `home`, without effect.

    Errors of scripts are listed in `page.problems`.
    """
    context = browser.new_context(viewport={"width": width, "height": height}, **more)
    context.set_default_timeout(SOON)
    page = context.new_page()
    page.strays, page.problems = [], []
    allowed = (home, "data:", "blob:")
    context.on(
        "request",
        lambda request: request.url.startswith(allowed) or page.strays.append(request.url),
    )
    page.on("pageerror", lambda error: page.problems.append(str(error)[:300]))
    try:
        yield page
    finally:
        context.close()


class CpuClock:
    """The CPU time of a page. Unlike wall-clock time, it is the same on a busy machine."""

    def __init__(self, page):
        self._session = page.context.new_cdp_session(page)
        self._session.send("Performance.enable")

    def milliseconds(self, of: str = "ThreadTime") -> float:
        """CPU time so far of the main thread, or of all threads ("ProcessTime")."""
        metrics = self._session.send("Performance.getMetrics")["metrics"]
        return 1000 * next(one["value"] for one in metrics if one["name"] == of)


FRAME = 1000 / 60  # milliseconds: the longest wait for the frame that shows an effect
_ACT = """async ([i, script]) => {
  (globalThis.acts ??= {})[script] ??= new Function('i', script);
  globalThis.acts[script](i);
  await new Promise(done => requestAnimationFrame(() => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = done;
    port2.postMessage(0);
  }));
}"""


def event_to_paint(page, script: str, n: int = 40) -> float:
    """The 95th percentile, over n events, of the milliseconds until an effect is painted.

    That is the main thread's CPU time from the event to the end of the frame that shows its effect,
    and the longest wait for this frame.

    Args:
        script: JavaScript that causes event number `i`.
    """
    clock, times = CpuClock(page), []
    for i in range(-10, n):  # the browser compiles what is used often: the first ten do not count
        before = clock.milliseconds()
        page.evaluate(_ACT, [i + 10, script])
        times.append(clock.milliseconds() - before + FRAME)
    return sorted(times[10:])[int(0.95 * n)]


_CUT = """() => {
  const width = document.documentElement.clientWidth, found = [];
  if (document.scrollingElement.scrollWidth > width) found.push('the page itself');
  for (const e of document.querySelectorAll('body *')) {
    let r = e.getBoundingClientRect(), cut = false;
    if (!r.width || !r.height) continue;
    const root = document.documentElement;
    for (let p = e.parentElement; p && p !== root && !cut; p = p.parentElement) {
      const over = getComputedStyle(p).overflowX, box = p.getBoundingClientRect();
      if (over === 'auto' || over === 'scroll') r = box;  // what scrolls may be wide
      else if (over !== 'visible') cut = r.right > box.right + 1;
    }
    if (cut || r.right > width + 1 || r.left < -1)
      found.push(`${e.tagName}.${e.className}: ${e.textContent.slice(0, 60)}`);
  }
  return found.slice(0, 8);
}"""


def cut_off(page) -> list[str]:
    """What of a page lies out of sight sideways: beyond the screen, or cut by a box that does not
    scroll."""
    return page.evaluate(_CUT)


@cache
def axe_source() -> str:
    """The source of axe-core: the file that KT_AXE names, else fetched by npm for this run.

    Skips the test where there is neither.
    """
    if "KT_AXE" in os.environ:
        return Path(os.environ["KT_AXE"]).read_text(encoding="utf-8")
    if shutil.which("npm") is None:
        pytest.skip("needs npm, which fetches axe-core, or KT_AXE with the path of axe.min.js")
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "install", "--no-save", "--prefix", folder, "axe-core@4"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        source = Path(folder) / "node_modules" / "axe-core" / "axe.min.js"
        if not source.is_file():
            pytest.skip(f"npm did not fetch axe-core: {done.stderr[-200:]}")
        return source.read_text(encoding="utf-8")


def axe_findings(page, context: str = "document") -> list[tuple[str, str, str]]:
    """Serious and critical findings of axe-core: (rule, element, what is wrong)."""
    page.evaluate(axe_source())
    violations = page.evaluate(f"axe.run({context}).then(found => found.violations)")
    return [
        (one["id"], node["html"][:120], node["failureSummary"][:200])
        for one in violations
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"][:3]
    ]


# ---------------------------------------------------------------- JupyterLab


class Lab:
    """A JupyterLab server over learners' copies of the notebooks, as `kt release` makes them, in
    `folder`.

    stop() ends it and its kernels.
    """

    def __init__(self, folder: Path, profile: str):
        self.folder, self.token = folder / "notebooks", secrets.token_hex(16)
        for path in release(self.folder):
            text = path.read_text(encoding="utf-8")
            text = re.sub(
                r"""(?<=profile: str = )(\\?["'])quick\1""", rf"\g<1>{profile}\1", text, count=1
            )
            path.write_text(text, encoding="utf-8")
        for name, settings in SETTINGS.items():
            path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(settings), encoding="utf-8")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{free.getsockname()[1]}"
        environment = {
            **os.environ,
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / "data"),  # No kernels of the user's own.
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
            "IPYTHONDIR": str(folder / "ipython"),
            "KT_PROGRESS_FILE": str(folder / "progress.json"),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        }
        for name in (
            "JUPYTER_PATH",
            "KT_PROGRESS",
        ):  # a learner has bars, and buttons below questions
            environment.pop(name, None)
        options = {
            "--ip": "127.0.0.1",
            "--port": self.address.rsplit(":", 1)[1],
            "--ServerApp.port_retries": "0",
            "--IdentityProvider.token": self.token,
            "--ServerApp.root_dir": str(self.folder),
            "--LabApp.expose_app_in_browser": "True",
        }
        self.log = folder / "lab.log"
        with self.log.open("w") as log:
            self.server = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "jupyterlab",
                    "--no-browser",
                    "--allow-root",
                    *map("=".join, options.items()),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=folder,
                start_new_session=True,
            )

    def ask(self, path: str, method: str = "GET"):
        """What the server's own interface tells."""
        headers = {"Authorization": f"token {self.token}"}
        with urllib.request.urlopen(
            urllib.request.Request(self.address + path, method=method, headers=headers), timeout=30
        ) as reply:
            return json.loads(reply.read() or "null")

    def url(self, name: str) -> str:
        """Where a notebook opens in a fresh workspace."""
        return f"{self.address}/lab/tree/{name}.ipynb?token={self.token}&reset"

    def close(self, name: str) -> None:
        """End a notebook's kernel: its models take much memory."""
        for session in self.ask("/api/sessions"):
            if session["path"] == f"{name}.ipynb":
                self.ask(f"/api/sessions/{session['id']}", "DELETE")

    def stop(self) -> None:
        """End the server, and whatever it started."""
        self.server.terminate()
        try:
            self.server.wait(30)
        except subprocess.TimeoutExpired:
            pass
        if hasattr(os, "killpg"):
            try:
                os.killpg(self.server.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.server.wait(30)


@contextmanager
def jupyterlab(folder: Path, profile: str = "quick") -> Iterator[Lab]:
    """A running JupyterLab; RuntimeError with its last words if it does not start."""
    lab = Lab(folder, profile)
    try:

        def up() -> bool:
            if lab.server.poll() is not None:
                raise RuntimeError(f"JupyterLab did not start:\n{lab.log.read_text()[-2000:]}")
            return bool(lab.ask("/api/status"))

        until(up, SOON, "JupyterLab's server")
        yield lab
    finally:
        lab.stop()


def until(met: Callable[[], bool], milliseconds: float, what: str) -> None:
    """Come back as soon as `met()` is true; TimeoutError, naming `what`, if it never is."""
    end = time.monotonic() + milliseconds / 1000
    while True:
        try:
            if met():
                return
        except OSError:  # The server is not there yet.
            pass
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not there after {milliseconds / 1000:.0f} seconds")
        time.sleep(0.1)


# ---------------------------------------------------------------- a notebook in it

# Close what is open without a question about changes, and open another file.
_OPEN_NEXT = """async path => {
  for (const widget of [...jupyterapp.shell.widgets('main')]) widget.dispose();
  await jupyterapp.commands.execute('docmanager:open', { path });
}"""
_READY = """async path => {
  const sessions = await (await fetch('/api/sessions')).json();
  const ready = kernel => kernel.connections && kernel.execution_state === 'idle';
  return sessions.some(session => session.path === path && ready(session.kernel));
}"""
_RAN = """() => {
  const selector = '.jp-Notebook .jp-CodeCell .jp-InputPrompt';
  const prompts = [...document.querySelectorAll(selector)].map(e => e.textContent);
  const failed = document.querySelector('[data-mime-type="application/vnd.jupyter.error"]');
  const isRunning = prompts.some(text => text.includes('*'));
  return prompts.every(text => /\\d/.test(text)) || failed && !isRunning;
}"""
_TROUBLE = ", ".join(
    f'.jp-Notebook [data-mime-type="application/vnd.jupyter.{kind}"]'
    for kind in ("error", "stderr")
)


class Notebook:
    """A notebook open in JupyterLab, its kernel started.

    A page that JupyterLab is in already opens it there: to load JupyterLab takes seconds.
    """

    def __init__(self, page, lab: Lab, name: str):
        self.page, self.name = page, Path(name).name
        self.sources = [
            c.source for c in nbformat.read(lab.folder / f"{name}.ipynb", as_version=4).cells
        ]
        if page.url.startswith(lab.address):
            page.evaluate(_OPEN_NEXT, f"{name}.ipynb")
        else:
            page.add_locator_handler(  # JupyterLab asks when the list of kernels comes late
                page.locator(".jp-Dialog", has_text="Select kernel for"),
                lambda dialog: dialog.locator(".jp-mod-accept").click(),
            )
            page.goto(lab.url(name))
        page.locator(".jp-Notebook .jp-Cell").nth(len(self.sources) - 1).wait_for(state="attached")
        page.wait_for_function(_READY, arg=f"{name}.ipynb")

    def run_all(self) -> None:
        """Run > Run All Cells, and wait for the last one, or for an error."""
        first = self.page.locator(
            ".jp-Notebook .jp-CodeCell .jp-InputPrompt"
        ).first.element_handle()
        for _ in range(10):
            self.page.click('.lm-MenuBar-item:has-text("Run")')
            self.page.click('.lm-Menu-item[data-command="runmenu:run-all"]')
            try:  # right after a kernel's start JupyterLab may silently do nothing
                self.page.wait_for_function(
                    "e => /[*\\d]/.test(e.textContent)", arg=first, timeout=5000
                )
                break
            except Exception as error:
                if "Timeout" not in str(error):
                    raise
        self.page.wait_for_function(_RAN, timeout=LONG)

    def trouble(self) -> list[str]:
        """Errors and warnings among the outputs."""
        return [text[-1500:] for text in self.page.locator(_TROUBLE).all_inner_texts()]

    def open_cells(self) -> list[str]:
        """Prompts of cells that did not run."""
        prompts = self.page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").all_inner_texts()
        return [text for text in prompts if not any(map(str.isdigit, text))]

    def cell(self, text: str):
        """The first cell that has `text` in its source."""
        number = next(i for i, source in enumerate(self.sources) if text in source)
        return self.page.locator(".jp-Notebook .jp-Cell").nth(number)

    def answer(self, id: str, source: str) -> str:
        """Type `source` into the cell of an exercise, run it with Ctrl+Enter; the line that it
        prints."""
        cell = self.cell(f'exercise("{id}")')
        prompt = cell.locator(".jp-InputPrompt")
        before = prompt.inner_text()
        cell.locator(".cm-content").click()
        self.page.keyboard.press("ControlOrMeta+A")
        self.page.keyboard.insert_text(source)
        self.page.keyboard.press("Control+Enter")
        self.page.wait_for_function(
            "([e, before]) => /\\d/.test(e.textContent) && e.textContent !== before",
            arg=[prompt.element_handle(), before],
        )
        return cell.locator(".jp-OutputArea-output").first.inner_text().strip()


def move(control) -> None:
    """A slider by one step, a list to its next entry, another text into a text field: as a user
    does it."""
    kind = control.evaluate("e => e.tagName")
    if kind == "SELECT":
        chosen, many = control.evaluate("e => [e.selectedIndex, e.options.length]")
        control.select_option(index=(chosen + 1) % many)
    elif kind == "INPUT" and control.get_attribute("type") == "range":
        is_last = control.input_value() == control.get_attribute("max")
        control.press("ArrowLeft" if is_last else "ArrowRight")
    elif kind == "INPUT":
        offered = control.evaluate("e => [...(e.list?.options ?? [])].map(each => each.value)")
        now = control.input_value()
        control.fill(next((each for each in offered if each != now), now[: len(now) // 2]))
        control.press("Enter")
    else:
        value, high = (float(control.get_attribute(f"aria-value{name}")) for name in ("now", "max"))
        control.press("ArrowLeft" if value >= high else "ArrowRight")


if __name__ == "__main__":
    print(end=missing() and f"{missing()}\n")
