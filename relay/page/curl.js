// The calls of this page, for a shell.

import { hasToken } from "./api.js";
import { element, toast } from "./dom.js";

/** A word as a POSIX shell takes it. */
export function quoted(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** A call as curl makes it. The token is left to the shell's environment. */
export function curl(method, path, body) {
  const parts = ["curl"];
  if (method !== "GET") parts.push(`-X ${method}`);
  parts.push(quoted(address(path)));
  if (hasToken()) parts.push('-H "Authorization: Bearer $RELAY_API_TOKEN"');
  if (body !== undefined) {
    parts.push("-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(body))}`);
  }
  return parts.join(" ");
}

/** What shows the output of a session. */
export function player(sessionId) {
  const headers = hasToken() ? '-headers "Authorization: Bearer $RELAY_API_TOKEN" ' : "";
  return `ffplay ${headers}${quoted(address(`session/${sessionId}/output.ts`))}`;
}

/** A command that can be read and copied. */
export function command(words, label) {
  const text = element("code", { text: words });
  const button = element("button", {
    type: "button", class: "plain", "aria-label": `Copy: ${label}`, text: "Copy",
    onclick: () => copy(words, text),
  });
  return element("div", { class: "command", role: "group", "aria-label": label }, text, button);
}

/** Puts words on the clipboard, also where the page is not served over HTTPS. */
export async function copy(words, shown = null) {
  try {
    await navigator.clipboard.writeText(words);
  } catch {
    const holder = element("textarea", { class: "off-screen", "aria-hidden": "true" });
    holder.value = words;
    (shown?.closest("dialog") ?? document.querySelector("dialog[open]") ?? document.body).append(holder);
    holder.select();
    const copied = document.execCommand("copy");
    holder.remove();
    if (!copied) {
      if (shown) getSelection().selectAllChildren(shown);
      toast("This browser does not let the page copy; it is selected, press Ctrl+C.");
      return;
    }
  }
  toast("Copied.");
}

const address = (path) => new URL(path, document.baseURI).href;
