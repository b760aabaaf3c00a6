// ---- The first view: what the passes as a whole did, which of them did most, what was compared, and the time it took.

const MOST = 3; // passes that are told as having done most

/** By how much a pass made the program cheaper: the logarithms of both ratios, of bytes and of launches. */
function worthOf(place) {
  const [before, after] = [data.passes[place - 1], data.passes[place]];
  const ratio = (one, two) => Math.log(Math.max(1, one) / Math.max(1, two));
  return ratio(before.bytes_moved, after.bytes_moved) + ratio(before.launches, after.launches);
}

/** Places of the passes that did most, the first one first. */
function foremost() {
  const places = data.passes.map((_, place) => place).slice(1);
  const worth = new Map(places.map((place) => [place, worthOf(place)]));
  return places
    .filter((place) => worth.get(place) > 0.001)
    .sort((one, two) => worth.get(two) - worth.get(one))
    .slice(0, MOST);
}

function overview() {
  if (isCompared) return comparedOverview();
  const [first, last] = [data.passes[0], data.passes.at(-1)];
  const rewrites = data.passes.reduce((sum, pass) => sum + pass.rewrites.length, 0);
  const told = `${many(data.passes.length - 1, "pass", "passes")} made ${many(rewrites, "rewrite")}`;
  return [
    element("h2", {}, data.title),
    element("p", { class: "sub" }, `${told}. Counts are for ${data.counted}, unfused.`),
    element("ul", { class: "tiles" }, ...tiles(first, last)),
    section("What did most", mostList()),
    section("What was compared", ...checkList(data.checks, effects())),
    section("Time", ...timeline()),
  ];
}

/** Of two artifacts: from the first to the second. */
function comparedOverview() {
  const [one, two] = [data.others.at(-1), data.passes.at(-1)];
  const told = `From the first to the second. Counts are for ${data.counted}, unfused.`;
  const checks = [data.otherChecks, data.checks];
  return [
    element("h2", {}, data.title),
    element("p", { class: "sub" }, told),
    element("ul", { class: "tiles" }, ...tiles(one, two)),
    section("Passes that differ", differingList()),
    ...data.titles.map((title, index) =>
      section(`${title}, compared with the model that it is of`, ...checkList(checks[index])),
    ),
  ];
}

function tiles(first, last) {
  const floor = last.floor_bytes ? `at least ${bytesText(last.floor_bytes)}: weights, cache, in and out once` : "";
  const calls = (pass) => pass.nodes.filter((index) => isCall(data.nodes[index])).length;
  return [
    tile("launches", first.launches, last.launches, whole),
    tile("bytes moved", first.bytes_moved, last.bytes_moved, bytesText, floor),
    tile("weights", first.weight_bytes, last.weight_bytes, bytesText),
    tile("operations", calls(first), calls(last), whole),
    last.bytes_a_token
      ? tile(
          "cache a token",
          isCompared ? first.bytes_a_token : last.bytes_a_token,
          last.bytes_a_token,
          bytesText,
          "of one row",
        )
      : tile("cache a token", 0, 0, () => "none", "each token is computed from all before it"),
  ];
}

function tile(name, before, after, show, note = "") {
  const ratio = before / after;
  const times = ratio >= 1.05 ? `${ratio.toFixed(ratio < 10 ? 1 : 0)}× less` : "";
  const more = ratio <= 0.95 && before ? `${(1 / ratio).toFixed(1)}× more` : "";
  return element(
    "li",
    {},
    element("small", {}, name),
    element("b", {}, show(after)),
    element("span", {}, before === after ? "" : `from ${show(before)}`),
    element("em", {}, times || more || (note || before !== after ? "" : "the same")),
    note ? element("span", {}, note) : null,
  );
}

/** The passes that did most, each a link, with what it changed. */
function mostList() {
  const places = foremost();
  if (!places.length) return element("p", { class: "sub" }, "No pass made the program cheaper.");
  return element("ol", { class: "most" }, ...places.map((place) => mostItem(place)));
}

function mostItem(place) {
  const [before, after] = [data.passes[place - 1], data.passes[place]];
  const changes = [
    ["launches", before.launches, after.launches, whole],
    ["moved", before.bytes_moved, after.bytes_moved, bytesText],
    ["weights", before.weight_bytes, after.weight_bytes, bytesText],
    ["cache a token", before.bytes_a_token, after.bytes_a_token, bytesText],
  ].filter(([, one, two, show]) => show(one) !== show(two));
  const made = after.rewrite_groups.slice(0, 2).map((group) => {
    return `${whole(group.length)}× ${text(after.rewrites[group[0]][2])}`;
  });
  return element(
    "li",
    {},
    passLink(place),
    element("span", {}, changes.map(([name, one, two, show]) => `${name} ${show(one)} → ${show(two)}`).join(" · ")),
    element("small", {}, made.join("; ")),
  );
}

