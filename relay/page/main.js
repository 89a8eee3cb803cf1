// The page: what the relay tells, shown; what a person wants, asked of the relay.

import { call } from "./api.js";
import { command, curl } from "./curl.js";
import { byId, closable, element, setText, toast } from "./dom.js";
import { follow } from "./events.js";
import { Pictures } from "./pictures.js";
import { INVERT } from "./prompts_field.js";
import { SessionCard } from "./session_card.js";
import { StartForm } from "./start_form.js";
import { END_REASONS, channelName, count, severity, timeOf } from "./words.js";

const FILTER_FROM = 8; // sessions
const ENDED_SHOWN = 20;
const ENDED_AFTER_MS = 200;
const EVENTS_KEPT = 40; // of sessions that have no card yet

class Page {
  constructor() {
    this.cards = new Map();
    this.early = new Map();
    this.pictures = new Pictures();
    this.openNext = null;
    this.shown = 0;
    this.wholeAsked = false;
    this.form = new StartForm((id) => this.started(id));
    this.stopDialog = closable(byId("stop-dialog"));
    byId("start").addEventListener("click", () => this.form.open());
    byId("start-first").addEventListener("click", () => this.form.open());
    byId("stop-confirm").addEventListener("click", () => this.confirmStop());
    byId("filter").addEventListener("input", () => this.filter());
    this.example = { input_stream_url: "http://127.0.0.1:3389/camera", prompts: [INVERT] };
  }

  run() {
    const done = follow({
      onEvent: (kind, data) => this.take(kind, data),
      onLink: (link, waitMs) => this.showLink(link, waitMs),
    });
    done.catch((error) => this.showNotice(error.message));
  }

  /** One event of the relay. */
  take(kind, data) {
    if (kind === "status") this.showStatus(data);
    else if (data.session_id) this.note(kind, data);
    if (kind === "state" && (data.new === "stopped" || data.new === "failed")) this.showEnded();
  }

  note(kind, data) {
    const card = this.cards.get(data.session_id);
    if (card) {
      card.note(kind, data);
      return;
    }
    const early = this.early.get(data.session_id) ?? [];
    early.push([kind, data]);
    this.early.set(data.session_id, early.slice(-EVENTS_KEPT));
  }

  showStatus({ sessions, relay }) {
    const now = performance.now();
    const listed = new Set(sessions.map((session) => session.session_id));
    for (const [id, card] of this.cards) {
      if (!listed.has(id)) {
        card.remove();
        this.cards.delete(id);
      }
    }
    for (const session of sessions) {
      const card = this.cards.get(session.session_id) ?? this.add(session);
      card.update(session, now);
    }
    this.early.clear();
    const [first] = this.cards.values();
    if (this.shown === 0 && sessions.length === 1 && !first.isOpen) first.open();
    this.shown = sessions.length;
    this.showCounts(sessions, relay);
    this.filter();
    this.fetchWhole();
    if (relay?.problem === "draining") this.showNotice("The relay shuts down: it takes no more sessions.");
  }

  add(session) {
    const card = new SessionCard(session, {
      pictures: this.pictures,
      opened: () => this.fetchWhole(),
      stop: (which) => this.askStop(which),
    });
    this.cards.set(session.session_id, card);
    byId("cards").append(card.root);
    for (const [kind, data] of this.early.get(session.session_id) ?? []) card.note(kind, data);
    if (this.openNext === session.session_id) {
      this.openNext = null;
      card.open();
      card.button.focus();
      card.root.scrollIntoView({ block: "nearest" });
    }
    return card;
  }

  started(id) {
    this.openNext = id;
    const card = this.cards.get(id);
    if (card) {
      this.openNext = null;
      card.open();
      card.button.focus();
    }
  }

  /** What the list leaves out, of the cards that are open. */
  async fetchWhole() {
    if (this.wholeAsked) return;
    this.wholeAsked = true;
    try {
      for (const card of [...this.cards.values()].filter((one) => one.isOpen)) {
        const answer = await call("GET", `session/${card.sessionId}/status`).catch(() => null);
        if (answer) card.updateWhole(answer.session);
      }
    } finally {
      this.wholeAsked = false;
    }
  }

