// One session: a line when closed; path, pictures, charts, words and what can be done when open.

import { ApiError, call, open } from "./api.js";
import { Chart, History } from "./charts.js";
import { command, copy, curl, player } from "./curl.js";
import { element, newId, setAttribute, setText, toast } from "./dom.js";
import { eventsOf } from "./events.js";
import { PathView } from "./path_view.js";
import { PromptsField, inWords } from "./prompts_field.js";
import {
  DROPS, HEALTH, QUEUES, STATES, channelName, count, eventInWords, fps, milliseconds, severity, timeOf,
} from "./words.js";

const EVENTS_SHOWN = 12;
const TEXTS_SHOWN = 8;
const STILL_MS = 3000;

export class SessionCard {
  /** @param page `pictures`, `stop(session)`, and `opened(card)`. */
  constructor(session, page) {
    this.sessionId = session.session_id;
    this.page = page;
    this.session = session;
    this.events = [];
    this.history = new History("in", "out", "p50", "p95");
    this.body = null;
    const bodyId = newId("session-body");
    this.state = element("span", { class: "state" });
    this.rates = element("span", { class: "rates" });
    this.delay = element("span", { class: "delay" });
    this.spark = new Chart(this.history, [["p50", "line-main"]], { height: 28, least: 5 });
    this.trouble = element("span", { class: "trouble" });
    this.button = element("button", {
      type: "button", class: "card-head", "aria-expanded": "false", "aria-controls": bodyId,
      onclick: () => (this.isOpen ? this.close() : this.open()),
    },
    element("span", { class: "name" },
      element("span", { class: "title", text: channelName(session.input_stream_url) }),
      element("span", { class: "id", text: session.session_id.slice(0, 8) })),
    this.state, this.rates, this.delay,
    element("span", { class: "spark", "aria-hidden": "true" }, this.spark.root), this.trouble);
    this.root = element("article", { class: "card", "data-session": session.session_id },
      element("h3", {}, this.button),
      (this.holder = element("div", { class: "card-body", id: bodyId, hidden: true })));
  }

  get isOpen() {
    return !this.holder.hidden;
  }

  /** Whether it is what somebody looks for. */
  matches(words) {
    const { session } = this;
    const text = [session.session_id, session.input_stream_url, session.output_stream_url,
      session.comfystream_url, session.status, session.health, severity(session) === "ok" ? "" : "trouble"];
    return text.join(" ").toLowerCase().includes(words);
  }

  open() {
    this.body ??= new CardBody(this);
    this.holder.replaceChildren(this.body.root);
    this.holder.hidden = false;
    this.button.setAttribute("aria-expanded", "true");
    this.page.pictures.show(this.body);
    this.page.opened(this);
    this.update(this.session, performance.now(), false);
  }

  close() {
    this.holder.hidden = true;
    this.button.setAttribute("aria-expanded", "false");
    this.body?.rest();
  }

  /** The session as it stands now; `counted` once a second. */
  update(session, now, counted = true) {
    this.session = session;
    if (counted) {
      this.history.add({
        in: session.fps_in, out: session.fps_out,
        p50: session.delay_ms?.p50, p95: session.delay_ms?.p95,
      });
    }
    this.root.dataset.severity = severity(session);
    const state = session.paused && session.status === "active" ? "paused" : STATES[session.status] ?? session.status;
    setText(this.state, state);
    setText(this.rates, `${fps(session.fps_in)} → ${fps(session.fps_out)} fps`);
    setText(this.delay, `${milliseconds(session.delay_ms?.p50)} ms`);
    setText(this.trouble, troubleOf(session)?.short ?? "");
    this.spark.draw("delay");
    if (this.isOpen) this.body.update(session, now);
  }

  /** All that the status tells, for what the list does not have. */
  updateWhole(status) {
    if (this.isOpen) this.body.updateWhole(status);
  }

  note(kind, data) {
    const words = eventInWords(kind, data);
    if (words === null) return;
    // What goes on is told again and again: the newest word on it stands for all.
    const what = `${kind} ${data.reason ?? data.code ?? words}`;
    const newest = this.events[0];
    if (newest?.words.includes(words) && newest.what !== what) return;
    if (newest?.what === what || (newest && words.includes(newest.words))) this.events.shift();
    this.events.unshift({ at: data.timestamp, words, what });
    this.events.length = Math.min(this.events.length, EVENTS_SHOWN);
    this.body?.showEvents(this.events);
  }

