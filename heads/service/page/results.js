// The results: one card per image, which opens to bars of every head, the network's own classes and similar images.

import { make, one, open } from "./dom.js";
import { isCorrected, labelButtons, labelOf, onCorrection } from "./labels.js";
import { count, decimal, percent, text } from "./messages.js";
import { ask, picture } from "./service.js";

const AT_ONCE = 4; // requests under way
const OPEN = 3; // cards that open by themselves
const BARS = 5; // classes of a head that are shown at first
const NEIGHBOURS = 8;

let items = [];
let running = 0;
let generation = 0; // grows when a head changes: answers of older heads are asked again
let known = { hasCache: false };
let report = () => {};

export function startResults(onProblem) {
  report = onProblem;
  onCorrection(() => items.forEach(drawSimilar));
  one("#clear").addEventListener("click", clear);
  one("#download").addEventListener("click", download);
}

export function setKnown(service) {
  known = service;
}

export function add(files) {
  const first = items.length === 0;
  for (const file of files) {
    const name = file.webkitRelativePath || file.name || "image";
    const item = { file, name, url: URL.createObjectURL(file), state: "waiting", result: null, before: null, similar: null, asked: -1, open: items.length < OPEN };
    items.push(item);
    item.card = make("article", { class: "card", "aria-label": name });
    one("#cards").append(item.card);
    draw(item);
  }
  one("#results").hidden = false;
  document.body.classList.add("has-results");
  if (first) one("#results").scrollIntoView({ block: "nearest" });
  work();
}

// Ask for every image again, since a head has changed.
export function askAgain() {
  generation += 1;
  work();
}

export function redraw() {
  items.forEach(draw);
  progress();
}

function clear() {
  for (const item of items) URL.revokeObjectURL(item.url);
  items = [];
  one("#cards").replaceChildren();
  one("#results").hidden = true;
  document.body.classList.remove("has-results");
  one("#choose").focus();
}

function work() {
  progress();
  while (running < AT_ONCE) {
    const item = items.find((each) => each.state !== "asking" && each.asked < generation);
    if (!item) return;
    running += 1;
    answer(item).finally(() => {
      running -= 1;
      work();
    });
  }
}

async function answer(item) {
  item.asked = generation;
  if (item.state !== "done") {
    item.state = "asking";
    draw(item);
  }
  try {
    const result = await firstAnswer(item);
    item.before = item.result?.heads ?? null;
    item.result = result;
    item.state = result.error ? "failed" : "done";
    report(null);
  } catch (problem) {
    item.result = { error: { code: problem.code, message: problem.code === "unreachable" ? text("unreachable") : problem.message } };
    item.state = "failed";
    report(problem);
  }
  draw(item);
}

// Without a head the similar images are the answer; they are labelled to train the first head.
async function firstAnswer(item) {
  try {
    return await ask("predict", item.file);
  } catch (problem) {
    if (problem.code !== "no_head" || !known.hasCache) throw problem;
    const result = await ask(`similar?k=${NEIGHBOURS}`, item.file);
    item.similar = result.neighbours ?? null;
    return { heads: {}, network: null, ...result };
  }
}

function progress() {
  const answered = items.filter((item) => item.state === "done" || item.state === "failed").length;
  const failed = items.filter((item) => item.state === "failed").length;
  const bar = one("#progress-bar");
  one("#progress").textContent = text("progress", { done: count(answered), total: count(items.length), failed });
  bar.max = Math.max(1, items.length);
  bar.value = answered;
  bar.hidden = answered === items.length;
  one("#download").disabled = answered === 0;
}

export const sayBusy = (seconds) => {
  one("#progress").textContent = text("busy", { seconds: count(seconds) });
};

// A card

function draw(item) {
  const focused = item.card.contains(document.activeElement) && document.activeElement.matches(".toggle");
  const opens = item.state === "done" || item.state === "failed";
  item.card.classList.toggle("open", item.open && opens);
  item.card.replaceChildren(head(item, opens), ...(item.open && opens ? [item.state === "done" ? body(item) : failure(item)] : []));
  if (focused) one(".toggle", item.card)?.focus();
}

