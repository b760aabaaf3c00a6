// ---- The program after one pass: what reads what, what the pass did to it, and its parts, folded by module.

/** Most boxes of loose operations that a module which holds layers shows before they fold into one. */
const LOOSE = 6;
/** A program without modules is shown whole up to this size. */
const SMALL = 40;

const graphs = new Map();

function graphOf(place, side) {
  const key = `${place} ${side}`;
  if (!graphs.has(key)) graphs.set(key, new Graph(place, side));
  return graphs.get(key);
}

/** The program before or after pass number `place` of the list, marked with what that pass did. */
class Graph {
  constructor(place, side) {
    Object.assign(this, { place, side });
    const both = [beforeOf(place), data.passes[place]];
    const [pass, other] = side === "before" ? both : both.reverse();
    this.rows = pass.nodes.map((index) => data.nodes[index]);
    this.at = new Map(this.rows.map((row, index) => [row[NAME], index]));
    this.readers = this.rows.map(() => []);
    this.rows.forEach((row, index) => {
      for (const read of new Set(row[READS])) if (this.at.has(read)) this.readers[this.at.get(read)].push(index);
    });
    this.tokens = this.rows.findIndex((row) => text(row[OP]) === "placeholder"); // the first input
    this.marks = this.#marks(hasBefore(place) ? other : null);
    this.isDrawn = this.rows.map(isDrawn);
    this.isReturned = this.rows.map(() => false);
    this.home = this.#homes();
    this.reads = this.rows.map((row) => this.#drawnReads(row));
  }

  /** For each node "", or what the pass did to it: "made", "changed" or "removed". */
  #marks(pass) {
    if (!pass) return this.rows.map(() => "");
    const other = new Map(pass.nodes.map((index) => [data.nodes[index][NAME], data.nodes[index]]));
    const gone = this.side === "before" ? "removed" : "made";
    return this.rows.map((row) => {
      const twin = other.get(row[NAME]);
      if (!twin) return gone;
      const same = row === twin || [TARGET, TYPE, CALL, OP].every((column) => row[column] === twin[column]);
      return same && String(row[READS]) === String(twin[READS]) ? "" : "changed";
    });
  }

  /** The module in which each node is drawn: its own. But what several layers read, and no token changes, such as a
   *  table of positions, is drawn outside of the layer that has it. */
  #homes() {
    const { rows, readers } = this;
    const layers = rows.map((row) => layerOf(text(row[MODULE])));
    const isFixed = [];
    rows.forEach((row, index) => {
      const isInput = text(row[OP]) === "placeholder";
      const reads = () => row[READS].every((name) => isFixed[this.at.get(name)]);
      isFixed[index] = isInput ? index !== this.tokens && kindOf(row) !== "state" : readsShape(row) || reads();
    });
    const isShared = [];
    for (let index = rows.length - 1; index >= 0; index -= 1) {
      const layer = layers[index];
      const isElsewhere = (reader) => isShared[reader] || layers[reader]?.path !== layer.path;
      isShared[index] = Boolean(layer && isCall(rows[index]) && isFixed[index] && readers[index].some(isElsewhere));
    }
    return rows.map((row, index) => (isShared[index] ? layers[index].outside : text(row[MODULE])));
  }

  /** Places of the nodes that lines are drawn from. New states are told at the nodes that make them. */
  #drawnReads(row) {
    let reads = [...new Set(row[READS])].map((name) => this.at.get(name));
    reads = reads.filter((index) => index !== undefined && this.isDrawn[index]);
    if (text(row[OP]) !== "output") return reads;
    for (const index of reads.slice(1)) this.isReturned[index] = true;
    return reads.slice(0, 1);
  }

  get root() {
    this.made ??= rootPart(this);
    return this.made;
  }

  /** The parts that hold node `index`, the outermost first, down to its own box. */
  path(index) {
    const found = [];
    for (let part = this.root; part; part = part.parts?.find((each) => each.has(index))) found.push(part);
    return found.slice(1);
  }
}

/** Something that is drawn as one box: a node, a module, the loose operations of one, or a run of equal layers. */
class Part {
  constructor(graph, kind, key, leaves, labels, parts = null) {
    Object.assign(this, { graph, kind, key, leaves, ...labels });
    this.makeParts = parts;
    this.first = leaves[0];
  }

