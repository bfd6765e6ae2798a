// The one clock. Its position is a frame of the longest clip; whatever is in sight is drawn at that frame.

const total = Math.max(...data.clips.map((clip) => clip.frames));
const { fps } = data.clips[0];
const clock = { position: 0, playing: false, loop: true, speed: 1, last: 0, asked: false };
const byId = (id) => document.getElementById(id);

// The frame that a clip shows at frame n of the clock: the same one, unless its rate or length is another.
const frameOf = (clip, n) => Math.min(clip.frames - 1, Math.floor(((n + 0.5) / fps) * clip.fps));

function redraw() {
  if (clock.asked) return;
  clock.asked = true;
  requestAnimationFrame(tick);
}

function tick(now) {
  clock.asked = false;
  if (clock.playing) {
    // the time of the first frame may lie before the click that began it
    clock.position += (Math.max(0, now - clock.last) / 1000) * fps * clock.speed;
    clock.last = Math.max(now, clock.last);
    if (clock.position >= total && clock.loop) clock.position %= total;
    else if (clock.position >= total) {
      clock.position = total - 1;
      setPlaying(false);
    }
  }
  const n = Math.floor(clock.position);
  byId("scrub").value = n;
  byId("scrub").setAttribute("aria-valuetext", `frame ${n + 1} of ${total}`);
  byId("frame").textContent = `${n + 1} / ${total}`;
  for (const tile of tilesInSight()) drawTile(tile, n);
  if (clock.playing) redraw();
}

function setPlaying(playing) {
  if (playing && !clock.loop && Math.floor(clock.position) === total - 1) clock.position = 0;
  clock.playing = playing;
  clock.last = performance.now();
  byId("play").textContent = playing ? "❚❚" : "►";
  byId("play").setAttribute("aria-label", playing ? "Pause" : "Play");
  redraw();
}

// Show frame n and stay there. Beyond an end comes the other end, if the clips loop.
function goTo(n) {
  setPlaying(false);
  clock.position = clock.loop ? (n + total) % total : Math.max(0, Math.min(total - 1, n));
  redraw();
}

const step = (by) => goTo(Math.floor(clock.position) + by);

function setLoop(loop) {
  clock.loop = loop;
  byId("loop").setAttribute("aria-pressed", String(loop));
}

function changeSpeed(by) {
  const select = byId("speed");
  select.selectedIndex = Math.max(0, Math.min(select.options.length - 1, select.selectedIndex + by));
  clock.speed = Number(select.value);
}

function startPlayer() {
  byId("scrub").max = total - 1;
  byId("play").onclick = () => setPlaying(!clock.playing);
  byId("back").onclick = () => step(-1);
  byId("on").onclick = () => step(1);
  byId("loop").onclick = () => setLoop(!clock.loop);
  byId("speed").onchange = () => changeSpeed(0);
  byId("scrub").oninput = (event) => goTo(Number(event.target.value));
  setPlaying(!matchMedia("(prefers-reduced-motion: reduce)").matches);
}
