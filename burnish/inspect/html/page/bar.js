// ---- Above the graph: which program, and the tools.

function setUpBar() {
  const choose = (view) => {
    state.view = view;
    draw();
    tellAddress();
    for (const pane of shownPanes()) pane.fit();
  };
  for (const [view, label] of Object.entries(SIDES)) {
    get("views").append(element("button", { role: "radio", "data-view": view, onclick: () => choose(view) }, label));
  }
  get("views").addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const buttons = [...get("views").children].filter((button) => !button.disabled);
    const to = by && buttons[buttons.indexOf(document.activeElement) + by];
    if (!to) return;
    to.focus();
    to.click();
  });
  for (const [mark, label] of Object.entries(MARKS)) get("legend").append(element("span", { class: mark }, label));
  const every = (all) => {
    state.all = all;
    state.open.clear();
    draw();
  };
  const zoom = (by) => shownPanes().forEach((pane) => pane.zoomBy(by));
  const tools = [
    ["Fold", "Fold all", () => every(false)],
    ["Unfold", "Unfold all", () => every(true)],
    ["−", "Smaller", () => zoom(-1)],
    ["+", "Larger", () => zoom(1)],
    ["Fit", "Fit all of the graph into the window", () => fitAll()],
    ["SVG", "Save the shown graph as SVG", saveSvg],
    ["PNG", "Save the shown graph as PNG", savePng],
    ["?", "Keys, and how to read the graph", () => help()],
  ];
  get("tools").append(
    ...tools.map(([label, title, onclick]) => element("button", { title, "aria-label": title, onclick }, label)),
  );
}

const fitAll = () => shownPanes().forEach((pane) => pane.fitAll());

const KEYS = [
  ["↑ ↓", "in the list: the pass before, the next; in a graph: the box above, below"],
  ["← →", "in a graph: the box beside"],
  ["Enter", "from a pass into its graph; in the graph, open or close a box and choose it"],
  ["Esc", "close what is around; at the top, let go of what is chosen"],
  ["n p", "the next rewrite of the pass, the one before"],
  ["f", "fit all of the graph into the window"],
  ["+ −", "larger, smaller; also Ctrl and the wheel"],
  ["/", "search names, modules, ops, types and lines of source"],
  ["?", "this help"],
];
const READING = [
  "Each box is an operation, or a part of the model folded into one box: layers that are alike are one. " +
    "Lines run down, from what is computed to what reads it.",
  "Weights and sizes are not drawn, but listed with what reads them. A value that is read all over the graph is told " +
    "in words: ↤ position.",
  "The address of the page names the pass and what is chosen: it can be kept and sent.",
];

function setUpHelp() {
  const keys = KEYS.map(([key, what]) => [element("dt", {}, element("kbd", {}, key)), element("dd", {}, what)]);
  get("help").append(
    element("h2", { id: "help-title" }, "Keys"),
    element("dl", {}, ...keys),
    ...READING.map((line) => element("p", {}, line)),
  );
  get("help").addEventListener("click", (event) => event.target === get("help") && get("help").close());
}

const help = () => get("help").showModal();
