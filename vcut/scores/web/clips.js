// Clips as arrays of decoded frames. Playing is drawing: one clock says the frame, and every clip shows that one.

const PARALLEL = 3; // clips that are decoded at a time
const BUDGET = 600e6; // bytes of decoded frames that are kept for clips out of sight
const kept = new Map(); // clip -> bytes of its decoded frames, the one used last at the end
const waiting = new Set();
let decoding = 0;

// See that `clip` has its frames, at least `width` pixels wide or as wide as they are. `clip.bitmaps` holds them later.
function want(clip, width) {
  const wanted = Math.min(Math.ceil(width), clip.width);
  if (clip.bitmaps) touch(clip);
  if (clip.fault || (clip.wanted ?? 0) >= wanted) return;
  clip.wanted = wanted;
  waiting.add(clip);
  decodeNext();
}

// Take back a wish that is not yet begun.
function unwant(clip) {
  if (waiting.delete(clip)) clip.wanted = clip.bitmaps ? clip.bitmaps[0].width : 0;
}

function decodeNext() {
  while (decoding < PARALLEL && waiting.size) {
    const [clip] = waiting;
    waiting.delete(clip);
    decoding++;
    decode(clip, clip.wanted)
      .then((bitmaps) => keep(clip, bitmaps))
      .catch((error) => (clip.fault = String(error?.message ?? error)))
      .finally(() => {
        decoding--;
        decoded(clip); // in pairs.js
        decodeNext();
      });
  }
}

function keep(clip, bitmaps) {
  clip.bitmaps?.forEach((each) => each.close());
  clip.bitmaps = bitmaps;
  touch(clip);
  let total = [...kept.values()].reduce((sum, bytes) => sum + bytes, 0);
  for (const [old, bytes] of kept) {
    if (total <= BUDGET) break;
    if (inSight(old)) continue;
    forget(old);
    total -= bytes;
  }
}

function touch(clip) {
  const [{ width, height }] = clip.bitmaps;
  kept.delete(clip);
  kept.set(clip, 4 * width * height * clip.bitmaps.length);
}

function forget(clip) {
  kept.delete(clip);
  clip.bitmaps.forEach((each) => each.close());
  clip.bitmaps = null;
  clip.wanted = 0;
}

// All frames of a clip, `width` pixels wide.
async function decode(clip, width) {
  const size = { resizeWidth: width, resizeHeight: Math.max(1, Math.round((width / clip.width) * clip.height)) };
  const take = (image) =>
    createImageBitmap(image, width < clip.width ? { ...size, resizeQuality: "high" } : undefined);
  const file = await source(clip);
  const video = file instanceof Uint8Array && "VideoDecoder" in window ? readMp4(file) : null;
  const supported = video && (await VideoDecoder.isConfigSupported({ codec: video.codec, description: video.description }));
  const bitmaps = supported?.supported ? await decodeSamples(video, take) : await seekFrames(clip, file, take);
  if (bitmaps.length !== clip.frames) throw new Error(`${bitmaps.length} frames, expected ${clip.frames}`);
  return bitmaps;
}

// The clip's file: bytes, or its link where a page from disk may not read what it may show.
async function source(clip) {
  if (!clip.link) return fromBase64(document.getElementById(clip.id).textContent.trim());
  if (location.protocol === "file:") return clip.link;
  return new Uint8Array(await (await fetch(clip.link)).arrayBuffer());
}

function fromBase64(text) {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return bytes;
}

async function decodeSamples(video, take) {
  const frames = [];
  const decoder = new VideoDecoder({
    output: (frame) => frames.push(take(frame).finally(() => frame.close())),
    error: () => {}, // flush() rejects with it
  });
  decoder.configure({ codec: video.codec, description: video.description });
  video.samples.forEach(({ data, key }, i) =>
    decoder.decode(new EncodedVideoChunk({ type: key ? "key" : "delta", timestamp: i, data })),
  );
  await decoder.flush();
  decoder.close();
  return Promise.all(frames); // a decoder gives frames in the order in which they are shown
}

// The video shows the frame of this time: after "seeked" a busy browser may still show the one before. Browsers that do
// not say which frame they show, or count from elsewhere, are waited for no longer than a second.
function frameShown(video, time, tolerance) {
  if (!video.requestVideoFrameCallback) return Promise.resolve();
  return new Promise((resolve) => {
    setTimeout(resolve, 1000);
    const look = (_, { mediaTime }) =>
      Math.abs(mediaTime - time) < tolerance ? resolve() : video.requestVideoFrameCallback(look);
    video.requestVideoFrameCallback(look);
  });
}

// The slow way, for linked files and browsers without WebCodecs: seek to the middle of each frame.
async function seekFrames(clip, file, take) {
  const video = document.createElement("video");
  const event = (name) =>
    new Promise((resolve, reject) => {
      video.addEventListener(name, resolve, { once: true });
      video.addEventListener("error", () => reject(new Error(video.error?.message || "it cannot be read")), { once: true });
    });
  const url = file instanceof Uint8Array ? URL.createObjectURL(new Blob([file], { type: "video/mp4" })) : file;
  video.muted = true;
  video.preload = "auto";
  video.src = url;
  await event("loadeddata");
  const bitmaps = [];
  for (let n = 0; n < clip.frames; n++) {
    const seeked = event("seeked"), shown = frameShown(video, n / clip.fps, 0.5 / clip.fps);
    video.currentTime = (n + 0.5) / clip.fps;
    await seeked;
    await shown;
    bitmaps.push(await take(video));
  }
  video.removeAttribute("src");
  video.load();
  if (url !== file) URL.revokeObjectURL(url);
  return bitmaps;
}
