// The start of the page, and its keys.

function fillHeader() {
  const { title, model, made } = data;
  const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
  const pictures = new Set(data.clips.map((clip) => clip.name)).size;
  const [{ frames, width, height }] = data.clips;
  document.title = `${title}: vcut compare`;
  byId("title").textContent = title;
  byId("about").textContent = [
    model,
    count(data.settings.length, "setting"),
    count(pictures, "picture"),
    count(data.clips.length, "clip"),
    `${frames} frames of ${width}×${height} at ${fps} a second`,
    made,
  ].join(" · ");
}

const KEYS = {
  " ": () => setPlaying(!clock.playing),
  ArrowLeft: () => step(-1),
  ArrowRight: () => step(1),
  Home: () => goTo(0),
  End: () => goTo(total - 1),
  ",": () => changeSpeed(-1),
  ".": () => changeSpeed(1),
  l: () => setLoop(!clock.loop),
  d: () => byId("difference").hidden || toggleDifference(),
  "+": () => (opened ? zoomAt(1.5) : setSize(view.size * 1.25)),
  "=": () => KEYS["+"](),
  "-": () => (opened ? zoomAt(1 / 1.5) : setSize(view.size / 1.25)),
  "?": () => byId("keys").showModal(),
};
const LIST_KEYS = {
  "/": () => byId("filter").focus(),
};
const PAIR_KEYS = {
  0: () => setZoom(1, 0, 0),
  ArrowUp: () => openNeighbour(-1),
  ArrowDown: () => openNeighbour(1),
  s: toggleStrip,
};

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("keys").open) return;
  // these have keys of their own
  if (event.target.matches("input:not([type=range]), select")) return;
  if (event.target.matches("input[type=range]") && /^(Arrow|Home|End)/.test(event.key)) return;
  if (event.target.matches("button") && event.key === " ") return;
  const number = Number(event.key);
  const setting = number >= 1 ? data.settings[number - 1] : undefined;
  const action = setting ? () => toggleSetting(setting.name) : { ...KEYS, ...(opened ? PAIR_KEYS : LIST_KEYS) }[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

fillHeader();
fillScores();
startPairs();
startPair();
startPlayer();
byId("help").onclick = () => byId("keys").showModal();
document.addEventListener("keydown", press);
