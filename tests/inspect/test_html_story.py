"""The HTML report in a real browser: what it opens with, its addresses, and ways around it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from burnish.ir.trace import Check, Trace
from tests.inspect.traces import layered

if TYPE_CHECKING:
    from playwright.sync_api import Page

    Opener = Callable[..., Page]

AFTER = ".pane:last-child"


def test_the_report_opens_with_what_the_passes_as_a_whole_did(opened: Opener) -> None:
    trace = layered(30)
    trace.checks = [Check("2 rows of 8 tokens", "the backend native"), Check("texts longer than 551 tokens", "")]
    page = opened(trace, address="")
    assert not page.locator("#stage").is_visible()
    told = page.locator("#overview").inner_text()
    assert "2 passes made 30 rewrites" in told
    assert page.locator("#heads").inner_text().split() == ["pass", "launches", "kB"]
    assert page.locator("#pass-1 .bar").all_inner_texts() == ["121", "121"]
    assert page.locator(".tiles li").first.inner_text().split("\n") == ["launches", "121", "from 181", "1.5× less"]
    assert "46.1 kB" in told
    assert page.locator(".most a").all_inner_texts() == ["1raise-norms"]
    assert "launches 181 → 121 · moved 181.0 kB → 121.0 kB" in page.locator(".most").inner_text()
    checks = page.locator(".checks").inner_text()
    assert "✓ the backend native" in checks
    assert "2 rows of 8 tokens" in checks
    assert "texts longer than 551 tokens" in page.locator(".missing + dd").inner_text()
    assert "1 of 2 were run; largest error 2e-7 in 1raise-norms" in checks
    assert "1 place, by 2raise-gates" in checks
    page.click(".most a")
    page.wait_for_selector("#pass-1[aria-selected=true]")
    assert page.locator("#stage").is_visible()
    assert not page.locator("#overview").is_visible()
    page.go_back()
    page.wait_for_selector("#overview")


def test_phases_are_a_timeline_where_there_are_times(opened: Opener) -> None:
    trace = layered(3)
    trace.phases = {"capture": 3.0, "passes": 1.0}
    page = opened(trace, address="")
    tracks = page.locator(".timeline .track").all()
    bars = [track.locator("i").evaluate("line => line.getBoundingClientRect().toJSON()") for track in tracks]
    assert bars[0]["width"] == pytest.approx(3 * bars[1]["width"], rel=0.01)
    assert bars[1]["x"] == pytest.approx(bars[0]["x"] + bars[0]["width"], abs=1)
    assert "4.0 s in all" in page.locator("#story").inner_text()
    slow = page.locator(".slow").inner_text()
    assert slow == "Longest passes: 0captured 250 ms · 1raise-norms 250 ms · 2raise-gates 250 ms"
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
    page.wait_for_url("**#pass=1&node=rms_norm_7")
    assert "%rms_norm_7" in page.locator("#details").inner_text()
    page.go_back()
    page.wait_for_url("**#pass=1")
    page.go_forward()
    page.wait_for_url("**node=rms_norm_7")
    assert "%rms_norm_7" in page.locator("#details").inner_text()
    page.focus("#passes")
    page.keyboard.press("ArrowDown")
    assert page.url.endswith("#pass=2")
    page.go_back()
    page.wait_for_url("**#pass=1")


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


def test_both_fit_beside_each_other_and_a_key_fits_all_of_a_graph(opened: Opener) -> None:
    page = opened(layered(30), address="#pass=1")
    sizes = "pane => ['svg', '.scroll'].map(each => pane.querySelector(each)).map(e => [e.clientWidth, e.clientHeight])"
    for pane in page.query_selector_all(".pane"):
        (drawn, room) = pane.evaluate(sizes)
        assert drawn[0] <= room[0]
        assert not pane.query_selector(".minimap").is_visible()  # type: ignore[union-attr]
    page.click("[aria-label='Unfold all']")
    (drawn, room) = page.eval_on_selector(AFTER, sizes)
    assert drawn[1] > 5 * room[1]
    page.keyboard.press("f")
    (drawn, room) = page.eval_on_selector(AFTER, sizes)
    assert drawn[0] <= room[0]
    assert drawn[1] <= room[1]
    assert not page.locator(f"{AFTER} .minimap").is_visible()
    page.keyboard.press("?")
    assert "fit all of the graph into the window" in page.locator("dialog").inner_text()
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()


def test_a_map_shows_all_of_a_graph_and_takes_one_there(opened: Opener) -> None:
    page = opened(layered(30), address="#pass=1&view=after")
    page.click("[aria-label='Unfold all']")
    minimap = page.locator(f"{AFTER} .minimap")
    box = minimap.bounding_box()
    assert box
    top = f"document.querySelector('{AFTER} .scroll').scrollTop"
    before = page.evaluate(top)
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.75)
    height = page.evaluate(f"document.querySelector('{AFTER} svg').clientHeight")
    assert before < page.evaluate(top) < height
    middle = page.evaluate(f"{top} + document.querySelector('{AFTER} .scroll').clientHeight / 2")
    assert middle == pytest.approx(0.75 * height, rel=0.02)


def test_the_rewrites_of_a_pass_are_stepped_through(opened: Opener) -> None:
    def looked_at() -> tuple[str, list[str], list[str]]:
        chosen, made = (
            page.eval_on_selector_all(f".pane{pane}", "all => all.map(each => each.dataset.key)")
            for pane in (":first-child .chosen", ":last-child .of-rewrite")
        )
        return page.locator(".stepper b").inner_text(), chosen, made

    page = opened(layered(30), address="#pass=1")
    page.click(".step")
    assert looked_at() == ("rewrite 1 of 30", ["n:mul_0"], ["n:rms_norm_0"])
    assert page.locator(".stepper button").first.is_disabled()
    page.keyboard.press("n")
    page.click("[aria-label^='The next rewrite']")
    assert looked_at() == ("rewrite 3 of 30", ["n:mul_2"], ["n:rms_norm_2"])
    assert page.locator(f"{AFTER} .of-rewrite").is_visible()
    page.keyboard.press("p")
    assert looked_at() == ("rewrite 2 of 30", ["n:mul_1"], ["n:rms_norm_1"])
    address = page.url.partition("#")[2]
    page.keyboard.press("Escape")
    assert page.locator(".stepper, .of-rewrite").count() == 0
    page = opened(layered(30), address=f"#{address}")
    assert looked_at() == ("rewrite 2 of 30", ["n:mul_1"], ["n:rms_norm_1"])
    trace = layered(30)
    norms = trace.passes[1]
    trace.passes[1] = replace(norms, rewrites=(*norms.rewrites, replace(norms.rewrites[0], text="half a norm")))
    page = opened(trace, address="#pass=1&rewrite=31")
    assert page.locator(".stepper button").last.is_disabled()
    assert page.locator(".stepper p").all_inner_texts() == [
        "half a norm",
        "Nothing of what it made is left: later rewrites of this pass took it.",
    ]


def test_the_shown_graphs_are_saved_as_pictures(opened: Opener, tmp_path: Path) -> None:
    def saved(kind: str) -> bytes:
        with page.expect_download() as download:
            page.click(f"[aria-label='Save the shown graph as {kind}']")
        assert download.value.suggested_filename == f"model-1-raise-norms.{kind.lower()}"
        file = tmp_path / kind
        download.value.save_as(file)
        return file.read_bytes()

    page = opened(layered(30), address="#pass=1")
    page.click("[aria-label='Unfold all']")
    page.click("[aria-label='Smaller']")
    text = saved("SVG").decode()
    svg = ElementTree.fromstring(text)
    words = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}tspan")]
    assert words.count("rsqrt") == words.count("rms_norm") == 30  # before and after, in view or not
    assert "Before raise-norms · 184 nodes" in text
    assert "var(" not in text
    assert "class=" not in text
    size = [float(svg.attrib[name]) for name in ("width", "height")]
    page.click("[aria-label='Fold all']")
    page.click("[data-view=after]")
    smaller = ElementTree.fromstring(saved("SVG"))
    assert float(smaller.attrib["height"]) < size[1] / 5
    png = saved("PNG")
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", png[16:24]) == tuple(
        int(2 * float(smaller.attrib[name])) for name in ("width", "height")
    )
    drawn = page.evaluate(
        """async (bytes) => {
          const image = await createImageBitmap(new Blob([new Uint8Array(bytes)]));
          const context = new OffscreenCanvas(image.width, image.height).getContext("2d");
          context.drawImage(image, 0, 0);
          const pixels = new Uint32Array(context.getImageData(0, 0, image.width, image.height).data.buffer);
          return new Set(pixels).size;
        }""",
        list(png),
    )
    assert drawn > 20  # colours


def other_of(trace: Trace) -> Trace:
    """The same but that a pass between made one activation of four another op, and that the last pass is missing."""
    captured, norms, _ = trace.passes
    nodes = tuple(
        replace(node, target="aten.gelu.default", call="aten.gelu(%x)") if node.name == "silu_1" else node
        for node in norms.nodes
    )
    return Trace([captured, norms, replace(norms, number=2, name="choose-gelu", nodes=nodes, launches=90)])


def test_two_artifacts_are_shown_beside_each_other(opened: Opener) -> None:
    first = layered(4)
    first.checks = [Check("2 rows of 8 tokens", "the backend native")]
    page = opened(first, address="", second=other_of(first))
    rows = [row.split("\n") for row in page.locator("#passes li").all_inner_texts()]
    assert [row[1].rstrip("=≈") for row in rows[1:]] == ["captured", "raise-norms", "raise-gates", "choose-gelu"]
    assert rows[3][2] == "only in the first"
    assert page.locator(".most a").all_inner_texts() == ["2raise-gates", "3choose-gelu"]
    assert page.locator(".tiles li").first.inner_text().split("\n")[:3] == ["launches", "90", "from 17"]
    told = page.locator("#story").inner_text()
    assert "2 rows of 8 tokens" in told.split("a, compared")[1].split("b, compared")[0]
    assert "compiled without verification" in told.split("b, compared")[1]
    page.click("#pass-3")
    assert page.locator(".caption").all_inner_texts() == [
        "a after choose-gelu, which it lacks · 20 nodes",
        "b after choose-gelu · 20 nodes",
    ]
    page.fill("#search", "gelu")
    page.keyboard.press("Enter")
    assert page.url.endswith("#pass=3&node=silu_1")
    page.reload()
    assert page.locator(f"{AFTER} .changed.chosen").get_attribute("data-key") == "n:silu_1"
    assert page.locator(".pane:first-child .changed").count() == 1
    assert "changed" in page.locator("#details .sub").inner_text()
    page.click("#pass-1")
    assert "launches 17" in page.locator("#details").inner_text().replace("\n", " ")
    assert page.locator(".changed:not(#legend *), .made:not(#legend *), .removed:not(#legend *)").count() == 0
