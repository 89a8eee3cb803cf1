// What ComfyStream is to run: a choice, and the workflow as JSON.

import { element, newId } from "./dom.js";

export const INVERT = {
  1: { class_type: "LoadTensor", inputs: {} },
  2: { class_type: "ImageInvert", inputs: { image: ["1", 0] } },
  3: { class_type: "SaveTensor", inputs: { images: ["2", 0] } },
};

const KINDS = [
  ["workflow", "A workflow"],
  ["text", "A text, for the relay’s text workflow"],
  ["none", "None: pass the pictures through"],
];

/** A field for prompts; `value()` is what the API takes, `fault(words)` shows what is wrong. */
export class PromptsField {
  constructor() {
    const kindId = newId("prompts-kind");
    const textId = newId("prompts");
    this.faultId = newId("prompts-fault");
    this.kind = element("select", { id: kindId, onchange: () => this.choose() },
      ...KINDS.map(([value, words]) => element("option", { value, text: words })));
    this.text = element("textarea", {
      id: textId, rows: 9, spellcheck: "false", autocomplete: "off", autocapitalize: "off",
      "aria-describedby": this.faultId, name: "prompts",
    });
    this.label = element("label", { for: textId });
    this.faultLine = element("ul", { class: "fault", id: this.faultId, role: "alert", hidden: true });
    this.entry = element("div", { class: "field" }, this.label, this.text);
    this.written = { workflow: JSON.stringify(INVERT, null, 2), text: "" };
    this.root = element("div", { class: "prompts" },
      element("div", { class: "field" },
        element("label", { for: kindId, text: "What ComfyStream runs" }), this.kind),
      this.entry, this.faultLine);
    this.shown = null;
    this.choose();
  }

  choose() {
    if (this.shown && this.shown !== "none") this.written[this.shown] = this.text.value;
    this.shown = this.kind.value;
    this.entry.hidden = this.shown === "none";
    this.label.textContent = this.shown === "text" ? "Text" : "Workflow, in ComfyUI’s API format (JSON)";
    this.text.value = this.written[this.shown] ?? "";
    this.text.rows = this.shown === "text" ? 3 : 9;
    this.text.classList.toggle("code", this.shown === "workflow");
    this.faults([]);
  }

  /** What the API takes as `prompts`.
   * @throws SyntaxError the text is no JSON. */
  value() {
    if (this.shown === "none") return [];
    if (this.shown === "text") return { text: this.text.value };
    return JSON.parse(this.text.value);
  }

  /** Shows what is wrong with it, a line each; none is well. */
  faults(lines) {
    this.faultLine.replaceChildren(...lines.map((line) => element("li", { text: line })));
    this.faultLine.hidden = lines.length === 0;
    if (lines.length) this.text.setAttribute("aria-invalid", "true");
    else this.text.removeAttribute("aria-invalid");
  }

  focus() {
    (this.shown === "none" ? this.kind : this.text).focus();
  }
}

/** A fault of the API's `details` in words. */
export const inWords = ({ node, problem }) => (node ? `node ${node}: ${problem}` : problem);
