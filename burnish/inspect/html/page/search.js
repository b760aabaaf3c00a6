// ---- Search: the nodes and modules that have all the words, in the graph that is shown.

/** Nodes whose name, op, module, weight or line of source has all the words; modules first. */
function search(graph, query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return { modules: [], nodes: [] };
  const has = (haystack) => words.every((word) => haystack.includes(word));
  const modules = new Map();
  const nodes = [];
  graph.rows.forEach((row, index) => {
    const path = text(row[MODULE]);
    if (path && graph.isDrawn[index] && !modules.has(path) && has(`${path} ${text(row[CLASS])}`.toLowerCase()))
      modules.set(path, index);
    const columns = [NAME, TARGET, MODULE, SOURCE, CODE, TYPE];
    if (
      has(
        columns
          .map((column) => text(row[column]))
          .join(" ")
          .toLowerCase(),
      )
    )
      nodes.push(index);
  });
  return { modules: [...modules], nodes };
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
    const { index, key } = found[place];
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
    found = [
      ...modules.slice(0, 8).map(([path, index]) => {
        return { index, key: `m:${path}`, label: path, note: text(graph.rows[index][CLASS]) };
      }),
      ...nodes.slice(0, 40).map((index) => {
        const row = graph.rows[index];
        const note = [text(row[TYPE]), text(row[MODULE])].filter(Boolean).join(" · ");
        return { index, key: null, label: display(row), note };
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
