"""The HTML report in a real browser: what it shows, its keys, its colours, and how long a large graph takes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from burnish.inspect.html import report
from burnish.ir.trace import Check, Trace
from tests.inspect.traces import HOSTILE, call, large, layered, other, record

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
from playwright.sync_api import Browser, Page  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in BROWSERS if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"needs one of {', '.join(BROWSERS)} on the PATH")

AFTER = ".pane:last-child"
Opener = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests here."""
    alone = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox does not run as root
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=alone)
        yield launched
        launched.close()


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Opener]:
    """Opens the report of a trace, at the last pass or at an address; the test fails if the page logs an error or asks for anything but itself."""
    complaints: list[str] = []
    pages: list[Page] = []

    def open_report(
        trace: Trace, width: int = 1280, height: int = 800, scheme: str = "light", address: str | None = None
    ) -> Page:
        file = tmp_path / "report.html"
        file.write_text(report(trace, "model"), encoding="utf-8")
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
        pages.append(page)
        page.set_default_timeout(10_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        own = file.as_uri()
        page.on("request", lambda request: complaints.append(request.url) if request.url.split("#")[0] != own else None)
        page.goto(own + (f"#pass={trace.passes[-1].number}" if address is None else address))
        return page

    yield open_report
    for page in pages:
        page.close()
    assert not complaints


def boxes(page: Page, pane: str = AFTER) -> list[str]:
    """What the boxes of a graph are called by a screen reader."""
    return page.eval_on_selector_all(f"{pane} [role=treeitem]", "all => all.map(each => each.ariaLabel)")


def at(page: Page) -> str:
    """The box that the keyboard is at."""
    return str(
        page.evaluate(
            "document.getElementById(document.activeElement.getAttribute('aria-activedescendant')).getAttribute('data-key')"
        )
    )


def test_thirty_layers_open_as_a_dozen_boxes(opened: Opener) -> None:
    page = opened(layered(30))
    found = boxes(page)
    assert len(found) <= 12
    assert any(label.startswith("layers 0–29, 30× ") for label in found)
    rows = page.locator("#passes li").all_inner_texts()
    assert rows[0] == "Overview"
    assert [row.split("\n")[1].split("≈")[0] for row in rows[1:]] == ["captured", "raise-norms", "raise-gates"]
    assert "30 rewrites" in rows[2]
    assert "error 2e-7" in rows[2]
    assert "1 refused" in rows[3]
    assert "cache 46.1 kB/token" in rows[3]


def test_the_report_opens_with_what_the_passes_as_a_whole_did(opened: Opener) -> None:
    trace = layered(30)
    trace.checks = [Check("2 rows of 8 tokens", "the backend native"), Check("texts longer than 551 tokens", "")]
    page = opened(trace, address="")
    assert not page.locator("#stage").is_visible()
    told = page.locator("#overview").inner_text()
    assert "3 passes" not in told and "2 passes made 30 rewrites" in told
    assert page.locator(".tiles li").first.inner_text().split("\n") == ["launches", "121", "from 181", "1.5× less"]
    assert "46.1 kB" in told
    assert page.locator(".most a").all_inner_texts() == ["1raise-norms"]
    assert "launches 181 → 121 · moved 181.0 kB → 121.0 kB" in page.locator(".most").inner_text()
    checks = page.locator(".checks").inner_text()
    assert "✓ the backend native" in checks and "2 rows of 8 tokens" in checks
    assert "texts longer than 551 tokens" in page.locator(".missing + dd").inner_text()
    assert "1 of 2 were run; largest error 2e-7 in 1raise-norms" in checks
    assert "1 place, by 2raise-gates" in checks
    page.click(".most a")
    assert page.locator("#passes [aria-selected=true]").get_attribute("id") == "pass-1"
    assert page.locator("#stage").is_visible() and not page.locator("#overview").is_visible()
    page.go_back()
    assert page.locator("#overview").is_visible()


def test_phases_are_a_timeline_where_there_are_times(opened: Opener) -> None:
    trace = layered(3)
    trace.phases = {"capture": 3.0, "passes": 1.0}
    page = opened(trace, address="")
    tracks = page.locator(".timeline .track").all()
    bars = [track.locator("i").bounding_box() for track in tracks]
    assert bars[0] and bars[1]
    assert bars[0]["width"] == pytest.approx(3 * bars[1]["width"], rel=0.01)
    assert bars[1]["x"] == pytest.approx(bars[0]["x"] + bars[0]["width"], abs=1)
    assert "4.0 s in all" in page.locator("#story").inner_text()
    trace.phases = {}
    assert "An artifact keeps no times" in opened(trace, address="").locator("#story").inner_text()


def test_the_address_names_the_pass_and_the_node(opened: Opener) -> None:
    page = opened(layered(30))
    page.click("#pass-1")
    page.fill("#search", "layers.7.norm")
    page.keyboard.press("Enter")
    page.fill("#search", "neg_3")
    page.keyboard.press("Enter")
    assert page.url.endswith("#pass=1&node=neg_3")
    page.go_back()
    assert page.url.endswith("#pass=1&node=rms_norm_7")
    assert "%rms_norm_7" in page.locator("#details").inner_text()
    page.go_back()
    assert page.url.endswith("#pass=1")
    page.go_forward()
    assert "%rms_norm_7" in page.locator("#details").inner_text()
    page.focus("#passes")
    page.keyboard.press("ArrowDown")
    assert page.url.endswith("#pass=2")
    page.go_back()
    assert page.url.endswith("#pass=1")


@pytest.mark.parametrize(
    ("address", "chosen", "heading"),
    [
        ("#pass=1&node=neg_3", "n:neg_3", "aten.neg"),
        ("#pass=1&node=model.layers.7.mlp", "m:model.layers.7.mlp", "mlp"),
        ("#pass=1&node=r%3Amodel.layers%3A0", "r:model.layers:0", "layers 0–29"),
        ("#pass=1&node=mul_5&side=before&view=before", "n:mul_5", "aten.mul.Tensor"),
        ("#pass=1&node=nothing&view=after", None, "raise-norms"),
    ],
)
def test_a_link_that_is_opened_shows_what_it_names(
    opened: Opener, address: str, chosen: str | None, heading: str
) -> None:
    page = opened(layered(30), address=address)
    assert page.locator("#passes [aria-selected=true]").get_attribute("id") == "pass-1"
    assert page.locator("#details h2").inner_text() == heading
    shown = set(page.eval_on_selector_all(".chosen", "all => all.map(each => each.dataset.key)"))
    assert shown == ({chosen} if chosen else set())
    sides = ["before", "after"] if "view" not in address else [address.rsplit("=", 1)[1]]
    panes = page.locator(".pane")
    assert [panes.nth(0).is_visible(), panes.nth(1).is_visible()] == ["before" in sides, "after" in sides]


def test_before_and_after_stand_side_by_side_with_what_changed_marked(opened: Opener) -> None:
    page = opened(layered(3))
    page.click("#pass-1")
    page.click(f"{AFTER} [data-key='r:model.layers:0']")
    page.click(f"{AFTER} [data-key='m:model.layers.1']")
    page.click(".pane:first-child [data-key='m:model.layers.1.norm']")
    assert page.locator(f"{AFTER} .made[data-key='n:rms_norm_1']").count() == 1
    assert any(label.startswith("mlp, ") and label.endswith(", 1 changed") for label in boxes(page))
    removed = page.eval_on_selector_all(".pane:first-child .removed", "all => all.map(each => each.dataset.key)")
    assert removed == ["n:pow_1", "n:rsqrt_1", "n:mul_1"]
    page.click("[data-view=after]")
    assert not page.locator(".pane:first-child").is_visible()


def test_a_layer_that_alone_was_changed_stands_by_itself(opened: Opener) -> None:
    from dataclasses import replace

    trace = layered(6)
    last = trace.passes[2]
    nodes = tuple(replace(node, call="aten.silu(%x, 2)") if node.name == "silu_3" else node for node in last.nodes)
    trace.passes[2] = replace(last, nodes=nodes)
    found = boxes(opened(trace))
    assert [label.split(",")[0] for label in found if label.startswith("layers")] == [
        "layers 0–2",
        "layers.3",
        "layers 4–5",
    ]


def test_a_module_that_is_called_twice_is_one_box_with_a_line_back(opened: Opener) -> None:
    nodes = [other("placeholder", "tokens", "i64[batch, sequence]")]
    for place, module in enumerate(("shared", "shared", "between", "between", "shared", "shared")):
        nodes.append(call(f"neg_{place}", "aten.neg.default", (nodes[-1].name,), f"model.{module}"))
    nodes.append(other("output", "output", "", nodes[-1].name))
    page = opened(Trace([record(0, "captured", tuple(nodes))]))
    page.click(f"{AFTER} [data-key='m:model']")
    assert [label.split(",")[0] for label in boxes(page)] == ["model", "tokens", "shared", "between", "output"]
    assert page.locator(".lines .back").count() == 1


def test_a_node_tells_its_source_and_the_rewrites_that_made_it(opened: Opener) -> None:
    page = opened(layered(3))
    page.fill("#search", "rms_norm_2")
    page.keyboard.press("Enter")
    details = page.locator("#details").inner_text()
    for text in (
        "burnish.rms_norm(%add_1)",
        "f32[batch, sequence, 64]",
        "model.py:12",
        "model.layers.2.norm",
        "RMS norm",
    ):
        assert text in details
    assert page.locator("#details .links button").all_inner_texts() == ["%add_1", "%silu_2"]
    page.click("#details .history button")
    assert page.locator("#passes [aria-selected=true]").get_attribute("id") == "pass-1"
    assert "%mul_2" in page.locator("#details").inner_text()
    assert "removed by raise-norms" in page.locator("#details").inner_text()


def test_weights_are_found_though_they_are_not_drawn(opened: Opener) -> None:
    page = opened(layered(3))
    page.fill("#search", "embed.weight")
    page.keyboard.press("Enter")
    assert "%embedding" in page.locator("#details").inner_text()
    assert page.locator(f"{AFTER} .active").get_attribute("data-key") == "n:embedding"


def test_text_of_the_model_stays_text(opened: Opener) -> None:
    page = opened(layered(2))
    page.fill("#search", "embedding")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert HOSTILE in page.locator("#details pre").first.inner_text()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0


def test_everything_works_from_the_keyboard(opened: Opener) -> None:
    page = opened(layered(30))
    assert page.evaluate("document.activeElement.id") == "passes"
    page.keyboard.press("ArrowUp")
    assert page.locator("#passes [aria-selected=true]").get_attribute("id") == "pass-1"
    page.keyboard.press("Enter")  # into the graph
    assert at(page) == "n:tokens"
    while at(page) != "r:model.layers:0":
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert any(
        label.startswith("layers.7, ") and label.endswith("4 operations, 1 made · 1 changed") for label in boxes(page)
    )
    page.keyboard.press("ArrowDown")
    assert at(page) == "m:model.layers.0"
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert "rms_norm" in page.locator("#details h2").inner_text()
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert at(page) == "r:model.layers:0"
    assert page.locator(f"{AFTER} [data-key='r:model.layers:0']").get_attribute("aria-expanded") == "false"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("layers.17.mlp")
    page.keyboard.press("Enter")
    assert at(page) == "m:model.layers.17.mlp"
    page.keyboard.press("/")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") != "search"


CONTRASTS = """() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const linear = (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = channels(color).map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const body = each.matches("g.box") ? each.querySelector(".body:last-of-type") : null;
      const fill = body ? getComputedStyle(body).fill : getComputedStyle(each).backgroundColor;
      if (fill !== "none" && channels(fill)[3] !== 0) return fill;
    }
    return getComputedStyle(document.body).backgroundColor;
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    const style = getComputedStyle(element);
    const unseen = !element.getClientRects().length || element.matches("script, style, :disabled, #said, noscript");
    if (!own || unseen) continue;
    const [one, two] = [light(element.namespaceURI.endsWith("svg") ? style.fill : style.color), light(behind(element))];
    found.push([(Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05), element.outerHTML.slice(0, 200)]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_light_and_dark(opened: Opener, scheme: str) -> None:
    page = opened(layered(30), scheme=scheme)
    page.click("#pass-1")
    page.click("[aria-label='Unfold all']")
    page.click(f"{AFTER} [data-key='n:rms_norm_0']")
    measured = page.evaluate(CONTRASTS)
    assert len(measured) > 50
    assert not [each for each in measured if each[0] < 4.5]
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
    assert max(ground) < 64 if scheme == "dark" else min(ground) > 192


def test_a_narrow_window_does_not_scroll_sideways(opened: Opener) -> None:
    page = opened(layered(30), width=400, height=800)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.locator(AFTER).is_visible()
    assert not page.locator(".pane:first-child").is_visible()


def test_five_thousand_nodes_open_and_scroll_without_a_stall(opened: Opener) -> None:
    page = opened(large())
    painted = "new PerformanceObserver((seen) => done(seen.getEntries()[0].startTime))"
    paint = page.evaluate(f"new Promise((done) => {painted}.observe({{ type: 'paint', buffered: true }}))")
    assert paint < 2000
    timed = "(() => { const start = Date.now(); %s; document.body.offsetHeight; return Date.now() - start; })()"
    assert page.evaluate(timed % "document.querySelector('[aria-label=\"Unfold all\"]').click()") < 2000
    assert page.locator(".pane:last-child .caption").inner_text().endswith("5,002 nodes")
    height = page.evaluate("document.querySelector('.pane:last-child svg').clientHeight")
    assert height > 100_000  # all of it is laid out
    assert page.evaluate("document.querySelectorAll('svg *').length") < 3000  # what is in view is in the document
    page.focus(f"{AFTER} .scroll")
    page.keyboard.press("End")
    assert at(page) == "n:output"
    jump = page.evaluate(timed % "document.querySelector('.pane:last-child .scroll').scrollTop = 50000")
    assert jump < 500
    page.locator(f"{AFTER} .node").nth(3).wait_for(state="attached")
