// ---- The address of what is shown, `#pass=12&node=model.layers.0.mlp`: to keep, to send, and to go back to.

/** The address of a pass, or of a part of its graph by its key. */
function addressOf({ place, rewrite = null, graph = null, key = null }) {
  if (place === OVERVIEW) return "#overview";
  const words = [["pass", numberOf(place)]];
  if (rewrite !== null) words.push(["rewrite", rewrite + 1]);
  if (key) words.push(["node", wordOf(graph, key)]);
  if (key && graph.side === "before") words.push(["side", "before"]);
  if (hasBefore(place) && state.view !== usualView()) words.push(["view", state.view]);
  if (state.colors !== COLORS[0][0]) words.push(["colors", state.colors]);
  return `#${words.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&")}`;
}

function addressNow() {
  const { place, chosen, rewrite } = state;
  const key = chosen && (chosen.key ?? `n:${text(chosen.graph.rows[chosen.index][NAME])}`);
  return addressOf({ place, rewrite, graph: chosen?.graph, key });
}

/** Puts what is shown into the address: as a step that the browser goes back from, or in place of the last one. */
function tellAddress(isStep = false) {
  const address = addressNow();
  if (isFollowing || address === location.hash) return;
  if (isStep) location.replace(address);
  else location.hash = address;
}
let isFollowing = false;

/** Shows what the address names. */
function followAddress() {
  const words = new URLSearchParams(location.hash.slice(1));
  const number = words.get("pass");
  const place = number === null ? OVERVIEW : data.passes.findIndex((_, each) => String(numberOf(each)) === number);
  if (["before", "both", "after"].includes(words.get("view"))) state.view = words.get("view");
  else state.view = usualView();
  state.colors = (COLORS.find(([name]) => name === words.get("colors")) ?? COLORS[0])[0];
  isFollowing = true;
  actions.showPass(place);
  const rewrite = Number(words.get("rewrite")) - 1;
  if (!isCompared && data.passes[place]?.rewrites[rewrite]) actions.showEntry(place, "rewrites", rewrite);
  const graph =
    place === OVERVIEW ? null : graphOf(place, hasBefore(place) && words.get("side") === "before" ? "before" : "after");
  const found = graph && words.has("node") ? partOf(graph, words.get("node")) : null;
  if (found) actions.reveal(graph, found.index, found.key);
  else if (words.has("node")) say(`There is no ${words.get("node")} in this program`);
  isFollowing = false;
}

/** The place of a node of that name; undefined if the program has none. */
const placeOf = (graph, name) => graph.at.get(data.strings.indexOf(name));

/** A key as a word of the address: a node's name, a module's path, or the key itself. */
function wordOf(graph, key) {
  const word = key.slice(2);
  const isPlain = key.startsWith("n:") || (key.startsWith("m:") && placeOf(graph, word) === undefined);
  return isPlain && !/^[nmor]:/.test(word) ? word : key;
}

/** The node and the key of a word of the address; nothing if the program has none. */
function partOf(graph, word) {
  let key = word;
  if (!/^[nmor]:/.test(word)) key = placeOf(graph, word) !== undefined ? `n:${word}` : `m:${word}`;
  const name = key.slice(2);
  if (key.startsWith("n:")) return placeOf(graph, name) === undefined ? null : { index: placeOf(graph, name), key };
  const inside = key.startsWith("m:") ? name : name.replace(/:\d+$/, "");
  const index = graph.home.findIndex((path, index) => {
    if (!graph.isDrawn[index] || !(inside === "" || path === inside || path.startsWith(`${inside}.`))) return false;
    return key.startsWith("m:") || graph.path(index).some((part) => part.key === key);
  });
  return index < 0 ? null : { index, key };
}