  /** It is gone from the list: nothing of it goes on. */
  remove() {
    this.body?.rest();
    this.root.remove();
  }
}

/** What is wrong with a session, in words: `short` for the line, `words` and `remedy` for the card. */
function troubleOf(session) {
  const error = session.error ?? session.processing?.error;
  const { diagnosis } = session;
  if (diagnosis?.problem) {
    return { short: diagnosis.problem, words: diagnosis.problem, remedy: diagnosis.remedy ?? "", more: error };
  }
  if (error) return { short: error, words: error, remedy: "", more: null };
  if (session.health && session.health !== "ok") {
    return { short: HEALTH[session.health], words: HEALTH[session.health], remedy: "", more: null };
  }
  return null;
}

/** Which side passes pictures on as they are, and if one does not, why. */
function copyingInWords({ ingest, egress }) {
  const side = ({ mode, copies, reason }) => {
    if (mode === "transcode") return "decoded and encoded";
    return copies ? "copied" : `decoded and encoded (${reason})`;
  };
  return `to ComfyStream ${side(ingest)}, from it ${side(egress)}`;
}

class CardBody {
  constructor(card) {
    this.card = card;
    this.sessionId = card.sessionId;
    this.views = { input: new PictureView("In"), output: new PictureView("Out") };
    this.path = new PathView();
    this.trouble = element("div", { class: "diagnosis", role: "status", hidden: true },
      (this.troubleWords = element("p", { class: "problem" })),
      (this.troubleRemedy = element("p")), (this.troubleMore = element("p", { class: "muted" })));
    this.delayChart = new ChartView("Delay", card.history, [["p95", "line-faint"], ["p50", "line-main"]],
      (top, span) => `0–${top} ms, last ${span}: the median; 95 of 100 are below the fainter line`, { least: 5 });
    this.rateChart = new ChartView("Pictures a second", card.history, [["in", "line-faint"], ["out", "line-main"]],
      (top, span) => `0–${top}, last ${span}: out; in is fainter`, { least: 10 });
    this.drops = element("ul", { class: "facts" });
    this.eventList = element("ol", { class: "events" });
    this.facts = element("dl", { class: "details" });
    this.factValues = new Map();
    this.text = new TextView(this.sessionId);
    this.change = new ChangePrompts(this.sessionId);
    this.pause = element("button", { type: "button", class: "plain", text: "Pause", onclick: () => this.togglePause() });
    this.root = element("div", {},
      this.trouble,
      element("div", { class: "pictures" }, this.views.input.root, this.views.output.root),
      this.path.root,
      element("div", { class: "charts" }, this.delayChart.root, this.rateChart.root),
      element("div", { class: "panes" },
        element("section", {}, element("h4", { text: "Lately" }), this.eventList),
        element("section", {}, element("h4", { text: "Not delivered" }), this.drops)),
      this.text.root,
      this.change.root,
      element("details", { class: "more" }, element("summary", { text: "Addresses and settings" }), this.facts),
      this.commands(),
      element("div", { class: "actions" },
        element("button", { type: "button", class: "plain", text: "Change prompts", onclick: () => this.change.open() }),
        this.pause,
        element("button", { type: "button", class: "danger", text: "Stop…", onclick: () => card.page.stop(card.session) })));
    this.showEvents(card.events);
  }

  commands() {
    const path = `session/${this.sessionId}`;
    return element("details", { class: "more" }, element("summary", { text: "Copy as curl" }),
      command(curl("GET", `${path}/status`), "its status"),
      command(curl("PATCH", path, { prompts: [] }), "change its prompts"),
      command(player(this.sessionId), "play its output"),
      command(curl("GET", `${path}/preview/output.jpg`) + " -o output.jpg", "its newest picture"),
      command(curl("DELETE", path), "stop it"));
  }

