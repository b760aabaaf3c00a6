// ---- The rewrites of a pass, one by one: where each was made, and what it made there.

/** Whether the rewrite that is looked at led to this node of the program after the pass. */
function isOfRewrite(graph, index) {
  if (state.rewrite === null || graph.side !== "after") return false;
  const { number } = data.passes[graph.place];
  return graph.rows[index][HISTORY].some(([pass, which]) => pass === number && which === state.rewrite);
}

/** Opens what is around the first node that the rewrite made, and goes there. */
function showMade() {
  if (!isShown("after") || state.rewrite === null) return;
  const { graph } = panes.after;
  const made = graph.rows.findIndex((_, index) => graph.isDrawn[index] && isOfRewrite(graph, index));
  if (made < 0) return;
  const path = graph.path(made);
  for (const part of path.slice(0, -1)) state.open.set(part.key, true);
  draw();
  for (const [pane, key] of [
    [panes.after, path.at(-1).key],
    [panes.before, state.chosen?.key],
  ]) {
    if (isShown(pane.side) && pane.byKey.has(key)) pane.goTo(key);
  }
}

/** To the next rewrite of the pass that is shown, or to the one before; to the first, if none is looked at. */
function step(by, actions) {
  const pass = isCompared ? null : data.passes[state.place];
  const to = state.rewrite === null ? 0 : state.rewrite + by;
  if (pass?.rewrites[to]) actions.showEntry(state.place, "rewrites", to);
}

/** Which rewrite is looked at, and the ways to the others. */
function stepper(place, actions) {
  if (state.rewrite === null) return null;
  const { rewrites } = data.passes[place];
  const after = graphOf(place, "after");
  const isLeft = after.rows.some((_, index) => isOfRewrite(after, index));
  const button = (by, label, sign) => {
    const disabled = !rewrites[state.rewrite + by];
    return element("button", { "aria-label": label, title: label, disabled, onclick: () => step(by, actions) }, sign);
  };
  return element(
    "div",
    { class: "stepper" },
    element("b", {}, `rewrite ${whole(state.rewrite + 1)} of ${whole(rewrites.length)}`),
    button(-1, "The rewrite before (p)", "←"),
    button(1, "The next rewrite (n)", "→"),
    element("p", {}, text(rewrites[state.rewrite][2])),
    isLeft
      ? null
      : element("p", { class: "sub" }, "Nothing of what it made is left: later rewrites of this pass took it."),
  );
}
