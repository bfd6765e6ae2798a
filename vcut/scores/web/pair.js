// One pair, as large as the window: the same zoom in all its clips, all its scores, and the strip.

const zoom = { scale: 1, x: 0, y: 0 }; // x and y: where the frame's corner lies, in widths and heights of a tile

function openPair(pair) {
  if (opened && opened !== pair) closePair();
  opened = pair;
  pair.large = shownSettings().map((name) => makeTile(pair, name));
  byId("pair-title").textContent = titleOf(pair);
  byId("pair-seed").textContent = `seed ${seedOf(pair)}`;
  byId("large").replaceChildren(...pair.large.map((tile) => tile.element));
  pair.large.forEach((tile) => {
    showCaption(tile);
    askFor(tile, Infinity);
    tile.screen.onpointerdown = (event) => event.currentTarget.setPointerCapture(event.pointerId);
    tile.screen.onpointermove = drag;
    tile.screen.onwheel = turnWheel;
  });
  fillPairScores(pair);
  if (!byId("pair").open) {
    byId("pair").showModal();
    byId("pair").focus(); // not its first button, which would take the space key
    byId("pair").append(byId("transport"));
    setZoom(1, 0, 0);
  }
  layLarge();
  const { width } = pair.large.find((tile) => tile.clip)?.clip ?? data.clips[0];
  byId("strip-frames").value ||= defaultFrames(total).join(", ");
  byId("strip-width").value ||= defaultWidth(width);
  showStrip();
  redraw();
}

function closePair() {
  opened.large.forEach((tile) => (tile.canvas.width = tile.canvas.height = 0));
  opened.large = null;
  opened = null;
}

// The number of columns that makes the tiles largest.
function layLarge() {
  if (!opened) return;
  const box = byId("large");
  const tiles = opened.large;
  const { width, height } = tiles.find((tile) => tile.clip)?.clip ?? data.clips[0];
  const caption = 28;
  const widths = tiles.map((_, i) => {
    const rows = Math.ceil(tiles.length / (i + 1));
    const across = (box.clientWidth - 12 * i) / (i + 1);
    return Math.min(across, ((box.clientHeight - 12 * (rows - 1)) / rows - caption) * (width / height));
  });
  const best = widths.indexOf(Math.max(...widths));
  box.style.setProperty("--columns", best + 1);
  box.style.setProperty("--large", `${Math.max(80, Math.floor(widths[best]))}px`);
  redraw();
}

function setZoom(scale, x, y) {
  zoom.scale = Math.max(1, Math.min(32, scale));
  zoom.x = Math.max(1 - zoom.scale, Math.min(0, x));
  zoom.y = Math.max(1 - zoom.scale, Math.min(0, y));
  byId("large").style.setProperty("--zoom", `translate(${100 * zoom.x}%, ${100 * zoom.y}%) scale(${zoom.scale})`);
  byId("large").classList.toggle("zoomed", zoom.scale > 1);
  byId("zoom").textContent = `${Math.round(100 * zoom.scale)} %`;
  redraw();
}

// Zoom by a factor; the point (u, v) of the tile, each in 0..1, stays where it is.
function zoomAt(factor, u = 0.5, v = 0.5) {
  const scale = Math.max(1, Math.min(32, zoom.scale * factor));
  const ratio = scale / zoom.scale;
  setZoom(scale, u - (u - zoom.x) * ratio, v - (v - zoom.y) * ratio);
}

function turnWheel(event) {
  event.preventDefault();
  const { left, top, width, height } = event.currentTarget.getBoundingClientRect();
  zoomAt(Math.exp(-0.002 * event.deltaY), (event.clientX - left) / width, (event.clientY - top) / height);
}

function drag(event) {
  if (!event.buttons) return;
  const { width, height } = event.currentTarget.getBoundingClientRect();
  setZoom(zoom.scale, zoom.x + event.movementX / width, zoom.y + event.movementY / height);
}

function fillPairScores(pair) {
  const clips = shownSettings().map((name) => pair.clips.get(name)).filter(Boolean);
  const row = (clip) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, clip.setting),
      element("td", {}, write(clip.seconds, 2)),
      data.measures.map((measure) => {
        const difference = differenceOf(clip, measure.name);
        const digits = decimals(measure);
        return element(
          "td",
          {},
          write(scoreOf(clip, measure.name), digits),
          isNumber(difference) ? element("small", {}, write(difference, digits, true)) : null,
        );
      }),
    );
  const heads = ["Setting", "Seconds", ...data.measures.map(({ label }) => label)];
  const head = element("tr", {}, heads.map((text) => element("th", { scope: "col" }, text)));
  byId("pair-scores").replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, clips.map(row))));
}

function showStrip() {
  if (!opened || byId("strip").hidden) return;
  const clips = opened.large.map((tile) => tile.clip).filter(Boolean);
  const numbers = readFrames(byId("strip-frames").value, total);
  const width = Number(byId("strip-width").value);
  const ready = clips.every((clip) => clip.bitmaps?.[0].width === clip.width);
  let says = "";
  if (!numbers) says = `Frames are numbers from 1 to ${total}, such as 1, 5-8.`;
  else if (!byId("strip-width").checkValidity() || !width) says = "The width of a frame is 16 to 4096 pixels.";
  else if (!ready) says = "decoding …";
  byId("strip-says").textContent = says;
  byId("strip-save").disabled = Boolean(says);
  if (!says) drawStrip(byId("strip-canvas"), clips, numbers, width);
}

function toggleStrip() {
  byId("strip").hidden = !byId("strip").hidden;
  byId("strip-open").setAttribute("aria-pressed", String(!byId("strip").hidden));
  layLarge();
  showStrip();
}

function openNeighbour(by) {
  const next = listed[listed.indexOf(opened) + by];
  if (next) openPair(next);
}

function startPair() {
  byId("pair").onclose = () => {
    closePair();
    document.body.append(byId("transport"));
    showTiles();
  };
  byId("close").onclick = () => byId("pair").close();
  byId("previous").onclick = () => openNeighbour(-1);
  byId("next").onclick = () => openNeighbour(1);
  byId("in").onclick = () => zoomAt(1.5);
  byId("out").onclick = () => zoomAt(1 / 1.5);
  byId("strip-open").onclick = toggleStrip;
  byId("strip-frames").oninput = byId("strip-width").oninput = showStrip;
  byId("strip-save").onclick = async () => {
    const name = `strip-${titleOf(opened).replace(/[^\p{L}\p{N}._-]+/gu, "_")}.png`;
    byId("strip-says").textContent = await savePng(byId("strip-canvas"), name);
  };
  new ResizeObserver(() => requestAnimationFrame(layLarge)).observe(byId("large"));
}