  update(session, now) {
    const trouble = troubleOf(session);
    this.trouble.hidden = trouble === null;
    this.trouble.dataset.severity = severity(session);
    setText(this.troubleWords, trouble?.words);
    setText(this.troubleRemedy, trouble?.remedy);
    setText(this.troubleMore, trouble?.more && !trouble.words.includes(trouble.more) ? trouble.more : "");
    this.path.update(session, now);
    const delay = session.delay_ms;
    this.delayChart.update(delay ? `${milliseconds(delay.p50)} ms, 95 % below ${milliseconds(delay.p95)} ms` : "nothing yet");
    this.rateChart.update(`${fps(session.fps_out)} out, ${fps(session.fps_in)} in`);
    this.showDrops(session.frames_dropped ?? {});
    setText(this.pause, session.paused ? "Go on" : "Pause");
    this.fact("Input", session.input_stream_url);
    this.fact("Output", session.output_stream_url);
    this.fact("ComfyStream", session.comfystream_url);
    this.fact("Mode", session.mode === "workflow" ? "workflow" : "passes pictures through");
    this.fact("Connection", `${session.webrtc_state}, ${count(session.processing.reconnects)} reconnects`);
    this.fact("Started", `${timeOf(session.created_at)}`);
    this.fact("Session", session.session_id);
    const still = this.card.isOpen;
    for (const view of Object.values(this.views)) view.tick(now, still);
  }

  updateWhole(status) {
    if (status.copying) {
      this.path.updateCopying(status.copying);
      this.fact("Copying", copyingInWords(status.copying));
    }
    if (status.warnings?.length) this.fact("Warnings", status.warnings.join(" "));
    if (status.audio) {
      const { mode, codec_in: from, codec_out: to } = status.audio;
      this.fact("Sound", from ? `${mode}, ${from} to ${to ?? "nothing"}` : `${mode}, none in the input`);
    }
    if (status.viewers) this.fact("Viewers", `${status.viewers.now} now, ${status.viewers.dropped} let go of`);
    if (status.changes?.last_error) this.fact("Last change", status.changes.last_error);
    this.text.update(status.text);
  }

  fact(name, value) {
    let shown = this.factValues.get(name);
    if (shown === undefined) {
      shown = element("dd");
      this.factValues.set(name, shown);
      this.facts.append(element("dt", { text: name }), shown);
    }
    setText(shown, value);
  }

  showDrops(dropped) {
    const lines = Object.entries(dropped).flatMap(([queue, reasons]) => Object.entries(reasons)
      .map(([reason, number]) => `${count(number)} ${QUEUES[queue] ?? queue}: ${DROPS[reason] ?? reason}`));
    if (!lines.length) lines.push("All that came was delivered.");
    if (this.drops.childElementCount !== lines.length) {
      this.drops.replaceChildren(...lines.map(() => element("li")));
    }
    lines.forEach((line, index) => setText(this.drops.children[index], line));
  }

  showEvents(events) {
    const lines = events.length ? events : [{ at: null, words: "Nothing to tell yet." }];
    this.eventList.replaceChildren(...lines.map(({ at, words }) => element("li", {},
      at ? element("time", { text: timeOf(at) }) : null, element("span", { text: words }))));
  }

  async togglePause() {
    this.pause.disabled = true;
    try {
      const answer = await call("PATCH", `session/${this.sessionId}`, { paused: !this.card.session.paused });
      toast(answer.result === "held" ? "Waits until ComfyStream is connected." : "Done.");
    } catch (error) {
      toast(error.message);
    } finally {
      this.pause.disabled = false;
    }
  }

  draw(end, bitmap) {
    this.views[end]?.draw(bitmap);
  }

  paused(words) {
    for (const view of Object.values(this.views)) view.rest(words);
  }

  rest() {
    this.card.page.pictures.hide(this);
    this.text.stop();
  }
}

/** One of the two pictures. */
class PictureView {
  constructor(name) {
    this.name = name;
    this.drawnAt = null;
    this.resting = "";
    this.canvas = element("canvas", { role: "img", "aria-label": `${name}: no picture yet`, width: 16, height: 9 });
    this.words = element("span", { class: "muted", text: "no picture yet" });
    this.root = element("figure", { class: "picture" }, this.canvas,
      element("figcaption", {}, element("span", { text: name }), this.words));
    this.context = this.canvas.getContext("2d", { alpha: false });
  }

  draw(bitmap) {
    const { canvas } = this;
    if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
      canvas.width = bitmap.width;
      canvas.height = bitmap.height;
    }
    this.context.drawImage(bitmap, 0, 0);
    this.drawnAt = performance.now();
    canvas.dataset.drawn = String(Number(canvas.dataset.drawn ?? 0) + 1);
    this.say("live");
  }

  rest(words) {
    this.resting = words;
    if (words) this.say(words);
  }

  tick(now) {
    if (this.resting || this.drawnAt === null) return;
    const still = now - this.drawnAt;
    if (still > STILL_MS) this.say(`stands still for ${Math.round(still / 1000)} s`);
  }

  say(words) {
    setText(this.words, words);
    setAttribute(this.canvas, "aria-label", `${this.name}: ${words}`);
  }
}

