// ---- Layered drawing, top to bottom. Each opened part is laid out by itself and is one box in the part around it.

const ROW_GAP = 26;
const COLUMN_GAP = 12;
const LINE_GAP = 9; // between lines that pass a row
const PADDING = 14;
const HEADER = 30;
/** A line that would pass more rows than these is told in words at the box that it goes to. */
const FAR = 36;
const FAR_OF_MANY = 3; // for a value that has more readers than this, here
const FAR_OF_INPUT = 1; // for an input of the program other than the tokens

const STRAIGHT = 40; // how strongly, next to the other lines

const pen = document.createElement("canvas").getContext("2d");
const widths = new Map();

function textWidth(content, font) {
  const key = `${font} ${content}`;
  if (!widths.has(key)) {
    pen.font = font;
    widths.set(key, pen.measureText(content).width);
  }
  return widths.get(key);
}

const SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";
const MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace";
const clipped = (content, most) => (content.length > most ? `${content.slice(0, most - 1)}…` : content);

/** What is written in a box. */
function labelsOf(part) {
  const { operations, launches, bytes } = part.totals;
  const node = part.kind === "node";
  const heat = heatText(part);
  const second = node
    ? (heat ?? part.line)
    : heat
      ? `${many(operations, "op")} · ${heat}`
      : `${many(operations, "op")} · ${many(launches, "launch", "launches")} · ${bytesText(bytes)}`;
  return {
    title: clipped(part.title, 40),
    note: clipped(part.note ?? "", 36),
    second: clipped(second, node ? 30 : 60),
  };
}

/** A part as a picture of its own size: { part, w, h, labels, inner }; `inner` if it is open. */
function pictureOf(part, isOpen) {
  const labels = labelsOf(part);
  const first =
    textWidth(labels.title, `600 12px ${SANS}`) + (labels.note ? 7 + textWidth(labels.note, `12px ${SANS}`) : 0);
  if (part.parts && isOpen(part)) {
    const inner = arrange(part, isOpen);
    const w = Math.max(inner.w + 2 * PADDING, first + 64);
    return { part, labels, inner, w, h: inner.h + HEADER + PADDING, dx: (w - inner.w) / 2, dy: HEADER };
  }
  const node = part.kind === "node";
  const second = textWidth(labels.second, `11px ${node ? MONO : SANS}`);
  const w = Math.ceil(Math.max(first, second, 64)) + (part.parts ? 40 : 24);
  const more = (!node && hasMarks(part) ? 15 : 0) + (!node && mixOf(part).length ? 6 : 0);
  return { part, labels, inner: null, w, h: 42 + more };
}

const hasMarks = (part) => part.totals.made + part.totals.changed + part.totals.removed > 0;

/** The parts of an open part, placed: boxes with x and y from the top left corner, and lines between them. */
function arrange(whole, isOpen) {
  const { reads, readers } = whole.graph;
  const boxes = whole.parts.map((part) => pictureOf(part, isOpen));
  const owner = new Map();
  boxes.forEach((box, index) => box.part.leaves.forEach((leaf) => owner.set(leaf, index)));
  const vertices = boxes.map((box) => ({ box, w: box.w, h: box.h, tags: [] }));
  const inputs = new Map(); // a value from outside: the place on the upper edge where it comes in
  const outputs = new Map(); // a value that is read outside: where it leaves
  const edges = new Map();
  const port = (ports, value, isInput) => {
    if (!ports.has(value)) {
      ports.set(value, vertices.length);
      vertices.push({ w: 1, h: 0, port: isInput ? "in" : "out", value, tags: [] });
    }
    return ports.get(value);
  };
  const connect = (from, to, value) => {
    const [open, into] = [vertices[from].box?.inner, vertices[to].box?.inner];
    const key = `${from} ${to} ${open || into ? value : ""}`;
    if (!edges.has(key)) edges.set(key, { from, to, value });
  };
  for (const leaf of whole.leaves) {
    const to = owner.get(leaf);
    for (const value of reads[leaf]) {
      const from = owner.get(value);
      const isTold = boxes[to].inner && !boxes[to].inner.ins.has(value); // in words, inside
      if (from === to || isTold) continue;
      connect(from ?? port(inputs, value, true), to, value);
    }
    const leaves = readers[leaf].some((reader) => !owner.has(reader) && reads[reader].includes(leaf));
    if (whole.kind !== "root" && leaves) connect(to, port(outputs, leaf, false), leaf);
  }
  const list = [...edges.values()];
  rank(vertices, list);
  const lines = tellFar(whole.graph, vertices, list);
  const used = new Set(lines.flatMap((line) => [line.from, line.to]));
  const drawnVertices = vertices.filter((vertex) => vertex.box || used.has(vertex));
  const { w, h } = settle(drawnVertices, lines, straightThrough(whole.graph, drawnVertices));
  const shown = vertices
    .filter((vertex) => vertex.box)
    .map((vertex) => Object.assign(vertex.box, { x: vertex.x - vertex.w / 2, y: vertex.y }));
  const ports = (kind) =>
    new Map(drawnVertices.filter((vertex) => vertex.port === kind).map((vertex) => [vertex.value, vertex.x]));
  return { w, h, boxes: shown, lines: lines.map((line) => drawLine(line)), ins: ports("in"), outs: ports("out") };
}

