// Making and changing elements, from text only.

/** An element. Properties that are functions listen (`onclick`), the rest are attributes; `text` is
 * its text. Children that are null are left out. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") made.textContent = value;
    else if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Sets the text of an element, if it is another: what stays the same is not announced again. */
export function setText(target, text) {
  const words = text === null || text === undefined ? "" : String(text);
  if (target.textContent !== words) target.textContent = words;
}

/** Sets or removes an attribute. */
export function setAttribute(target, name, value) {
  if (value === null || value === undefined || value === false) target.removeAttribute(name);
  else if (target.getAttribute(name) !== String(value)) target.setAttribute(name, value);
}

export const byId = (id) => document.getElementById(id);

let lastId = 0;
/** An id that nothing else on the page has. */
export const newId = (prefix) => `${prefix}-${++lastId}`;

/** Lets a dialog's `data-close` buttons close it. */
export function closable(dialog) {
  for (const button of dialog.querySelectorAll("[data-close]")) {
    button.addEventListener("click", () => dialog.close());
  }
  return dialog;
}

/** A word at the bottom of the page, for some seconds. */
export function toast(words) {
  const line = byId("toast");
  line.textContent = words;
  line.hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => { line.hidden = true; }, 4000);
}
