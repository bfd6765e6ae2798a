// Pairs: the clips of one picture and seed, one a setting. Which are shown, in which order, and their tiles.

const measures = new Map(data.measures.map((measure) => [measure.name, measure]));
const pairs = makePairs();
const shown = new Set(data.settings.map(({ name }) => name));
const view = { difference: false, size: 0 };
let listed = []; // pairs that pass the filter, in their order
let opened = null; // the pair in the dialog

function makePairs() {
  const found = new Map();
  for (const clip of data.clips) {
    const key = JSON.stringify([clip.name, clip.index]);
    if (!found.has(key)) found.set(key, { name: clip.name, index: clip.index, clips: new Map(), tiles: [], visible: false });
    clip.pair = found.get(key);
    clip.pair.clips.set(clip.setting, clip);
  }
  return [...found.values()];
}

for (const setting of data.settings) {
  const seconds = data.clips.filter((clip) => clip.setting === setting.name).map((clip) => clip.seconds);
  setting.clips = seconds.length;
  setting.seconds = seconds.reduce((sum, each) => sum + each, 0) / seconds.length;
}

const titleOf = (pair) => `${pair.name}-${pair.index}`;
const seedOf = (pair) => [...pair.clips.values()][0].seed;
const inSight = (clip) => clip.pair.visible || clip.pair === opened;
const shownSettings = () => data.settings.map(({ name }) => name).filter((name) => shown.has(name));

// Score of a clip, and its difference from the baseline's clip of the same picture and seed; undefined if unknown.
const scoreOf = (clip, measure) => clip?.scores?.[measure];
function differenceOf(clip, measure) {
  const [own, base] = [scoreOf(clip, measure), scoreOf(clip?.pair.clips.get(data.baseline), measure)];
  return clip?.setting !== data.baseline && isNumber(own) && isNumber(base) ? own - base : undefined;
}
const hasDifferences = (measure) => data.clips.some((clip) => isNumber(differenceOf(clip, measure)));

// How bad a pair is: the larger, the worse; undefined if it has no such score.
function badness(pair, kind, measure, of) {
  const others = shownSettings().filter((name) => name !== data.baseline);
  const settings = of ? [of] : others.length ? others : shownSettings();
  const value = kind === "difference" ? differenceOf : scoreOf;
  const values = settings.map((name) => value(pair.clips.get(name), measure)).filter(isNumber);
  if (!values.length) return undefined;
  return measures.get(measure).better === "higher" ? -Math.min(...values) : Math.max(...values);
}

function chosenMeasure() {
  return byId("sort").value ? JSON.parse(byId("sort").value) : [null, data.measures[0]?.name];
}

function arrange() {
  const text = byId("filter").value.trim().toLowerCase();
  const [kind, measure] = chosenMeasure();
  const sign = byId("order").value === "best" ? 1 : -1;
  listed = pairs.filter((pair) => `${titleOf(pair)} ${[...pair.clips.values()][0].image}`.toLowerCase().includes(text));
  if (kind) {
    const bad = new Map(listed.map((pair) => [pair, badness(pair, kind, measure, byId("of").value)]));
    listed.sort((a, b) => {
      const [x, y] = [bad.get(a), bad.get(b)];
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      return sign * (x - y);
    });
  }
  byId("of").parentElement.hidden = byId("order").parentElement.hidden = !kind;
  byId("count").textContent = `${listed.length} of ${pairs.length} pairs`;
  byId("pairs").replaceChildren(...listed.map((pair) => pair.element));
  if (!listed.length) byId("pairs").append(element("li", { class: "empty" }, "No picture has such a name."));
}

// Sort by a measure: by its differences from the baseline, where there are any.
function sortBy(measure) {
  byId("sort").value = JSON.stringify([hasDifferences(measure) ? "difference" : "value", measure]);
  byId("order").value = "worst";
  arrange();
  showTiles();
  byId("pairs-title").scrollIntoView({ block: "nearest" });
}

function makeCard(pair) {
  pair.tileBox = element("div", { class: "tiles" });
  pair.element = element(
    "li",
    { class: "pair" },
    element(
      "div",
      { class: "bar" },
      element("button", { class: "name", title: "Open this pair (Enter)", onclick: () => openPair(pair) }, titleOf(pair)),
      element("small", {}, `seed ${seedOf(pair)}`),
    ),
    pair.tileBox,
  );
  pair.element.pair = pair;
}

// One clip's place on the page: {clip, canvas, note}. A setting without this clip gets an empty one.
function makeTile(pair, setting) {
  const clip = pair.clips.get(setting);
  const canvas = element("canvas", { role: "img", "aria-label": `${titleOf(pair)}, setting ${setting}` });
  const note = element("span", { class: "note" }, clip ? "" : "no clip");
  const screen = element("div", { class: "screen" }, canvas, note);
  const { width, height } = clip ?? [...pair.clips.values()][0];
  screen.style.aspectRatio = `${width} / ${height}`;
  canvas.width = canvas.height = 0;
  const caption = element("figcaption", {}, element("b", {}, setting), element("span", { class: "score" }));
  return { clip, canvas, note, screen, caption, element: element("figure", { class: "tile" }, screen, caption) };
}

function showCaption(tile) {
  const [, name] = chosenMeasure();
  const measure = measures.get(name);
  if (!measure || !tile.clip) return;
  const digits = decimals(measure);
  const difference = differenceOf(tile.clip, name);
  const worse = isNumber(difference) && difference < 0 === (measure.better === "higher") && difference !== 0;
  tile.caption.lastChild.replaceChildren(
    write(scoreOf(tile.clip, name), digits),
    isNumber(difference) ? element("small", { class: worse ? "worse" : "better" }, ` ${write(difference, digits, true)}`) : "",
  );
  tile.caption.lastChild.title = measure.label;
}