/** Gives each vertex a row below all that it reads; lines that close a circle are marked `back`. */
function rank(vertices, edges) {
  const into = vertices.map(() => []);
  const out = vertices.map(() => []);
  for (const edge of edges) {
    into[edge.to].push(edge);
    out[edge.from].push(edge);
  }
  const waiting = into.map((list) => list.length);
  const order = [];
  const done = vertices.map(() => false);
  const ready = vertices.map((_, index) => index).filter((index) => !waiting[index]);
  let next = 0;
  while (order.length < vertices.length) {
    if (!ready.length) {
      while (done[next]) next += 1;
      for (const edge of into[next]) if (!done[edge.from]) edge.back = true;
      ready.push(next);
    }
    const index = ready.pop();
    if (done[index]) continue;
    done[index] = true;
    order.push(index);
    for (const edge of out[index]) if (!edge.back && !(waiting[edge.to] -= 1)) ready.push(edge.to);
  }
  let most = 0;
  for (const index of order) {
    const before = into[index].filter((edge) => !edge.back).map((edge) => vertices[edge.from].rank + 1);
    vertices[index].rank = vertices[index].port === "in" ? 0 : Math.max(1, ...before);
    if (vertices[index].port !== "out") most = Math.max(most, vertices[index].rank);
  }
  for (const vertex of vertices) if (vertex.port === "out") vertex.rank = most + 1;
  // What is read far below, and reads no more than it gives, moves down to where it is read.
  for (const index of order.reverse()) {
    if (vertices[index].port) continue;
    const after = out[index].filter((edge) => !edge.back && vertices[edge.to].port !== "out");
    const before = into[index].filter((edge) => !edge.back).length;
    if (after.length && after.length >= before) {
      vertices[index].rank = Math.max(
        vertices[index].rank,
        Math.min(...after.map((edge) => vertices[edge.to].rank)) - 1,
      );
    }
  }
}

/** The lines to draw. Those that would run past everything are told at their lower end instead. */
function tellFar(graph, vertices, edges) {
  const readers = new Map();
  for (const edge of edges) readers.set(edge.value, (readers.get(edge.value) ?? 0) + 1);
  return edges
    .filter((edge) => {
      const rows = vertices[edge.to].rank - vertices[edge.from].rank;
      const box = vertices[edge.to].box;
      const isInput = text(graph.rows[edge.value][OP]) === "placeholder" && edge.value !== graph.tokens;
      const isMany = readers.get(edge.value) > FAR_OF_MANY;
      const far = rows > FAR || (isMany && rows > FAR_OF_MANY) || (isInput && rows > FAR_OF_INPUT);
      if (!far || !box || edge.back) return true;
      const tag = opLabel(graph, edge.value);
      if (!vertices[edge.to].tags.includes(tag)) vertices[edge.to].tags.push(tag);
      box.tags = vertices[edge.to].tags;
      return false;
    })
    .map((edge) => ({ ...edge, from: vertices[edge.from], to: vertices[edge.to] }));
}

