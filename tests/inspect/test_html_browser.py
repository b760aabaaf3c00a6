"""The HTML report in a real browser: its graphs, its keys, its colours, and how long a large graph takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from burnish.ir.trace import Trace
from tests.inspect.traces import HOSTILE, call, large, layered, other, record

if TYPE_CHECKING:
    from playwright.sync_api import Page

    Opener = Callable[..., Page]

AFTER = ".pane:last-child"


def boxes(page: Page, pane: str = AFTER) -> list[str]:
    """What the boxes of a graph are called by a screen reader."""
    found: list[str] = page.eval_on_selector_all(f"{pane} [role=treeitem]", "all => all.map(each => each.ariaLabel)")
    return found


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


def test_what_is_found_in_layers_that_are_alike_is_one_entry(opened: Opener) -> None:
    page = opened(layered(30))
    page.fill("#search", "silu")
    entries = page.locator("#found [role=option]").all_inner_texts()
    assert [entry.split("\n") for entry in entries] == [
        ["%silu_0", "30×, in 0–29 · f32[batch, sequence, 64] · model.layers.*.mlp"]
    ]
    assert page.locator("#found .total").inner_text() == "1 place: 0 modules, 30 nodes"
    page.fill("#search", "model.layers. norm")
    entries = page.locator("#found [role=option]").all_inner_texts()
    assert entries[0].split("\n") == ["model.layers.*.norm", "30×, in 0–29 · Norm"]
    assert len(entries) == 2
    page.fill("#search", "layers.17.mlp")
    assert page.locator("#found [role=option]").first.inner_text() == "model.layers.17.mlp\nMlp"


def test_a_table_that_all_layers_read_stands_beside_them(opened: Opener) -> None:
    nodes = [other("placeholder", "tokens", "i64[batch, sequence]"), other("placeholder", "position", "i64[batch]")]
    nodes.append(call("cos", "burnish.lookup.default", ("position",), "model.layers.0.attention"))
    last = "tokens"
    for layer in range(4):
        attention = f"model.layers.{layer}.attention"
        nodes += [
            call(f"linear_{layer}", "aten.linear.default", (last,), attention),
            call(f"mul_{layer}", "aten.mul.Tensor", (f"linear_{layer}", "cos"), attention),
            call(f"add_{layer}", "aten.add.Tensor", (last, f"mul_{layer}"), f"model.layers.{layer}"),
        ]
        last = f"add_{layer}"
    nodes.append(other("output", "output", "", last))
    page = opened(Trace([record(0, "captured", tuple(nodes))]))
    found = boxes(page)
    assert any(label.startswith("layers 0–3, 4× ") for label in found)
    assert any(label.startswith("lookup, of all layers, ") for label in found)
    page.fill("#search", "lookup")
    page.keyboard.press("Enter")
    assert "model.layers.0.attention" in page.locator("#details").inner_text()
    assert page.locator(f"{AFTER} .chosen").get_attribute("data-key") == "n:cos"


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
      const body = each.matches("g.box") ? [...each.querySelectorAll(":scope > .body")].at(-1) : null;
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
    page.keyboard.press("n")
    page.wait_for_selector(".stepper")
    measured += page.evaluate(CONTRASTS)
    page.keyboard.press("?")
    measured += page.evaluate(CONTRASTS)
    page.keyboard.press("Escape")
    page.click("#pass-overview")
    measured += page.evaluate(CONTRASTS)
    assert not [each for each in measured if each[0] < 4.5]
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
    assert max(ground) < 64 if scheme == "dark" else min(ground) > 192


KINDS = {
    "linear": "burnish.fused_linear.default",
    "attention": "burnish.attention.default",
    "norm": "burnish.rms_norm.default",
    "activation": "aten.silu.default",
    "position": "burnish.rotary.default",
    "state": "burnish.cache_write.default",
    "lookup": "aten.embedding.default",
    "pointwise": "aten.add.Tensor",
}


def colored() -> Trace:
    """An op of each kind and one of none, from few bytes moved to many."""
    nodes = [other("placeholder", "tokens", "i64[batch, sequence]")]
    for place, (kind, target) in enumerate({**KINDS, "none": "aten.view.default"}.items()):
        nodes.append(call(kind, target, (nodes[-1].name,), bytes_moved=3**place))
    return Trace([record(0, "captured", (*nodes, other("output", "output", "", nodes[-1].name)))])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_box_has_the_colour_of_its_kind_or_of_its_share(opened: Opener, scheme: str) -> None:
    page = opened(colored(), scheme=scheme)
    for kind in KINDS:
        assert page.locator(f"{AFTER} .kind-{kind}[data-key='n:{kind}']").count() == 1
    assert page.locator(f"{AFTER} [data-key='n:none']").get_attribute("class") == "box node"
    assert page.locator("#kinds span").count() == len(KINDS)
    assert not [each for each in page.evaluate(CONTRASTS) if each[0] < 4.5]
    tints = page.eval_on_selector_all(f"{AFTER} .node > .body", "all => all.map(each => getComputedStyle(each).fill)")
    assert len(set(tints)) >= len(KINDS)
    page.select_option("#colors", "bytes")
    assert page.url.endswith("#pass=0&colors=bytes")
    for share, heat in (("none", 6), ("pointwise", 5), ("lookup", 4), ("state", 3), ("position", 2), ("linear", 1)):
        assert page.locator(f"{AFTER} .heat-{heat}[data-key='n:{share}']").count() == 1
    assert "6.56 kB · 67%" in str(page.locator(f"{AFTER} [data-key='n:none']").text_content())
    assert not [each for each in page.evaluate(CONTRASTS) if each[0] < 4.5]


def test_a_folded_part_shows_the_kinds_of_its_operations(opened: Opener) -> None:
    page = opened(layered(30))
    strips = page.locator(f"{AFTER} [data-key='r:model.layers:0'] .mix")
    kinds = strips.evaluate_all("all => all.map(each => [each.classList[1], each.width.baseVal.value])")
    # of the four launches of a layer: a norm, silu, and two of arithmetic
    widths = {kind: width / sum(each[1] for each in kinds) for kind, width in kinds}
    assert widths == pytest.approx({"kind-norm": 0.25, "kind-activation": 0.25, "kind-pointwise": 0.5}, rel=0.01)
    page.select_option("#colors", "none")
    assert not page.locator(".mix, [class*=kind-]").count() - page.locator("#kinds i").count()


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
