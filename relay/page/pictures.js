// Live pictures of the sessions that are open, all over one connection: browsers have six to a host.

import { open } from "./api.js";

const WIDTH = 480;
const MOST_SESSIONS = 4;
const RETRY_MS = 2000;

/** Yields the parts of a multipart body, each with its headers and `data`. */
export async function* partsOf(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder("latin1");
  let buffer = new Uint8Array(0);
  const fill = async () => {
    const { done, value } = await reader.read();
    if (done) return false;
    const joined = new Uint8Array(buffer.length + value.length);
    joined.set(buffer);
    joined.set(value, buffer.length);
    buffer = joined;
    return true;
  };
  for (;;) {
    let end;
    while ((end = blankLine(buffer)) < 0) if (!(await fill())) return;
    const headers = new Map();
    for (const line of decoder.decode(buffer.subarray(0, end)).split("\r\n")) {
      const colon = line.indexOf(":");
      if (colon > 0) headers.set(line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim());
    }
    const next = end + 4 + Number(headers.get("content-length") ?? 0);
    while (buffer.length < next) if (!(await fill())) return;
    yield { headers, data: buffer.slice(end + 4, next) };
    buffer = buffer.subarray(next);
  }
}

function blankLine(buffer) {
  for (let at = 0; at + 3 < buffer.length; at += 1) {
    if (buffer[at] === 13 && buffer[at + 1] === 10 && buffer[at + 2] === 13 && buffer[at + 3] === 10) {
      return at;
    }
  }
  return -1;
}

/** Draws what comes into the views that want it. A view has `sessionId`, `draw(end, bitmap)` and
 * `paused(words)`. */
export class Pictures {
  constructor() {
    this.views = new Map(); // in the order in which they were opened
    this.running = null;
    this.wanted = "";
    document.addEventListener("visibilitychange", () => this.refresh());
  }

  show(view) {
    this.views.delete(view.sessionId);
    this.views.set(view.sessionId, view);
    this.refresh();
  }

  hide(view) {
    this.views.delete(view.sessionId);
    this.refresh();
  }

  /** Ask for what is wanted now, if that is something else. */
  refresh() {
    const all = [...this.views.keys()];
    const live = document.hidden ? [] : all.slice(-MOST_SESSIONS);
    for (const [id, view] of this.views) {
      view.paused(live.includes(id) ? "" : `pictures rest: ${MOST_SESSIONS} sessions at a time`);
    }
    const wanted = live.join(" ");
    if (wanted === this.wanted) return;
    this.wanted = wanted;
    this.running?.abort();
    this.running = null;
    if (live.length) {
      this.running = new AbortController();
      this.run(live, this.running);
    }
  }

  async run(ids, running) {
    const query = ids.map((id) => `session=${encodeURIComponent(id)}`).join("&");
    while (!running.signal.aborted) {
      try {
        const response = await open(`previews?${query}&width=${WIDTH}`, { signal: running.signal });
        for await (const { headers, data } of partsOf(response.body)) {
          const view = this.views.get(headers.get("x-session-id"));
          if (view === undefined) continue;
          const bitmap = await createImageBitmap(new Blob([data], { type: "image/jpeg" }));
          view.draw(headers.get("x-picture"), bitmap);
          bitmap.close();
        }
      } catch {
        // Said elsewhere: the sessions' own events tell what is wrong.
      }
      if (!running.signal.aborted) {
        await new Promise((resolve) => { setTimeout(resolve, RETRY_MS); });
      }
    }
  }
}
