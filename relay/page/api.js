// Calls of the relay's HTTP API, with its token where it wants one.

import { byId } from "./dom.js";

const TOKEN = "trickle-relay-token";
let asking = null;

/** What the relay answered instead of doing it: its words, its code, and the faults by field. */
export class ApiError extends Error {
  constructor(status, answer) {
    super(answer.error ?? `the relay answered ${status}`);
    this.status = status;
    this.code = answer.code ?? "";
    this.details = Array.isArray(answer.details) ? answer.details : [];
  }
}

/** Whether a token is in use; what it is stays here. */
export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;

/** The response to a request, as a stream can be read from it. Asks for the token where it is
 * wanted. Paths are relative to the page, which may be served below a prefix. */
export async function open(path, { method = "GET", body, headers = {}, signal } = {}) {
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    const sent = { ...headers };
    if (token !== null) sent.Authorization = `Bearer ${token}`;
    if (body !== undefined) sent["Content-Type"] = "application/json";
    const response = await fetch(path, {
      method, signal, headers: sent, cache: "no-store", credentials: "omit",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    if (response.status === 401) {
      await response.body?.cancel();
      await askToken(token);
      continue;
    }
    if (!response.ok) {
      throw new ApiError(response.status, await response.json().catch(() => ({})));
    }
    return response;
  }
}

/** The JSON that a call answers. */
export async function call(method, path, body) {
  return (await open(path, { method, body })).json();
}

/** Asks once for all calls that wait for it; returns when there is another token than `refused`. */
function askToken(refused) {
  const now = sessionStorage.getItem(TOKEN);
  if (now !== refused) return Promise.resolve();
  asking ??= new Promise((resolve) => {
    const dialog = byId("token-dialog");
    const field = byId("token");
    const fault = byId("token-fault");
    fault.hidden = refused === null;
    fault.textContent = refused === null ? "" : "That is not the relay’s token.";
    field.value = "";
    // Without it nothing can be shown: the Escape key leads back here.
    dialog.onclose = () => {
      if (asking !== null) dialog.showModal();
    };
    byId("token-form").onsubmit = (event) => {
      event.preventDefault();
      if (!field.value.trim()) return;
      sessionStorage.setItem(TOKEN, field.value.trim());
      field.value = "";
      asking = null;
      dialog.close();
      resolve();
    };
    for (const other of document.querySelectorAll("dialog[open]")) other.close();
    dialog.showModal();
    field.focus();
  });
  return asking;
}
