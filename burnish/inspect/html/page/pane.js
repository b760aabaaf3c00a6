// ---- One graph on the screen. Only what is in view is in the document, however large the graph is.

const MARGIN = 14;
const BEYOND = 300; // pixels around the view that are drawn ahead
const READABLE = 0.5;
const WHEEL = 40; // pixels that the wheel turns for one step of zoom
const ZOOMS = [0.3, 0.4, 0.5, 0.65, 0.8, 1, 1.25, 1.6];

class Pane {
  constructor(side, actions) {
    Object.assign(this, { side, actions, zoom: 1, shown: new Map(), boxes: [], lines: [], active: null });
    this.frames = drawn("g");
    this.strokes = drawn("g", { class: "lines", "aria-hidden": "true" });
    this.nodes = drawn("g");
    this.svg = drawn("svg", { role: "presentation" }, this.frames, this.strokes, this.nodes);
    this.scroll = element("div", { class: "scroll", role: "tree", tabindex: "0" }, this.svg);
    this.caption = element("p", { class: "caption" });
    this.minimap = new Minimap(this);
    this.root = element("div", { class: "pane" }, this.caption, this.scroll, this.minimap.canvas);
    this.scroll.addEventListener("scroll", () => this.#later(), { passive: true });
    this.scroll.addEventListener("keydown", (event) => this.#key(event));
    this.scroll.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    this.svg.addEventListener("click", (event) => this.#click(event));
    new ResizeObserver(() => this.#later()).observe(this.scroll);
  }

  /** Lay the graph out anew; the box `anchor` stays where it is on the screen. */
  show(graph, isOpen, caption, anchor = null) {
    const before = this.byKey?.get(anchor);
    this.graph = graph;
    this.caption.textContent = caption;
    this.scroll.setAttribute("aria-label", caption);
    const inner = arrange(graph.root, isOpen);
    Object.assign(this, flatten(inner, MARGIN, MARGIN, 1));
    this.byKey = new Map(this.boxes.map((box) => [box.part.key, box]));
    this.boxes.forEach((box, index) => (box.id = `${this.side}-${index}`));
    this.size = { w: inner.w + 2 * MARGIN, h: inner.h + 2 * MARGIN };
    if (!this.byKey.has(this.active)) this.active = this.byKey.has(anchor) ? anchor : (this.boxes[0]?.part.key ?? null);
    this.#resize();
    const after = this.byKey.get(anchor);
    if (before && after) {
      this.scroll.scrollTop += (after.y - before.y) * this.zoom;
      if (after.inner && !before.inner) this.#centre(after);
      else this.scroll.scrollLeft += (after.x + after.w / 2 - before.x - before.w / 2) * this.zoom;
      this.redraw();
    } else this.fit();
  }

  #centre(box) {
    this.scroll.scrollLeft = (box.x + box.w / 2) * this.zoom - this.scroll.clientWidth / 2;
  }

  #resize() {
    this.svg.setAttribute("viewBox", `0 0 ${this.size.w} ${this.size.h}`);
    this.svg.setAttribute("width", this.size.w * this.zoom);
    this.svg.setAttribute("height", this.size.h * this.zoom);
  }

  /** At most at this zoom, smaller where the width asks for it, and large enough to read. */
  #fitWidth(most) {
    const least = Math.min(most, READABLE);
    this.zoom = Math.max(least, Math.min(most, this.scroll.clientWidth / this.size.w));
    this.#resize();
  }

  /** From the top, as large as fits the width, and large enough to read; what does not fit, around the largest box. */
  fit() {
    this.#fitWidth(1);
    this.scroll.scrollTop = 0;
    const closed = this.boxes.filter((box) => !box.inner);
    if (closed.length)
      this.#centre(closed.reduce((one, two) => (two.part.leaves.length > one.part.leaves.length ? two : one)));
    this.redraw();
  }

  /** All of the graph at once, however small. */
  fitAll() {
    const { clientWidth, clientHeight } = this.scroll;
    this.zoom = Math.min(1, clientWidth / this.size.w, clientHeight / this.size.h);
    this.#resize();
    this.redraw();
  }

  zoomBy(steps) {
    const zoom = steps > 0 ? ZOOMS.find((each) => each > this.zoom) : ZOOMS.findLast((each) => each < this.zoom);
    if (!zoom) return;
    const { scrollLeft, scrollTop, clientWidth, clientHeight } = this.scroll;
    const ratio = zoom / this.zoom;
    this.zoom = zoom;
    this.#resize();
    this.scroll.scrollLeft = (scrollLeft + clientWidth / 2) * ratio - clientWidth / 2;
    this.scroll.scrollTop = (scrollTop + clientHeight / 2) * ratio - clientHeight / 2;
    this.redraw();
  }

  redraw() {
    for (const made of this.shown.values()) made.remove();
    this.shown.clear();
    this.#cull();
    this.scroll.setAttribute("aria-activedescendant", this.byKey.get(this.active)?.id ?? "");
  }

  #later() {
    this.awaited ??= requestAnimationFrame(() => {
      this.awaited = null;
      if (this.size) this.#cull();
    });
  }