const opLabel = (graph, index) => text(graph.rows[index][NAME]);

/** Where the main value enters and where it leaves, to be kept in line: opened layers then stand straight below each
 *  other. It leaves with the type with which it entered, but for numbers. */
function straightThrough(graph, vertices) {
  const ins = vertices.filter((vertex) => vertex.port === "in");
  const outs = vertices.filter((vertex) => vertex.port === "out");
  const kind = (port) => text(graph.rows[port.value][TYPE]).replace(/\d+/g, "");
  return ins.flatMap((one) => outs.map((two) => [one, two])).find(([one, two]) => kind(one) === kind(two));
}

/** Orders rows so that few lines cross, then sets x and y; the size of the whole. */
function settle(vertices, lines, straight) {
  for (const vertex of vertices) {
    Object.assign(vertex, { up: [], down: [] });
    if (vertex.box?.tags && !vertex.box.inner) vertex.h = vertex.box.h = vertex.box.h + 14;
  }
  const rows = [];
  const put = (vertex) => (rows[vertex.rank] ??= []).push(vertex);
  vertices.forEach(put);
  for (const line of lines) {
    if (line.back) continue;
    line.points = [line.from];
    for (let at = line.from.rank + 1; at < line.to.rank; at += 1) {
      const bend = { w: 1, h: 0, rank: at, bend: true, up: [], down: [] };
      put(bend);
      line.points.push(bend);
    }
    line.points.push(line.to);
    for (let index = 1; index < line.points.length; index += 1) {
      const [above, below] = [line.points[index - 1], line.points[index]];
      const weight = above.bend && below.bend ? 8 : above.bend || below.bend ? 1 : trunk(above, below);
      const shift = { above: offset(above, line.value, "outs"), below: offset(below, line.value, "ins"), weight };
      above.down.push({ to: below, ...shift });
      below.up.push({ to: above, ...shift });
    }
  }
  const full = rows.filter(Boolean);
  order(full);
  if (straight) {
    const [above, below] = straight;
    above.down.push({ to: below, above: 0, below: 0, weight: STRAIGHT });
    below.up.push({ to: above, above: 0, below: 0, weight: STRAIGHT });
  }
  columns(full);
  let y = 0;
  for (const row of full) {
    const height = Math.max(...row.map((vertex) => vertex.h));
    for (const vertex of row) {
      vertex.y = y + (height - vertex.h) / 2;
      vertex.top = y;
      vertex.bottom = y + height;
    }
    y += height + (height ? ROW_GAP : 8) + Math.min(40, row.length);
  }
  const all = full.flat();
  const left = Math.min(...all.map((vertex) => vertex.x - vertex.w / 2));
  for (const vertex of all) vertex.x -= left;
  const last = full.at(-1);
  return { w: Math.max(...all.map((vertex) => vertex.x + vertex.w / 2)), h: last ? last[0].bottom : 0 };
}

/** How strongly two boxes pull each other in line: more between large parts, so that the trunk is straight. */
function trunk(above, below) {
  const size = (vertex) => vertex.box?.part.leaves.length ?? 1;
  return 2 + Math.log2(Math.min(size(above), size(below))) * 2;
}

/** Where on the edge of an open box the value crosses it, from the middle. */
function offset(vertex, value, side) {
  const inner = vertex.box?.inner;
  return inner ? vertex.box.dx + inner[side].get(value) - vertex.w / 2 : 0;
}

function order(rows) {
  rows.forEach((row) => row.forEach((vertex, place) => (vertex.place = place)));
  const sweep = (list, side) => {
    for (const row of list) {
      for (const vertex of row) {
        const near = vertex[side];
        vertex.wish = near.length ? near.reduce((sum, each) => sum + each.to.place, 0) / near.length : vertex.place;
      }
      row.sort((one, two) => one.wish - two.wish || one.place - two.place);
      row.forEach((vertex, place) => (vertex.place = place));
    }
  };
  const back = [...rows].reverse();
  for (let round = 0; round < 5; round += 1) {
    sweep(rows, "up");
    sweep(back, "down");
  }
  sweep(rows, "up");
}

