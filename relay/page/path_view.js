// The path of one session from left to right, with what flows and what waits.

import { element, setAttribute, setText } from "./dom.js";
import { count, fps, milliseconds } from "./words.js";

/** Capacities where the status does not tell them. */
const CAPACITY = { decoded_frames: 100, processed_frames: 100, output_segments: 50 };

/** The stages, by the names that a diagnosis has for them, and the queues between. */
const STAGES = [
  ["input", "Trickle in"], ["decoder", "Decode"], ["decoded_frames", "Queue"],
  ["comfystream", "ComfyStream"], ["processed_frames", "Queue"], ["encoder", "Encode"],
  ["output", "Trickle out"],
];
const QUEUES = new Set(["decoded_frames", "processed_frames"]);

export class PathView {
  constructor() {
    this.stages = new Map();
    this.root = element("ol", { class: "path", "aria-label": "The path of the pictures" });
    for (const [name, title] of STAGES) {
      const main = element("span", { class: "figure" });
      const unit = element("span", { class: "unit" });
      const note = element("span", { class: "note" });
      const fill = QUEUES.has(name)
        ? element("meter", { min: 0, max: 1, high: 0.5, low: 0.1, optimum: 0, "aria-label": `${title} fill` })
        : null;
      const heading = element("span", { class: "stage-name", text: title });
      const root = element("li", { class: QUEUES.has(name) ? "stage queue" : "stage", "data-stage": name },
        heading,
        element("span", { class: "value" }, main, unit), fill, note);
      this.stages.set(name, { root, heading, main, unit, note, fill });
      this.root.append(root);
    }
    this.bytes = null;
  }

  update(session, now) {
    const { input, output, processing, queue_sizes: sizes } = session;
    const capacity = { ...CAPACITY, ...session.queue_capacities };
    const dropped = (queue) => Object.values(session.frames_dropped?.[queue] ?? {}).reduce((sum, n) => sum + n, 0);
    this.set("input", input.segments_behind, "behind",
      `${count(input.segments_skipped)} segments skipped`);
    this.set("decoder", fps(session.fps_in), "fps", `${count(input.frames)} pictures`);
    this.queue("decoded_frames", sizes.decoded_frames, capacity.decoded_frames, dropped("decoded_frames"));
    const trip = processing.round_trip_ms?.p50;
    this.set("comfystream", milliseconds(trip), trip === undefined ? "" : "ms",
      `${fps(processing.fps_sent)} → ${fps(processing.fps_returned)} fps`);
    this.queue("processed_frames", sizes.processed_frames, capacity.processed_frames, dropped("processed_frames"));
    this.set("encoder", fps(output.fps_encoded), "fps", `${session.width} × ${session.height}`);
    this.set("output", fps(session.fps_out), "fps", this.outputNote(session, capacity, now));
    const stage = session.diagnosis?.stage;
    for (const [name, { root }] of this.stages) setAttribute(root, "data-blamed", name === stage);
  }

  /** Which sides pass pictures on as they are. */
  updateCopying({ ingest, egress }) {
    setText(this.stages.get("decoder").heading, ingest.copies ? "Copied" : "Decode");
    setText(this.stages.get("encoder").heading, egress.copies ? "Copied" : "Encode");
  }

  outputNote({ output, queue_sizes: sizes }, capacity, now) {
    const before = this.bytes;
    this.bytes = { at: now, sent: output.bytes };
    const waiting = sizes.output_segments;
    if (output.segments_lost) return `${count(output.segments_lost)} segments lost`;
    if (waiting > 2) return `${waiting} of ${capacity.output_segments} segments wait`;
    if (!before || now <= before.at) return `${count(output.segments)} segments`;
    const megabits = ((output.bytes - before.sent) * 8) / 1000 / (now - before.at);
    return `${megabits.toFixed(2)} Mbit/s`;
  }

  set(name, value, unit, note) {
    const stage = this.stages.get(name);
    setText(stage.main, value);
    setText(stage.unit, unit ? ` ${unit}` : "");
    setText(stage.note, note);
  }

  queue(name, size, capacity, dropped) {
    this.set(name, size, `of ${capacity}`, dropped ? `${count(dropped)} dropped` : "none dropped");
    this.stages.get(name).fill.value = size / capacity;
  }
}