  #cull() {
    const { scrollLeft, scrollTop, clientWidth, clientHeight } = this.scroll;
    const left = (scrollLeft - BEYOND) / this.zoom;
    const right = (scrollLeft + clientWidth + BEYOND) / this.zoom;
    const top = (scrollTop - BEYOND) / this.zoom;
    const bottom = (scrollTop + clientHeight + BEYOND) / this.zoom;
    const wanted = new Set();
    const keep = (key, layer, make) => {
      wanted.add(key);
      if (this.shown.has(key)) return;
      const made = make();
      this.shown.set(key, made);
      layer.append(made);
    };
    for (const box of this.boxes) {
      if (box.y > bottom || box.y + box.h < top || box.x > right || box.x + box.w < left) continue;
      keep(box.part.key, box.inner ? this.frames : this.nodes, () => (box.inner ? this.#frame(box) : this.#box(box)));
    }
    // The title of a frame that begins left of the view moves into it.
    for (const box of this.boxes) {
      const head = box.inner && this.shown.get(box.part.key)?.querySelector(".head");
      if (head)
        head.setAttribute(
          "transform",
          `translate(${Math.max(0, Math.min(scrollLeft / this.zoom - box.x, box.w - 160))} 0)`,
        );
    }
    const value = this.chosenValue();
    this.lines.forEach((line, index) => {
      if (line.top <= bottom && line.bottom >= top) keep(index, this.strokes, () => this.#line(line, value));
    });
    for (const [key, made] of this.shown) {
      if (wanted.has(key)) continue;
      made.remove();
      this.shown.delete(key);
    }
    this.minimap.draw();
  }

  /** The node that is chosen: lines of its value are drawn stronger. */
  chosenValue() {
    const box = this.byKey?.get(this.actions.chosen());
    return box?.part.kind === "node" ? box.part.first : null;
  }

  #line(line, value) {
    const [start, ...rest] = line.points;
    let [path, { x, y }] = [`M${start.x} ${start.y}`, start];
    for (const point of rest) {
      const middle = (y + point.y) / 2;
      path +=
        Math.abs(point.x - x) < 0.5 ? `V${point.y}` : `C${x} ${middle} ${point.x} ${middle} ${point.x} ${point.y}`;
      ({ x, y } = point);
    }
    const strong = value !== null && line.value === value;
    return drawn("path", { d: path, class: [line.back && "back", strong && "strong"].filter(Boolean).join(" ") });
  }

  #group(box, kind, children) {
    const { part } = box;
    const isOpen = part.parts ? String(Boolean(box.inner)) : null;
    const chosen = this.actions.chosen() === part.key;
    const color = box.inner ? "" : colorOf(part);
    const ofRewrite = part.kind === "node" && isOfRewrite(this.graph, part.first) && "of-rewrite";
    const active = this.active === part.key && "active";
    const classes = ["box", kind, color, part.mark, ofRewrite, active, chosen && "chosen"];
    const attributes = {
      class: classes.filter(Boolean).join(" "),
      id: box.id,
      role: "treeitem",
      "aria-level": box.level,
      "aria-expanded": isOpen,
      "aria-selected": String(chosen),
      "aria-label": spokenBox(part),
      "data-key": part.key,
      transform: `translate(${box.x} ${box.y})`,
    };
    return drawn("g", attributes, ...children);
  }