function head(item, opens) {
  const toggle = make("button", {
    type: "button", class: "toggle card-title", "aria-expanded": String(item.open && opens), disabled: !opens, text: item.name,
    onclick: () => {
      item.open = !item.open;
      draw(item);
    },
  });
  const origin = item.state === "done" ? text(`found.${item.result.found}`) : text(item.state);
  return make("div", { class: "card-head" },
    make("img", { class: "thumb", src: item.url, alt: "", decoding: "async" }),
    make("div", {}, make("h3", { class: "card-title" }, toggle), make("p", { class: "card-origin", text: origin })),
    verdict(item),
    opens ? make("span", { class: "chevron", "aria-hidden": "true" }) : make("span"),
  );
}

// What the heads say in one line: the class that most of them name.
function verdict(item) {
  if (item.state === "failed") return make("p", { class: "verdict bad" }, make("strong", { text: item.result.error.code.replaceAll("_", " ") }));
  if (item.state !== "done") return make("p", { class: "verdict" });
  const answers = Object.values(item.result.heads);
  if (!answers.length) return make("p", { class: "verdict" });
  const [name, most] = agreement(item.result.heads);
  const detail = answers.length === 1
    ? percent(answers[0].probabilities[name])
    : text("agree", { count: count(most), total: count(answers.length) });
  return make("p", { class: "verdict" }, make("strong", { text: name }), make("span", { text: detail }));
}

// The class that most heads name, the first of equals, and how many name it.
function agreement(heads) {
  const votes = new Map();
  for (const each of Object.values(heads)) votes.set(each.class, (votes.get(each.class) ?? 0) + 1);
  return [...votes].reduce((best, each) => (each[1] > best[1] ? each : best));
}

function failure(item) {
  return make("div", { class: "card-body" },
    make("div", { class: "failure" },
      make("p", { class: "error-text", text: item.result.error.message }),
      make("button", {
        type: "button", text: text("retry"),
        onclick: () => {
          item.state = "waiting";
          item.asked = -1;
          draw(item);
          work();
        },
      }),
    ),
  );
}

function body(item) {
  const { heads, network, sha256 } = item.result;
  const blocks = make("div", { class: "blocks" });
  if (Object.keys(heads).length) {
    const [agreed] = agreement(heads);
    const panels = Object.entries(heads).map(([name, found]) => headPanel(name, found, item.before?.[name], agreed));
    blocks.append(make("section", { class: "block" }, make("h3", { text: text("heads") }), make("div", { class: "heads" }, ...panels)));
  }
  if (network) {
    const bars = make("ul", { class: "bars" }, ...ranked(network).map(([name, value]) => bar(name, value)));
    blocks.append(make("section", { class: "block network" }, make("h3", { text: text("network") }), bars));
  }
  const side = make("div", { class: "side" }, make("img", { class: "large", src: item.url, alt: item.name }));
  if (known.hasCache) {
    side.append(labelButtons({ sha256, name: item.name, file: item.file }, likely(heads)));
    item.place = make("div", { class: "similar" });
    blocks.append(make("section", { class: "block" }, make("h3", { text: text("similar") }), item.place));
    findSimilar(item);
  }
  return make("div", { class: "card-body" }, side, blocks);
}

const ranked = (probabilities) => Object.entries(probabilities).sort((one, other) => other[1] - one[1]);

// The classes of all heads, those first to which the heads together give most.
function likely(heads) {
  const sums = {};
  for (const { probabilities } of Object.values(heads)) {
    for (const [name, value] of Object.entries(probabilities)) sums[name] = (sums[name] ?? 0) + value;
  }
  return ranked(sums).map(([name]) => name);
}

