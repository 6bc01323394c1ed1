// Corrections: which label an image has been given by click, and the buttons that give it.

import { make, one, open } from "./dom.js";
import { count, text } from "./messages.js";
import { json } from "./service.js";

const CHIPS = 8; // classes that have a button; the others are typed

const corrected = new Map(); // SHA-256 to label
let total = 0;
let classes = [];
let listeners = [];

export const corrections = () => total;
export const labelOf = (sha256, label) => corrected.get(sha256) ?? label;
export const isCorrected = (sha256) => corrected.has(sha256);

export function onCorrection(listener) {
  listeners = [...listeners, listener];
}

// The names that a label may have; they are offered where one is typed.
export function setClasses(names) {
  classes = [...new Set(names)];
  one("#label-names").replaceChildren(...classes.map((name) => make("option", { value: name })));
}

export async function loadCorrections() {
  const { corrections: kept } = await json("corrections");
  corrected.clear();
  for (const { sha256, label } of kept) corrected.set(sha256, label);
  total = kept.length;
  listeners.forEach((listener) => listener());
}

// Give an image a label, or take the label back with null. An image that the service does not have is sent.
async function correct(image, label) {
  const answer = await json("corrections", { method: "POST", json: { sha256: image.sha256, label } }).catch((problem) => {
    if (problem.status !== 404 || !image.file || label === null) throw problem;
    const headers = { "Content-Type": "application/octet-stream" };
    return json(`corrections?label=${encodeURIComponent(label)}`, { method: "POST", body: image.file, headers });
  });
  if (label === null) corrected.delete(image.sha256);
  else corrected.set(image.sha256, label);
  total = answer.corrections;
  if (label !== null && !classes.includes(label)) setClasses([...classes, label]);
  listeners.forEach((listener) => listener());
}

// Return the buttons that give an image a label. `likely` are class names, the most likely first.
export function labelButtons(image, likely) {
  const chips = make("div", { class: "chips", role: "group" });
  const said = make("p", { class: "hint", role: "status", text: text("correctHint") });
  const title = make("h3", { text: text("correct") });
  title.id = `correct-${Math.random().toString(36).slice(2)}`;
  chips.setAttribute("aria-labelledby", title.id);

  async function choose(label) {
    const back = corrected.get(image.sha256) === label ? null : label;
    try {
      await correct(image, back);
      const values = { name: image.name, label: back, count: count(total) };
      said.textContent = text(back === null ? "uncorrected" : "corrected", values);
      said.classList.remove("error-text");
    } catch (problem) {
      said.textContent = problem.code === "unreachable" ? text("unreachable") : problem.message;
      said.classList.add("error-text");
    }
    draw();
  }

  function draw() {
    const focused = chips.contains(document.activeElement) ? document.activeElement.textContent : null;
    const given = corrected.get(image.sha256);
    const names = [...new Set([...likely, ...classes])].slice(0, CHIPS);
    if (given !== undefined && !names.includes(given)) names.push(given);
    chips.replaceChildren(
      ...names.map((name) =>
        make("button", { type: "button", class: "chip", "aria-pressed": String(name === given), text: name, onclick: () => choose(name) }),
      ),
      make("button", { type: "button", class: "chip", text: text("other"), onclick: () => typeLabel(choose) }),
    );
    [...chips.children].find((chip) => chip.textContent === focused)?.focus();
  }

  draw();
  return make("section", { class: "labels" }, title, chips, said);
}

function typeLabel(choose) {
  const dialog = one("#label-dialog");
  const input = one("#label-input");
  input.value = "";
  one("#label-form").onsubmit = () => {
    const label = input.value.trim();
    if (label) choose(label);
  };
  open(dialog);
  input.focus();
}
