// Small helpers for elements. Texts become text nodes: nothing that a name holds becomes markup.

export const one = (selector, parent = document) => parent.querySelector(selector);
export const all = (selector, parent = document) => [...parent.querySelectorAll(selector)];

// Return a new element; attributes that are null or false are left out, listeners are named on….
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "text") element.textContent = value;
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// Open a dialog; the focus returns by itself when it is closed.
export function open(dialog) {
  if (!dialog.open) dialog.showModal();
}

for (const dialog of all("dialog")) {
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest(".close")) dialog.close();
  });
}