function columns(rows) {
  for (const row of rows) {
    let x = 0;
    for (const vertex of row) {
      vertex.x = x + vertex.w / 2;
      x += vertex.w + (vertex.bend ? LINE_GAP : COLUMN_GAP);
    }
  }
  const back = [...rows].reverse();
  for (let round = 0; round < 6; round += 1) {
    for (const row of rows) align(row, (vertex) => vertex.up);
    for (const row of back) align(row, (vertex) => vertex.down);
  }
  for (const row of rows) align(row, (vertex) => [...vertex.up, ...vertex.down]);
}

/** Moves the vertices of a row as near as they can be to what they are joined with, in order and without overlap:
 *  least squares, by pooling neighbours that would overlap. */
function align(row, near) {
  const pools = [];
  let room = 0;
  row.forEach((vertex, place) => {
    if (place) {
      const previous = row[place - 1];
      room += (previous.w + vertex.w) / 2 + (previous.bend && vertex.bend ? LINE_GAP : COLUMN_GAP);
    }
    vertex.room = room;
    let weight = 0;
    let sum = 0;
    for (const each of near(vertex)) {
      const isUp = each.to.rank < vertex.rank;
      const wish = each.to.x + (isUp ? each.above - each.below : each.below - each.above);
      weight += each.weight;
      sum += each.weight * wish;
    }
    const pool = weight
      ? { weight, sum: sum - weight * room, from: place }
      : { weight: 0.01, sum: 0.01 * (vertex.x - room), from: place };
    while (pools.length && pools.at(-1).sum / pools.at(-1).weight > pool.sum / pool.weight) {
      const above = pools.pop();
      Object.assign(pool, { weight: pool.weight + above.weight, sum: pool.sum + above.sum, from: above.from });
    }
    pools.push(pool);
  });
  pools.forEach((pool, index) => {
    const end = pools[index + 1]?.from ?? row.length;
    for (let place = pool.from; place < end; place += 1) row[place].x = pool.sum / pool.weight + row[place].room;
  });
}

/** A line as a list of points: down the middle of each gap between rows, straight past boxes. */
function drawLine(line) {
  const { from, to, value } = line;
  const start = { x: from.x + offset(from, value, "outs"), y: from.y + from.h };
  const end = { x: to.x + offset(to, value, "ins"), y: to.y };
  if (line.back) {
    const side = Math.max(from.x + from.w / 2, to.x + to.w / 2) + 9;
    return { points: [start, { x: side, y: start.y + 12 }, { x: side, y: end.y - 12 }, end], value, back: true };
  }
  const points = [start];
  if (from.bottom > start.y) points.push({ x: start.x, y: from.bottom });
  for (const bend of line.points.slice(1, -1)) points.push({ x: bend.x, y: bend.top }, { x: bend.x, y: bend.bottom });
  if (to.top < end.y) points.push({ x: end.x, y: to.top });
  points.push(end);
  return { points, value, back: false };
}

/** All that is to be drawn of a part, in coordinates of the whole picture. */
function flatten(inner, x, y, level, into = { boxes: [], lines: [] }) {
  for (const line of inner.lines) {
    const points = line.points.map((point) => ({ x: point.x + x, y: point.y + y }));
    const ys = points.map((point) => point.y);
    into.lines.push({ points, value: line.value, back: line.back, top: Math.min(...ys), bottom: Math.max(...ys) });
  }
  for (const box of inner.boxes) {
    const placed = { ...box, x: x + box.x, y: y + box.y, level };
    into.boxes.push(placed);
    if (!box.inner) continue;
    const [left, top, bottom] = [placed.x + box.dx, placed.y + box.dy, placed.y + box.h];
    flatten(box.inner, left, top, level + 1, into);
    const through = (value, port, from, to) => {
      const points = [
        { x: left + port, y: from },
        { x: left + port, y: to },
      ];
      into.lines.push({ points, value, back: false, top: from, bottom: to });
    };
    for (const [value, port] of box.inner.ins) through(value, port, placed.y, top);
    for (const [value, port] of box.inner.outs) through(value, port, top + box.inner.h, bottom);
  }
  return into;
}
