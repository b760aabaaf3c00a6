"""Mutants by hand: faults that were made once, and those that no walk over a syntax tree comes upon."""

from __future__ import annotations

from dataclasses import dataclass

from tests.mutants.mutations import ROOT, Mutant

PASSES, ANALYSES, IR, ONNX, RUNTIME = (
    "burnish/passes",
    "burnish/passes/analyses",
    "burnish/ir",
    "burnish/codegen/onnx",
    "burnish/runtime",
)


@dataclass(frozen=True)
class Edit:
    """Texts of files in place of others, each of which stands in its file once."""

    name: str
    changes: tuple[tuple[str, str, str], ...]  # file, before, after

    def mutant(self) -> Mutant:
        """The files after the edit. AssertionError if a text no longer stands there once: bring the edit up to date."""
        edited: dict[str, str] = {}
        for file, before, after in self.changes:
            edited[file] = self._edited(edited.get(file), file, before, after)
        file, before, _ = self.changes[0]
        text = (ROOT / file).read_text(encoding="utf-8")
        first = text[: text.index(before)].count("\n") + 1
        last = first + before.rstrip("\n").count("\n")
        return Mutant(file, self.name, first, last, 0, lambda: ("by hand", edited))

    def _edited(self, text: str | None, file: str, before: str, after: str) -> str:
        text = text or (ROOT / file).read_text(encoding="utf-8")
        assert text.count(before) == 1, f"{self.name}: {before!r} stands {text.count(before)} times in {file}"
        return text.replace(before, after)


def _edit(name: str, file: str, before: str, after: str) -> Edit:
    return Edit(name, ((file, before, after),))


_CHAIN = (f"{PASSES}/states/select_logits.py", " or node in mixing:", ":")
_PICKED = (f"{PASSES}/check.py", "AxisLabels(program, Along.KEPT)  # nothing", "pass  # nothing")
_LEFT = (f"{IR}/spec.py", "return whole_only or node.target", "return node.target")

