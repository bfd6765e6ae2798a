// The table of scores: one row a setting, means over pictures with their 95 % intervals, differences from the baseline.

// An element with attributes and children. Text is always text: no name in the data can become markup.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

// A number with a true minus sign; `signed` with a plus too.
function write(value, digits, signed = false) {
  if (!isNumber(value)) return "–";
  const text = Math.abs(value).toFixed(digits);
  const sign = Number(text) === 0 ? "" : value < 0 ? "−" : signed ? "+" : "";
  return sign + text;
}

// Decimals of a measure that the intervals of its means justify: two digits of the narrowest one.
function decimals(measure) {
  const intervals = data.settings
    .map(({ name }) => data.summary[name]?.[measure.name])
    .filter((cell) => cell && cell.high > cell.low)
    .map((cell) => (cell.high - cell.low) / 2);
  if (!intervals.length) return 3;
  return Math.max(0, Math.min(5, 1 - Math.floor(Math.log10(Math.min(...intervals)))));
}

// What a difference says: "better", "worse", or "unclear" where its interval holds 0.
function verdict(difference, measure) {
  if (!isNumber(difference?.low) || !isNumber(difference.high)) return "unclear";
  if (difference.low <= 0 && difference.high >= 0) return "unclear";
  return difference.low > 0 === (measure.better === "higher") ? "better" : "worse";
}

const MARKS = { better: "▲", worse: "▼", unclear: "·" };

// Where a setting differs from others, as "vcut, cut 17". Settings that have their defaults are not in the data.
function differences(setting) {
  const all = data.settings.map((each) => ({ preset: each.preset, ...each.settings }));
  const varied = [...new Set(all.flatMap(Object.keys))].filter((key) => new Set(all.map((each) => JSON.stringify(each[key]))).size > 1);
  const own = { preset: setting.preset, ...setting.settings };
  const word = (value) => (value === null ? "none" : typeof value === "object" ? JSON.stringify(value) : String(value));
  return varied
    .filter((key) => key in own)
    .map((key) => (key === "preset" ? own.preset : `${key.replaceAll("_", " ")} ${word(own[key])}`))
    .join(", ");
}

function fillScores() {
  const speed = data.settings.find(({ name }) => name === data.baseline)?.seconds;
  const head = element(
    "tr",
    {},
    element("th", { scope: "col" }, "Setting"),
    element("th", { scope: "col", class: "text" }, "What differs"),
    element("th", { scope: "col" }, "Clips"),
    element("th", { scope: "col" }, "Seconds a clip"),
    data.measures.map((measure) =>
      element(
        "th",
        { scope: "col" },
        element(
          "button",
          { title: `Sort the clips by ${measure.label}`, onclick: () => sortBy(measure.name) },
          measure.label,
          element("span", { class: "better-is", "aria-label": `${measure.better} is better` }, measure.better === "higher" ? " ↑" : " ↓"),
        ),
        element("small", {}, [measure.of, measure.unit].filter(Boolean).join(", ")),
      ),
    ),
  );
  const rows = data.settings.map((setting) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, setting.name, setting.name === data.baseline && setting.name !== "baseline" ? element("small", {}, "baseline") : null),
      element("td", { class: "text" }, differences(setting) || "–"),
      element("td", {}, String(setting.clips)),
      element(
        "td",
        {},
        write(setting.seconds, setting.seconds < 10 ? 2 : 1),
        speed && setting.name !== data.baseline ? element("small", {}, `×${(setting.seconds / speed).toFixed(2)}`) : null,
      ),
      data.measures.map((measure) => scoreCell(data.summary[setting.name]?.[measure.name], measure)),
    ),
  );
  document.getElementById("scores").append(element("thead", {}, head), element("tbody", {}, rows));
  document.getElementById("scores-note").textContent = data.measures.length
    ? "Mean over pictures ± half its 95 % interval; below it the paired difference from the baseline (same picture, same " +
      "seed) with its interval. ▲ better, ▼ worse, · the interval holds 0. “Clips for 0.3” would be needed to see a " +
      "difference of 0.3."
    : "No scores yet: vcut score, then vcut compare again.";
}

function scoreCell(cell, measure) {
  if (!cell) return element("td", {}, "–");
  const digits = decimals(measure);
  const half = isNumber(cell.low) ? (cell.high - cell.low) / 2 : undefined;
  const { difference } = cell;
  const says = difference ? verdict(difference, measure) : "";
  const needed = difference?.["clips_for_0.3"];
  return element(
    "td",
    {},
    write(cell.mean, digits),
    isNumber(half) ? element("span", { class: "half" }, ` ±${write(half, digits)}`) : null,
    difference
      ? element(
          "small",
          { class: says },
          `${MARKS[says]} ${write(difference.mean, digits, true)} `,
          isNumber(difference.low) ? `[${write(difference.low, digits, true)}, ${write(difference.high, digits, true)}]` : null,
        )
      : null,
    isNumber(needed) ? element("small", {}, `${Math.ceil(needed)} clips for 0.3`) : null,
  );
}