function drawTile({ clip, canvas, note }, n) {
  if (!clip) return;
  note.textContent = clip.fault ? `Cannot be shown: ${clip.fault}` : clip.bitmaps ? "" : "decoding …";
  if (!clip.bitmaps) return;
  const bitmap = clip.bitmaps[frameOf(clip, n)];
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
  }
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const base = view.difference ? clip.pair.clips.get(data.baseline) : undefined;
  const differs = Boolean(base?.bitmaps) && base !== clip;
  if (differs) {
    context.globalCompositeOperation = "difference";
    context.drawImage(base.bitmaps[frameOf(base, n)], 0, 0, canvas.width, canvas.height);
    context.globalCompositeOperation = "source-over";
  }
  canvas.classList.toggle("difference", differs);
  canvas.classList.toggle("pixelated", canvas.getBoundingClientRect().width * devicePixelRatio >= 2 * canvas.width);
}

const tilesInSight = () => [...pairs.filter((pair) => pair.visible).flatMap((pair) => pair.tiles), ...(opened?.large ?? [])];

// Build the tiles of the pairs in sight and ask for their frames; let go of those out of sight.
function showTiles() {
  const settings = shownSettings();
  byId("pairs").style.setProperty("--tiles", settings.length);
  for (const pair of pairs) {
    const built = pair.tiles.map((tile) => tile.caption.firstChild.textContent);
    if (pair.visible && JSON.stringify(built) !== JSON.stringify(settings)) {
      pair.tiles = settings.map((name) => makeTile(pair, name));
      pair.tiles.forEach((tile) => (tile.screen.onclick = () => openPair(pair)));
      pair.tileBox.replaceChildren(...pair.tiles.map((tile) => tile.element));
    }
    for (const tile of pair.tiles) {
      if (pair.visible) showCaption(tile);
      else tile.canvas.width = tile.canvas.height = 0; // frees its memory
    }
    if (pair.visible) pair.tiles.forEach((tile) => askFor(tile, tile.screen.clientWidth * devicePixelRatio));
    else if (pair !== opened) pair.clips.forEach(unwant);
  }
  // cards that are not built yet are as high as those that are: what one scrolls to stays where it is
  const built = pairs.find((pair) => pair.visible && pair.tiles.length);
  if (built) byId("pairs").style.setProperty("--tiles-height", `${built.tileBox.offsetHeight}px`);
  redraw();
}

function askFor({ clip }, width) {
  if (!clip) return;
  want(clip, width);
  const base = view.difference && clip.pair.clips.get(data.baseline);
  if (base) want(base, width);
}

function decoded(clip) {
  redraw();
  if (clip.pair === opened) showStrip();
}

function toggleSetting(name) {
  if (shown.has(name) && shown.size > 1) shown.delete(name);
  else shown.add(name);
  for (const button of byId("settings").children) button.setAttribute("aria-pressed", String(shown.has(button.value)));
  arrange();
  showTiles();
  if (opened) openPair(opened);
}

function toggleDifference() {
  view.difference = !view.difference;
  byId("difference").setAttribute("aria-pressed", String(view.difference));
  showTiles();
  opened?.large.forEach((tile) => askFor(tile, Infinity));
}

function setSize(size) {
  view.size = Math.max(Number(byId("size").min), Math.min(Number(byId("size").max), size));
  byId("size").value = view.size;
  byId("pairs").style.setProperty("--tile", `${view.size}px`);
  showTiles();
}

function fillChoices() {
  data.settings.forEach(({ name }, i) =>
    byId("settings").append(
      element(
        "button",
        { value: name, "aria-pressed": "true", title: i < 9 ? `Show or hide (${i + 1})` : null, onclick: () => toggleSetting(name) },
        name,
      ),
    ),
  );
  byId("sort").append(element("option", { value: "" }, "name"));
  for (const [kind, label] of [["difference", "Difference from the baseline"], ["value", "Score"]]) {
    const options = data.measures
      .filter(({ name }) => kind === "value" || hasDifferences(name))
      .map((measure) => element("option", { value: JSON.stringify([kind, measure.name]) }, measure.label));
    if (options.length) byId("sort").append(element("optgroup", { label }, options));
  }
  byId("of").append(element("option", { value: "" }, "any setting shown"));
  byId("of").append(...data.settings.map(({ name }) => element("option", { value: name }, name)));
  for (const id of ["sort", "of", "order", "filter"]) {
    byId(id).addEventListener("input", () => {
      arrange();
      showTiles();
    });
  }
  byId("size").oninput = (event) => setSize(Number(event.target.value));
  byId("difference").onclick = toggleDifference;
  byId("difference").hidden = data.settings.length < 2 || !data.baseline;
}

// Width of a tile, near 180, with which a whole number of cards fills a line.
function fittingSize(width, tiles) {
  const [gap, between, border] = [12, 14, 14]; // as in page.css
  const cards = Math.max(1, Math.round((width + between) / (tiles * (180 + gap) + gap + between)));
  return Math.floor(((width + between) / cards - between - border) / tiles - gap);
}

function startPairs() {
  pairs.forEach(makeCard);
  fillChoices();
  setSize(fittingSize(byId("pairs").clientWidth, data.settings.length));
  if (data.sort) sortBy(data.sort);
  else arrange();
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) target.pair.visible = isIntersecting;
      showTiles();
    },
    { rootMargin: "200px" },
  );
  pairs.forEach((pair) => observer.observe(pair.element));
  new ResizeObserver(() => requestAnimationFrame(showTiles)).observe(byId("pairs"));
}