EDITS: tuple[Edit, ...] = (
    # ---- faults that were there, put back
    _edit("tokens-picked-in-front-of-what-mixes", *_CHAIN),
    Edit("tokens-picked-in-front-of-what-mixes-unchecked", (_CHAIN, _PICKED, _LEFT)),
    _edit(
        "rows-not-checked",
        f"{ANALYSES}/axis_labels.py",
        "                self.labels[node] = self._label(node)\n",
        "                try:\n"
        "                    self.labels[node] = self._label(node)\n"
        "                except MixedRowsError:\n"
        "                    self.labels[node] = None\n",
    ),
    _edit(
        "masks-read-for-96-tokens",
        f"{ANALYSES}/mask_reading.py",
        "self.max_length = positions.program.signature.max_length",
        "self.max_length = min(96, positions.program.signature.max_length)",
    ),
    # ---- what mixes tokens is let through
    _edit(
        "every-mixing-is-none",
        f"{ANALYSES}/axis_labels.py",
        "                self.labels[node] = self._label(node)\n",
        "                try:\n"
        "                    self.labels[node] = self._label(node)\n"
        "                except BurnishError:\n"
        "                    self.labels[node] = self.of(node.all_input_nodes[0])\n",
    ),
    _edit("a-flip-is-pointwise", f"{IR}/traits.py", 'rules.along("turns the {} around", "dims")', "rules.pointwise"),
    _edit("a-mean-is-pointwise", f"{IR}/traits.py", 'Traits(rules.along("reduces over the {}"))', "_POINTWISE"),
    _edit(
        "a-slice-takes-any-tokens",
        f"{IR}/label_view_rules.py",
        '    if label is not None and label.axis == int(argument(node, "dim")) % rank(node):\n'
        '        raise labels.mixes(node, "takes some',
        '    if False:\n        raise labels.mixes(node, "takes some',
    ),
    _edit(
        "a-convolution-over-tokens-is-pointwise",
        f"{IR}/traits.py",
        "Traits(rules.convolution)",
        "Traits(rules.like_first)",
    ),
    _edit(
        "attention-without-a-mask-passes",
        f"{IR}/label_mixing_rules.py",
        'labels.along is Along.TOKENS and argument(node, "mask") == "none"',
        'False and argument(node, "mask") == "none"',
    ),
    _edit(
        "a-table-shows-later-tokens",
        f"{IR}/label_mixing_rules.py",
        '> float("-inf")).triu(1).any())',
        '> float("inf")).triu(1).any())',
    ),
    # ---- states
    _edit(
        "a-running-sum-has-no-state",
        f"{IR}/traits.py",
        "StateDescriptor(StateKind.ACCUMULATOR, running_sum_step)",
        "StateDescriptor(StateKind.ACCUMULATOR, lambda stepper, node: (node, ''))",
    ),
    _edit(
        "a-shift-forgets",
        f"{IR}/step_forms.py",
        "joined, axis, 0, -amount, like=node)",
        "joined, axis, amount, END, like=node)",
    ),
    _edit("a-window-one-too-short", f"{IR}/step_forms.py", "[-1]) - 1) * dilation", "[-1]) - 1) * dilation - 1"),
    _edit(
        "a-window-keeps-the-oldest",
        f"{PASSES}/states/insert_states.py",
        "joined, along, -size, END, like=source))",
        "joined, along, 0, size, like=source))",
    ),
    _edit(
        "a-total-keeps-the-first",
        f"{PASSES}/states/insert_states.py",
        "total, along, -1, END, like=source))",
        "total, along, 0, 1, like=source))",
    ),
    _edit(
        "a-total-starts-again",
        f"{PASSES}/states/insert_states.py",
        "total = self.editor.call(aten.add.Tensor, x, state, like=source)",
        "total = x",
    ),
    _edit(
        "positions-of-whole-texts",
        f"{PASSES}/states/insert_states.py",
        "(self.program.tokens, self.position)\n",
        "node.args\n",
    ),
    _edit(
        "a-ring-two-too-small",
        f"{PASSES}/states/insert_states.py",
        "0 if 0 in asked else max(asked)",
        "0 if 0 in asked else max(asked) - 2",
    ),
    _edit(
        "the-smallest-window-for-all",
        f"{PASSES}/states/insert_states.py",
        "0 if 0 in asked else max(asked)",
        "min(asked) if asked else 0",
    ),
    _edit(
        "states-in-another-order",
        f"{PASSES}/states/insert_states.py",
        "self.program.give(self.program.results, self.results)",
        "self.program.give(self.program.results, self.results[::-1])",
    ),
    _edit("a-stale-slot-is-seen", f"{IR}/ops.py", "visible = (key <= query) & (key >= 0)", "visible = key <= query"),
    # ---- masks and attention
    _edit("a-window-one-wider", f"{ANALYSES}/masks.py", 'return "window", extent', 'return "window", extent + 1'),
    _edit("a-window-is-causal", f"{ANALYSES}/masks.py", 'return "window", extent', 'return "causal", 0'),
    _edit("a-chunk-is-a-window", f"{ANALYSES}/masks.py", 'return "chunk", extent', 'return "window", extent'),
    _edit(
        "slopes-not-looked-at",
        f"{ANALYSES}/masks.py",
        "return Mask(*seen.kind(), slopes=slopes, edges",
        "return Mask(*seen.kind(), edges",
    ),
    _edit("the-rest-of-a-mask-left-out", f"{ANALYSES}/mask_reading.py", "if mask.rest else mask", "if False else mask"),
    # ---- code
    _edit(
        "onnx-window-off-by-one",
        f"{ONNX}/attention.py",
        'op("Less", op("Sub", queries',
        'op("LessOrEqual", op("Sub", queries',
    ),
    _edit(
        "onnx-causal-off-by-one",
        f"{ONNX}/attention.py",
        'op("LessOrEqual", keys, queries)',
        'op("Less", keys, queries)',
    ),
    _edit(
        "onnx-stale-slots",
        f"{ONNX}/attention.py",
        'op("GreaterOrEqual", keys, constant(0))',
        'op("GreaterOrEqual", keys, constant(-99999))',
    ),
    _edit("onnx-keys-for-values", f"{ONNX}/attention.py", "(*sources, value.new)", "(*sources, key.new)"),
    _edit("onnx-caches-exchanged", f"{ONNX}/attention.py", "= past_key, past_value", "= past_value, past_key"),
    _edit("onnx-no-softcap", f"{ONNX}/attention.py", '    if a["softcap"]:\n', "    if False:\n"),
    _edit(
        "onnx-position-of-the-first",
        f"{ONNX}/attention.py",
        'op("Add", c.value(position), one_less)',
        'op("Sub", c.value(position), one_less)',
    ),
    # ---- what runs it
    _edit("states-never-move-on", f"{RUNTIME}/states.py", "        if self._swaps:\n", "        if False:\n"),
    _edit("going-back-clears-nothing", f"{RUNTIME}/session.py", "            self._states.clear(row)\n", ""),
    _edit("going-back-feeds-nothing", f"{RUNTIME}/session.py", "            if kept:\n", "            if False:\n"),
    _edit("position-stays", f"{RUNTIME}/session.py", "            self._position[row] += len(new)\n", ""),
    _edit("a-row-alone-is-not-taken-over", f"{RUNTIME}/session.py", "        self._states.accept(row, states)\n", ""),
    _edit(
        "chunks-begin-at-one-position",
        f"{RUNTIME}/session.py",
        "(chunk, position + start, index",
        "(chunk, position, index",
    ),
    _edit("grown-caches-are-empty", f"{RUNTIME}/states.py", "            theirs[...] = mine\n", ""),
    _edit("a-step-at-the-first-position", f"{RUNTIME}/session.py", "= min(len(self._tokens[number]), last)", "= 0"),
    _edit("one-row-goes-back-and-all-do", f"{RUNTIME}/session.py", "if row is None else [row]", "if True else [row]"),
    _edit("a-reset-keeps-states", f"{RUNTIME}/session.py", "        self._states.clear()\n", ""),
    _edit("a-reset-keeps-positions", f"{RUNTIME}/session.py", "        self._position[:] = 0\n", ""),
    _edit("a-step-makes-no-room", f"{RUNTIME}/session.py", "        self._reserve(1 + longest)\n", ""),
    _edit(
        "a-binding-of-other-tokens",
        f"{RUNTIME}/executor_onnx.py",
        "if binding is None or not binding.reads(step):",
        "if binding is None:",
    ),
    Edit(
        "a-binding-of-the-other-side",
        (
            (f"{RUNTIME}/executor_onnx.py", "bindings.get(states.parity)", "bindings.get(0)"),
            (f"{RUNTIME}/executor_onnx.py", "bindings[states.parity] = self", "bindings[0] = self"),
        ),
    ),
)
