// ---- The data of the page, and what is said of it in words.

const data = JSON.parse(document.getElementById("data").textContent);
const text = (index) => data.strings[index];
const [NAME, OP, TARGET, TYPE, CALL, MODULE, CLASS, SOURCE, CODE, LAUNCHES, BYTES, HISTORY, READS, LAYOUT, KERNELS] =
  Array(15).keys();

/** An element. Children and attribute values from the model become text, never markup. */
function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function drawn(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== false && value !== null) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== false));
  return made;
}

const whole = (number) => Math.round(number).toLocaleString("en-US");
const many = (count, noun, plural = `${noun}s`) => `${whole(count)} ${count === 1 ? noun : plural}`;

function bytesText(count) {
  for (const [unit, size] of [
    ["GB", 1e9],
    ["MB", 1e6],
    ["kB", 1e3],
  ]) {
    if (count >= size) return `${(count / size).toFixed(count / size < 10 ? 2 : 1)} ${unit}`;
  }
  return `${count} B`;
}

/** The unit of a column of numbers of bytes: MB, or a smaller one where that would show next to nothing. */
function unitOf(counts) {
  const least = Math.min(...counts.filter(Boolean), 1e9);
  return [["MB", 1e6], ["kB", 1e3]].find(([, size]) => least >= size / 2) ?? ["B", 1];
}

function secondsText(seconds) {
  return seconds < 1 ? `${Math.round(seconds * 1e3)} ms` : `${seconds.toFixed(1)} s`;
}

const EFFECTS = {
  exact: ["=", "exact: the same numbers, bit for bit", "exact"],
  reassociates: ["≈", "the same numbers but for the order of additions", "exact but for the order of additions"],
  lossy: ["≠", "lossy: other numbers", "lossy"],
};

/** The op without its dialect and overload: `linear` of `aten.linear`, `mul` of `aten.mul.Tensor`. */
function opName(row) {
  const kind = text(row[OP]);
  if (kind === "placeholder" || kind === "get_attr") return text(row[TARGET]);
  if (kind === "output") return "output";
  const parts = text(row[TARGET]).split(".");
  return parts.length > 1 ? parts[1] : parts[0];
}
const isWeight = (row) => text(row[OP]) === "get_attr";
const isCall = (row) => text(row[OP]) === "call_function";
/** Sizes and weights are told with the nodes that read them: drawn, they would hide everything else. */
const isDrawn = (row) => !isWeight(row) && !text(row[TYPE]).startsWith("size ");
const display = (row) => (isWeight(row) ? `@${text(row[TARGET])}` : `%${text(row[NAME])}`);

/** What a node is that computes nothing. */
function kindOf(row) {
  const kind = text(row[OP]);
  if (kind === "placeholder") return text(row[MODULE]) ? "state" : "input";
  return kind === "get_attr" ? "weight" : "";
}