function headPanel(name, { version, class: best, probabilities }, before, agreed) {
  const classes = ranked(probabilities);
  const bars = make("ol", { class: "bars" });
  const more = make("button", { type: "button", class: "link" });
  let whole = false;
  const show = () => {
    bars.replaceChildren(...classes.slice(0, whole ? undefined : BARS).map(([label, value]) => bar(label, value)));
    more.textContent = whole ? text("fewer") : text("more", { count: count(classes.length - BARS) });
    more.setAttribute("aria-expanded", String(whole));
  };
  more.addEventListener("click", () => {
    whole = !whole;
    show();
  });
  show();
  return make("div", { class: best === agreed ? "head" : "head differs", role: "group", "aria-label": name },
    make("div", { class: "head-name" },
      make("h4", { text: name }),
      make("code", { title: text("version", { version }), text: version.slice(0, 8) }),
    ),
    bars,
    classes.length > BARS ? more : null,
    before && before.class !== best ? make("p", { class: "was", text: text("changed", { name: before.class }) }) : null,
  );
}

function bar(name, value) {
  const fill = make("span", { class: "fill" });
  requestAnimationFrame(() => {
    fill.style.width = `${100 * value}%`;
  });
  return make("li", { class: "bar" },
    make("span", { class: "bar-name", text: name }),
    make("span", { class: "bar-value", text: percent(value) }),
    make("span", { class: "track", "aria-hidden": "true" }, fill),
  );
}

// Similar images

async function findSimilar(item) {
  if (!item.similar) {
    try {
      const result = await ask(`similar?k=${NEIGHBOURS}`, item.file);
      item.similar = result.neighbours ?? [];
    } catch (problem) {
      item.place.replaceChildren(make("p", { class: "quiet", text: problem.message }));
      return;
    }
  }
  drawSimilar(item);
}

function drawSimilar(item) {
  if (!item.similar || !item.place) return;
  const focused = [...item.place.children].indexOf(document.activeElement);
  if (!item.similar.length) item.place.replaceChildren(make("p", { class: "quiet", text: text("similarNone") }));
  else item.place.replaceChildren(...item.similar.map((image) => neighbour(image, item)));
  if (focused >= 0) item.place.children[focused]?.focus();
}

function neighbour(image, item) {
  const label = labelOf(image.sha256, image.label) ?? text("unlabelled");
  const frame = make("span", { class: "frame" }, text("noPicture"));
  picture(image.sha256).then((url) => url && frame.replaceChildren(make("img", { src: url, alt: "" })));
  const value = text("similarBy", { similarity: decimal(image.similarity) });
  return make("button", {
    type: "button", class: "neighbour", "aria-haspopup": "dialog", title: image.path,
    "aria-label": `${label}, ${value}, ${image.path}`, onclick: () => enlarge(image, item),
  },
    frame,
    make("span", { class: "neighbour-label", text: isCorrected(image.sha256) ? `${label} ✓` : label }),
    make("span", { class: "neighbour-value", text: decimal(image.similarity) }),
  );
}

async function enlarge(image, item) {
  const shown = one("#viewer-image");
  shown.removeAttribute("src");
  shown.alt = image.path;
  one("#viewer-title").textContent = image.path;
  one("#viewer-facts").textContent = text("inCache", { label: image.label ?? text("unlabelled"), split: image.split });
  one("#viewer-labels").replaceChildren(labelButtons({ sha256: image.sha256, name: image.path }, likely(item.result.heads)));
  open(one("#viewer"));
  const url = await picture(image.sha256);
  one("#viewer .stage").hidden = !url;
  if (url) shown.src = url;
}

// Download

const cell = (value) => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));

// One row per image and head; an image that cannot be used has one row with the reason.
function download() {
  const answered = items.filter((item) => item.state === "done" || item.state === "failed");
  const names = [...new Set(answered.flatMap((item) => Object.values(item.result.heads ?? {}).flatMap((found) => Object.keys(found.probabilities))))];
  const rows = [["path", "sha256", "head", "version", "predicted", ...names, "error"]];
  for (const { name, result } of answered) {
    for (const [head, found] of Object.entries(result.heads ?? {})) {
      rows.push([name, result.sha256, head, found.version, found.class, ...names.map((label) => found.probabilities[label] ?? ""), ""]);
    }
    if (result.error) rows.push([name, result.sha256 ?? "", "", "", "", ...names.map(() => ""), result.error.message]);
  }
  const data = rows.map((row) => `${row.map(cell).join(",")}\r\n`).join("");
  const url = URL.createObjectURL(new Blob([data], { type: "text/csv" }));
  make("a", { href: url, download: "predictions.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