/** A chart with its name, its newest figures and its scale. */
class ChartView {
  constructor(name, history, lines, scale, options) {
    this.name = name;
    this.scale = scale;
    this.chart = new Chart(history, lines, options);
    this.now = element("span", { class: "figure" });
    this.note = element("p", { class: "note muted" });
    this.root = element("figure", { class: "chart-view" },
      element("figcaption", {}, element("span", { text: name }), this.now), this.chart.root, this.note);
  }

  update(words) {
    setText(this.now, words);
    const seconds = this.chart.history.span;
    const span = seconds < 120 ? `${seconds} s` : `${Math.round(seconds / 60)} min`;
    setText(this.note, this.scale(this.chart.draw(`${this.name}: ${words}`), span));
  }
}

/** What ComfyStream says, for as long as somebody reads along. */
class TextView {
  constructor(sessionId) {
    this.sessionId = sessionId;
    this.reading = null;
    this.button = element("button", { type: "button", class: "plain", text: "Read along", onclick: () => this.toggle() });
    this.count = element("span", { class: "muted" });
    this.lines = element("ol", { class: "texts", "aria-live": "polite" });
    this.root = element("section", { class: "text", hidden: true },
      element("div", { class: "section-head" }, element("h4", { text: "Text" }), this.count, this.button), this.lines);
  }

  update(text) {
    this.root.hidden = !text?.received && !this.reading;
    setText(this.count, `${count(text?.received)} so far`);
  }

  toggle() {
    if (this.reading) this.stop();
    else this.read();
  }

  async read() {
    TextView.current?.stop(); // one at a time: connections are few
    TextView.current = this;
    const reading = new AbortController();
    this.reading = reading;
    setText(this.button, "Stop reading");
    try {
      const response = await open(`session/${this.sessionId}/text`, { signal: reading.signal });
      for await (const { event, data } of eventsOf(response.body)) {
        if (event === "end") break;
        this.lines.prepend(element("li", { text: JSON.parse(data).data }));
        while (this.lines.childElementCount > TEXTS_SHOWN) this.lines.lastElementChild.remove();
      }
    } catch (error) {
      if (!reading.signal.aborted) toast(error.message);
    }
    if (this.reading === reading) this.stop();
  }

  stop() {
    this.reading?.abort();
    this.reading = null;
    setText(this.button, "Read along");
  }
}

/** Other prompts for a session that runs. */
class ChangePrompts {
  constructor(sessionId) {
    this.sessionId = sessionId;
    this.prompts = new PromptsField();
    this.fault = element("p", { class: "fault", role: "alert", hidden: true });
    this.submit = element("button", { type: "submit", class: "primary", text: "Change" });
    this.root = element("form", {
      class: "change", hidden: true, novalidate: true, "aria-label": "Change the prompts",
      onsubmit: (event) => {
        event.preventDefault();
        this.send();
      },
    }, this.prompts.root, this.fault,
    element("div", { class: "dialog-foot" },
      element("button", { type: "button", class: "plain", text: "Copy as curl", onclick: () => this.copy() }),
      element("button", { type: "button", class: "plain", text: "Close", onclick: () => { this.root.hidden = true; } }),
      this.submit));
  }

  open() {
    this.root.hidden = false;
    this.prompts.focus();
  }

  body() {
    this.show([], "");
    try {
      return { prompts: this.prompts.value() };
    } catch (error) {
      this.show([`is no JSON: ${error.message}`], "");
      return null;
    }
  }

  copy() {
    const body = this.body();
    if (body) copy(curl("PATCH", `session/${this.sessionId}`, body));
  }

  async send() {
    const body = this.body();
    if (!body) return;
    this.submit.disabled = true;
    try {
      const answer = await call("PATCH", `session/${this.sessionId}`, body);
      this.root.hidden = answer.result === "applied";
      toast({
        applied: "ComfyStream runs it.", held: "Waits until ComfyStream can take it.",
        superseded: "A later change came first.",
      }[answer.result] ?? answer.result);
    } catch (error) {
      const details = error instanceof ApiError ? error.details : [];
      this.show(details.map(inWords), details.length ? "" : error.message);
    } finally {
      this.submit.disabled = false;
    }
  }

  show(faults, words) {
    this.prompts.faults(faults);
    this.fault.textContent = words;
    this.fault.hidden = !words;
  }
}
