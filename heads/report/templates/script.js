
"use strict";
(() => {
  const all = (selector, parent = document) => [...parent.querySelectorAll(selector)];
  const one = (selector, parent = document) => parent.querySelector(selector);
  const shots = all(".shot");

  function show(chosen) {
    for (const shot of shots) {
      shot.hidden = chosen !== "" && !shot.dataset.classes.split(" ").includes(chosen);
    }
    for (const gallery of all(".gallery")) {
      const message = one(".nothing", gallery);
      if (message) message.hidden = Boolean(one(".shot:not([hidden])", gallery));
    }
  }

  const toolbar = one(".toolbar");
  if (toolbar) {
    const select = one("select", toolbar);
    const filter = () => {
      show(select.value);
      const count = shots.filter((shot) => !shot.hidden).length;
      one("output", toolbar).textContent = `${count} of ${shots.length} images`;
    };
    select.addEventListener("change", filter);
    toolbar.hidden = false;
    filter();
  }

  // Only what scrolls needs to be reached by the keyboard.
  const sizes = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
      else target.removeAttribute("tabindex");
    }
  });
  for (const box of all(".scroll")) sizes.observe(box);

  // In a notebook's frame a link to a place in the page would lead to the notebook.
  if (location.protocol === "about:") {
    for (const link of all("a[href^='#']")) {
      link.addEventListener("click", (event) => {
        event.preventDefault();
        one(link.hash).scrollIntoView();
      });
    }
  }

  const viewer = one("#viewer");
  if (!viewer) return;
  let current = null;

  function open(shot) {
    const image = one(".enlarge img", shot);
    const shown = one(".stage img", viewer);
    shown.src = image.src;
    shown.alt = image.alt;
    const tone = one(".tone", shot);
    const caption = one("figcaption", shot);
    one(".viewer-caption", viewer).replaceChildren(
      ...(tone ? [tone.cloneNode(true)] : []),
      ...[...caption.children].map((line) => line.cloneNode(true)),
    );
    const among = enlargeable();
    one(".position", viewer).textContent = `${among.indexOf(shot) + 1} of ${among.length}`;
    current = shot;
    if (!viewer.open) viewer.showModal();
  }

  function enlargeable() {
    return shots.filter((shot) => !shot.hidden && one(".enlarge", shot));
  }

  function step(by) {
    const among = enlargeable();
    open(among[(among.indexOf(current) + by + among.length) % among.length]);
  }

  for (const button of all(".enlarge")) {
    button.addEventListener("click", () => open(button.closest(".shot")));
  }
  one(".previous", viewer).addEventListener("click", () => step(-1));
  one(".next", viewer).addEventListener("click", () => step(1));
  one(".close", viewer).addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => {
    if (event.target === viewer) viewer.close();
  });
  viewer.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    step(by);
  });
  viewer.addEventListener("close", () => one(".enlarge", current).focus());
})();
