// ---- Above the graph: which program, and the tools.

function setUpBar() {
  const choose = (view) => {
    state.view = view;
    draw();
    tellAddress();
    for (const pane of shownPanes()) pane.fit();
  };
  for (const [view, label] of [
    ["before", "Before"],
    ["both", "Both"],
    ["after", "After"],
  ]) {
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
  for (const mark of ["made", "changed", "removed"]) get("legend").append(element("span", { class: mark }, mark));
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
  ];
  get("tools").append(
    ...tools.map(([label, title, onclick]) => element("button", { title, "aria-label": title, onclick }, label)),
  );
}
