// ---- What is shown, what is chosen, and the keys.

const get = (id) => document.getElementById(id);
const state = {
  place: data.passes.length - 1,
  view: data.passes.length > 1 && innerWidth > 1000 ? "both" : "after",
  all: false, // whether every part is open that was not closed by hand
  open: new Map(), // parts opened or closed by hand
  chosen: null, // a part, or a node that is in no box
};
const isOpen = (part) => state.open.get(part.key) ?? (state.all || part.opens);

const actions = {
  chosen: () => state.chosen?.key ?? null,
  choose(part, pane) {
    state.chosen =
      part.kind === "node"
        ? { key: part.key, graph: pane.graph, index: part.first }
        : { key: part.key, graph: pane.graph, part };
    details();
    for (const pane of shownPanes()) pane.redraw();
    say(spokenBox(part));
  },
  toggle(part) {
    state.open.set(part.key, !isOpen(part));
    draw(part.key);
  },
  letGo() {
    state.chosen = null;
    details();
    for (const pane of shownPanes()) pane.redraw();
  },
  showPass(place) {
    if (place < 0 || place >= data.passes.length) return;
    state.place = place;
    state.chosen = null;
    passes();
    draw();
    details();
  },
  /** The node that a rewrite or refusal is about, in the graph before the pass. */
  showEntry(place, kind, which) {
    const name = data.passes[place][kind][which][0];
    state.place = place;
    if (place && state.view === "after") state.view = innerWidth > 1000 ? "both" : "before";
    passes();
    draw();
    const graph = shownPanes()
      .map((pane) => pane.graph)
      .find((each) => each.at.has(name));
    if (graph) actions.reveal(graph, graph.at.get(name));
    else details();
  },
  /** Open what is around a node, go there and choose it; what is not drawn is near what reads it. With `module`, the
   *  box of that module around the node, if it has one. */
  reveal(graph, index, module = null) {
    let near = index;
    while (!graph.isDrawn[near] && graph.readers[near].length) near = graph.readers[near][0];
    let path = graph.isDrawn[near] ? graph.path(near) : [];
    const around = module === null ? -1 : path.findIndex((part) => part.key === `m:${module}`);
    if (around >= 0) path = path.slice(0, around + 1);
    for (const part of path.slice(0, -1)) state.open.set(part.key, true);
    const part = path.at(-1);
    if (around >= 0) state.chosen = { key: part.key, graph, part };
    else state.chosen = { key: near === index && part ? part.key : null, graph, index };
    draw();
    details();
    // The other side goes to what is nearest to the node there.
    for (const pane of shownPanes()) {
      const nearest = path.findLast((each) => pane.byKey.has(each.key));
      if (nearest) pane.goTo(nearest.key);
    }
    const row = graph.rows[index];
    say(around >= 0 ? spokenBox(part) : `${display(row)}, ${text(row[TYPE])}`);
  },
};

const panes = { before: new Pane("before", actions), after: new Pane("after", actions) };
const isShown = (side) => (state.place ? state.view === "both" || state.view === side : side === "after");
const shownPanes = () => Object.values(panes).filter((pane) => isShown(pane.side));
const say = (words) => (get("said").textContent = words);

/** Lays out what is shown; `anchor`, or else where the keyboard is, stays in place. */
function draw(anchor = null) {
  for (const [side, pane] of Object.entries(panes)) {
    pane.root.hidden = !isShown(side);
    if (pane.root.hidden) continue;
    const graph = graphOf(state.place, side);
    const pass = data.passes[state.place];
    const when = state.place ? `${side === "before" ? "Before" : "After"} ${pass.name}` : "As captured";
    pane.show(graph, isOpen, `${when} · ${many(graph.rows.length, "node")}`, anchor ?? pane.active);
  }
  for (const button of get("views").children) {
    const checked = button.dataset.view === (state.place ? state.view : "after");
    button.setAttribute("aria-checked", String(checked));
    button.tabIndex = checked ? 0 : -1;
    button.disabled = !state.place && !checked;
  }
}

function details() {
  const { chosen } = state;
  const back = element(
    "button",
    { class: "back", onclick: () => actions.letGo() },
    `← ${data.passes[state.place].name}`,
  );
  let content;
  if (!chosen) content = passDetails(state.place, actions);
  else if (chosen.part) content = [back, ...partDetails(chosen.part, actions)];
  else content = [back, ...nodeDetails(chosen.graph, chosen.index, state.place, actions)];
  get("details").replaceChildren(...content.filter(Boolean));
  get("details").scrollTop = 0;
}

