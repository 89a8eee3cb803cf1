// Server-sent events by fetch: an EventSource can't bring the token.

import { ApiError, open } from "./api.js";

const SILENT_MS = 8000; // a status comes every second
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 5000;

/** Yields `{id, event, data}` of a response's body. */
export async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    waiting += value;
    let end;
    while ((end = waiting.indexOf("\n\n")) >= 0) {
      const block = waiting.slice(0, end);
      waiting = waiting.slice(end + 2);
      const fields = { id: null, event: "message", data: "" };
      for (const line of block.split("\n")) {
        const colon = line.indexOf(":");
        if (colon <= 0) continue;
        const name = line.slice(0, colon);
        const words = line.slice(colon + 1).replace(/^ /, "");
        fields[name] = name === "data" ? fields.data + words : words;
      }
      if (fields.data) yield fields;
    }
  }
}

/** Follows the relay's events for as long as the page is there, over restarts of the relay.
 * @param onEvent called with each event's name and data.
 * @param onLink called with `connected`, or `lost` and the milliseconds until the next try. */
export async function follow({ onEvent, onLink }) {
  let lastId = null;
  let waitMs = FIRST_WAIT_MS;
  for (;;) {
    const gone = new AbortController();
    let alarm = setTimeout(() => gone.abort(), SILENT_MS);
    try {
      const headers = lastId === null ? {} : { "Last-Event-ID": lastId };
      // Without an id the last events come first: what happened before the page was opened.
      const path = lastId === null ? "events?history=true" : "events";
      const response = await openPatiently(path, headers, gone, () => clearTimeout(alarm));
      onLink("connected", 0);
      waitMs = FIRST_WAIT_MS;
      for await (const { id, event, data } of eventsOf(response.body)) {
        clearTimeout(alarm);
        alarm = setTimeout(() => gone.abort(), SILENT_MS);
        if (id !== null) lastId = id;
        onEvent(event, JSON.parse(data));
      }
    } catch (error) {
      if (error instanceof ApiError && error.status < 500 && error.status !== 429) throw error;
    } finally {
      clearTimeout(alarm);
      gone.abort();
    }
    onLink("lost", waitMs);
    await new Promise((resolve) => { setTimeout(resolve, waitMs); });
    waitMs = Math.min(LONGEST_WAIT_MS, waitMs * 2);
  }
}

/** A person may take long to find the token, and the connection is not lost meanwhile. */
async function openPatiently(path, headers, gone, stopAlarm) {
  const asked = new MutationObserver(() => stopAlarm());
  asked.observe(document.getElementById("token-dialog"), { attributeFilter: ["open"] });
  try {
    return await open(path, { headers, signal: gone.signal });
  } finally {
    asked.disconnect();
  }
}
