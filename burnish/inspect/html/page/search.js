// ---- Search: the nodes and modules that have all the words, in the graph that is shown.

/** Nodes whose name, op, module, weight or line of source has all the words; modules first. */
function search(graph, query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const has = (columns) => {
    const haystack = columns.map(text).join(" ").toLowerCase();
    return words.every((word) => haystack.includes(word));
  };
  const modules = new Map();
  const nodes = [];
  if (!words.length) return { modules: [], nodes };
  graph.rows.forEach((row, index) => {
    const path = text(row[MODULE]);
    if (path && graph.isDrawn[index] && !modules.has(path) && has([row[MODULE], row[CLASS]])) modules.set(path, index);
    if (has([NAME, TARGET, MODULE, SOURCE, CODE, TYPE].map((column) => row[column]))) nodes.push(index);
  });
  return { modules: [...modules], nodes };
}

/** The name of a place that each layer has: its path with a star for numbers. */
const ofAnyLayer = (path) => path.replace(/(^|\.)\d+(?=\.|$)/g, "$1*");

/** What is found at the same place of several layers, once: each with all that it stands for, the first one first. */
function foldFound(graph, { modules, nodes }) {
  const folded = new Map();
  const add = (key, found) => folded.set(key, [...(folded.get(key) ?? []), found]);
  for (const [path, index] of modules) {
    add(`m ${ofAnyLayer(path)} ${graph.rows[index][CLASS]}`, { index, path, key: `m:${path}` });
  }
  const before = new Map(); // nodes of one op in a module, to tell the first from the second
  const ordinal = graph.rows.map((row) => {
    const key = `${row[MODULE]} ${row[TARGET]}`;
    before.set(key, (before.get(key) ?? 0) + 1);
    return before.get(key);
  });
  for (const index of nodes) {
    const row = graph.rows[index];
    const [path, target] = [text(row[MODULE]), text(row[TARGET])];
    const isOp = isCall(row);
    const named = isOp ? target : ofAnyLayer(target).replace(/\d+/g, "*");
    const key = `n ${ofAnyLayer(path)} ${named} ${row[TYPE]} ${isOp && ordinal[index]}`;
    // What is no op and in no module is one of several only by its name: two inputs are not alike.
    add(isOp || named !== target ? key : `${key} ${row[NAME]}`, { index, path: path || target, key: null });
  }
  return [...folded.values()];
}

/** `30× in layers 0–29`, of what was found at the same place of several layers. */
function foldedText(founds) {
  if (founds.length < 2) return "";
  const numbers = founds
    .map(({ path }) => path.match(/\d+/)?.[0])
    .filter(Boolean)
    .map(Number);
  const [least, most] = [Math.min(...numbers), Math.max(...numbers)];
  return `${founds.length}×${least < most ? `, in ${least}–${most}` : ""}`;
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
    const [{ index, key }] = found[place];
    actions.reveal(searched(), index, key);
    shownPanes().at(-1).scroll.focus({ preventScroll: true });
  };
  const searched = () => shownPanes().at(-1)?.graph ?? graphOf(data.passes.length - 1, "after");
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
    const folded = foldFound(graph, { modules, nodes });
    found = [...folded.filter(([{ key }]) => key).slice(0, 8), ...folded.filter(([{ key }]) => !key).slice(0, 40)];
    const rows = found.map((founds, place) => {
      const [{ index, key, path }] = founds;
      const row = graph.rows[index];
      const label = key ? (founds.length > 1 ? ofAnyLayer(path) : path) : display(row);
      const where = founds.length > 1 ? ofAnyLayer(text(row[MODULE])) : text(row[MODULE]);
      const note = [foldedText(founds), text(row[key ? CLASS : TYPE]), key ? "" : where].filter(Boolean).join(" · ");
      const attributes = { role: "option", id: `found-${place}`, onclick: () => go(place) };
      return element("li", attributes, element("code", {}, label), element("small", {}, note));
    });
    const total = `${many(folded.length, "place")}: ${many(modules.length, "module")}, ${many(nodes.length, "node")}`;
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