  get parts() {
    if (this.makeParts && !this.known) this.known = this.makeParts();
    return this.known ?? null;
  }

  has(index) {
    this.set ??= new Set(this.leaves);
    return this.set.has(index);
  }

  get totals() {
    if (!this.sums) {
      const sums = (this.sums = { operations: 0, launches: 0, bytes: 0, made: 0, changed: 0, removed: 0 });
      for (const index of this.leaves) {
        const row = this.graph.rows[index];
        sums.operations += isCall(row);
        sums.launches += row[LAUNCHES];
        sums.bytes += row[BYTES];
        if (this.graph.marks[index]) sums[this.graph.marks[index]] += 1;
      }
    }
    return this.sums;
  }

  /** Equal for parts that compute the same: ops, types, what reads what inside, and what the pass did. */
  get signature() {
    if (this.signed === undefined) {
      const { rows, reads, marks } = this.graph;
      const local = new Map(this.leaves.map((index, place) => [index, place]));
      const depth = this.path.length;
      this.signed = this.leaves
        .map((index) => {
          const row = rows[index];
          const inside = reads[index].map((read) => local.get(read) ?? "-").join();
          const name = isCall(row) ? row[TARGET] : "";
          return [name, row[TYPE], text(row[MODULE]).slice(depth), marks[index], inside].join(" ");
        })
        .join("\n");
    }
    return this.signed;
  }
}

/** The layer that a module is in, and the module that has the list of layers; nothing outside of layers. */
function layerOf(path) {
  const names = path.split(".");
  const at = names.findIndex(isNumber);
  if (at < 0) return null;
  return { path: names.slice(0, at + 1).join("."), outside: names.slice(0, Math.max(0, at - 1)).join(".") };
}

/** Ops of whose operands only the shape counts. */
const readsShape = (row) =>
  text(row[TYPE]).startsWith("size ") ||
  /^(positions|ring_positions|(new_|)(ones|zeros|full|empty)(_like)?)$/.test(opName(row));

const isNumber = (name) => /^\d+$/.test(name);

/** The tree of modules with the nodes of each; then parts of it, made when they are looked at. */
function rootPart(graph) {
  const tree = (path, name) => ({ path, name, own: [], all: [], inner: new Map() });
  const root = tree("", "");
  graph.rows.forEach((row, index) => {
    if (!graph.isDrawn[index]) return;
    let module = root;
    root.all.push(index);
    for (const name of graph.home[index].split(".").filter(Boolean)) {
      const path = module.path ? `${module.path}.${name}` : name;
      if (!module.inner.has(name)) module.inner.set(name, tree(path, name));
      module = module.inner.get(name);
      module.all.push(index);
    }
    module.own.push(index);
  });
  return new Part(graph, "root", "", root.all, { title: "", path: "" }, () => partsOf(graph, root));
}

const holdsLayers = (module) => [...module.inner].some(([name, inner]) => isNumber(name) || holdsLayers(inner));
const isLayered = (module) => !/(^|\.)\d+(\.|$)/.test(module.path) && holdsLayers(module);

/** The class of each module, from any program in which the module still has a node of its own. */
const classes = new Map(data.nodes.map((row) => [text(row[MODULE]), text(row[CLASS])]));

function partsOf(graph, module) {
  const parts = [];
  const runs = (holder) => {
    const numbered = [...holder.inner.values()].filter((inner) => isNumber(inner.name));
    numbered.sort((one, two) => one.name - two.name);
    parts.push(
      ...foldRuns(
        graph,
        holder,
        numbered.map((inner) => modulePart(graph, inner, true)),
      ),
    );
  };
  runs(module);
  for (const inner of module.inner.values()) {
    if (isNumber(inner.name)) continue;
    // A list of layers that computes nothing itself is not a box: its layers are.
    const isList = !inner.own.length && [...inner.inner.keys()].every(isNumber);
    if (isList) runs(inner);
    else parts.push(modulePart(graph, inner, false));
  }
  parts.push(...ownParts(graph, module));
  return parts.sort((one, two) => one.first - two.first);
}

