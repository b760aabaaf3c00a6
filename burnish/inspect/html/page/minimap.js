// ---- All of a graph in a corner of its pane, with what is in view: shown where not all of it is.

const MINIMAP = { w: 132, h: 168, least: 28 };
const ENOUGH = 0.6; // of a graph of which so much is in view, no map is shown

class Minimap {
  constructor(pane) {
    this.pane = pane;
    this.canvas = element("canvas", { class: "minimap", "aria-hidden": "true", hidden: true });
    const move = (event) => event.buttons && this.#goTo(event.offsetX, event.offsetY);
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      move(event);
    });
    this.canvas.addEventListener("pointermove", move);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.drawnOf = null;
      this.draw();
    });
  }

  /** A long graph is drawn narrow, but no narrower than can be seen: then across and down differ in scale. */
  #measure() {
    const { w, h } = this.pane.size;
    const scale = Math.min(MINIMAP.w / w, MINIMAP.h / h);
    const [across, down] = [Math.max(MINIMAP.least, w * scale), Math.max(MINIMAP.least, h * scale)];
    Object.assign(this, { across, down, x: across / w, y: down / h });
  }

  draw() {
    const { pane, canvas } = this;
    const { scrollLeft, scrollTop, clientWidth, clientHeight } = pane.scroll;
    const seen = (room, size) => Math.min(1, room / (size * pane.zoom));
    const isSeen = seen(clientWidth, pane.size.w) * seen(clientHeight, pane.size.h) > ENOUGH;
    canvas.hidden = isSeen || clientHeight < 2 * MINIMAP.h;
    if (canvas.hidden) return;
    if (this.drawnOf !== pane.boxes) this.#drawGraph();
    const [left, top] = [(scrollLeft / pane.zoom) * this.x, (scrollTop / pane.zoom) * this.y];
    const [w, h] = [(clientWidth / pane.zoom) * this.x, (clientHeight / pane.zoom) * this.y];
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(this.graph, 0, 0);
    context.strokeStyle = this.colors.accent;
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.lineWidth = 1.5;
    context.strokeRect(left + 1, top + 1, Math.min(w, this.across) - 2, Math.max(4, Math.min(h, this.down) - 2));
    context.setTransform(1, 0, 0, 1, 0, 0);
  }

  /** The boxes, once for each layout. */
  #drawGraph() {
    const { pane, canvas } = this;
    this.drawnOf = pane.boxes;
    this.#measure();
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(`--${name}`);
    this.colors = { accent: color("accent"), box: color("strong-line"), frame: color("frame") };
    canvas.width = Math.ceil(this.across * devicePixelRatio);
    canvas.height = Math.ceil(this.down * devicePixelRatio);
    canvas.style.width = `${this.across}px`;
    canvas.style.height = `${this.down}px`;
    this.graph = new OffscreenCanvas(canvas.width, canvas.height);
    const context = this.graph.getContext("2d");
    context.scale(devicePixelRatio, devicePixelRatio);
    for (const box of pane.boxes) {
      context.fillStyle = box.inner ? this.colors.frame : box.part.mark ? this.colors.accent : this.colors.box;
      const [w, h] = [Math.max(1, box.w * this.x), Math.max(box.inner ? 1 : 0.5, box.h * this.y)];
      context.fillRect(box.x * this.x, box.y * this.y, w, h);
    }
  }

  /** The middle of the view to where the pointer is. */
  #goTo(x, y) {
    const { pane } = this;
    pane.scroll.scrollLeft = (x / this.x) * pane.zoom - pane.scroll.clientWidth / 2;
    pane.scroll.scrollTop = (y / this.y) * pane.zoom - pane.scroll.clientHeight / 2;
  }
}
