// ---- Around the graph: the passes, what is chosen in words, search.

const CHART = 42; // pixels of the longest bar
const FEW = 40; // most links that are listed unasked

function overviewRow() {
  const attributes = { role: "option", id: "pass-overview", "data-place": OVERVIEW };
  return element("li", attributes, element("span", { class: "what" }, element("b", {}, "Overview")));
}

/** What is told of a pass below its name. */
function passFacts(pass, place) {
  const facts = [];
  if (place) facts.push(many(pass.rewrites.length, "rewrite"));
  if (pass.refusals.length) facts.push(`${whole(pass.refusals.length)} refused`);
  if (place && pass.seconds !== null) facts.push(secondsText(pass.seconds));
  if (pass.bytes_a_token !== (beforeOf(place)?.bytes_a_token ?? 0))
    facts.push(`cache ${bytesText(pass.bytes_a_token)}/token`);
  if (pass.verification) facts.push(`error ${pass.verification.difference.toExponential(0)}`);
  if (!place) facts.push(many(pass.nodes.filter((index) => isCall(data.nodes[index])).length, "operation"));
  return facts;
}

/** A row for each pass, with bars of launches and bytes under their numbers. */
function passRow(pass, place, most, [, unit]) {
  const [sign, effect] = EFFECTS[pass.effect] ?? [pass.effect, pass.effect];
  const facts = isCompared ? differencesOf(place) : passFacts(pass, place);
  const bar = (count, of) => {
    const line = element("i");
    line.style.width = `${Math.max(count ? 1 : 0, (count / of) * CHART)}px`;
    return line;
  };
  const launches = many(pass.launches, "launch", "launches");
  const attributes = {
    role: "option",
    id: `pass-${place}`,
    "data-place": place,
    "aria-label": [
      numberOf(place),
      pass.name,
      place ? effect : "",
      ...facts,
      launches,
      `${bytesText(pass.bytes_moved)} moved`,
    ]
      .filter((each) => each !== "")
      .join(", "),
    class: (isCompared ? !facts.length : place && !pass.rewrites.length) ? "idle" : "",
  };
  const moved = pass.bytes_moved / unit;
  return element(
    "li",
    attributes,
    element("span", { class: "number" }, String(numberOf(place))),
    element(
      "span",
      { class: "what" },
      element("b", {}, pass.name),
      place ? element("span", { class: "effect", title: effect }, sign) : null,
      element("small", {}, ...facts.flatMap((fact, index) => [index ? "\u00a0· " : "", element("span", {}, fact)])),
    ),
    element("span", { class: "bar" }, whole(pass.launches), bar(pass.launches, most.launches)),
    element(
      "span",
      { class: "bar" },
      moved.toLocaleString("en-US", { maximumFractionDigits: moved < 10 ? 1 : 0 }),
      bar(pass.bytes_moved, most.bytes),
    ),
  );
}

const section = (title, ...children) => element("section", {}, element("h3", {}, title), ...children);

