// ---- What is shown, what is chosen, and the keys.

const get = (id) => document.getElementById(id);
const OVERVIEW = -1; // in the place of a pass
const usualView = () => (hasBefore(data.passes.length - 1) && innerWidth > 1000 ? "both" : "after");
const state = {
  place: OVERVIEW,
  view: usualView(),
  colors: COLORS[0][0],
  all: false, // whether every part is open that was not closed by hand
  open: new Map(), // parts opened or closed by hand
  chosen: null, // a part, or a node that is in no box
  rewrite: null, // which of the pass's rewrites is looked at, in the order in which it made them
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
    tellAddress();
  },
  toggle(part) {
    state.open.set(part.key, !isOpen(part));
    draw(part.key);
  },
  letGo() {
    if (state.place === OVERVIEW) return;
    Object.assign(state, { chosen: null, rewrite: null });
    details();
    for (const pane of shownPanes()) pane.redraw();
    tellAddress();
  },
  /** A pass, or the overview; with `isStep`, in the place of what the address named before. */
  showPass(place, isStep = false) {
    if (place < OVERVIEW || place >= data.passes.length) return;
    Object.assign(state, { place, chosen: null, rewrite: null });
    show();
    tellAddress(isStep);
  },
  /** The node that a rewrite or refusal is about, in the graph before the pass, and what the rewrite made after it. */
  showEntry(place, kind, which) {
    const name = data.passes[place][kind][which][0];
    if (place && state.view === "after") state.view = innerWidth > 1000 ? "both" : "before";
    Object.assign(state, { place, chosen: null, rewrite: kind === "rewrites" ? which : null });
    show();
    const graph = shownPanes()
      .map((pane) => pane.graph)
      .find((each) => each.at.has(name));
    if (graph) actions.reveal(graph, graph.at.get(name));
    showMade();
    tellAddress();
  },
  /** Open what is around a node, go there and choose it; what is not drawn is near what reads it. With `key`, the box
   *  of that key around the node, if it has one. */
  reveal(graph, index, key = null) {
    if (state.place !== graph.place) Object.assign(state, { place: graph.place });
    if (!isShown(graph.side)) state.view = graph.side;
    let near = index;
    while (!graph.isDrawn[near] && graph.readers[near].length) near = graph.readers[near][0];
    let path = graph.isDrawn[near] ? graph.path(near) : [];
    const around = path.findIndex((part) => part.key === key);
    if (around >= 0) path = path.slice(0, around + 1);
    for (const part of path.slice(0, -1)) state.open.set(part.key, true);
    const part = path.at(-1);
    if (around >= 0 && part.kind !== "node") state.chosen = { key: part.key, graph, part };
    else state.chosen = { key: near === index && part ? part.key : null, graph, index };
    show();
    // The other side goes to what is nearest to the node there.
    for (const pane of shownPanes()) {
      const nearest = path.findLast((each) => pane.byKey.has(each.key));
      if (nearest) pane.goTo(nearest.key);
    }
    const row = graph.rows[index];
    say(around >= 0 ? spokenBox(part) : `${display(row)}, ${text(row[TYPE])}`);
    tellAddress();
  },
};

const panes = { before: new Pane("before", actions), after: new Pane("after", actions) };
/** Whether the program before or after the pass is in view: of what was captured, there is one after alone. */
function isShown(side) {
  if (state.place === OVERVIEW) return false;
  return hasBefore(state.place) ? state.view === "both" || state.view === side : side === "after";
}
const shownPanes = () => Object.values(panes).filter((pane) => isShown(pane.side));
const say = (words) => (get("said").textContent = words);

/** All of the page, after another pass was chosen. */
function show() {
  passes();
  draw();
  details();
  // Who was in what has gone is at the list of passes.
  if (!document.activeElement?.checkVisibility()) get("passes").focus({ preventScroll: true });
}

