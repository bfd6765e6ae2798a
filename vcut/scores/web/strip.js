// Strips like the paper's Figure 3: settings below each other, chosen frames of one clip side by side, as a PNG.

const STRIP = { gap: 4, head: 24, font: "14px system-ui, sans-serif" };

// Numbers of frames from text such as "1, 5-8, 25", counted from 1; null if it is not understood.
function readFrames(text, total) {
  const numbers = [];
  for (const part of text.split(/[\s,;]+/).filter(Boolean)) {
    const match = /^(\d+)(?:[-–](\d+))?$/.exec(part);
    if (!match) return null;
    const [first, last] = [Number(match[1]), Number(match[2] ?? match[1])];
    if (first < 1 || last > total || last < first) return null;
    for (let n = first; n <= last; n++) numbers.push(n);
  }
  return numbers.length ? numbers : null;
}

// Five frames over the clip, the first and the last among them.
function defaultFrames(total) {
  const columns = Math.min(5, total);
  return Array.from({ length: columns }, (_, i) => 1 + Math.round((i * (total - 1)) / Math.max(1, columns - 1)));
}

// Width of a frame by default: its own; of small ones, the multiple that comes to 128.
const defaultWidth = (width) => width * Math.max(1, Math.ceil(128 / width));

// Draw `clips` (one a setting, all decoded) in black on white. The size is known beforehand:
// labels + columns * width + gaps, head + rows * height + gaps.
function drawStrip(canvas, clips, numbers, width) {
  const context = canvas.getContext("2d");
  context.font = STRIP.font;
  const names = clips.map((clip) => clip.setting);
  const label = Math.ceil(Math.max(...names.map((name) => context.measureText(name).width))) + 16;
  const heights = clips.map((clip) => Math.round((width / clip.width) * clip.height));
  canvas.width = label + numbers.length * (width + STRIP.gap);
  canvas.height = STRIP.head + heights.reduce((sum, height) => sum + height + STRIP.gap, 0);
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = "#000";
  context.font = STRIP.font;
  context.textBaseline = "middle";
  context.textAlign = "center";
  numbers.forEach((n, i) => context.fillText(String(n), label + i * (width + STRIP.gap) + width / 2, STRIP.head / 2));
  context.textAlign = "right";
  let top = STRIP.head;
  clips.forEach((clip, row) => {
    context.fillText(names[row], label - 8, top + heights[row] / 2);
    context.imageSmoothingEnabled = width < clip.width;
    numbers.forEach((n, i) => {
      const bitmap = clip.bitmaps[Math.min(n, clip.bitmaps.length) - 1];
      context.drawImage(bitmap, label + i * (width + STRIP.gap), top, width, heights[row]);
    });
    top += heights[row] + STRIP.gap;
  });
  canvas.setAttribute("aria-label", `Frames ${numbers.join(", ")} of ${names.join(", ")}`);
}

// Save a canvas as a PNG; resolves to a sentence for the user.
async function savePng(canvas, name) {
  let blob;
  try {
    blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  } catch {
    return "A page from disk cannot save linked clips: make it without --link, or open it through a web server.";
  }
  if (!blob) return "The strip is too large for this browser: take fewer frames or smaller ones.";
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  return `Saved ${name}, ${canvas.width}×${canvas.height}.`;
}