function passes() {
  const list = get("passes");
  const most = {
    launches: Math.max(1, ...data.passes.map((pass) => pass.launches)),
    bytes: Math.max(1, ...data.passes.map((pass) => pass.bytes_moved)),
  };
  if (!list.firstChild) list.append(...data.passes.map((pass, place) => passRow(pass, place, most)));
  [...list.children].forEach((row, place) => row.setAttribute("aria-selected", String(place === state.place)));
  list.setAttribute("aria-activedescendant", `pass-${state.place}`);
  list.children[state.place].scrollIntoView({ block: "nearest" });
}

function setUpPasses() {
  get("heads").append(element("span", {}, "pass"), element("span", {}, "launches"), element("span", {}, "MB"));
  get("foot").textContent =
    `For one more token after ${whole(data.context)}, unfused. Weights and sizes are listed with what reads them.`;
  get("passes").addEventListener("click", (event) => {
    const row = event.target.closest("li");
    if (row) actions.showPass(Number(row.dataset.place));
  });
  get("passes").addEventListener("keydown", (event) => {
    const last = data.passes.length - 1;
    const to = { ArrowDown: state.place + 1, ArrowUp: state.place - 1, Home: 0, End: last }[event.key];
    if (to !== undefined) actions.showPass(to);
    else if (event.key === "Enter" || event.key === "ArrowRight") shownPanes().at(-1).scroll.focus();
    else return;
    event.preventDefault();
  });
}

function setUpBar() {
  const choose = (view) => {
    state.view = view;
    draw();
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

function setUpSearch() {
  const [input, list] = [get("search"), get("found")];
  let [found, at] = [[], 0];
  const close = () => {
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
  };
  const go = (place) => {
    close();
    actions.reveal(searched(), found[place].index, found[place].module);
    shownPanes().at(-1).scroll.focus({ preventScroll: true });
  };
  const searched = () => shownPanes().at(-1).graph;
  const mark = (to) => {
    const rows = [...list.querySelectorAll("[role=option]")];
    at = Math.max(0, Math.min(rows.length - 1, to));
    rows.forEach((row, place) => row.setAttribute("aria-selected", String(place === at)));
    rows[at]?.scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", rows[at]?.id ?? "");
  };
  input.addEventListener("input", () => {
    const graph = searched();
    const { modules, nodes } = search(graph, input.value);
    found = [
      ...modules.slice(0, 8).map(([path, index]) => {
        return { index, module: path, label: path, note: text(graph.rows[index][CLASS]) };
      }),
      ...nodes.slice(0, 40).map((index) => {
        const row = graph.rows[index];
        const note = [text(row[TYPE]), text(row[MODULE])].filter(Boolean).join(" · ");
        return { index, module: null, label: display(row), note };
      }),
    ];
    const rows = found.map(({ label, note }, place) => {
      const attributes = { role: "option", id: `found-${place}`, onclick: () => go(place) };
      return element("li", attributes, element("code", {}, label), element("small", {}, note));
    });
    const total = `${many(modules.length, "module")}, ${many(nodes.length, "node")}`;
    list.replaceChildren(...rows, element("li", { class: "total", role: "presentation" }, total));
    list.hidden = !input.value.trim();
    input.setAttribute("aria-expanded", String(!list.hidden));
    mark(0);
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown") mark(at + 1);
    else if (event.key === "ArrowUp") mark(at - 1);
    else if (event.key === "Enter" && found[at] && !list.hidden) go(at);
    else if (event.key === "Escape") {
      input.value = "";
      close();
      input.blur();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });
  list.addEventListener("mousedown", (event) => event.preventDefault());
  input.addEventListener("blur", close);
}

document.addEventListener("keydown", (event) => {
  const typing = document.activeElement === get("search");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    get("search").focus();
    get("search").select();
    event.preventDefault();
  } else if (event.key === "Escape" && !typing) actions.letGo();
});

get("title").textContent = data.title;
get("phases").textContent = data.phases.map(([name, seconds]) => `${name} ${secondsText(seconds)}`).join(" · ");
get("panes").append(panes.before.root, panes.after.root);
setUpPasses();
setUpBar();
setUpSearch();
passes();
draw();
details();
get("passes").focus({ preventScroll: true });