/** Lays out what is shown; `anchor`, or else where the keyboard is, stays in place. */
function draw(anchor = null) {
  const isOverview = state.place === OVERVIEW;
  get("overview").hidden = !isOverview;
  for (const id of ["stage", "details"]) get(id).hidden = isOverview;
  if (isOverview) get("story").replaceChildren(...overview());
  for (const [side, pane] of Object.entries(panes)) {
    pane.root.hidden = !isShown(side);
    if (pane.root.hidden) continue;
    const graph = graphOf(state.place, side);
    pane.show(
      graph,
      isOpen,
      `${captionOf(state.place, side)} · ${many(graph.rows.length, "node")}`,
      anchor ?? pane.active,
    );
  }
  if (isOverview) return;
  get("colors").value = state.colors;
  get("kinds").replaceChildren(...colorLegend());
  for (const button of get("views").children) {
    const checked = button.dataset.view === (hasBefore(state.place) ? state.view : "after");
    button.setAttribute("aria-checked", String(checked));
    button.tabIndex = checked ? 0 : -1;
    button.disabled = !hasBefore(state.place) && !checked;
  }
}

function details() {
  if (state.place === OVERVIEW) return;
  const { chosen } = state;
  const back = element(
    "button",
    { class: "back", onclick: () => actions.letGo() },
    `← ${data.passes[state.place].name}`,
  );
  let content;
  if (!chosen) content = isCompared ? pairDetails(state.place) : passDetails(state.place, actions);
  else if (chosen.part) content = [back, ...partDetails(chosen.part, actions)];
  else content = [back, ...nodeDetails(chosen.graph, chosen.index, state.place, actions)];
  get("details").replaceChildren(...[stepper(state.place, actions), ...content].filter(Boolean));
  get("details").scrollTop = 0;
}

function passes() {
  const list = get("passes");
  if (!list.firstChild) {
    const moved = data.passes.map((pass) => pass.bytes_moved);
    const most = { launches: Math.max(1, ...data.passes.map((pass) => pass.launches)), bytes: Math.max(1, ...moved) };
    list.append(overviewRow(), ...data.passes.map((pass, place) => passRow(pass, place, most, unitOf(moved))));
  }
  for (const row of list.children) {
    const isChosen = Number(row.dataset.place) === state.place;
    row.setAttribute("aria-selected", String(isChosen));
    if (!isChosen) continue;
    list.setAttribute("aria-activedescendant", row.id);
    row.scrollIntoView({ block: "nearest" });
  }
}

function setUpPasses() {
  const [unit] = unitOf(data.passes.map((pass) => pass.bytes_moved));
  get("heads").append(element("span", {}, "pass"), element("span", {}, "launches"), element("span", {}, unit));
  get("foot").textContent =
    `For ${data.counted}, unfused. Weights and sizes are listed with what reads them.`;
  get("passes").addEventListener("click", (event) => {
    const row = event.target.closest("li");
    if (row) actions.showPass(Number(row.dataset.place));
  });
  get("passes").addEventListener("keydown", (event) => {
    const last = data.passes.length - 1;
    const to = { ArrowDown: state.place + 1, ArrowUp: state.place - 1, Home: OVERVIEW, End: last }[event.key];
    if (to !== undefined) actions.showPass(to, true);
    else if (event.key === "Enter" || event.key === "ArrowRight")
      (shownPanes().at(-1)?.scroll ?? get("overview")).focus();
    else return;
    event.preventDefault();
  });
}

document.addEventListener("keydown", (event) => {
  const isTyping = document.activeElement === get("search");
  if (isTyping || get("help").open || event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = {
    "/": () => get("search").select(),
    "?": help,
    f: fitAll,
    n: () => step(1, actions),
    p: () => step(-1, actions),
    Escape: () => actions.letGo(),
  };
  if (!keys[event.key]) return;
  keys[event.key]();
  event.preventDefault();
});

get("title").textContent = data.title;
get("phases").textContent = isCompared
  ? ""
  : data.phases.map(([name, seconds]) => `${name} ${secondsText(seconds)}`).join(" · ");
get("panes").append(panes.before.root, panes.after.root);
setUpPasses();
setUpBar();
setUpSearch();
setUpHelp();
setUpColors();
addEventListener("hashchange", () => location.hash !== addressNow() && followAddress());
get("passes").focus({ preventScroll: true });
followAddress();
