// The coded frames of an MP4 file, as WebCodecs takes them. Frame n is the n-th in the file: no clock can be off by one.

function* boxes(view, from, to) {
  while (from + 8 <= to) {
    let size = view.getUint32(from);
    let head = 8;
    if (size === 1) {
      size = Number(view.getBigUint64(from + 8));
      head = 16;
    }
    if (size < head) size = to - from; // 0: up to the end
    const type = String.fromCharCode(...new Uint8Array(view.buffer, view.byteOffset + from + 4, 4));
    yield { type, start: from + head, end: Math.min(from + size, to) };
    from += size;
  }
}

function box(view, parent, ...path) {
  for (const type of path) {
    parent = parent && [...boxes(view, parent.start, parent.end)].find((each) => each.type === type);
  }
  return parent;
}

// Codec, description and samples ({data, key}) of an H.264 track, or null if the file is of another kind.
function readMp4(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const moov = box(view, { start: 0, end: bytes.length }, "moov");
  if (!moov) return null;
  for (const track of boxes(view, moov.start, moov.end)) {
    const table = track.type === "trak" && box(view, track, "mdia", "minf", "stbl");
    const description = table && box(view, table, "stsd");
    // 8 bytes of version and count come before the first entry, 78 of fixed fields before the boxes in it
    const entry = description && box(view, { start: description.start + 8, end: description.end }, "avc1");
    const avc = entry && box(view, { start: entry.start + 78, end: entry.end }, "avcC");
    if (!avc) continue;
    const config = bytes.subarray(avc.start, avc.end);
    const codec = "avc1." + [...config.subarray(1, 4)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    return { codec, description: config, samples: readSamples(bytes, view, table) };
  }
  return null;
}

function readSamples(bytes, view, table) {
  const [sizes, chunks, keys] = ["stsz", "stsc", "stss"].map((type) => box(view, table, type));
  const wide = box(view, table, "co64");
  const offsets = wide ?? box(view, table, "stco");
  const fixed = view.getUint32(sizes.start + 4);
  const count = view.getUint32(sizes.start + 8);
  const runs = Array.from({ length: view.getUint32(chunks.start + 4) }, (_, i) => ({
    first: view.getUint32(chunks.start + 8 + 12 * i),
    samples: view.getUint32(chunks.start + 12 + 12 * i),
  }));
  const key = new Set(
    keys && Array.from({ length: view.getUint32(keys.start + 4) }, (_, i) => view.getUint32(keys.start + 8 + 4 * i)),
  );
  const samples = [];
  for (let chunk = 1; samples.length < count; chunk++) {
    const run = runs.findLast((each) => each.first <= chunk);
    const place = offsets.start + 8 + (wide ? 8 : 4) * (chunk - 1);
    let at = wide ? Number(view.getBigUint64(place)) : view.getUint32(place);
    for (let i = 0; i < run.samples && samples.length < count; i++) {
      const size = fixed || view.getUint32(sizes.start + 12 + 4 * samples.length);
      samples.push({ data: bytes.subarray(at, at + size), key: !keys || key.has(samples.length + 1) });
      at += size;
    }
  }
  return samples;
}
