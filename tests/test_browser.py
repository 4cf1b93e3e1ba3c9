"""The panels as a reader meets them: JupyterLab in a real browser, sliders moved by mouse and keyboard, pictures compared.

Screenshots are kept in runs/browser/.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import psutil
import pytest
from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
SHOTS = ROOT / "runs" / "browser"
PATIENCE = 120  # seconds to wait for a condition, on a machine that is busy with other things
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    "notebook-extension/tracker": {"windowingMode": "none"},  # cells out of sight stay on the page
}
PANELS = {
    "landscape": "landscape='tilted_ellipse', methods=('MEAZO', 'MeZO'), lr={'MeZO': 10**-0.6, 'MEAZO': 0.03}",
    "two_point": "eps=10**-4.5",
    "horizon": "beta2=0.75",
    "block_scales": "sigma1=0.25, sigma2=1.3, lr=10**-0.9",
    "bounds": "curvature_ratio=10**-0.3, lr=10**-0.6",
}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to look with; get it with: apt-get install chromium")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Opens a notebook in JupyterLab and gives its page; server and browser are shared and end with the module."""
    folder = tmp_path_factory.mktemp("lab")
    with jupyterlab(folder) as (address, token), sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        expect.set_options(timeout=PATIENCE * 1000)

        def open_and_run(notebook, name):
            (folder / "notebooks").mkdir(exist_ok=True)
            nbformat.write(notebook, folder / "notebooks" / f"{name}.ipynb")
            page = browser.new_page(viewport={"width": 1280, "height": 1000})
            page.set_default_timeout(PATIENCE * 1000)
            page.goto(f"{address}lab/workspaces/{name}/tree/notebooks/{name}.ipynb?token={token}")
            page.get_by_text("| Idle").wait_for()
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_text("Run All Cells", exact=True).click()
            return page

        yield open_and_run
        browser.close()


@contextmanager
def jupyterlab(folder):
    """JupyterLab on a free port of the loopback interface, with settings of its own and no news; gives address and token."""
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "IPYTHONDIR")
    places = {name: folder / name.lower() for name in (*places, "JUPYTERLAB_WORKSPACES_DIR")}
    for name, values in SETTINGS.items():
        path = places["JUPYTERLAB_SETTINGS_DIR"] / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    token, log = secrets.token_hex(16), folder / "jupyterlab.log"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.root_dir={folder}"]
    command += ["--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", f"--IdentityProvider.token={token}"]
    command += ["--LabApp.extension_manager=readonly", "--LabApp.news_url="]
    environment = {**os.environ, **{name: str(path) for name, path in places.items()}, "PYTHONPATH": str(ROOT)}
    with open(log, "w") as output:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        listening = places["JUPYTER_RUNTIME_DIR"] / f"jpserver-{server.pid}.json"
        deadline = time.monotonic() + PATIENCE
        while not (listening.exists() and listening.read_text().endswith("}")):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield json.loads(listening.read_text())["url"], token
    finally:
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        server.terminate()
        for process in psutil.wait_procs(family, timeout=20)[1]:
            process.kill()
        server.wait()


class PanelOnPage:
    """One panel, found by a label that only it has."""

    def __init__(self, page, label):
        self.page = page
        self.box = page.locator(".jp-OutputArea-output > .widget-vbox", has_text=label)
        self.goal = self.box.get_by_role("status").first  # a note may stand below it
        self.image = self.box.locator("img")
        self.image.wait_for()
        self.image.scroll_into_view_if_needed()

    def slider(self, label):
        return self.box.locator(".widget-slider", has_text=label)

    def press(self, label, *keys):
        self.slider(label).get_by_role("slider").focus()
        for key in keys:
            self.page.keyboard.press(key)

    @contextmanager
    def dragged(self, label, share):
        """Drag the handle to a share of its track with the mouse; inside, it is not yet let go."""
        handle, track = self.slider(label).get_by_role("slider"), self.slider(label).locator(".noUi-base").bounding_box()
        handle.hover()
        assert track["width"] >= 250
        self.page.mouse.down()
        self.page.mouse.move(track["x"] + share * track["width"], track["y"] + track["height"] / 2, steps=5)
        yield
        self.page.mouse.up()

    def picture(self):
        return bytes(self.image.evaluate("async img => [...new Uint8Array(await (await fetch(img.src)).arrayBuffer())]"))

    @contextmanager
    def redrawn(self):
        """What is done inside changes the picture."""
        before, address = self.picture(), self.image.get_attribute("src")
        assert before.startswith(b"\x89PNG")
        yield
        expect(self.image).not_to_have_attribute("src", address)
        assert self.picture() != before

    @contextmanager
    def goal_met(self):
        """What is done inside changes the picture and turns the goal line."""
        expect(self.goal).to_contain_text("○ Goal")
        with self.redrawn():
            yield
            expect(self.goal).to_contain_text("✓ Goal met")


def keep(page, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")
    print("kept", SHOTS / f"{name}.png")


def notebook_of(*sources):
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    return nbformat.v4.new_notebook(metadata=metadata, cells=[nbformat.v4.new_code_cell(source) for source in sources])


def test_panels_answer_mouse_and_keyboard(lab):
    imports = f"from zolab.widgets import {', '.join(f'{name}_panel' for name in PANELS)}"
    panels = (f"{name}_panel({start})" for name, start in PANELS.items())
    page = lab(notebook_of(imports, *panels, "import time; time.sleep(20)"), "panels")
    panel = PanelOnPage(page, "only two directions")
    busy = panel.box.locator(".zolab-busy")
    expect(busy).to_have_css("opacity", "1")
    expect(busy).to_contain_text("The kernel is busy")
    expect(busy).to_be_hidden()
    hint = panel.box.locator("details")
    expect(hint).not_to_have_attribute("open", "")
    hint.locator("summary").click()
    expect(hint).to_contain_text("Tick a second zeroth-order method")
    with panel.goal_met(), panel.dragged("lr of MEAZO", 0.85):
        expect(panel.goal).to_contain_text("✓ Goal met")  # while the mouse is down
    with panel.redrawn():
        panel.press("turn", "PageUp")
    keep(page, "landscape")
    for method in ("Adam", "SGD", "AdaMeZO"):
        panel.box.get_by_label(method, exact=True).check()
    expect(panel.goal).to_contain_text("✗ 5 methods are chosen; choose 1 to 4")
    panel = PanelOnPage(page, "precision")
    with panel.goal_met():
        panel.press("eps", *["ArrowLeft"] * 4)
    keep(page, "two_point")
    panel = PanelOnPage(page, "beta 1")
    with panel.goal_met():
        panel.press("beta 2", "ArrowLeft")
    keep(page, "horizon")
    panel = PanelOnPage(page, "sigma 2")
    with panel.goal_met():
        panel.press("sigma 1", "ArrowRight")
    keep(page, "block_scales")
    panel = PanelOnPage(page, "curvatures")
    with panel.goal_met():
        panel.press("learning rate", "ArrowRight")
    keep(page, "bounds")
    assert not re.search("Traceback|Error", page.locator(".jp-Notebook").inner_text())