  #frame(box) {
    const { labels } = box;
    return this.#group(box, "frame", [
      drawn("rect", { class: "body", width: box.w, height: box.h, rx: 8 }),
      drawn("rect", { class: "hit", width: box.w, height: HEADER, rx: 8 }),
      drawn(
        "g",
        { class: "head" },
        drawn("path", { class: "sign", d: "M11 13l4 4 4-4" }),
        ...this.#title(labels, 26, 19),
      ),
    ]);
  }

  #title(labels, x, y) {
    const title = drawn("tspan", { class: "title" }, labels.title);
    const note = labels.note ? drawn("tspan", { class: "note", dx: 7 }, labels.note) : null;
    return [drawn("text", { x, y }, title, note)];
  }

  #box(box) {
    const { part, labels, w, h } = box;
    const stack = part.kind === "run" ? [6, 3] : [];
    const isGroup = Boolean(part.parts);
    const children = [
      ...stack.map((by) => drawn("rect", { class: "body", x: by, y: by, width: w, height: h, rx: 5 })),
      drawn("rect", { class: "body", width: w, height: h, rx: 5 }),
      part.mark ? drawn("rect", { class: "edge", width: 4, height: h, rx: 2 }) : null,
      isGroup ? drawn("path", { class: "sign", d: "M13 12l4 4-4 4" }) : null,
      ...(isGroup ? this.#mix(part, w, h) : []),
      ...this.#title(labels, isGroup ? 25 : 12, labels.second ? 18 : 26),
      drawn("text", { class: isGroup ? "second" : "second type", x: isGroup ? 25 : 12, y: 34 }, labels.second),
    ];
    let y = 49;
    if (isGroup && hasMarks(part)) {
      children.push(drawn("text", { class: "counts", x: 25, y }, marksText(part.totals)));
      y += 14;
    }
    if (box.tags) {
      const tags = clipped(`↤ ${box.tags.join(", ")}`, Math.floor((w - (isGroup ? 32 : 18)) / 6));
      children.push(drawn("text", { class: "tags", x: isGroup ? 25 : 12, y }, tags));
    }
    if (!isGroup && this.graph.isReturned[part.first]) {
      children.push(drawn("path", { class: "returned", d: `M${w - 16} 8h8v8M${w - 16} 16l8-8` }));
    }
    return this.#group(box, part.kind, children);
  }

  /** All that is drawn of the graph, in view or not. */
  picture() {
    const frames = this.boxes.filter((box) => box.inner).map((box) => this.#frame(box));
    const boxes = this.boxes.filter((box) => !box.inner).map((box) => this.#box(box));
    const value = this.chosenValue();
    const lines = this.lines.map((line) => this.#line(line, value));
    return drawn("g", {}, ...frames, drawn("g", { class: "lines" }, ...lines), ...boxes);
  }

  /** Along the lower edge of a folded part, the kinds of its operations. */
  #mix(part, w, h) {
    let x = 6;
    return mixOf(part).map(([kind, share]) => {
      const strip = drawn("rect", { class: `mix kind-${kind}`, x, y: h - 5, width: share * (w - 12), height: 3.5 });
      x += share * (w - 12);
      return strip;
    });
  }

  #click(event) {
    const key = event.target.closest("[data-key]")?.getAttribute("data-key");
    const box = this.byKey.get(key);
    if (!box || (box.inner && !event.target.closest(".hit, text, .sign"))) return;
    this.scroll.focus({ preventScroll: true });
    this.activate(key, false);
    this.actions.choose(box.part, this);
    if (box.part.parts) this.actions.toggle(box.part);
  }

  /** The keyboard's place in the graph. */
  activate(key, intoView = true) {
    this.active = key;
    const box = this.byKey.get(key);
    if (!box) return;
    if (intoView) this.reveal(box);
    this.redraw();
  }

  /** The keyboard's place, in the middle of the view; a graph that has become wider is drawn smaller. */
  goTo(key) {
    this.#fitWidth(this.zoom);
    this.#centre(this.byKey.get(key));
    this.activate(key);
  }

  reveal(box) {
    const [x, y, h] = [box.x * this.zoom, box.y * this.zoom, Math.min(box.h, 80) * this.zoom];
    const { scrollTop, scrollLeft, clientHeight, clientWidth } = this.scroll;
    if (y < scrollTop + 30 || y + h > scrollTop + clientHeight - 30) this.scroll.scrollTop = y - clientHeight / 3;
    const w = Math.min(box.w, clientWidth) * this.zoom;
    if (x < scrollLeft || x + w > scrollLeft + clientWidth) this.scroll.scrollLeft = x + w / 2 - clientWidth / 2;
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const box = this.byKey.get(this.active);
    const moves = { ArrowDown: [0, 1], ArrowUp: [0, -1], ArrowRight: [1, 0], ArrowLeft: [-1, 0] };
    if (moves[event.key] && box) this.#move(box, ...moves[event.key]);
    else if ((event.key === "Enter" || event.key === " ") && box) {
      this.actions.choose(box.part, this);
      if (box.part.parts) this.actions.toggle(box.part);
    } else if (event.key === "Escape" && box) this.#leave(box);
    else if (event.key === "Home") this.activate(this.boxes[0]?.part.key);
    else if (event.key === "End") this.activate(this.boxes.at(-1)?.part.key);
    else if (event.key === "+" || event.key === "=") this.zoomBy(1);
    else if (event.key === "-") this.zoomBy(-1);
    else if (event.key === "f") this.fitAll();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Close the part around the box, or the box; at the top, let go of what is chosen. */
  #leave(box) {
    const around = this.boxes.filter(
      (each) => each.inner && each !== box && each.part.has(box.part.first) && each.level < box.level,
    );
    const part = box.inner ? box.part : around.at(-1)?.part;
    if (!part) return this.actions.letGo();
    this.active = part.key;
    return this.actions.toggle(part);
  }

  /** To the nearest box that way; up and down, one that is joined with this one if there is one. */
  #move(box, dx, dy) {
    const middle = (each) => [each.x + each.w / 2, each.inner ? each.y + 15 : each.y + each.h / 2];
    const [x, y] = middle(box);
    let best = null;
    for (const each of this.boxes) {
      const [toX, toY] = middle(each);
      const ahead = dx ? (toX - x) * dx : (toY - y) * dy;
      const aside = Math.abs(dx ? toY - y : toX - x);
      if (each === box || ahead < 4 || (dx && aside > 60)) continue;
      const far = ahead + (dy ? 0.6 : 3) * aside - (dy && this.#joined(box, each, dy) ? 60 : 0);
      if (!best || far < best.far) best = { each, far };
    }
    if (best) this.activate(best.each.part.key);
  }

  #joined(one, two, down) {
    const [above, below] = down > 0 ? [one, two] : [two, one];
    if (above.inner || below.inner) return false;
    return below.part.leaves.some((leaf) => this.graph.reads[leaf].some((read) => above.part.has(read)));
  }

  #wheel(event) {
    if (!event.ctrlKey) return;
    event.preventDefault();
    this.turned = (this.turned ?? 0) + event.deltaY;
    if (Math.abs(this.turned) < WHEEL) return;
    this.zoomBy(this.turned < 0 ? 1 : -1);
    this.turned = 0;
  }
}

function marksText({ made, changed, removed }) {
  const told = [
    [made, MARKS.made],
    [changed, MARKS.changed],
    [removed, MARKS.removed],
  ];
  return told
    .filter(([count]) => count)
    .map(([count, word]) => `${whole(count)} ${word}`)
    .join(" · ");
}

function spokenBox(part) {
  const { operations, made, changed, removed } = part.totals;
  const mark = part.mark && (isCompared ? MARKS[part.mark] : `${part.mark} by this pass`);
  if (part.kind === "node") return [part.title, part.note, part.line, mark].filter(Boolean).join(", ");
  return [part.title, part.note, many(operations, "operation"), marksText({ made, changed, removed })]
    .filter(Boolean)
    .join(", ");
}