  showCounts(sessions, relay) {
    const words = [sessions.length ? `${count(sessions.length)} ${sessions.length === 1 ? "runs" : "run"}` : "none runs"];
    if (relay?.max_sessions) words[0] += ` of ${count(relay.max_sessions)}`;
    const troubled = sessions.filter((session) => ["warn", "bad"].includes(severity(session))).length;
    if (sessions.length) words.push(troubled ? `${count(troubled)} in trouble` : "all well");
    setText(byId("counts"), words.join(", "));
    byId("empty").hidden = sessions.length > 0;
    if (sessions.length === 0 && !byId("empty-command").childElementCount) {
      byId("empty-command").replaceChildren(command(curl("POST", "session/start", this.example), "start a session"));
    }
    byId("filter-field").hidden = sessions.length < FILTER_FROM;
    document.title = troubled ? `(${troubled}) Trickle Relay` : "Trickle Relay";
  }

  filter() {
    const field = byId("filter");
    const words = byId("filter-field").hidden ? "" : field.value.trim().toLowerCase();
    for (const card of this.cards.values()) card.root.hidden = words !== "" && !card.matches(words);
  }

  /** Soon: many may end at once, or be told of at once. */
  showEnded() {
    clearTimeout(this.endedSoon);
    this.endedSoon = setTimeout(() => this.fetchEnded(), ENDED_AFTER_MS);
  }

  async fetchEnded() {
    const answer = await call("GET", "sessions?ended=true").catch(() => null);
    if (!answer) return;
    const ended = answer.sessions.slice(-ENDED_SHOWN).reverse();
    const lines = await Promise.all(ended.map(async (session) => {
      const failed = session.status === "failed";
      const whole = failed ? await call("GET", `session/${session.session_id}/status`).catch(() => null) : null;
      const why = whole?.session.error ?? END_REASONS[session.end_reason] ?? session.end_reason ?? "";
      const at = whole?.session.ended_at ?? session.ended_at ?? null;
      return element("li", { "data-severity": severity(session) },
        element("span", { class: "title", text: channelName(session.input_stream_url) }),
        element("span", { class: "id", text: session.session_id.slice(0, 8) }),
        element("span", { class: "state", text: session.status }),
        element("span", { class: "why", text: why }),
        element("span", { class: "muted", text: at ? timeOf(at) : `started ${timeOf(session.created_at)}` }));
    }));
    byId("ended").replaceChildren(...lines);
    byId("ended-section").hidden = lines.length === 0;
  }

  showLink(link, waitMs) {
    const root = byId("link");
    root.dataset.link = link;
    document.body.classList.toggle("stale", link !== "connected");
    if (link === "connected") {
      if (this.wasLost) toast("Connected to the relay again.");
      this.wasLost = false;
      setText(byId("link-words"), "live");
      this.showNotice("");
      this.showEnded();
      call("GET", "version").then(({ version }) => setText(byId("version"), version)).catch(() => {});
    } else {
      this.wasLost = true;
      setText(byId("link-words"), "no connection");
      this.showNotice(`The relay does not answer. Trying again in ${(waitMs / 1000).toFixed(1)} s; what you see is how it was.`);
    }
  }

  showNotice(words) {
    const notice = byId("notice");
    setText(notice, words);
    notice.hidden = !words;
  }

  askStop(session) {
    this.stopping = session;
    byId("stop-fault").hidden = true;
    byId("stop-words").textContent = `${channelName(session.input_stream_url)} (${session.session_id.slice(0, 8)}): what is under way is still published, then its output channel is closed.`;
    this.stopDialog.showModal();
  }

  async confirmStop() {
    const button = byId("stop-confirm");
    button.disabled = true;
    try {
      await call("DELETE", `session/${this.stopping.session_id}`);
      this.stopDialog.close();
      toast("Stopped.");
      byId("sessions").focus();
    } catch (error) {
      const fault = byId("stop-fault");
      fault.textContent = error.message;
      fault.hidden = false;
    } finally {
      button.disabled = false;
    }
  }
}

new Page().run();
