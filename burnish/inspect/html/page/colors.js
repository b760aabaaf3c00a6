// ---- Colours of boxes: a tint for each kind of op, or how much of all bytes or launches a box has.

const KINDS = [
  ["linear", "linear", /^(fused_|quantized_|moe_)?linear$|^(addmm|mm|bmm|matmul|baddbmm|einsum)$|conv/],
  ["attention", "attention", /attention(?!_bias)|^(softmax|_softmax)$/],
  ["norm", "norm", /norm$|_norm_/],
  ["activation", "activation", /^(gated_activation|silu|gelu|relu|sigmoid|tanh|softplus|hardtanh|leaky_relu|glu)$/],
  ["position", "position", /^(rotary|positions|ring_positions|attention_bias|lookup|sin|cos|arange)$/],
  ["state", "state", /_write$/],
  [
    "lookup",
    "lookup and choice",
    /embedding|^(index|index_select|gather|argmax|topk|top_scores|from_panels|from_codes|to_codes|code_scales)$/,
  ],
  [
    "pointwise",
    "other arithmetic",
    /^(add|sub|rsub|mul|div|neg|pow|sqrt|rsqrt|exp|log|mean|sum|cumsum|fused_elementwise|where|abs|clamp|maximum|minimum|square)$/,
  ],
];
const COLORS = [
  ["kinds", "kinds of ops"],
  ["bytes", "bytes moved"],
  ["launches", "launches"],
  ["layouts", "layouts"],
  ["none", "none"],
];
const LAYOUT_KINDS = ["linear", "norm", "activation", "position"]; // whose tints the layouts that were decided on have
const SHARES = [0, 0.003, 0.01, 0.03, 0.1, 0.3]; // from which share of the whole program on a box has each heat

const kindsByOp = new Map();

/** The kind of an operation; "" of one that only moves or shapes, and of what is none. */
function kindOfOp(row) {
  if (!isCall(row)) return "";
  const name = opName(row);
  if (!kindsByOp.has(name)) kindsByOp.set(name, KINDS.find(([, , pattern]) => pattern.test(name))?.[0] ?? "");
  return kindsByOp.get(name);
}

const shareOf = (part, of) => part.totals[of] / Math.max(1, part.graph.root.totals[of]);

/** The layouts that the shown graphs have, in a fixed order. */
const layouts = () => {
  const found = new Set(shownPanes().flatMap((pane) => pane.graph.rows.map((row) => text(row[LAYOUT]))));
  return [...found].filter(Boolean).sort();
};
const layoutClass = (layout) => `kind-${LAYOUT_KINDS[layouts().indexOf(layout) % LAYOUT_KINDS.length]}`;

/** The class that colours a part's box. */
function colorOf(part) {
  if (state.colors === "none") return "";
  if (state.colors === "layouts") {
    const layout = part.kind === "node" ? text(part.graph.rows[part.first][LAYOUT]) : "";
    return layout && layoutClass(layout);
  }
  if (state.colors === "kinds") {
    const kind = part.kind === "node" ? kindOfOp(part.graph.rows[part.first]) : "";
    return kind && `kind-${kind}`;
  }
  const share = shareOf(part, state.colors);
  return share > 0 ? `heat-${SHARES.findLastIndex((least) => share >= least) + 1}` : "";
}

/** Where bytes or launches are coloured, those of a box, to be written in it; else null. */
function heatText(part) {
  if (["none", "kinds", "layouts"].includes(state.colors) || !part.totals[state.colors]) return null;
  const amount = part.totals[state.colors];
  const told = state.colors === "bytes" ? bytesText(amount) : many(amount, "launch", "launches");
  const share = 100 * shareOf(part, state.colors);
  return `${told} · ${share < 0.1 ? "<0.1" : share.toFixed(share < 10 ? 1 : 0)}%`;
}

/** The kinds of the operations that are launched within a part, each with its share of the launches. */
function mixOf(part) {
  if (state.colors !== "kinds") return [];
  const counts = new Map(KINDS.map(([kind]) => [kind, 0]));
  for (const index of part.leaves) {
    const row = part.graph.rows[index];
    const kind = kindOfOp(row);
    if (kind) counts.set(kind, counts.get(kind) + row[LAUNCHES]);
  }
  const all = [...counts.values()].reduce((sum, count) => sum + count, 0);
  return [...counts].filter(([, count]) => count).map(([kind, count]) => [kind, count / all]);
}

/** What the colours mean, of those that the shown graphs have. */
function colorLegend() {
  if (state.colors === "none") return [];
  if (state.colors === "layouts") {
    const legend = (layout) => element("span", {}, element("i", { class: layoutClass(layout) }), layout);
    return layouts().map(legend);
  }
  if (state.colors === "kinds") {
    const used = new Set(shownPanes().flatMap((pane) => pane.graph.rows.map(kindOfOp)));
    return KINDS.filter(([kind]) => used.has(kind)).map(([kind, label]) => {
      return element("span", {}, element("i", { class: `kind-${kind}` }), label);
    });
  }
  return SHARES.map((least, index) => {
    const label = index ? `from ${100 * least}%` : "less";
    return element("span", {}, element("i", { class: `heat-${index + 1}` }), label);
  });
}

function setUpColors() {
  const select = get("colors");
  select.append(...COLORS.map(([value, label]) => element("option", { value }, label)));
  select.addEventListener("change", () => {
    state.colors = select.value;
    draw();
    tellAddress();
  });
}