function modulePart(graph, module, isLayer) {
  if (module.all.length === 1) return leafPart(graph, module.all[0], module.name);
  const up = module.path
    .split(".")
    .slice(0, -1)
    .filter((name) => !isNumber(name))
    .pop();
  const labels = {
    path: module.path,
    title: isLayer && up ? `${up}.${module.name}` : module.name,
    note: classes.get(module.path) ?? "",
    opens: isLayered(module),
  };
  return new Part(graph, "module", `m:${module.path}`, module.all, labels, () => partsOf(graph, module));
}

function leafPart(graph, index, module = "") {
  const row = graph.rows[index];
  const labels = {
    path: text(row[MODULE]),
    title: opName(row),
    note: kindOf(row) || module || (graph.home[index] === text(row[MODULE]) ? "" : "of all layers"),
    line: text(row[TYPE]),
    mark: graph.marks[index],
  };
  return new Part(graph, "node", `n:${text(row[NAME])}`, [index], labels);
}

/** The nodes of the module itself. Beside layers, many of them fold into one box between one part and the next. */
function ownParts(graph, module) {
  const single = (indices) => indices.map((index) => leafPart(graph, index));
  const isCallAt = (index) => isCall(graph.rows[index]);
  const loose = module.own.filter(isCallAt);
  const others = module.own.filter((index) => !isCallAt(index));
  if (loose.length <= LOOSE || (module.path && !isLayered(module))) return single(module.own);
  const small = !module.inner.size && loose.length <= SMALL;
  const bundles = new Map();
  const levels = levelsOf(graph, module);
  for (const index of loose) {
    const level = levels.get(index);
    bundles.set(level, [...(bundles.get(level) ?? []), index]);
  }
  const parts = single(others);
  for (const [level, indices] of bundles) {
    if (indices.length <= LOOSE) parts.push(...single(indices));
    else {
      const labels = { path: module.path, title: "own operations", note: classes.get(module.path) ?? "", opens: small };
      parts.push(new Part(graph, "loose", `o:${module.path}:${level}`, indices, labels, () => single(indices)));
    }
  }
  return parts;
}

/** How many times the way to each own node of the module goes into inner modules. One level can never read itself
 *  through another part, so folding it makes no circle. */
function levelsOf(graph, module) {
  const owner = new Map();
  for (const [name, inner] of module.inner) for (const index of inner.all) owner.set(index, name);
  const levels = new Map();
  const inner = new Map();
  for (const index of module.all) {
    let level = 0;
    for (const read of graph.reads[index]) {
      const name = owner.get(read);
      if (name !== undefined) level = Math.max(level, (inner.get(name) ?? 0) + 1);
      else if (levels.has(read)) level = Math.max(level, levels.get(read));
    }
    const name = owner.get(index);
    if (name === undefined) levels.set(index, level);
    else inner.set(name, Math.max(inner.get(name) ?? 0, level));
  }
  return levels;
}

/** Layers in a row that are alike, or alternate alike, become one box. */
function foldRuns(graph, holder, layers) {
  const parts = [];
  for (let start = 0; start < layers.length;) {
    let best = { period: 1, length: 1 };
    for (let period = 1; period <= 6; period += 1) {
      let length = period;
      while (start + length < layers.length && sameAs(layers[start + length], layers[start + length - period]))
        length += 1;
      length -= length % period;
      if (length >= 2 * period && length > best.length) best = { period, length };
    }
    const run = layers.slice(start, start + best.length);
    parts.push(best.length > 1 ? runPart(graph, holder, run, best.period) : run[0]);
    start += best.length;
  }
  return parts;
}

const sameAs = (one, two) => one.kind === two.kind && one.signature === two.signature;

function runPart(graph, holder, run, period) {
  const number = (part) => part.path.split(".").pop();
  const leaves = run.flatMap((part) => part.leaves).sort((one, two) => one - two);
  const [first, last] = [number(run[0]), number(run.at(-1))];
  const labels = {
    path: holder.path,
    title: `${holder.name || "modules"} ${first}–${last}`,
    note: `${run.length}× ${run[0].note}${period > 1 ? `, ${period} kinds in turn` : ""}`,
    opens: false,
    run,
  };
  return new Part(graph, "run", `r:${holder.path}:${first}`, leaves, labels, () => run);
}