function facts(pairs) {
  const rows = pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return element("dl", {}, ...rows.map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

/** What a pass did: totals, then rewrites and refusals, those that say the same together. */
function passDetails(place, actions) {
  const pass = data.passes[place];
  const last = data.passes[place - 1];
  const change = (now, before, show) => (last && now !== before ? `${show(before)} → ${show(now)}` : show(now));
  const options = Object.entries(pass.options)
    .map(([key, value]) => `${key}=${value}`)
    .join(", ");
  const check = pass.verification;
  return [
    element("h2", {}, pass.name),
    element(
      "p",
      { class: "sub" },
      place ? (EFFECTS[pass.effect] ?? ["", pass.effect])[1] : "the program as it was captured",
    ),
    facts([
      ["options", options],
      ["stage", pass.stage],
      ["launches", change(pass.launches, last?.launches, whole)],
      ["moved", change(pass.bytes_moved, last?.bytes_moved, bytesText)],
      ["weights", change(pass.weight_bytes, last?.weight_bytes, bytesText)],
      [
        "cache a token",
        pass.bytes_a_token || last?.bytes_a_token ? change(pass.bytes_a_token, last?.bytes_a_token, bytesText) : "",
      ],
      ["time", place && pass.seconds !== null ? secondsText(pass.seconds) : ""],
      [
        "error",
        check
          ? `${check.difference.toExponential(1)} of ${check.tolerance.toExponential(0)} allowed; ${check.runs}`
          : "",
      ],
    ]),
    pass.notes.length ? section("Notes", ...pass.notes.map((note) => element("p", {}, note))) : null,
    entryGroups(pass, place, "rewrites", "rewrite_groups", "Rewrites", actions),
    entryGroups(pass, place, "refusals", "refusal_groups", "Left as it was", actions),
    place && !pass.rewrites.length && !pass.refusals.length
      ? element("p", { class: "sub" }, "No rewrites and no refusals.")
      : null,
  ];
}

/** Rewrites or refusals: what they say and how often, and the places of each when it is opened. */
function entryGroups(pass, place, kind, groups, title, actions) {
  if (!pass[groups].length) return null;
  const item = (index, first) => {
    const [node, where, said] = pass[kind][index].map(text);
    const label = said === first ? placeText(where, node) : `${said}, ${placeText(where, node)}`;
    const onclick = () => actions.showEntry(place, kind, index);
    return element("li", {}, element("button", { class: "entry", onclick }, element("code", {}, node), ` ${label}`));
  };
  const shown = pass[groups].map((indices) => {
    const first = text(pass[kind][indices[0]][2]);
    const summary = element("summary", {}, element("b", {}, `${whole(indices.length)}×`), ` ${first}`);
    const list = element("ol", { class: "entries" });
    const ontoggle = () => {
      if (!list.firstChild) list.append(...indices.map((index) => item(index, first)));
    };
    return element("details", { ontoggle }, summary, list);
  });
  const onclick = () => actions.showEntry(place, "rewrites", 0);
  const walk = kind === "rewrites" ? element("button", { class: "step", onclick }, "Step through them →") : null;
  return section(`${title} (${whole(pass[kind].length)})`, ...[walk, ...shown].filter(Boolean));
}

/** `in model.layers.0 (Llama), file.py:3: code`, without the node's own name in front. */
const placeText = (where, node) => (where.startsWith(`${node} `) ? where.slice(node.length + 1) : where);

/** What is known of one node. */
function nodeDetails(graph, index, place, actions) {
  const row = graph.rows[index];
  const mark = graph.marks[index];
  const module = text(row[MODULE]);
  const link = (each) =>
    element(
      "li",
      {},
      element("button", { onclick: () => actions.reveal(graph, each) }, element("code", {}, display(graph.rows[each]))),
      element("small", {}, text(graph.rows[each][TYPE])),
    );
  const reads = [...new Set(row[READS])].map((name) => graph.at.get(name)).filter((each) => each !== undefined);
  const links = (indices) => {
    const list = element("ul", { class: "links" }, ...indices.slice(0, FEW).map(link));
    const onclick = () => list.replaceChildren(...indices.map(link));
    if (indices.length > FEW)
      list.append(element("li", {}, element("button", { onclick }, `all ${whole(indices.length)}`)));
    return list;
  };
  const told = [kindOf(row), mark && (isCompared ? MARKS[mark] : `${mark} by ${data.passes[place].name}`)];
  if (graph.isReturned[index]) told.push("returned by the step");
  return [
    element("h2", {}, isCall(row) ? text(row[TARGET]).replace(/\.default$/, "") : opName(row)),
    element("p", { class: "sub" }, told.filter(Boolean).join(" · ")),
    facts([
      ["name", element("code", {}, display(row))],
      ["type", text(row[TYPE]) && element("code", {}, text(row[TYPE]))],
      ["module", module],
      ["class", text(row[CLASS])],
      ["layout", text(row[LAYOUT])],
      ["launches", isCall(row) ? whole(row[LAUNCHES]) : ""],
      ["moved", isCall(row) ? bytesText(row[BYTES]) : ""],
    ]),
    text(row[SOURCE])
      ? section(
          "Source",
          element("figure", {}, element("figcaption", {}, text(row[SOURCE])), element("pre", {}, text(row[CODE]))),
        )
      : null,
    text(row[CALL]) ? section("Computes", element("pre", {}, text(row[CALL]))) : null,
    row[HISTORY].length
      ? section(
          "Made by",
          element("ol", { class: "history" }, ...row[HISTORY].map((step) => historyItem(step, graph, actions))),
        )
      : null,
    row[KERNELS].length
      ? section(
          row[KERNELS].length > 1 ? "Kernels" : "Kernel",
          ...row[KERNELS].map(([name, source]) =>
            element("details", {}, element("summary", {}, text(name)), element("pre", {}, text(source))),
          ),
        )
      : null,
    reads.length ? section("Reads", links(reads)) : null,
    graph.readers[index].length ? section("Read by", links(graph.readers[index])) : null,
  ];
}

/** One rewrite that led to a node, with the pass to go to. */
function historyItem([number, which], graph, actions) {
  const passes = isCompared && graph.side === "before" ? data.others : data.passes;
  const place = passes.findIndex((pass) => pass.number === number && !pass.absent);
  if (place < 0) return element("li", {}, `pass ${number}`);
  const pass = passes[place];
  const entry = pass.rewrites[which]?.map(text);
  const go = () => (entry && !isCompared ? actions.showEntry(place, "rewrites", which) : actions.showPass(place));
  return element(
    "li",
    {},
    element("button", { onclick: go }, element("span", { class: "number" }, String(number)), pass.name),
    entry ? element("p", {}, entry[2]) : element("p", {}, "by the pass as a whole"),
    entry ? element("p", { class: "place" }, entry[1]) : null,
  );
}

/** What is known of a module, or of other nodes that are drawn as one box. */
function partDetails(part, actions) {
  const { operations, launches, bytes, made, changed, removed } = part.totals;
  const counts = new Map();
  for (const index of part.leaves) {
    const row = part.graph.rows[index];
    if (isCall(row)) counts.set(opName(row), [...(counts.get(opName(row)) ?? []), index]);
  }
  const ops = [...counts].sort((one, two) => two[1].length - one[1].length);
  return [
    element("h2", {}, part.title),
    element("p", { class: "sub" }, part.note ?? ""),
    facts([
      ["module", part.path],
      ["operations", whole(operations)],
      ["launches", whole(launches)],
      ["moved", bytesText(bytes)],
      [isCompared ? "beside the other" : "this pass", marksText({ made, changed, removed })],
    ]),
    section(
      "Operations",
      element(
        "ul",
        { class: "links" },
        ...ops.map(([name, indices]) =>
          element(
            "li",
            {},
            element("button", { onclick: () => actions.reveal(part.graph, indices[0]) }, element("code", {}, name)),
            element("small", {}, `${whole(indices.length)}×`),
          ),
        ),
      ),
    ),
  ];
}
