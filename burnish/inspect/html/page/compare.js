// ---- Two artifacts beside each other: what elsewhere is before and after a pass is then the first and the second.

const isCompared = Boolean(data.others);

/** The pass whose program is shown at the left of pass `place`: the one before, or that of the first artifact. */
const beforeOf = (place) => (isCompared ? data.others[place] : data.passes[place - 1]);
/** Whether there is one: what was captured has nothing before it. */
const hasBefore = (place) => isCompared || place > 0;

const numberOf = (place) => (isCompared ? place : data.passes[place].number);

const SIDES = isCompared
  ? { before: "First", both: "Both", after: "Second" }
  : { before: "Before", both: "Both", after: "After" };
const MARKS = isCompared
  ? { made: "added", changed: "changed", removed: "removed" }
  : { made: "made", changed: "changed", removed: "removed" };

/** What the graph at one side shows. */
function captionOf(place, side) {
  const pass = side === "before" ? beforeOf(place) : data.passes[place];
  if (isCompared)
    return `${data.titles[side === "before" ? 0 : 1]} after ${pass.absent ? `${pass.name}, which it lacks` : pass.name}`;
  return place ? `${side === "before" ? "Before" : "After"} ${data.passes[place].name}` : "As captured";
}

/** How what a pass did in the first artifact differs from what it did in the second; nothing if it does not. */
function differencesOf(place) {
  const [one, two] = [data.others[place], data.passes[place]];
  if (one.absent || two.absent) return [`only in the ${one.absent ? "second" : "first"}`];
  const optionsText = (pass) =>
    Object.entries(pass.options)
      .map(([key, value]) => `${key}=${value}`)
      .join(", ") || "none";
  return [
    ["options", optionsText(one), optionsText(two)],
    ["rewrites", whole(one.rewrites.length), whole(two.rewrites.length)],
    ["refused", whole(one.refusals.length), whole(two.refusals.length)],
    ["launches", whole(one.launches), whole(two.launches)],
    ["moved", bytesText(one.bytes_moved), bytesText(two.bytes_moved)],
    ["weights", bytesText(one.weight_bytes), bytesText(two.weight_bytes)],
  ]
    .filter(([, before, after]) => before !== after)
    .map(([name, before, after]) => `${name} ${before} → ${after}`);
}

/** The overview's list of the passes that differ, each a link. */
function differingList() {
  const places = data.passes.map((_, place) => place).filter((place) => differencesOf(place).length);
  if (!places.length) return element("p", { class: "sub" }, "Every pass did the same in both.");
  const item = (place) => element("li", {}, passLink(place), element("span", {}, differencesOf(place).join(" · ")));
  return element("ol", { class: "most" }, ...places.map(item));
}

/** What is told of a pass of both artifacts. */
function pairDetails(place) {
  const [one, two] = [data.others[place], data.passes[place]];
  const told = (title, pass) => {
    const groups = ["rewrites", "refusals"].flatMap((kind) => {
      return pass[kind === "rewrites" ? "rewrite_groups" : "refusal_groups"].map((group) => {
        const words = `${whole(group.length)}× ${kind === "refusals" ? "left: " : ""}${text(pass[kind][group[0]][2])}`;
        return element("p", {}, words);
      });
    });
    return section(
      title,
      ...(pass.absent
        ? [element("p", {}, "has no such pass")]
        : [...pass.notes.map((note) => element("p", {}, note)), ...groups]),
    );
  };
  const pairs = [
    ["launches", one.launches, two.launches, whole],
    ["moved", one.bytes_moved, two.bytes_moved, bytesText],
    ["weights", one.weight_bytes, two.weight_bytes, bytesText],
    ["cache a token", one.bytes_a_token, two.bytes_a_token, bytesText],
  ];
  const show = (before, after, as) => (as(before) === as(after) ? as(after) : `${as(before)} → ${as(after)}`);
  return [
    element("h2", {}, two.name),
    element("p", { class: "sub" }, differencesOf(place).length ? "from the first to the second" : "the same in both"),
    facts(pairs.map(([name, before, after, as]) => [name, show(before, after, as)])),
    told(data.titles[0], one),
    told(data.titles[1], two),
  ];
}
