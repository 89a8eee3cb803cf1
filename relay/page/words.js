// What the relay's words mean, in a person's.

export const STATES = {
  starting: "starting", loading: "loading the workflow", active: "active",
  reconnecting: "reconnecting", stopping: "stopping", stopped: "stopped", failed: "failed",
};

export const HEALTH = {
  ok: "All is well.",
  degraded_input: "No pictures come from the input channel.",
  stalled: "Pictures come in, and none goes out: what viewers see stands still.",
  degraded_processing: "Pictures go out unprocessed, or fewer than should.",
  degraded_output: "The output channel takes pictures too slowly, or lost some.",
};

export const END_REASONS = {
  requested: "stopped on request", input_ended: "its input ended",
  control_ended: "its control channel was closed", input_timeout: "its input never came, or could not be reached",
  processing_failed: "ComfyStream could not be used for too long",
  output_gone: "the output channel refused it, or could not be reached",
  drained: "the relay was shut down", internal_error: "the relay failed; its log has the cause",
};

export const DROPS = {
  not_connected: "came while ComfyStream was not connected",
  paused: "came while the session was paused",
  resized: "were of the size before",
  before_connection: "were old when ComfyStream was connected",
  server_busy: "more than the workflow takes",
  shed: "the relay has too much to do",
  relay_late: "the relay has too much to do, and waits for a keyframe",
  overflow: "the queue was full",
  output_rate: "more than the output rate wants",
  stopped: "were queued at the end",
  output_unreachable: "the output channel was given up",
};

export const QUEUES = {
  coded_frames: "before the decoder", decoded_frames: "before ComfyStream", processed_frames: "after ComfyStream",
  output_segments: "segments for the output",
};

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const count = (value) => number.format(value ?? 0);
export const fps = (value) => (value ?? 0).toFixed(1);
export const milliseconds = (value) => {
  if (value === null || value === undefined) return "–";
  return value < 100 ? value.toFixed(1) : count(value);
};

/** The last part of a channel's address. */
export function channelName(url) {
  const path = url.replace(/[?#].*$/, "").replace(/\/+$/, "");
  return path.slice(path.lastIndexOf("/") + 1) || url;
}

/** The time of day of a UTC stamp without zone, as the API has them, or of milliseconds. */
export function timeOf(stamp) {
  const moment = new Date(typeof stamp === "string" && !/[zZ]|[+]\d\d/.test(stamp) ? `${stamp}Z` : stamp);
  return moment.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
}

/** How bad it is: `ok`, `wait`, `warn`, `bad` or `over`. */
export function severity(session) {
  if (session.status === "failed") return "bad";
  if (session.status === "stopped" || session.status === "stopping") return "over";
  if (session.status === "reconnecting" || session.health === "stalled") return "bad";
  if (session.health && session.health !== "ok") return "warn";
  if (session.status !== "active") return "wait";
  return session.paused ? "wait" : "ok";
}

/** One event in words; null for those that are not worth a line. */
export function eventInWords(kind, data) {
  switch (kind) {
    case "state":
      if (data.old === null || data.old === undefined) return "started";
      return data.new === data.old ? null : `${STATES[data.new] ?? data.new}${reasonOf(data)}`;
    case "health": return data.old ? HEALTH[data.new] ?? data.new : null;
    case "first_frame":
      return `first picture ${{ input: "in", processed: "back from ComfyStream", output: "out" }[data.at] ?? data.at}, after ${data.after_s} s`;
    case "error": return data.error;
    case "reconnect": return "connected to ComfyStream again";
    case "drops": return `${data.per_second} a second dropped: ${DROPS[data.reason] ?? data.reason}`;
    case "diagnosis": return data.diagnosis?.problem ?? "nothing is in the way any more";
    case "shed": {
      const previews = data.what === "previews";
      if (data.on) return `the relay has too much to do: ${previews ? "live pictures rest" : "every second frame is left out"}`;
      return `the relay has room again: ${previews ? "live pictures go on" : "all frames are processed"}`;
    }
    case "change":
      return `change of ${(data.fields ?? []).join(", ")} ${data.result}${data.error ? `: ${data.error}` : ""}`;
    default: return null;
  }
}

function reasonOf(data) {
  if (data.error) return `: ${data.error}`;
  const reason = END_REASONS[data.end_reason] ?? data.reason;
  return reason && reason !== data.new && data.new !== "active" ? ` (${reason.replaceAll("_", " ")})` : "";
}
