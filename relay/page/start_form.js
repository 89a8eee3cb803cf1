// The form that starts a session, with the relay's own words at the field they are about.

import { ApiError, call } from "./api.js";
import { curl, copy } from "./curl.js";
import { byId, closable, element, toast } from "./dom.js";
import { PromptsField, inWords } from "./prompts_field.js";

const NUMBERS = new Set(["width", "height", "output_fps", "segment_seconds"]);

export class StartForm {
  /** @param onStarted called with the id of the session. */
  constructor(onStarted) {
    this.onStarted = onStarted;
    this.dialog = closable(byId("start-dialog"));
    this.form = byId("start-form");
    this.fault = byId("start-fault");
    this.submit = byId("start-submit");
    this.prompts = new PromptsField();
    byId("start-prompts").append(this.prompts.root);
    this.fields = new Map([...this.form.querySelectorAll("[name]")]
      .filter((field) => field.name !== "prompts").map((field) => [field.name, field]));
    for (const [name, field] of this.fields) {
      const line = element("p", { class: "fault", id: `${name}-fault`, role: "alert", hidden: true });
      field.after(line);
      field.setAttribute("aria-describedby", line.id);
    }
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.start();
    });
    byId("start-copy").addEventListener("click", () => {
      const body = this.body();
      if (body) copy(curl("POST", "session/start", body));
    });
  }

  open() {
    this.show([]);
    this.dialog.showModal();
    this.fields.get("input_stream_url").focus();
  }

  /** What is filled in, as the API takes it; null if it can't be sent, which is shown. */
  body() {
    this.show([]);
    const body = {};
    for (const [name, field] of this.fields) {
      const value = field.value.trim();
      if (field.validity.badInput) return this.show([{ field: name, problem: "must be a number" }]);
      if (value) body[name] = NUMBERS.has(name) ? Number(value) : value;
    }
    if (!body.input_stream_url) {
      return this.show([{ field: "input_stream_url", problem: "is missing: which channel is to be read?" }]);
    }
    try {
      body.prompts = this.prompts.value();
    } catch (error) {
      return this.show([{ field: "prompts", problem: `is no JSON: ${error.message}` }]);
    }
    return body;
  }

  async start() {
    const body = this.body();
    if (!body) return;
    this.submit.disabled = true;
    try {
      const answer = await call("POST", "session/start", body);
      this.dialog.close();
      this.onStarted(answer.session_id);
      toast(answer.warnings?.length ? `Started. ${answer.warnings.join(" ")}` : "Started.");
    } catch (error) {
      if (!this.dialog.open) this.dialog.showModal();
      const details = error instanceof ApiError ? error.details.filter((fault) => fault.field) : [];
      this.show(details, details.length ? "" : error.message);
    } finally {
      this.submit.disabled = false;
    }
  }

  /** Shows each fault at its field, and goes to the first; always null. */
  show(faults, words = "") {
    const unplaced = faults.filter(({ field }) => field !== "prompts" && !this.fields.has(field));
    const general = [words, ...unplaced.map((fault) => `${fault.field}: ${inWords(fault)}`)].filter(Boolean);
    this.fault.textContent = general.join(" ");
    this.fault.hidden = general.length === 0;
    let first = null;
    for (const [name, field] of this.fields) {
      const own = faults.filter((fault) => fault.field === name);
      const line = byId(`${name}-fault`);
      line.textContent = own.map(inWords).join("; ");
      line.hidden = own.length === 0;
      if (own.length) field.setAttribute("aria-invalid", "true");
      else field.removeAttribute("aria-invalid");
      if (own.length && field.closest("details")) field.closest("details").open = true;
      if (own.length) first ??= field;
    }
    const prompts = faults.filter((fault) => fault.field === "prompts");
    this.prompts.faults(prompts.map(inWords));
    (first ?? (prompts.length ? this.prompts : null))?.focus();
    return null;
  }
}
