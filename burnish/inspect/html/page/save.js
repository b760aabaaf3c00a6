// ---- The shown graphs as a picture: a file of its own, in the colours of the page as it is.

const LOOKS = [
  ...["fill", "stroke", "stroke-width", "stroke-dasharray", "paint-order", "filter"],
  ...["font-family", "font-size", "font-weight", "text-decoration-line"],
];
const PLAIN = new Set(["none", "normal", "auto", "0px", "rgb(0, 0, 0)"]); // with which nothing has to be said
const HEAD = 34; // for the caption above a graph
const MOST_PIXELS = { side: 16000, all: 1.2e8 }; // of a picture that browsers make

/** The graphs that are shown, whole and side by side. What styles say is written into each element. */
function pictureOfShown() {
  const ground = getComputedStyle(document.body).backgroundColor;
  const svg = drawn("svg", { xmlns: "http://www.w3.org/2000/svg", class: "offscreen" });
  let [w, h] = [0, 0];
  for (const pane of shownPanes()) {
    const caption = drawn("text", { x: w + 14, y: 22 }, pane.caption.textContent);
    svg.append(caption, drawn("g", { transform: `translate(${w} ${HEAD})` }, pane.picture()));
    w += Math.max(pane.size.w, textWidth(pane.caption.textContent, `12px ${SANS}`) + 28);
    h = Math.max(h, pane.size.h + HEAD);
  }
  svg.prepend(drawn("rect", { width: w, height: h, fill: ground }));
  document.body.append(svg);
  for (const each of svg.querySelectorAll("rect, path, text, tspan")) inlineLooks(each, each.parentNode);
  svg.remove();
  for (const each of svg.querySelectorAll("*")) {
    for (const { name } of [...each.attributes])
      if (/^(class|id|role|aria-|data-)/.test(name)) each.removeAttribute(name);
  }
  svg.removeAttribute("class");
  for (const [name, value] of [
    ["viewBox", `0 0 ${w} ${h}`],
    ["width", w],
    ["height", h],
  ])
    svg.setAttribute(name, value);
  return { text: new XMLSerializer().serializeToString(svg), w, h };
}

function inlineLooks(each, around) {
  const style = getComputedStyle(each);
  const outer = around.localName === "text" ? getComputedStyle(around) : null;
  for (const look of LOOKS) {
    const value = style.getPropertyValue(look);
    const isFont = look.startsWith("font");
    if (isFont && !/^t/.test(each.localName)) continue;
    if (outer?.getPropertyValue(look) === value || (PLAIN.has(value) && look !== "fill")) continue;
    each.setAttribute(look === "text-decoration-line" ? "text-decoration" : look, value);
  }
}

function saveSvg() {
  save(new Blob([pictureOfShown().text], { type: "image/svg+xml" }), "svg");
}

/** At twice the size, or as large as browsers make pictures. */
async function savePng() {
  const { text, w, h } = pictureOfShown();
  const { side, all } = MOST_PIXELS;
  const scale = Math.min(2, side / w, side / h, Math.sqrt(all / (w * h)));
  const image = element("img", { src: `data:image/svg+xml,${encodeURIComponent(text)}` });
  await image.decode();
  const canvas = element("canvas", { width: Math.floor(w * scale), height: Math.floor(h * scale) });
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  context.drawImage(image, 0, 0, w, h);
  canvas.toBlob((blob) => save(blob, "png"));
}

function save(blob, kind) {
  const name = `${data.title}-${numberOf(state.place)}-${data.passes[state.place].name}`;
  const made = URL.createObjectURL(blob);
  element("a", { href: made, download: `${name}.${kind}` }).click();
  setTimeout(() => URL.revokeObjectURL(made), 10_000);
}