function passLink(place) {
  const pass = data.passes[place];
  return element(
    "a",
    { href: addressOf({ place }) },
    element("span", { class: "number" }, String(numberOf(place))),
    pass.name,
  );
}

/** What ran and was fed what, what was not compared, and what passes were checked by themselves. */
function checkList(checks, more = []) {
  const by = new Map();
  for (const [fed, ran] of checks) by.set(ran, [...(by.get(ran) ?? []), fed]);
  const missing = by.get("") ?? [];
  by.delete("");
  const list = element(
    "dl",
    { class: "checks" },
    ...[...by].map(([ran, fed]) => [element("dt", {}, `✓ ${ran}`), element("dd", {}, items(fed))]),
    missing.length ? [element("dt", { class: "missing" }, "○ not compared"), element("dd", {}, items(missing))] : null,
    ...more,
  );
  const none = "The compiled model was not compared with the original: it was compiled without verification.";
  return [by.size ? null : element("p", { class: "sub" }, none), list].filter(Boolean);
}

const items = (lines) => element("ul", {}, ...lines.map((line) => element("li", {}, line)));

/** How exact the passes say they are, and how exact those were that were run. */
function effects() {
  const passes = data.passes.map((pass, place) => ({ ...pass, place })).slice(1);
  const ran = passes.filter((pass) => pass.verification);
  const worst = ran.toSorted((one, two) => two.verification.difference - one.verification.difference)[0];
  const kinds = Object.entries(EFFECTS)
    .map(([effect, [, , name]]) => [name, passes.filter((pass) => pass.effect === effect && pass.rewrites.length)])
    .filter(([, found]) => found.length);
  const lossy = passes.filter((pass) => pass.effect === "lossy" && pass.rewrites.length);
  const rows = [
    [
      "each pass",
      ran.length
        ? [
            `${whole(ran.length)} of ${whole(passes.length)} were run; largest error `,
            worst.verification.difference.toExponential(0),
            " in ",
            passLink(worst.place),
          ]
        : ["none was run by itself"],
    ],
    ["numbers", [kinds.map(([name, found]) => `${many(found.length, "pass", "passes")} ${name}`).join(", ")]],
    ["lossy", lossy.flatMap((pass) => [passLink(pass.place), " "])],
    ["left as it was", refusals(passes)],
  ];
  return rows
    .filter(([, content]) => content.some(Boolean))
    .map(([name, content]) => [element("dt", {}, name), element("dd", {}, ...content)]);
}

function refusals(passes) {
  const some = passes.filter((pass) => pass.refusals.length);
  const count = some.reduce((sum, pass) => sum + pass.refusals.length, 0);
  const links = some.flatMap((pass) => [passLink(pass.place), " "]);
  return count ? [`${many(count, "place")}, by `, ...links] : ["nothing: no pass refused a place that it was for"];
}

/** The phases one after the other, each as long as it took; and below them the passes that took longest. */
function timeline() {
  const total = data.phases.reduce((sum, [, seconds]) => sum + seconds, 0);
  if (!total) {
    const words =
      "An artifact keeps no times, so that its bytes are the same each time it is made. " +
      "burnish compile prints them, and the page that it writes with --html FILE shows them here.";
    return [element("p", { class: "sub" }, words)];
  }
  const bar = (name, seconds, start) => {
    const line = element("i", { title: `${name} ${secondsText(seconds)}` });
    line.style.marginLeft = `${(start / total) * 100}%`;
    line.style.width = `max(2px, ${(seconds / total) * 100}%)`;
    return element("div", { class: "track" }, line);
  };
  let start = 0;
  const rows = data.phases.flatMap(([name, seconds]) => {
    const row = [
      element("dt", {}, name),
      element("dd", {}, bar(name, seconds, start), element("span", {}, secondsText(seconds))),
    ];
    start += seconds;
    return row;
  });
  const slow = data.passes
    .map((pass, place) => ({ place, seconds: pass.seconds ?? 0 }))
    .filter(({ seconds }) => seconds)
    .sort((one, two) => two.seconds - one.seconds)
    .slice(0, MOST);
  const told = slow.flatMap(({ place, seconds }, index) => {
    return [index ? " · " : "", passLink(place), ` ${secondsText(seconds)}`];
  });
  return [
    element("p", { class: "sub" }, `${secondsText(total)} in all`),
    element("dl", { class: "timeline" }, ...rows),
    slow.length ? element("p", { class: "slow" }, "Longest passes: ", ...told) : null,
  ].filter(Boolean);
}
